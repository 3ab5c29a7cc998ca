"""What the owner tells the daemon: pause, yield, resume, prices; the daemon's brain and the real one."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from compute.daemon import console, control_socket
from compute.daemon.blobs import Blobs
from compute.daemon.journal import Journal
from compute.daemon.loop import Daemon
from compute.daemon.metrics import serving as metrics_serving
from compute.daemon.offering import Offering, Terms
from compute.daemon.owner import WANTED_BACK, Owner
from compute.daemon.receipts import Provider
from compute.daemon.slots import Slots
from compute.domain.agent import step
from compute.domain.holding import Agent, Empty, Pause, Reprice, Resume, Send
from compute.executors.executor import Chunk
from market.sdk.transport import Transport
from market.wire import codec
from market.wire.control import Beat, Done, Drain, Lost, Ready, Refuse, Settled, Welcome
from settlement.domain.errors import BadTransition, Failed, Malformed, NotFound
from settlement.domain.resources import Rates, Resources
from tests.unit.daemon import makers
from tests.unit.daemon.fake_executor import FakeExecutor
from tests.unit.daemon.fake_market import FakeMarket, key
from tests.unit.daemon.makers import ENVIRONMENT, MARKET, grant, identifier, work

LEASE = identifier(1)
ATTEMPT = identifier(11)


# ── the brain ───────────────────────────────────────────────────────────────────────────────


def online() -> Agent:
    return step(
        makers.agent(), Welcome(market=MARKET, protocol=1, leases=[])
    )[0]  # fmt: skip


def test_paused_refuses_grants_and_says_so_after_each_welcome() -> None:
    agent, said = step(online(), Pause("away"))
    assert said == (Send(Drain()),)
    agent, said = step(agent, grant(1))
    assert said == (Send(Refuse(lease=LEASE, reason="away")),)
    agent, said = step(agent, Welcome(market=MARKET, protocol=1, leases=[]))
    assert Send(Drain()) in said
    agent, _ = step(agent, Resume())
    agent, said = step(agent, grant(2))
    assert not [command for command in said if isinstance(command, Send)]
    assert identifier(2) in agent.leases


def test_yield_empties_every_lease_and_gives_its_room_back() -> None:
    agent, _ = step(online(), grant(1))
    agent, said = step(agent, Pause("mine", now=True))
    assert said == (Send(Drain()), Send(Refuse(lease=LEASE, reason="mine")), Empty(LEASE))
    assert agent.taken() == Resources(0, 0, 0)


def test_a_new_price_holds_for_new_grants_only() -> None:
    agent, _ = step(online(), grant(1, rate="200"))
    agent, _ = step(agent, Reprice(Rates(1_000, 0, 0)))
    assert identifier(1) in agent.leases
    _, said = step(agent, grant(2, of=makers.spec(slot=makers.SMALL), rate="200"))
    (refused,) = said
    assert isinstance(refused, Send)
    assert isinstance(refused.frame, Refuse)
    assert "below" in refused.frame.reason


# ── the daemon ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def market() -> AsyncIterator[FakeMarket]:
    async with FakeMarket() as served:
        served.blob(b"code")
        yield served


@asynccontextmanager
async def owned(
    market: FakeMarket, home: Path, machine: FakeExecutor
) -> AsyncIterator[tuple[Owner, asyncio.Event]]:
    """A daemon with its door open; it ends with the block."""
    journal = Journal.open(home / "journal")
    provider = Provider(key(), MARKET, ENVIRONMENT, machine.environment.equivalence)
    terms = Terms("test", Resources(2_000, 2_048, 0), Rates(200, 20, 0), makers.MANIFEST, "L")
    leave, hurry, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with Transport(market.url, key()) as transport, asyncio.TaskGroup() as group:
        offering = Offering(transport, provider, terms)
        daemon = Daemon(
            Agent(terms.capacity, ENVIRONMENT, "L", terms.rates),
            transport=transport, offering=offering, journal=journal,
        )  # fmt: skip
        owner = Owner(daemon, offering, leave.set)
        blobs = Blobs(home / "blobs", transport)

        async def live() -> None:
            async with control_socket.serving(home, owner.answer):
                await daemon.run(
                    lambda hands, happened: Slots(
                        machine, blobs, journal, provider, hands, happened
                    ),
                    leave=leave, hurry=hurry, drain_seconds=60,
                )  # fmt: skip
            ended.set()

        group.create_task(live())
        await market.heard(Beat)
        yield owner, ended
        leave.set()
        hurry.set()
    journal.close()


async def ask(home: Path, request: console.Request, *, until_gone: bool = False) -> console.Answer:
    return await asyncio.to_thread(control_socket.ask, home, request, until_gone=until_gone)


async def snapshot(home: Path) -> console.Snapshot:
    found = await ask(home, console.Status())
    assert isinstance(found, console.Snapshot)
    return found


async def lease_at_work(market: FakeMarket) -> None:
    await market.say(grant(1, rate="240"))
    await market.heard(Ready)
    await market.say(work(11, 1))


async def test_status_tells_what_is_there_and_what_was_earned(
    market: FakeMarket, tmp_path: Path
) -> None:
    async with owned(market, tmp_path, FakeExecutor()) as (owner, _):
        await lease_at_work(market)
        done = await market.heard(Done)
        await market.until(lambda: not owner.daemon.agent.answers)
        now = await snapshot(tmp_path)
        claim = makers.opened(done.receipt).price.amount
        assert (now.state, now.connected, now.protection) == ("serving", True, "L")
        assert (now.address, now.market, now.pid) == (key().address, MARKET, os.getpid())
        (line,) = now.leases
        assert (line.lease, line.phase, line.rate, line.slot) == (
            LEASE, "active", "240", makers.SLOT,
        )  # fmt: skip
        assert now.taken == makers.SLOT
        assert (now.chunks, now.tasks, now.lost, now.rejected) == (1, 1, 0, 0)
        assert now.earned == now.earned_today == claim


async def test_pause_lets_what_runs_go_on_and_resume_posts_the_offer_anew(
    market: FakeMarket, tmp_path: Path
) -> None:
    async with owned(market, tmp_path, FakeExecutor()):
        await market.say(grant(1, rate="240"))
        await market.heard(Ready)
        assert await ask(tmp_path, console.Pause()) == console.Ok(said="paused")
        await market.heard(Drain)
        await market.say(grant(2, of=makers.spec(slot=makers.SMALL), rate="240"))
        assert (await market.heard(Refuse)).lease == identifier(2)
        await market.say(work(11, 1))
        assert (await market.heard(Done)).attempt == ATTEMPT
        assert (await snapshot(tmp_path)).state == "paused"
        assert len(market.offers) == 1
        assert await ask(tmp_path, console.Resume()) == console.Ok(said="serving")
        assert len(market.offers) == 2
        assert market.offers[1].at_ms > market.offers[0].at_ms
        await market.say(grant(3, of=makers.spec(slot=makers.SMALL), rate="240"))
        await market.heard(Ready, 2)


async def test_paused_stays_paused_over_a_lost_connection(
    market: FakeMarket, tmp_path: Path
) -> None:
    async with owned(market, tmp_path, FakeExecutor()):
        await ask(tmp_path, console.Pause())
        await market.heard(Drain)
        await market.drop()
        await market.heard(Drain, 2)
        assert len(market.offers) == 1


async def test_yield_ends_what_runs_before_it_answers(market: FakeMarket, tmp_path: Path) -> None:
    never = asyncio.Event()

    async def gate(chunk: Chunk) -> None:
        await never.wait()

    machine = FakeExecutor(gate)
    async with owned(market, tmp_path, machine):
        await lease_at_work(market)
        await market.until(lambda: machine.runs == [ATTEMPT])
        answer = await ask(tmp_path, console.Yield())
        assert answer == console.Ok(said="yielded", ended=1, empty=True)
        assert machine.slots == {}
        assert (await market.heard(Refuse)).reason == WANTED_BACK
        assert (await market.heard(Lost)).attempt == ATTEMPT
        await market.heard(Drain)
        now = await snapshot(tmp_path)
        assert (now.state, now.reason, now.leases) == ("paused", WANTED_BACK, [])
        await ask(tmp_path, console.Resume())
        assert (await snapshot(tmp_path)).state == "serving"


async def test_a_new_price_is_posted_and_a_running_lease_keeps_its_own(
    market: FakeMarket, tmp_path: Path
) -> None:
    async with owned(market, tmp_path, FakeExecutor()):
        await market.say(grant(1, rate="240"))
        await market.heard(Ready)
        await ask(tmp_path, console.SetPrice(cpu=900, gpu=5))
        assert market.offers[-1].rates == Rates(900, 20, 5)
        (line,) = (await snapshot(tmp_path)).leases
        assert line.rate == "240"
        await market.say(work(11, 1))
        await market.heard(Done)
        await market.say(grant(2, of=makers.spec(slot=makers.SMALL), rate="240"))
        assert "below" in (await market.heard(Refuse)).reason


async def test_a_price_that_the_market_does_not_take_is_not_held(
    market: FakeMarket, tmp_path: Path
) -> None:
    async with owned(market, tmp_path, FakeExecutor()) as (owner, _):
        market.refuses_offers = True
        with pytest.raises(Failed):
            await ask(tmp_path, console.SetPrice(cpu=900))
        assert owner.offering.terms.rates == owner.daemon.agent.rates == Rates(200, 20, 0)


async def test_drain_waits_for_what_runs_and_ends_the_daemon(
    market: FakeMarket, tmp_path: Path
) -> None:
    let = asyncio.Event()

    async def gate(chunk: Chunk) -> None:
        await let.wait()

    machine = FakeExecutor(gate)
    async with owned(market, tmp_path, machine) as (_, ended), asyncio.TaskGroup() as group:
        await lease_at_work(market)
        await market.until(lambda: machine.runs == [ATTEMPT])
        waiting = group.create_task(ask(tmp_path, console.Drain(), until_gone=True))
        await market.heard(Drain)
        with pytest.raises(BadTransition):
            await ask(tmp_path, console.Resume())
        assert not waiting.done()
        let.set()
        assert await waiting == console.Ok(said="draining")
        await ended.wait()
        assert (await market.heard(Done)).attempt == ATTEMPT
    with pytest.raises(NotFound):
        await ask(tmp_path, console.Status())


# ── the door ────────────────────────────────────────────────────────────────────────────────


async def _never(request: console.Request) -> console.Answer:
    raise AssertionError("nothing that cannot be read reaches the owner")


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b'{"type":"Stop"}\n',
        b'{"type":"Pause","now":true}\n',
        b'{"type":"SetPrice","cpu":1.5}\n',
        b'{"type":"SetPrice","cpu":-1}\n',
        b'{"type":"SetPrice","cpu":1,"cpu":2}\n',
        b'["Status"]\n',
        b"\xff\xfe\n",
        b"[" * 1_000 + b"\n",
        b'{"type":"Status"' + b" " * control_socket.LINE_BYTES_MAX + b"}\n",
    ],
)
async def test_what_cannot_be_read_is_refused_and_the_caller_dropped(
    tmp_path: Path, line: bytes
) -> None:
    async with control_socket.serving(tmp_path, _never):
        reader, writer = await asyncio.open_unix_connection(
            tmp_path / control_socket.SOCKET_FILE
        )  # fmt: skip
        writer.write(line)
        refused = codec.decode(await reader.readline(), console.Refused)
        assert refused.code == Malformed.code
        assert await reader.read() == b""
        writer.close()


async def test_the_door_is_private_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / control_socket.SOCKET_FILE
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NotFound):
        await ask(tmp_path, console.Status())
    async with control_socket.serving(tmp_path, _never):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not path.exists()


async def test_a_home_deeper_than_a_socket_address_has_room_for(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 30) / "home"
    home.mkdir(parents=True)

    async def ok(request: console.Request) -> console.Answer:
        return console.Ok(said="here")

    async with control_socket.serving(home, ok):
        assert await ask(home, console.Status()) == console.Ok(said="here")


# ── figures ─────────────────────────────────────────────────────────────────────────────────


async def test_metrics_tell_the_same_as_status(market: FakeMarket, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with (
        owned(market, tmp_path, FakeExecutor()) as (owner, _),
        metrics_serving(port, owner.snapshot),
        Transport(f"http://127.0.0.1:{port}") as figures,
    ):
        await lease_at_work(market)
        await market.heard(Done)
        await market.until(lambda: not owner.daemon.agent.answers)
        text = (await figures.request("GET", "/metrics", signed=False)).decode()
        lines = text.splitlines()
        assert "gridpact_provider_connected 1.0" in lines
        assert "gridpact_provider_leases 1.0" in lines
        assert "gridpact_provider_leased_cpus 1.0" in lines
        assert "gridpact_provider_chunks_total 1.0" in lines
        earned = next(line for line in lines if line.startswith("gridpact_provider_claimed"))
        assert float(earned.split()[1]) == float((await snapshot(tmp_path)).earned)


async def test_a_rejected_receipt_earns_nothing(market: FakeMarket, tmp_path: Path) -> None:
    market.settles = False
    async with owned(market, tmp_path, FakeExecutor()) as (owner, _):
        await lease_at_work(market)
        await market.heard(Done)
        await market.say(Settled(attempt=ATTEMPT, state="rejected", reason="late"))
        await market.until(lambda: not owner.daemon.agent.answers)
        now = await snapshot(tmp_path)
        assert (now.rejected, now.earned, now.earned_today) == (1, "0", "0")
