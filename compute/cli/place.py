"""Which provider a command means: its folder, its key, its market."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from market.cli.output import Globals
from settlement.domain.errors import GridpactError, MisConfigured

if TYPE_CHECKING:
    from compute.daemon.console import Request

FOLDER: Final = "provider"
PROGRAM_URL: Final = "GRIDPACT_PROVIDER_URL"
KEY_VARIABLE: Final = "GRIDPACT_KEY"

T = TypeVar("T")


def home_of(options: Globals) -> Path:
    """The provider's folder: below the state folder, unless `--home` or the environment names it."""
    from compute.daemon import main, settings, settings_file

    if options.home is None:
        return settings.home_of(None)
    named = options.home.absolute()
    own = (settings_file.SETTINGS_FILE, main.KEY_FILE, main.JOURNAL_FILE)
    return named if any((named / name).exists() for name in own) else named / FOLDER


def acting(options: Globals) -> Globals:
    """As the provider of the folder, unless another key or market is named."""
    from compute.daemon import main, settings_file

    try:
        home = home_of(options)
        kept = settings_file.read(home)
    except GridpactError:  # not this command's business
        return options
    key = Path(str(kept.get("key") or home / main.KEY_FILE))
    if options.key is None and not os.environ.get(KEY_VARIABLE) and key.exists():
        options.key = str(key)
        if options.url is None and kept.get("url"):
            options.url = str(kept["url"])
    return options


def tell(options: Globals, request: "Request", kind: type[T], *, until_gone: bool = False) -> T:
    """A word to the running daemon, and its answer."""
    from compute.daemon import control_socket

    answer: Any = control_socket.ask(home_of(options), request, until_gone=until_gone)
    if not isinstance(answer, kind):
        raise MisConfigured("the daemon that runs is of another version than this command")
    return answer


def market_url(url: str | None, options: Globals) -> dict[str, object]:
    """The market that the profile names, for whoever names none in any other way."""
    if url or options.url or os.environ.get(PROGRAM_URL):
        return {}
    from market.sdk import wallet
    from market.sdk.folders import state_folder

    return {"url": wallet.choose(state_folder()).url}
