"""A market that lies: every way of it is caught, the entry or file is named, and nothing is cosigned."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from settlement.domain import checkpoint, conflict, merkle
from settlement.domain.statement import Opened
from settlement.validator import source
from settlement.validator.cosigner import Signer
from settlement.validator.source import HttpSource, new_session
from settlement.validator.watch import Watch
from tests.system import hostile
from tests.system.test_validator import KEY, NAME, address, get, plan, validating
from tests.unit.settlement import story as stories

SIZE = 300


def split_of(watch: Watch) -> conflict.Split:
    """The evidence, read back from where it is published, verified by itself."""
    (item,) = watch.shelf.items
    data = watch.shelf.read(item.name)
    assert data is not None
    conflict.verify_split(data, hostile.LOG_KEY)
    return msgspec.json.decode(data, type=conflict.Split)


def difference_of(watch: Watch) -> conflict.Difference:
    (item,) = watch.shelf.items
    data = watch.shelf.read(item.name)
    assert data is not None
    return conflict.verify_difference(data, hostile.LOG_KEY)


async def after_first_round(
    folder: Path, before: Sequence[bytes], after: Sequence[bytes], check: Callable[[Watch], None]
) -> None:
    """Follow `before`, show `after`, look; then a restart and an honest log change nothing."""
    async with hostile.serving(before) as market:
        async with validating(plan(folder, market.url)) as (validator, watch):
            await validator.round()
            assert watch.cosigner.last.size == len(before)
            market.show(after)
            await validator.round()
            assert watch.refused
            check(watch)
            assert watch.cosigner.last.size == len(before)
            assert len(market.cosignatures) == 1
        market.show([*before, hostile.payment(5_000).envelope])
        async with validating(plan(folder, market.url)) as (validator, watch):
            await validator.round()
            assert watch.refused
            assert watch.cosigner.last.size == len(before)


@pytest.mark.parametrize(
    ("place", "more"),
    [(place, more) for place in (0, 17, 255, 256, 299) for more in (-40, -1, 0, 1, 300) if place < SIZE + more],
)  # fmt: skip
async def test_one_old_entry_is_rewritten(tmp_path: Path, place: int, more: int) -> None:
    before = hostile.entries_of(SIZE)
    forged = [*before, *(hostile.payment(number).envelope for number in range(2_000, 2_300))]
    forged[place] = hostile.payment(9_999).envelope
    forged = forged[: SIZE + more]

    def check(watch: Watch) -> None:
        split = split_of(watch)
        assert split.index == str(place)
        assert split.expected == merkle.leaf_hash(before[place]).hex()
        assert split.found == merkle.leaf_hash(forged[place]).hex()
        assert f"entry {place} was" in watch.detail

    await after_first_round(tmp_path, before, forged, check)


@pytest.mark.parametrize("more", [0, 1, 2, 90])
@pytest.mark.parametrize("place", [0, 33, 256, 298])
async def test_one_entry_is_dropped(tmp_path: Path, place: int, more: int) -> None:
    before = hostile.entries_of(SIZE)
    dropped = [*before, *(hostile.payment(number).envelope for number in range(2_000, 2_090))]
    del dropped[place]

    def check(watch: Watch) -> None:
        assert split_of(watch).index == str(place)

    await after_first_round(tmp_path, before, dropped[: SIZE - 1 + more], check)


async def test_tokens_without_an_operator_are_named(tmp_path: Path) -> None:
    before = hostile.entries_of(20)
    minted = hostile.issue(700, key=hostile.CONSUMER).envelope

    def check(watch: Watch) -> None:
        found = difference_of(watch)
        assert (found.index, base64.b64decode(found.envelope)) == (20, minted)
        assert "issued by the operator" in found.rule
        assert (found.expected, found.found) == (hostile.OPERATOR.address, hostile.CONSUMER.address)

    await after_first_round(tmp_path, before, [*before, minted], check)


@pytest.mark.parametrize("ahead", [1, 30, 4_000])
async def test_a_wrong_state_root_is_named(tmp_path: Path, ahead: int) -> None:
    before = hostile.entries_of(10)
    wrong = hostile.state(before, root=b"\7" * 32).envelope
    more = [hostile.payment(number).envelope for number in range(20, 20 + ahead)]

    def check(watch: Watch) -> None:
        found = difference_of(watch)
        assert (found.index, found.rule) == (10, "the state is what the log leads to")
        assert found.found == "sha256:" + "07" * 32

    await after_first_round(tmp_path, before, [*before, wrong, *more], check)


@pytest.mark.parametrize(
    ("lie", "rule"),
    [
        (lambda said: said.bent("charged", gross="999999"), "a charge is rate × time"),
        (lambda said: said.recharged("charged", wall_ms=stories.WALL_MS + 1), "counts the receipt's time"),
        (lambda said: said.bent("charged", provider=stories.STRANGER.address), "names its receipt's provider"),
    ],
)  # fmt: skip
async def test_a_mispriced_charge_is_named(
    tmp_path: Path, lie: Callable[[stories.Story], Opened], rule: str
) -> None:
    """A whole market's story is cosigned up to the charge, and nothing from there on."""
    story = stories.honest_story()
    place = story.index("charged")
    entries = [*story.entries[:place], lie(stories.fresh_story()).envelope, *story.entries[place:]]
    async with hostile.serving([]) as market:

        def show(size: int) -> None:
            market.files = hostile.static_files(
                entries[:size], key=stories.LOG, origin=stories.ORIGIN
            )

        show(place)
        wanted = plan(tmp_path, market.url, log_key=stories.LOG_KEY)
        async with validating(wanted) as (validator, watch):
            await validator.round()
            assert watch.cosigner.last.size == place, watch.detail
            show(len(entries))
            await validator.round()
            assert watch.cosigner.last.size == place
            (item,) = watch.shelf.items
            assert item.index == str(place)
            assert rule in item.detail


