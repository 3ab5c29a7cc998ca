"""The daemon's smaller parts: cache of blobs, receipts' bounds, inventory, settings."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from compute.daemon import inventory, receipts, settings
from compute.daemon.blobs import Blobs
from compute.executors.executor import ChunkOutcome, Status, TaskOutcome
from market.sdk.transport import Transport
from market.wire.control import LOG_CHARS_MAX
from market.wire.payload import BLOB_BYTES_MAX, INLINE_BYTES_MAX, inline
from settlement.domain import canonical
from settlement.domain.errors import DigestMismatch, MisConfigured, SlotLost
from settlement.domain.resources import Resources
from tests.unit.daemon import makers
from tests.unit.daemon.fake_market import FakeMarket, key


@pytest.fixture
async def market() -> AsyncIterator[FakeMarket]:
    async with FakeMarket() as served:
        yield served


@pytest.fixture
async def blobs(market: FakeMarket, tmp_path: Path) -> AsyncIterator[Blobs]:
    async with Transport(market.url, key()) as transport:
        yield Blobs(tmp_path / "blobs", transport, cache_bytes_max=100)


async def test_a_blob_is_fetched_once(market: FakeMarket, blobs: Blobs) -> None:
    digest = market.blob(b"bytes")
    assert await blobs.get(digest) == b"bytes"
    market.blobs.clear()
    assert await blobs.get(digest) == b"bytes"


async def test_a_blob_of_other_bytes_is_refused(market: FakeMarket, blobs: Blobs) -> None:
    digest = canonical.digest(b"bytes")
    market.blobs[digest] = b"other"
    with pytest.raises(DigestMismatch):
        await blobs.get(digest)
    market.blob(b"bytes")
    assert await blobs.get(digest) == b"bytes"


async def test_a_damaged_file_is_fetched_anew(market: FakeMarket, blobs: Blobs) -> None:
    digest = market.blob(b"bytes")
    await blobs.get(digest)
    (path,) = blobs.folder.iterdir()
    path.write_bytes(b"bitten")
    assert await blobs.get(digest) == b"bytes"
    assert path.read_bytes() == b"bytes"


async def test_the_folder_stays_below_its_cap(market: FakeMarket, blobs: Blobs) -> None:
    for number in range(10):
        await blobs.get(market.blob(bytes([number]) * 40))
        sizes = [path.stat().st_size for path in blobs.folder.iterdir()]
        assert sum(sizes) <= 100
    large = market.blob(bytes(101))
    assert len(await blobs.get(large)) == 101
    assert len(list(blobs.folder.iterdir())) == 2


async def test_a_blob_that_cannot_be_kept_is_used_all_the_same(
    market: FakeMarket, blobs: Blobs
) -> None:
    blobs.folder.write_bytes(b"a file stands where the folder should")
    blobs.folder = blobs.folder / "below"
    with pytest.raises(NotADirectoryError):
        blobs.folder.mkdir(parents=True)
    assert await blobs.get(market.blob(b"bytes")) == b"bytes"


async def test_what_a_crash_left_goes_first(market: FakeMarket, blobs: Blobs) -> None:
    await blobs.get(market.blob(b"kept"))
    (blobs.folder / "torn.part").write_bytes(b"torn")
    await blobs.get(market.blob(b"next"))
    assert not (blobs.folder / "torn.part").exists()
    assert len(list(blobs.folder.iterdir())) == 2


def outcome(*tasks: TaskOutcome) -> ChunkOutcome:
    return ChunkOutcome(tasks, 1, 2, wall_ms=1_500, protection="S")


def task(
    index: int, output: bytes = b"out", status: Status = "ok", log: bytes = b""
) -> TaskOutcome:
    return TaskOutcome(index, status, output, log)


TWO = makers.work(11, 1, first=3, inputs=[inline(b"a"), inline(b"b")])


@pytest.mark.parametrize(
    "tasks",
    [
        (task(3),),
        (task(4), task(3)),
        (task(3), task(4), task(5)),
    ],
)
def test_outcomes_that_are_not_the_works_are_the_machines_fault(
    tasks: tuple[TaskOutcome, ...],
) -> None:
    with pytest.raises(SlotLost):
        receipts.checked(TWO, outcome(*tasks))


def test_an_output_that_no_blob_holds_is_the_tasks_failure() -> None:
    tasks = receipts.checked(TWO, outcome(task(3), task(4, bytes(BLOB_BYTES_MAX + 1))))
    assert [found.status for found in tasks] == ["ok", "output_exceeded"]
    assert len(tasks[1].output) < INLINE_BYTES_MAX


def test_large_outputs_are_uploaded_and_so_are_too_many_small_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = bytes(INLINE_BYTES_MAX + 1)
    monkeypatch.setattr(receipts, "INLINE_TOTAL_BYTES_MAX", 100)
    tasks = (
        task(0, large), task(1, b"x" * 60), task(2, b"y" * 60), task(3, b"z" * 40), task(4, large)
    )  # fmt: skip
    work = makers.work(11, 1, inputs=[inline(b"in")] * len(tasks))
    travelling, uploads = receipts.outputs(tasks, receipts.leaves(work, tasks))
    assert uploads == [large, b"y" * 60]
    assert [out.output.body for out in travelling] == [None, b"x" * 60, None, b"z" * 40, None]
    for out, ran in zip(travelling, tasks, strict=True):
        out.output.check()
        assert out.output.digest == canonical.digest(ran.output)


def test_a_log_keeps_its_end() -> None:
    text = "ä" * LOG_CHARS_MAX + "the end"
    tasks = (task(0, log=text.encode()),)
    (out,), _ = receipts.outputs(tasks, receipts.leaves(makers.work(11, 1), tasks))
    assert len(out.log) == LOG_CHARS_MAX
    assert out.log.endswith("the end")


def test_the_claim_stays_within_the_window() -> None:
    work = msgspec.structs.replace(TWO, window_ms=1_000)
    ran = outcome(task(3), task(4, status="error"))
    provider = receipts.Provider(key(), makers.MARKET, makers.ENVIRONMENT, "class")
    facts = receipts.leaves(work, receipts.checked(work, ran))
    envelope = receipts.sign(
        provider, makers.grant(1), work, ran, facts, span=receipts.Span(5, 6), nonce="0" * 32
    )
    receipt = makers.opened(envelope)
    assert receipt.price.amount == "200"
    assert receipt.usage.wall_ms == 1_500
    assert (receipt.status, receipt.first, receipt.tasks) == ("failed", 3, 2)


def test_the_seed_is_the_jobs_own() -> None:
    one = receipts.seed(makers.grant(1))
    assert one == receipts.seed(makers.grant(2))
    assert one != receipts.seed(makers.grant(1, job=makers.identifier(901)))
    assert one ^ 7 == receipts.seed(makers.grant(1, of=makers.spec(seed=0)))


def test_the_machine_is_found_and_shared() -> None:
    whole = inventory.machine()
    assert whole.cpus_milli >= 10
    offered = inventory.capacity(whole, cpus=None, memory_mib=None)
    assert offered == Resources(whole.cpus_milli, whole.memory_mib // 2, 0)
    assert inventory.capacity(whole, cpus=0.5, memory_mib=64) == Resources(500, 64, 0)


@pytest.mark.parametrize(
    ("cpus", "memory_mib"), [(0.0, 64), (-1.0, 64), (1.0, 0), (1.0, 10**9), (1e9, 64)]
)
def test_an_impossible_share_is_refused(cpus: float, memory_mib: int) -> None:
    with pytest.raises(MisConfigured):
        inventory.capacity(Resources(2_000, 1_024, 0), cpus=cpus, memory_mib=memory_mib)


def test_flags_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDPACT_PROVIDER_NAME", "from the environment")
    monkeypatch.setenv("GRIDPACT_PROVIDER_CPU_RATE", "7")
    found = settings.load(url="http://127.0.0.1:1", name="from a flag", memory_mib=None)
    assert (found.name, found.cpu_rate, found.memory_mib) == ("from a flag", 7, None)


@pytest.mark.parametrize("wrong", [{"cpus": -1}, {"executor": "cloud"}, {"name": ""}, {"no": 1}])
def test_wrong_settings_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(MisConfigured) as refusal:
        settings.load(**{"url": "http://127.0.0.1:1", **wrong})
    assert next(iter(wrong)).upper() in refusal.value.detail
