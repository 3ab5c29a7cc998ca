"""The audit of a whole log: what it says of an honest one, and what it names in one that lies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from settlement.domain import conflict, cosignature
from settlement.domain.errors import BadCheckpoint, BadProof, Unreachable
from settlement.domain.identity import PrivateKey
from settlement.domain.statement import Statement
from settlement.validator import audit as audits
from settlement.validator import audit_file
from settlement.validator.audit import Audit, Finding, Report, first_line_apart
from settlement.validator.audit_pool import first_unsigned
from settlement.validator.cosigner import Signer
from settlement.validator.watch import Watch
from tests.system import hostile
from tests.system.hostile import static_files
from tests.unit.settlement import story as stories
from tests.unit.settlement.story import LEDGER, LOG, LOG_KEY, ORIGIN, honest_story
from tests.unit.settlement.test_replay_rules import CASES, Lie

SIGNER: Final = Signer("auditor.example/1", PrivateKey(b"\x62" * 32))
# rules whose lies need a replay that was tampered with, or more entries than a test should have
ELSEWHERE: Final = {"a receipt is logged once", "a state is of the near past"}
PINNED: Final = "the charter is the market's"  # a validator knows the log's key and no other


class Memory:
    """A log's static files, as they would be served."""

    name = "memory"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    async def fetch(self, path: str) -> bytes | None:
        return self.files.get(path)


def served(entries: Sequence[bytes]) -> Memory:
    return Memory(static_files(entries, key=LOG, origin=ORIGIN))


async def audit(entries: Sequence[bytes], **terms: Any) -> Report:  # noqa: ANN401 - of an audit
    return await Audit(served(entries), LOG_KEY, **terms).run()


async def found(entries: Sequence[bytes], **terms: Any) -> Finding:  # noqa: ANN401 - as above
    finding = (await audit(entries, **terms)).finding
    assert finding is not None
    return finding


# ── an honest log ───────────────────────────────────────────────────────────────────────────


async def test_what_it_says_of_an_honest_log() -> None:
    story = honest_story().before("takeover")
    report = await audit(story.entries, ledger_key=LEDGER.address)
    assert report.finding is None
    assert (report.market, report.size, report.audited, report.first) == (ORIGIN, len(story.said), len(story.said), 0)  # fmt: skip
    assert sum(report.statements.values()) == report.size
    assert report.statements["charged"] == 5
    assert report.issued == str(3 * 50_000_000 - 900)
    assert sum(int(sum_) for sum_ in report.balances.values()) == int(report.issued)
    assert report.transfers == _transfers_of_the_story()
    assert [(each.agreed, each.differed) for each in report.standings] == [(1, 0), (1, 1)]
    assert (report.quorum, report.validators, report.cosignatures, report.final) == (1, 1, 0, False)
    assert report.stated == story.said["state two"].statement.size  # type: ignore[attr-defined]


def _transfers_of_the_story() -> int:
    """By hand: three issues, order, top-up, payment, two payees, three withdrawals and two answers,
    three parts of each checked charge, two of a check and of each voucher, close and release.
    """
    return 3 + 1 + 1 + 1 + 2 + 3 + 2 + (3 + 2 + 3 + 2 + 2) + 1 + 1


async def test_it_counts_cosignatures() -> None:
    story = honest_story().before("takeover")
    source = served(story.entries)
    note = source.files["checkpoint"].decode()
    text = note.split("\n\n")[0] + "\n"
    line = cosignature.sign(text, "seer.example/1", stories.SEER, time_seconds=7)
    source.files["checkpoint"] = cosignature.add_line(note, line).encode()
    report = await Audit(source, LOG_KEY).run()
    assert (report.cosignatures, report.final) == (1, True)
    broken = line[:-10] + ("A" if line[-10] != "A" else "B") + line[-9:]
    source.files["checkpoint"] = cosignature.add_line(note, broken).encode()
    report = await Audit(source, LOG_KEY).run()
    assert report.finding is not None
    assert report.finding.rule == "a validator's cosignature holds"


async def test_after_a_takeover_the_log_names_another_key() -> None:
    story = honest_story()
    finding = await found(story.entries)
    assert finding.rule == "the log names the key that signs it"
    files = static_files(story.entries, key=stories.NEXT, origin=ORIGIN)
    key = story.replay.charter.log_key  # type: ignore[union-attr]
    assert (await Audit(Memory(files), key).run()).finding is None


async def test_up_to_a_size() -> None:
    story = honest_story().before("takeover")
    for size in (1, 7, len(story.said), len(story.said) + 9):
        work = Audit(served(story.entries), LOG_KEY, to_size=size)
        report = await work.run()
        assert (report.finding, report.audited) == (None, min(size, len(story.said)))
        assert (work.snapshot is not None) == (size >= len(story.said))


