"""Keys in private files, and the profile: which market, which key, and what that market's keys are."""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from market.wire.trade import MarketView
from settlement.domain.errors import BadKey, MarketChanged, MisConfigured
from settlement.domain.identity import SEED_BYTES, PrivateKey

KEY_FILE: Final = "wallet.key"
PROFILE_FILE: Final = "profile.json"
KEY_FILE_BYTES_MAX: Final = 200
PRIVATE_MODE: Final = 0o600
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
URL_VARIABLE: Final = "GRIDPACT_URL"
KEY_VARIABLE: Final = "GRIDPACT_KEY"


def create_key(path: Path) -> PrivateKey:
    """A new key in a new file of mode 0600; a file that is there is never touched."""
    key = PrivateKey(secrets.token_bytes(SEED_BYTES))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_MODE
        )
    except FileExistsError:
        raise BadKey(f"{path} is there already; a key is never overwritten") from None
    except OSError as error:
        raise BadKey(f"{path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), PRIVATE_MODE)  # whatever the umask says
        file.write(key.to_hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def load_key(path: Path) -> PrivateKey:
    """The key of a file that nobody else may read."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & OTHERS:
                raise BadKey(f"{path} has mode {mode:04o}: others may read it; `chmod 600` it")
            data = file.read(KEY_FILE_BYTES_MAX)
    except FileNotFoundError:
        raise BadKey(f"there is no key file {path}") from None
    except OSError as error:
        raise BadKey(f"{path}: {error.strerror}") from None
    try:
        return PrivateKey.from_hex(data.decode("ascii"))
    except UnicodeDecodeError:
        raise BadKey(f"{path} does not hold 64 hex digits") from None


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a market said that it is, the first time that it was asked."""

    market: str
    log_key: str
    ledger_key: str


class ValidatorsPin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who made checkpoints final when a market was asked last, and how long its log was then."""

    members: list[str]
    quorum: int
    size: int

    def same(self, other: "ValidatorsPin") -> bool:
        """Whether it is the same set, whenever it was seen."""
        return (sorted(self.members), self.quorum) == (sorted(other.members), other.quorum)

    def told(self) -> str:
        """The set in words."""
        return f"{self.quorum} of {', '.join(sorted(self.members)) or 'none'}"


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The market and key that are meant when none is named, and the pins by address."""

    url: str = ""
    key: str = ""  # path of the key file
    pins: dict[str, Pin] = {}
    validators: dict[str, ValidatorsPin] = {}


def load_profile(home: Path) -> Profile:
    """The profile of a state folder; an empty one if there is none."""
    path = home / PROFILE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError:
        return Profile()
    except (OSError, msgspec.DecodeError) as error:
        raise MisConfigured(f"{path}: {error}") from None


def save_profile(home: Path, profile: Profile) -> None:
    """Replace the profile in one step."""
    path = home / PROFILE_FILE
    fresh = path.with_name(f".{PROFILE_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        home.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n")
        fresh.rename(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise MisConfigured(f"{path}: {error}") from None


@contextmanager
def _exclusive(home: Path) -> Iterator[None]:
    """Two programs that pin at once must not lose each other's pin."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / f".{PROFILE_FILE}.lock").open("w")
    except OSError as error:
        raise MisConfigured(f"the state folder {home} cannot be written: {error}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pin(home: Path, url: str, view: MarketView) -> None:
    """Remember a market's keys at first use; refuse it if they are others than before."""
    seen = Pin(view.market, view.log_key, view.ledger_key)
    with _exclusive(home):
        profile = load_profile(home)
        known = profile.pins.get(url)
        if known == seen:
            return
        if known is not None:
            raise MarketChanged(_difference(url, known, seen))
        save_profile(home, msgspec.structs.replace(profile, pins=profile.pins | {url: seen}))


def _difference(url: str, known: Pin, seen: Pin) -> str:
    changed = [
        f"{field}: pinned {before!r}, now {after!r}"
        for field in Pin.__struct_fields__
        if (before := getattr(known, field)) != (after := getattr(seen, field))
    ]
    return f"{url} is not the market that was pinned. " + "; ".join(changed)


def set_default(home: Path, *, url: str, key_path: Path, view: MarketView | None = None) -> None:
    """Make a market and a key those that are meant; with `view`, pin anew what it is.

    Only whoever has just made the market (devstack) may pin anew.
    """
    with _exclusive(home):
        profile = load_profile(home)
        pins, validators = dict(profile.pins), dict(profile.validators)
        if view is not None:
            pins[url] = Pin(view.market, view.log_key, view.ledger_key)
            validators.pop(url, None)
        save_profile(home, Profile(url, str(key_path), pins, validators))


def pin_validators(home: Path, url: str, seen: ValidatorsPin) -> None:
    """Remember who makes checkpoints of a market final; whether they may change is decided before."""
    with _exclusive(home):
        profile = load_profile(home)
        validators = profile.validators | {url: seen}
        save_profile(home, msgspec.structs.replace(profile, validators=validators))


def unpin(home: Path, url: str) -> bool:
    """Forget what a market's keys are; whether there was a pin."""
    with _exclusive(home):
        profile = load_profile(home)
        pins, validators = dict(profile.pins), dict(profile.validators)
        known = pins.pop(url, None)
        validators.pop(url, None)
        save_profile(home, msgspec.structs.replace(profile, pins=pins, validators=validators))
    return known is not None


class Choice(msgspec.Struct, frozen=True):
    """The market and key file that a program means."""

    url: str
    key_path: Path
    home: Path


def choose(home: Path, *, url: str | None = None, key_path: str | None = None) -> Choice:
    """Named here, else in the environment, else in the profile, else the default key file."""
    profile = load_profile(home)
    address = url or os.environ.get(URL_VARIABLE) or profile.url
    path = key_path or os.environ.get(KEY_VARIABLE) or profile.key or str(home / KEY_FILE)
    if not address:
        raise MisConfigured(
            f"no market is named: give --url, set {URL_VARIABLE}, or start `gridpact devstack`"
        )
    return Choice(address.rstrip("/"), Path(path), home)
