"""The journal: whatever moment a crash takes, a prefix of what was written is read back."""

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.daemon import journal
from compute.daemon.journal import Journal, Opened, Over, Record, Signed, frame, read
from settlement.domain.errors import MisConfigured

NAMES = st.sampled_from(["a", "b", "c", "d"])
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(Opened, NAMES, NAMES),
    st.builds(Signed, NAMES, NAMES, st.binary(max_size=40)),
    st.builds(Over, NAMES),
)


@given(st.lists(RECORDS, max_size=8), st.data())
def test_a_torn_file_reads_back_as_a_prefix(records: list[Record], data: st.DataObject) -> None:
    whole = b"".join(frame(record) for record in records)
    cut = data.draw(st.integers(0, len(whole)))
    found, size = read(whole[:cut])
    assert found == records[: len(found)]
    assert size == sum(len(frame(record)) for record in found)
    if cut == len(whole):
        assert found == records


@given(st.lists(RECORDS, min_size=1, max_size=6), st.data())
def test_a_damaged_byte_ends_the_reading(records: list[Record], data: st.DataObject) -> None:
    whole = bytearray(b"".join(frame(record) for record in records))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    found, _ = read(bytes(whole))
    assert found == records[: len(found)]
    assert len(found) < len(records)


def test_a_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal.open(path)
    first.append(Opened("a", "l"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (first.size_bytes + 20, hard))
    try:
        with pytest.raises(OSError, match="large"):
            first.append(Signed("a", "l", bytes(100)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    first.append(Opened("b", "l"))
    first.close()
    again = Journal.open(path)
    assert again.live == {"a": Opened("a", "l"), "b": Opened("b", "l")}
    again.close()


def test_opens_again_with_what_is_not_over(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal.open(path)
    for record in (Opened("a", "l"), Opened("b", "l"), Signed("b", "l", b"x"), Opened("c", "l")):
        first.append(record)
    first.append(Over("a"))
    first.close()
    second = Journal.open(path)
    assert list(second.live.values()) == [Signed("b", "l", b"x"), Opened("c", "l")]
    second.close()


def test_a_torn_end_is_cut_off_before_more_is_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(frame(Opened("a", "l")) + frame(Opened("b", "l"))[:-1])
    torn = Journal.open(path)
    torn.append(Opened("c", "l"))
    torn.close()
    again = Journal.open(path)
    assert set(again.live) == {"a", "c"}
    again.close()


def test_one_holder(tmp_path: Path) -> None:
    held = Journal.open(tmp_path / "journal")
    with pytest.raises(MisConfigured):
        Journal.open(tmp_path / "journal")
    held.close()
    Journal.open(tmp_path / "journal").close()


async def test_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMPACT_BYTES", 10_000)
    path = tmp_path / "journal"
    kept = Journal.open(path)
    kept.append(Signed("kept", "l", bytes(100)))
    for number in range(200):
        kept.append(Signed(str(number), "l", bytes(1_000)))
        await kept.commit()
        kept.append(Over(str(number)))
    assert path.stat().st_size == kept.size_bytes < 20_000
    kept.append(Opened("after", "l"))
    kept.close()
    again = Journal.open(path)
    assert set(again.live) == {"kept", "after"}
    again.close()


async def test_stays_locked_after_it_was_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "COMPACT_BYTES", 100)
    kept = Journal.open(tmp_path / "journal")
    before = os.fstat(kept.descriptor).st_ino
    for number in range(9):
        kept.append(Opened(str(number), "l"))
        kept.append(Over(str(number)))
    await kept.commit()
    assert os.fstat(kept.descriptor).st_ino != before
    with pytest.raises(MisConfigured):
        Journal.open(tmp_path / "journal")
    kept.close()
