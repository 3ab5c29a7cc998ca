"""Composition of the provider's daemon: sandbox first, then the offer, then the session; signals."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from compute.daemon import console, control_socket, inventory, metrics, yielding
from compute.daemon.blobs import Blobs
from compute.daemon.journal import Journal, Over, Signed
from compute.daemon.loop import Daemon
from compute.daemon.notify import READY, STOPPING, notify
from compute.daemon.offering import Offering, Terms
from compute.daemon.owner import BUSY_ELSEWHERE, Owner
from compute.daemon.receipts import Provider
from compute.daemon.settings import Settings
from compute.daemon.slots import Slots
from compute.domain.holding import Agent, Event, begin
from compute.executors.executor import Executor
from compute.executors.local import LocalExecutor
from compute.executors.ray_bridge import RayExecutor
from compute.sandbox.staging import make_passable
from market.sdk import wallet
from market.sdk.folders import state_folder
from market.sdk.transport import Transport
from market.wire import codec
from market.wire.control import Done
from market.wire.trade import MarketView
from settlement.domain.errors import Malformed, MisConfigured, Unavailable, Unreachable
from settlement.domain.identity import PrivateKey
from settlement.domain.resources import Rates, Resources
from settlement.domain.trade import Manifest

LOG: Final = logging.getLogger(__name__)

JOURNAL_FILE: Final = "journal"
BLOBS_FOLDER: Final = "blobs"
KEY_FILE: Final = "provider.key"
FOLDER_MODE: Final = 0o700
MIB: Final = 1024 * 1024
MARKET_WAIT_SECONDS: Final = 0.5  # between rounds of attempts that back off themselves
LOG_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
UNPROTECTED: Final = "none"


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second signal does not wait for what runs."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    with suppress(asyncio.CancelledError):  # a signal came before anything was served
        asyncio.run(serve(settings, executor(settings)))


def executor(settings: Settings) -> Executor:
    """What runs the slots. What it stages is shared by all providers of the machine."""
    insecure = settings.insecure_no_sandbox
    if settings.executor == "local":
        return LocalExecutor(state_folder(), insecure=insecure)
    return RayExecutor(state_folder(), capacity=capacity(settings), insecure=insecure)


def capacity(settings: Settings) -> Resources:
    """What is offered of this machine."""
    return inventory.capacity(
        inventory.machine(), cpus=settings.cpus, memory_mib=settings.memory_mib
    )


async def serve(settings: Settings, machine: Executor) -> None:
    """Everything in the order in which it is needed; ended in the opposite one."""
    signals = Signals()
    if settings.insecure_no_sandbox:
        LOG.critical("INSECURE: strangers' code runs WITHOUT A SANDBOX; receipts say `none`")
    _home(settings.home)
    key = provider_key(settings)
    journal = Journal.open(settings.home / JOURNAL_FILE)
    try:
        await machine.start()
        if machine.protection == UNPROTECTED and not settings.insecure_no_sandbox:
            raise MisConfigured("the executor gives no protection, and nobody asked for that")
        async with Transport(settings.url, key) as transport:
            view = await _market(transport)
            wallet.pin(settings.home, transport.origin, view)
            signals.serving = True
            await _work(settings, machine, journal, transport, key, view.market, signals)
    finally:
        await machine.shutdown()
        journal.close()
        LOG.info("ended")


class Signals:
    """The first signal asks to leave, before anything is served it ends the start; a second hurries."""

    def __init__(self) -> None:
        self.leave, self.hurry = asyncio.Event(), asyncio.Event()
        self.serving = False
        self._task = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        if self.leave.is_set():
            self.hurry.set()
            return
        self.leave.set()
        if not self.serving and self._task is not None:
            self._task.cancel()


def provider_key(settings: Settings) -> PrivateKey:
    """The key that was named, which must be there; else the home's own, made at the first start."""
    if settings.key is not None:
        return wallet.load_key(settings.key)
    path = settings.home / KEY_FILE
    return wallet.load_key(path) if path.exists() else wallet.create_key(path)