async def test_money_that_is_not_there_is_named(tmp_path: Path) -> None:
    before = hostile.entries_of(10)
    overdrawn = hostile.payment(800, amount=hostile.FUNDS * 2).envelope

    def check(watch: Watch) -> None:
        assert difference_of(watch).index == 11

    await after_first_round(
        tmp_path, before, [*before, hostile.payment(900).envelope, overdrawn], check
    )


@pytest.mark.parametrize("entry", [b"", b"\xff\x00 no text", b"{}", b"x" * 65_535])
async def test_what_is_no_statement_is_named(tmp_path: Path, entry: bytes) -> None:
    before = hostile.entries_of(10)

    def check(watch: Watch) -> None:
        found = difference_of(watch)
        assert (found.index, base64.b64decode(found.envelope)) == (10, entry)

    await after_first_round(tmp_path, before, [*before, entry], check)


async def test_every_byte_of_every_file(tmp_path: Path) -> None:
    """Each byte of each file of a small log, flipped and followed from afresh, over HTTP."""
    signer = Signer(NAME, KEY)
    entries = hostile.entries_of(3)
    async with hostile.serving(entries) as market, new_session() as session:
        honest = dict(market.files)
        flips = [(path, at) for path, data in sorted(honest.items()) for at in range(len(data))]
        assert len(flips) > 1_500
        for path, at in flips:
            broken = bytearray(honest[path])
            broken[at] ^= 1 << (at % 8)
            market.files = {**honest, path: bytes(broken)}
            folder = tmp_path / f"{path.replace('/', '-')}-{at}"
            watch = Watch(folder, HttpSource(session, market.url), hostile.LOG_KEY, signer)
            await watch.round()
            assert_named(watch, path)
        market.files = honest
        watch = Watch(tmp_path / "honest", HttpSource(session, market.url), hostile.LOG_KEY, signer)
        await watch.round()
        assert (watch.state, watch.cosigner.last.size) == ("following", 3)


