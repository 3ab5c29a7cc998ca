"""The snapshot of a replay: canonical, whole, and nothing else can be loaded as one."""

import json

import pytest

from settlement.domain import canonical, snapshot
from settlement.domain.errors import Malformed
from settlement.domain.replay import Replay
from tests.unit.settlement.story import honest_story


@pytest.mark.parametrize("name", list(honest_story().said))
def test_it_goes_on_from_anywhere(name: str) -> None:
    """Loaded before each entry, the rest of the story leads to the same end."""
    story = honest_story()
    replay = Replay.load(story.dumps[name])
    assert replay.dump() == story.dumps[name]
    for index, entry in list(enumerate(story.entries))[story.index(name) :]:
        replay.feed(index, entry, signatures=False)
    assert replay.dump() == story.replay.dump()


def test_it_is_canonical() -> None:
    data = honest_story().replay.dump()
    assert canonical.encode(json.loads(data)) == data


@pytest.mark.parametrize("name", ["receipt", "acceptance", "voucher two", "withdrawn", "approval"])
def test_every_field_counts(name: str) -> None:
    """Two worlds that differ in any field have different dumps."""
    data = honest_story().dumps[name]
    fields = json.loads(data)
    for field, value in fields.items():
        if isinstance(value, int) and not isinstance(value, bool) and field != "v":
            other = Replay.load(canonical.encode(fields | {field: value + 1}))
            assert other.dump() != data


@pytest.mark.parametrize(
    "wrong",
    [
        b"", b"{}", b"[]", b"\xff", b"null", b"[" * 100_000,
        *(
            honest_story().dumps["acceptance"].replace(old, new, 1)
            for old, new in (
                (b'"v":1', b'"v":2'), (b'"size":', b'"size":-'), (b'"market":"', b'"other":"'),
                (b'"quorum":0', b'"quorum":0.5'), (b'"seen":[', b'"seen":[[],'),
            )
        ),
    ],
)  # fmt: skip
def test_what_is_no_snapshot(wrong: bytes) -> None:
    with pytest.raises(Malformed):
        Replay.load(wrong)
    with pytest.raises(Malformed):
        snapshot.load(wrong)


@pytest.mark.parametrize("name", ["withdrawn", "approval"])
def test_broken_bytes_raise_nothing_else(name: str) -> None:
    """Whatever a byte becomes: Malformed, or another state; never a foreign exception."""
    data = honest_story().dumps[name]
    for at in range(0, len(data), 3):
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 7)
        try:
            loaded = Replay.load(bytes(broken))
        except Malformed:
            continue
        assert loaded.dump() != data