async def _work(
    settings: Settings,
    machine: Executor,
    journal: Journal,
    transport: Transport,
    key: PrivateKey,
    market: str,
    signals: Signals,
) -> None:
    environment = machine.environment
    provider = Provider(key, market, environment.digest, environment.equivalence)
    terms = Terms(
        name=settings.name,
        capacity=capacity(settings),
        rates=Rates(settings.cpu_rate, settings.gib_rate, settings.gpu_rate),
        manifest=manifest(environment.manifest, environment.digest),
        protection=machine.protection,
    )
    blobs = Blobs(settings.home / BLOBS_FOLDER, transport, settings.cache_mib * MIB)

    def slots(group: asyncio.TaskGroup, happened: Callable[[Event], None]) -> Slots:
        return Slots(machine, blobs, journal, provider, group, happened)

    agent = Agent(terms.capacity, environment.digest, machine.protection, terms.rates)
    agent = remembered(agent, journal)
    offering = Offering(transport, provider, terms)
    daemon = Daemon(agent, transport=transport, offering=offering, journal=journal)
    LOG.info(
        "provider %s %s: class %s, %d milli-cpus, %d MiB, environment %s",
        settings.name, key.address, terms.protection, terms.capacity.cpus_milli,
        terms.capacity.memory_mib, environment.digest,
    )  # fmt: skip
    owner = Owner(daemon, offering, signals.leave.set)

    async def beside() -> None:
        """What runs as long as the daemon serves."""
        async with asyncio.TaskGroup() as group:
            if isinstance(machine, RayExecutor):
                group.create_task(machine.supervise(), name="ray")
            if settings.yield_when_load:
                group.create_task(_watch(settings.yield_when_load, owner), name="load")

    async with (
        control_socket.serving(settings.home, owner.answer),
        metrics.serving(settings.metrics_port, owner.snapshot),
    ):
        notify(READY)
        await daemon.run(
            slots,
            leave=signals.leave,
            hurry=signals.hurry,
            drain_seconds=settings.drain_seconds,
            supervise=beside,
        )
        notify(STOPPING)


async def _watch(threshold_cpus: float, owner: Owner) -> None:
    """Give way to the owner's own work, and come back after it; what the owner paused stays so."""

    async def come_back() -> None:
        if owner.daemon.agent.paused == BUSY_ELSEWHERE:
            await owner.answer(console.Resume())

    async def give_way() -> None:
        if not owner.daemon.agent.paused:
            await owner.give_way(BUSY_ELSEWHERE)

    judge = yielding.Judge(threshold_cpus)
    await yielding.watch(judge, give_way=give_way, come_back=come_back)


def manifest(packages: dict[str, object], digest: str) -> Manifest:
    """The environment in the market's words; it must be the one that the digest names."""
    converted = msgspec.convert(packages, Manifest)
    if converted.digest() != digest:
        raise MisConfigured("the staged environment's digest is not that of its manifest")
    return converted


def remembered(agent: Agent, journal: Journal) -> Agent:
    """The agent with what the journal still holds from before."""
    opened: dict[str, str] = {}
    signed: dict[str, tuple[str, Done]] = {}
    for record in list(journal.live.values()):
        if not isinstance(record, Signed):
            opened[record.attempt] = record.lease
            continue
        try:
            signed[record.attempt] = (record.lease, codec.unpack(record.frame, Done))
        except Malformed:
            LOG.warning("the journal's receipt of attempt %s is of another form", record.attempt)
            journal.append(Over(record.attempt))
    if opened or signed:
        LOG.warning("after a restart: %d attempts lost, %d receipts kept", len(opened), len(signed))
    return begin(agent, opened=opened, receipts=signed)


async def _market(transport: Transport) -> MarketView:
    """Who the market is; it may start after this daemon."""
    while True:
        try:
            return codec.decode(
                await transport.request("GET", "/v1/market", signed=False), MarketView
            )
        except (Unreachable, Unavailable) as error:
            LOG.warning("waiting for the market: %s", error)
        await asyncio.sleep(MARKET_WAIT_SECONDS)


def _home(folder: Path) -> None:
    """Private; above it lies what other users of the machine may have to pass."""
    make_passable(folder.parent)
    try:
        folder.mkdir(exist_ok=True, mode=FOLDER_MODE)
    except OSError as error:
        raise MisConfigured(f"{folder}: {error.strerror}") from None