def assert_named(watch: Watch, path: str) -> None:
    """Nothing was cosigned, and the file is named."""
    assert watch.cosigner.last.size == 0
    if path == "checkpoint":
        assert watch.state == "wrong-checkpoint"
    else:
        assert watch.state == "wrong-file"
        assert path in watch.detail


@pytest.mark.parametrize("at", [0, 31, 32 * 255, 8_191, -1])
@pytest.mark.parametrize(
    "path",
    ["tile/0/000", "tile/0/001", "tile/0/002.p/8", "tile/1/000.p/2", "tile/entries/000", "tile/entries/002.p/8"],
)  # fmt: skip
async def test_bytes_of_wide_files(tmp_path: Path, path: str, at: int) -> None:
    async with hostile.serving(hostile.entries_of(520)) as market:
        broken = bytearray(market.files[path])
        place = at % len(broken)
        broken[place] ^= 1
        market.files[path] = bytes(broken)
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            await validator.round()
            assert_named(watch, path)
            if path.startswith("tile/0/"):
                first = int(path.removeprefix("tile/0/")[:3]) * 256
                assert f"entry {first + place // 32} should hash to" in watch.detail
            if path == "tile/1/000.p/2":
                assert f"the entries from {place // 32 * 256} on" in watch.detail


@pytest.mark.parametrize("path", ["tile/0/000", "tile/entries/001.p/44", "tile/1/000.p/1", "checkpoint"])  # fmt: skip
async def test_a_missing_short_or_long_file(tmp_path: Path, path: str) -> None:
    async with hostile.serving(hostile.entries_of(SIZE)) as market:
        data = market.files[path]
        for number, changed in enumerate([None, b"", data[:-1], data + b"\0", b"\0" * 20_000_000]):
            if changed is None:
                del market.files[path]
            else:
                market.files[path] = changed
            async with validating(plan(tmp_path / str(number), market.url)) as (validator, watch):
                await validator.round()
                assert watch.state != "following"
                assert watch.cosigner.last.size == 0
                assert path == "checkpoint" or path in watch.detail


async def test_only_narrow_tiles_of_another_size(tmp_path: Path) -> None:
    async with hostile.serving(hostile.entries_of(30)) as market:
        narrow = hostile.static_files(hostile.entries_of(29))
        market.files = {**narrow, "checkpoint": market.files["checkpoint"]}
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            await validator.round()
            assert watch.state == "wrong-file"
            assert "tile/0/000.p/30 is missing" in watch.detail


async def test_a_checkpoint_that_is_rolled_back_or_stale(tmp_path: Path) -> None:
    entries = hostile.entries_of(90)
    async with hostile.serving(entries) as market:  # noqa: SIM117 - the plan needs its address
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            await validator.round()
            market.show(entries[:80])
            await validator.round()
            assert watch.state == "behind"
            assert "showed 90 entries before, and now 80" in watch.detail
            assert watch.cosigner.last.size == 90
            assert not watch.shelf.items  # an old head is no lie
            market.show(hostile.entries_of(95))
            await validator.round()
            assert (watch.state, watch.cosigner.last.size) == ("following", 95)


async def test_another_key_or_name_signs(tmp_path: Path) -> None:
    entries = hostile.entries_of(9)
    async with hostile.serving(entries) as market:
        market.files = hostile.static_files(entries, key=hostile.LEDGER)
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            await validator.round()
            assert watch.state == "wrong-checkpoint"
            market.files["checkpoint"] = checkpoint.sign(
                "other.example/log", hostile.LOG, size=9, root=merkle.root(entries)
            ).encode()
            await validator.round()
            assert watch.state == "wrong-checkpoint"
            assert watch.cosigner.last.size == 0


