"""The parts of a market on one machine: server, worker, providers, a funded consumer."""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from market.cli.children import Children
from settlement.domain.errors import Failed, GridpactError, MisConfigured, Unavailable

if TYPE_CHECKING:
    from market.sdk.client import MarketClient
    from market.wire.trade import MarketView, ProviderView
    from settlement.domain.identity import PrivateKey

HOST: Final = "127.0.0.1"
PORT: Final = 8410
ORIGIN: Final = "gridpact.local/devstack"
NAMES: Final = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
MEMORY_SHARE: Final = 0.5  # of the machine's memory, over all providers
FUNDS_MICROCREDITS: Final = 100_000_000
HOLD_SECONDS: Final = 10.0
START_SECONDS_MAX: Final = 120.0
DRAIN_SECONDS: Final = 5.0
PROVIDER_GRACE_SECONDS: Final = 20.0
SERVER_GRACE_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.1
MIB: Final = 1024 * 1024
PASSABLE: Final = 0o711

T = TypeVar("T")


class ProviderInfo(msgspec.Struct, frozen=True):
    """One provider of the stack. `pid` is its daemon."""

    name: str
    address: str
    pid: int
    home: str
    protection: str


class StackInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a running stack says of itself; the JSON of `gridpact devstack --json`."""

    devstack: str  # "ready"
    url: str
    market: str
    log_key: str
    home: str
    consumer: str
    consumer_key: str
    providers: list[ProviderInfo]
    server_pid: int
    worker_pid: int
    seconds: float


@dataclass(frozen=True)
class Wish:
    """How the stack shall be."""

    home: Path
    fresh: bool = False
    providers: int = 2
    cpus: int | None = None  # of each provider
    memory_mib: int | None = None  # of each provider
    port: int | None = None
    hold_seconds: float = HOLD_SECONDS
    executor: str | None = None
    insecure_no_sandbox: bool = False

    def names(self) -> tuple[str, ...]:
        if not 1 <= self.providers <= len(NAMES):
            raise MisConfigured(f"a devstack has 1 to {len(NAMES)} providers")
        return NAMES[: self.providers]


@dataclass
class Stack:
    """The stack while it runs."""

    wish: Wish
    say: Callable[[str], None]
    hurry: Callable[[], bool]
    url: str = ""
    trouble: str = ""  # what the server said last, while it is not ready
    keys: dict[str, "PrivateKey"] = field(default_factory=dict)
    children: Children = field(init=False)

    def __post_init__(self) -> None:
        self.children = Children(self.folder / "logs", self.hurry)

    @property
    def folder(self) -> Path:
        return self.wish.home / "devstack"

    def prepare(self) -> None:
        """The folder; other users run PostgreSQL and Ray below it, so they may pass through."""
        for folder in (self.wish.home, self.folder):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.stat().st_uid == os.geteuid():
                folder.chmod(folder.stat().st_mode | PASSABLE)

    def start(self) -> None:
        """Everything but the database, each as soon as what it needs is there."""
        names = self.wish.names()
        self.url = f"http://{HOST}:{_port(self.wish.port)}"
        for name in ("operator", "ledger", "log"):
            self._key(name, self.folder / "keys" / f"{name}.key")
        self._key("consumer", self.consumer_key)
        for name in names:  # they wait for the market by themselves, and their Ray takes longest
            self._start_provider(name)

    def serve(self, database_url: str) -> None:
        """The schema, then server and worker; returns when requests are answered."""
        settings = self._server_settings(database_url)
        migration = self.children.start("migrate", ["server", "migrate"], settings)
        self._until("the schema", lambda: not migration.alive)
        if migration.code:
            raise migration.failure()
        self.say("database ready")
        self.children.start("server", ["server", "run"], settings)
        self.children.start("worker", ["server", "work"], settings)
        self._until("the server", self._answers)
        self.say(f"server ready at {self.url}")

    def settle_in(self, began: float) -> StackInfo:
        """Fund the consumer, write the profile, wait for the providers."""
        from market.sdk import wallet

        view = asyncio.run(self._ask(_fund, keyed=True))
        wallet.set_default(self.wish.home, url=self.url, key_path=self.consumer_key, view=view)
        wanted = {name: self.keys[name].address for name in self.wish.names()}
        found: dict[str, ProviderView] = {}

        def all_there() -> bool:
            try:
                found.update(asyncio.run(self._ask(_offering)))
            except Unavailable as error:
                self.trouble = error.detail
                return False
            missing = [name for name, address in wanted.items() if address not in found]
            self.trouble = f"{', '.join(missing)} not connected with an offer"
            return not missing

        self._until("the providers", all_there)
        infos = [
            ProviderInfo(
                name,
                address,
                self.children.all[name].pid,
                str(self._provider_home(name)),
                found[address].protection,
            )
            for name, address in wanted.items()
        ]
        return StackInfo(
            devstack="ready",
            url=self.url,
            market=view.market,
            log_key=view.log_key,
            home=str(self.wish.home),
            consumer=self.keys["consumer"].address,
            consumer_key=str(self.consumer_key),
            providers=infos,
            server_pid=self.children.all["server"].pid,
            worker_pid=self.children.all["worker"].pid,
            seconds=round(time.monotonic() - began, 3),
        )

    def watch(self, stopped: Callable[[], bool]) -> None:
        """Until told to stop; a provider may end, the server and the worker may not."""
        while not stopped():
            for child in self.children.look():
                if child.name in {"server", "worker"}:
                    raise child.failure()
                self.say(f"{child.name} ended with code {child.code}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Daemons drain first, then server and worker end."""
        self.children.end(self.wish.names(), grace_seconds=PROVIDER_GRACE_SECONDS)
        self.children.end(("migrate", "server"), grace_seconds=SERVER_GRACE_SECONDS)
        self.children.end(("worker",), grace_seconds=SERVER_GRACE_SECONDS)

    @property
    def consumer_key(self) -> Path:
        return self.folder / "consumer.key"

    def _provider_home(self, name: str) -> Path:
        return self.folder / "providers" / name

    def _key(self, name: str, path: Path) -> None:
        from market.sdk import wallet

        self.keys[name] = wallet.load_key(path) if path.exists() else wallet.create_key(path)

    def _start_provider(self, name: str) -> None:
        home, wish = self._provider_home(name), self.wish
        key = home / "provider.key"
        self._key(name, key)
        count = len(wish.names())
        cpus = wish.cpus or max(1, len(os.sched_getaffinity(0)) // count)
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB
        memory_mib = wish.memory_mib or int(machine * MEMORY_SHARE) // count
        flags = {
            "--name": name, "--url": self.url, "--key": key, "--home": home, "--cpus": cpus,
            "--memory-mib": memory_mib,
        }  # fmt: skip
        arguments = [str(part) for pair in flags.items() for part in pair]
        if wish.executor is not None:
            arguments += ["--executor", wish.executor]
        if wish.insecure_no_sandbox:
            arguments.append("--insecure-no-sandbox")
        settings = {
            "GRIDPACT_HOME": str(wish.home),
            "GRIDPACT_PROVIDER_DRAIN_SECONDS": str(DRAIN_SECONDS),
        }
        self.children.start(name, ["provider", "run", *arguments], settings)

    def _server_settings(self, database_url: str) -> dict[str, str]:
        port = self.url.rpartition(":")[2]
        return {
            "DATABASE_URL": database_url,
            "GRIDPACT_HOME": str(self.wish.home),
            "GRIDPACT_MARKET": ORIGIN,
            "GRIDPACT_HOST": HOST,
            "GRIDPACT_PORT": port,
            "GRIDPACT_AUTHORITIES": f"{HOST}:{port},localhost:{port}",
            "GRIDPACT_KEYS_FOLDER": str(self.folder / "keys"),
            "GRIDPACT_BLOBS_FOLDER": str(self.folder / "blobs"),
            "GRIDPACT_HOLD_SECONDS": str(self.wish.hold_seconds),
            "GRIDPACT_DEVSTACK": "1",
            "GRIDPACT_OPERATOR": self.keys["operator"].address,
        }

    def _until(self, what: str, ready: Callable[[], bool]) -> None:
        """Wait; whichever child ends meanwhile (but the migration) is the reason to give up."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not ready():
            for child in self.children.look():
                if child.name != "migrate":
                    raise child.failure()
            if time.monotonic() > deadline:
                logs = self.folder / "logs"
                raise Failed(f"{what} did not come up: {self.trouble or 'no answer'}; see {logs}")
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        from market.sdk.transport import Transport

        async def ready() -> bool:
            async with Transport(self.url, attempts_max=1) as transport:
                try:
                    await transport.request("GET", "/readyz", signed=False)
                except GridpactError as error:
                    self.trouble = error.detail
                    return False
                return True

        return asyncio.run(ready())

    async def _ask(
        self, work: "Callable[[MarketClient], Awaitable[T]]", *, keyed: bool = False
    ) -> T:
        from market.sdk.client import MarketClient

        key = self.keys["consumer"] if keyed else None
        async with MarketClient(self.url, key) as client:
            return await work(client)


async def _fund(client: "MarketClient") -> "MarketView":
    """Bring the consumer's balance up to what a stack starts with."""
    have = int((await client.balances()).available)
    if have < FUNDS_MICROCREDITS:
        await client.faucet(FUNDS_MICROCREDITS - have)
    return await client.market()


async def _offering(client: "MarketClient") -> "dict[str, ProviderView]":
    """Connected providers that offer an environment, by address."""
    ready = {
        offer.provider for offer in await client.offers() if offer.environments and offer.connected
    }
    return {
        view.address: view
        for view in await client.providers()
        if view.connected and view.address in ready
    }


def _port(wanted: int | None) -> int:
    """The wanted port, else the usual one, else a free one."""
    for port in (wanted if wanted is not None else PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                if wanted is not None:
                    raise MisConfigured(f"port {wanted} is taken") from None
                continue
            return int(probe.getsockname()[1])
    raise MisConfigured("no port is free")