@pytest.mark.parametrize("length", [1, 255, 256, 257, 600])
async def test_signatures_checked_by_other_processes(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(audits, "ALONE", 0)
    entries = hostile.entries_of(length)
    source = Memory(static_files(entries))
    told: list[tuple[int, int]] = []
    work = Audit(source, hostile.LOG_KEY, progress=lambda *at: told.append(at), workers=1)
    report = await work.run()
    assert (report.finding, report.audited) == (None, length)
    assert told[-1] == (length, length)


@pytest.mark.parametrize("alone", [0, 10_000])
@pytest.mark.parametrize("place", [0, 17, 255, 256, 511, 599])
async def test_a_forged_signature_is_named(
    monkeypatch: pytest.MonkeyPatch, place: int, alone: int
) -> None:
    monkeypatch.setattr(audits, "ALONE", alone)
    entries = hostile.entries_of(600)
    broken = entries[place].replace(b'"sig":"', b'"sig":"AAAA', 1)
    entries[place] = (
        broken[: broken.index(b'"sig":"') + 11] + broken[broken.index(b'"sig":"') + 15 :]
    )
    assert first_unsigned(entries) == place
    report = await Audit(Memory(static_files(entries)), hostile.LOG_KEY, workers=1).run()
    assert report.finding is not None
    assert (report.finding.index, report.finding.rule) == (place, "an entry is a signed statement")
    assert report.audited == place


# ── lies that the market signs ──────────────────────────────────────────────────────────────


def forged(name: str, lie: Lie) -> tuple[list[bytes], int]:
    """The honest log with the lie in that place and all that was honest after it; and the place."""
    story = honest_story().before(name)
    wrong = lie(story)
    at = len(story.said)
    rest = honest_story().entries[honest_story().index(name) + 1 :]
    return [*story.entries, wrong.envelope, *rest], at


LIES: Final = [case for case in CASES if case[0] not in ELSEWHERE]


@pytest.mark.parametrize(
    ("rule", "name", "lie"), LIES, ids=[f"{number}-{case[0]}" for number, case in enumerate(LIES)]
)
async def test_audit_and_validator_name_the_lie(
    tmp_path: Path, rule: str, name: str, lie: Lie
) -> None:
    entries, at = forged(name, lie)
    finding = await found(entries, ledger_key=LEDGER.address)
    assert (finding.index, finding.rule) == (at, rule)
    if rule == PINNED:
        return
    watch = Watch(tmp_path, served(entries), LOG_KEY, SIGNER)
    await watch.round()
    assert watch.refused
    assert watch.cosigner.last.size == 0
    (item,) = watch.shelf.items
    data = watch.shelf.read(item.name)
    assert data is not None
    difference = conflict.verify_difference(data, LOG_KEY)
    assert (difference.index, difference.rule) == (at, rule)


async def test_a_state_that_was_not_reached_names_the_account() -> None:
    """The market mints for a friend without any statement: its own lines show where."""
    story = honest_story().before("state")
    lines = story.replay.lines()
    at = next(
        number for number, line in enumerate(lines) if stories.WORKER.address.encode() in line
    )
    minted = lines[at][:-2] + b'9"]'
    fake = sorted([*lines[:at], minted, *lines[at + 1 :]])

    async def states(size: int) -> bytes | None:
        assert size == len(story.said)
        return b"".join(line + b"\n" for line in fake)

    wrong = story.bent("state", root=stories.NOTHING)
    finding = await found([*story.entries, wrong.envelope], states=states)
    assert (finding.index, finding.rule) == (len(story.said), "the state is what the log leads to")
    assert lines[at].decode() in finding.detail
    assert minted.decode() in finding.detail


async def test_the_lines_that_the_market_shows_are_compared() -> None:
    story = honest_story().before("takeover")
    stated: Any = story.said["state two"].statement
    right = honest_story().before("state two").replay.lines()

    def shown(lines: Sequence[bytes]) -> Any:  # noqa: ANN401 - a coroutine function
        async def states(size: int) -> bytes | None:
            assert size == stated.size
            return b"".join(line + b"\n" for line in lines)

        return states

    assert (await audit(story.entries, states=shown(right))).compared
    for lines in (right[1:], [*right, right[0]], right[::-1], [*right, b"what"], []):
        finding = await found(story.entries, states=shown(lines))
        assert finding.rule == "the market's lines are what the log leads to"


def test_the_first_line_apart() -> None:
    ours = honest_story().replay.lines()
    assert first_line_apart(ours, ours) is None
    for at, line in enumerate(ours):
        assert first_line_apart(ours, [*ours[:at], *ours[at + 1 :]]) == (line.decode(), "")
        assert first_line_apart([*ours[:at], *ours[at + 1 :]], ours) == ("", line.decode())


# ── files ───────────────────────────────────────────────────────────────────────────────────


async def test_every_byte_of_every_file() -> None:
    entries = honest_story().entries[:3]
    honest = served(entries).files
    for path, data in honest.items():
        for at in range(len(data)):
            broken = bytearray(data)
            broken[at] ^= 1 << (at % 8)
            work = Audit(Memory(honest | {path: bytes(broken)}), LOG_KEY)
            if path == "checkpoint":
                with pytest.raises(BadCheckpoint):
                    await work.run()
                continue
            finding = (await work.run()).finding
            assert finding is not None
            assert finding.path == path
            assert work.snapshot is None


async def test_nothing_to_audit() -> None:
    with pytest.raises(Unreachable):
        await Audit(Memory({}), LOG_KEY).run()
    with pytest.raises(BadCheckpoint):
        await Audit(served(honest_story().entries), hostile.LOG_KEY).run()


# ── snapshots ───────────────────────────────────────────────────────────────────────────────


async def snapshot_of(entries: Sequence[bytes]) -> audit_file.Snapshot:
    work = Audit(served(entries), LOG_KEY)
    assert (await work.run()).finding is None
    assert work.snapshot is not None
    return work.snapshot


@pytest.mark.parametrize("name", ["issue", "charged", "state", "voucher two", "expiry", "approval"])
async def test_an_audit_goes_on_from_a_snapshot(name: str) -> None:
    whole = honest_story().before("takeover").entries
    early = await snapshot_of(honest_story().before(name).entries)
    again = audit_file.decode(audit_file.encode(early), LOG_KEY)
    work = Audit(served(whole), LOG_KEY, start=again)
    report = await work.run()
    assert (report.finding, report.first, report.audited) == (None, early.head.size, len(whole))
    assert work.snapshot is not None
    assert work.snapshot == await snapshot_of(whole)


@pytest.mark.parametrize("change", ["rewritten", "dropped", "shorter"])
@pytest.mark.parametrize("place", [0, 5, 16, 30])
async def test_what_was_audited_before_is_changed(change: str, place: int) -> None:
    """The head is signed anew over another past; the snapshot tells."""
    whole = honest_story().before("close").entries
    early = await snapshot_of(whole[:33])
    other = list(whole)
    if change == "rewritten":
        other[place] = hostile.payment(7).envelope
    elif change == "dropped":
        del other[place]
    else:
        other = other[: place + 1]
    finding = await found(other, start=early)
    assert finding.rule == "the log begins with what was audited before"
    if change != "shorter":
        assert finding.index <= place
        assert f"between {finding.index} and" in finding.detail


async def test_every_byte_of_a_snapshot() -> None:
    data = audit_file.encode(await snapshot_of(honest_story().before("offer").entries))
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises((BadProof, BadCheckpoint)):
            audit_file.decode(bytes(broken), LOG_KEY)


async def test_a_snapshot_of_another_size_or_log() -> None:
    early = await snapshot_of(honest_story().before("offer").entries)
    later = await snapshot_of(honest_story().before("order").entries)
    mixed = audit_file.Snapshot(later.head, later.edge, early.dump)
    with pytest.raises(BadProof, match="does not stand at its head"):
        audit_file.decode(audit_file.encode(mixed), LOG_KEY)
    with pytest.raises(BadCheckpoint):
        audit_file.decode(audit_file.encode(early), hostile.LOG_KEY)


async def test_a_forged_snapshot_is_caught_by_the_next_state() -> None:
    """Its maker gives a friend money; the tree below is right, the next state statement is not."""
    story = honest_story().before("state two")
    early = await snapshot_of(story.entries)
    rich = audit_file.Snapshot(early.head, early.edge, _richer(early.dump))
    again = audit_file.decode(audit_file.encode(rich), LOG_KEY)
    whole = honest_story().before("expiry").entries
    finding = await found(whole, start=again)
    assert (finding.index, finding.rule) == (len(story.said), "the state is what the log leads to")


def _richer(dump: bytes) -> bytes:
    """One digit more on somebody's account."""
    name = b'["' + stories.STRANGER.address.encode() + b'",1,"",1]'
    at = dump.index(name) + len(name)
    end = dump.index(b'"]', at)
    return dump[:end] + b"0" + dump[end:]


def test_the_story_has_every_kind() -> None:
    kinds = {opened.statement.kind for opened in honest_story().said.values()}
    assert kinds == set(Statement.kinds)