async def test_slow_and_failing_answers_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "READ_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(source, "REQUEST_TIMEOUT_SECONDS", 0.2)
    async with hostile.serving(hostile.entries_of(9)) as market:  # noqa: SIM117 - as above
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            market.stall = {"tile/entries/000.p/9"}
            await validator.round()
            assert watch.state == "unreachable"
            assert "no answer in time" in watch.detail
            market.stall = set()
            market.answer = lambda path: 503 if path.startswith("tile/0/") else None
            await validator.round()
            assert "HTTP 503" in watch.detail
            failed: set[str] = set()

            def first_fails(path: str) -> int | None:
                if path in failed:
                    return None
                failed.add(path)
                return 500

            market.answer = first_fails
            await validator.round()
            assert (watch.state, watch.cosigner.last.size) == ("following", 9)


async def test_two_validators_are_shown_two_heads(tmp_path: Path) -> None:
    honest = hostile.entries_of(60)
    other = [*honest[:41], hostile.payment(4_141).envelope, *honest[42:70]]
    async with hostile.serving(honest) as one, hostile.serving(other) as two:
        first = plan(tmp_path / "one", one.url)
        async with validating(first) as (left, left_watch):
            second = plan(tmp_path / "two", two.url, peers=(address(first),), name="two.example")
            async with validating(second) as (right, right_watch):
                await left.round()
                await right.round()
                await right.round()  # the first only heard of the other head
                assert right_watch.refused
                split = split_of(right_watch)
                assert {checkpoint.head(split.first).size, checkpoint.head(split.second).size} == {60, len(other)}  # fmt: skip
                left.gossip._peers.append(address(second))
                await left.round()  # takes the evidence over
                assert left_watch.refused
                assert left_watch.shelf.items == right_watch.shelf.items
                listed = (await get(f"{address(first)}/evidence"))[1]
                assert right_watch.shelf.items[0].name.encode() in listed
                name = right_watch.shelf.items[0].name
                assert (await get(f"{address(first)}/evidence/{name}"))[0] == 200
                assert (await get(f"{address(first)}/evidence/..%2fcosigned"))[0] == 404


async def test_two_heads_of_one_size(tmp_path: Path) -> None:
    honest = hostile.entries_of(12)
    other = [*honest[:11], hostile.payment(77).envelope]
    async with hostile.serving(honest) as one, hostile.serving(other) as two:
        first = plan(tmp_path / "one", one.url)
        async with validating(first) as (left, _):
            await left.round()
            second = plan(tmp_path / "two", two.url, peers=(address(first),))
            async with validating(second) as (right, watch):
                await right.round()
                await right.round()
                assert watch.refused
                split = split_of(watch)
                assert not split.proof
                heads = (checkpoint.head(split.first), checkpoint.head(split.second))
                assert heads[0].size == heads[1].size == 12


async def test_peers_that_lie_change_nothing(tmp_path: Path) -> None:
    """A peer without the log's signature, with evidence that proves nothing, or that is no peer at all."""
    entries = hostile.entries_of(12)
    split = conflict.make_split(
        checkpoint.sign(hostile.ORIGIN, hostile.LEDGER, size=12, root=b"\1" * 32),
        checkpoint.sign(hostile.ORIGIN, hostile.LEDGER, size=12, root=b"\2" * 32),
        root=b"\2" * 32, path=[],
    )  # fmt: skip
    name = f"{'a' * 16}-split-{'b' * 16}.json"
    item = {"name": name, "origin": hostile.ORIGIN, "kind": "split", "index": "", "detail": ""}
    async with hostile.serving(entries) as market, hostile.serving(entries) as peer:
        forged = hostile.static_files(entries, key=hostile.LEDGER)["checkpoint"]
        wanted = plan(tmp_path, market.url, peers=(peer.url,))
        async with validating(wanted) as (validator, watch):
            for files in (
                {},
                {f"checkpoint/{hostile.ORIGIN}": forged},
                {"evidence": b"no JSON"},
                {"evidence": msgspec.json.encode({"evidence": [item]}), f"evidence/{name}": split},
                {"evidence": b"\0" * 2_000_000},
            ):
                peer.files = files
                await validator.round()
                await validator.round()
                assert (watch.state, watch.cosigner.last.size) == ("following", 12)
                assert (validator.gossip.notes[peer.url] == "ok") == (files == {})
