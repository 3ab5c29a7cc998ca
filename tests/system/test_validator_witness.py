"""`add-checkpoint` as C2SP's tlog-witness says: each status, and no order of calls lowers the size."""

import asyncio
import base64
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec
import pytest

from settlement.domain import checkpoint, cosignature, merkle
from settlement.domain.errors import MisConfigured
from settlement.domain.identity import PrivateKey
from settlement.domain.statement import sign
from settlement.validator import watch as watching
from tests.system import hostile
from tests.system.test_validator import KEY, NAME, VERIFIER_KEY, address, plan, validating

ENTRIES = hostile.entries_of(400)
NODE = merkle.nodes_of([merkle.leaf_hash(entry) for entry in ENTRIES])


def note(size: int, *, entries: Sequence[bytes] = ENTRIES, key: PrivateKey = hostile.LOG) -> str:
    return checkpoint.sign(hostile.ORIGIN, key, size=size, root=merkle.root(entries[:size]))


def body(old: int, size: int, *, shown: str | None = None, path: list[bytes] | None = None) -> str:
    hashes = merkle.consistency(NODE, old=old, size=size) if path is None else path
    lines = [f"old {old}", *(base64.b64encode(value).decode() for value in hashes), ""]
    return "\n".join([*lines, shown or note(size)])


async def post(url: str, text: str | bytes) -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/add-checkpoint", data=text) as response,
    ):
        return response.status, (await response.read()).decode(), response.content_type


async def test_each_answer(tmp_path: Path) -> None:
    async with hostile.serving(ENTRIES) as market:
        wanted = plan(tmp_path, market.url)
        url = address(wanted)
        async with validating(wanted) as (_, watch):
            await watch.following.step()  # replayed, and nothing cosigned yet
            unknown = checkpoint.sign("other.example", hostile.LOG, size=3, root=b"\1" * 32)
            assert (await post(url, body(0, 3, shown=unknown, path=[])))[0] == 404
            assert (await post(url, body(0, 3, shown=note(3, key=KEY))))[0] == 403
            assert (await post(url, body(0, 100, path=[b"\1" * 32])))[
                0
            ] == 422  # old 0 has no proof
            assert watch.cosigner.last.size == 0
            status, line, _ = await post(url, body(0, 100))
            assert status == 200
            assert cosignature.count(note(100) + line, [VERIFIER_KEY]) == 1
            assert await post(url, body(0, 200)) == (409, "100\n", "text/x.tlog.size")
            assert await post(url, body(90, 200)) == (409, "100\n", "text/x.tlog.size")
            assert (await post(url, body(100, 90, path=[])))[0] == 400
            assert (await post(url, body(100, 300, path=[])))[0] == 422
            wrong = merkle.consistency(NODE, old=100, size=300)
            assert (await post(url, body(100, 300, path=[*wrong[:-1], b"\1" * 32])))[0] == 422
            assert (await post(url, body(100, 300)))[0] == 200
            assert (await post(url, body(300, 300)))[0] == 200  # again, with a newer time
            assert (await post(url, body(300, 300, path=[b"\1" * 32])))[0] == 422
            assert watch.cosigner.last.size == 300
            assert not watch.refused


@pytest.mark.parametrize(
    "text",
    [
        b"", b"old 0", b"old 0\n\n", b"old 00\n\n" + note(3).encode(), b"old -1\n\n" + note(3).encode(),
        b"0\n\n" + note(3).encode(), b"old 0\nnot base64\n\n" + note(3).encode(),
        b"old 0\nYQ==\n\n" + note(3).encode(), b"\xff\xfe", b"old 0\n\nno checkpoint\n",
        body(0, 3, path=[b"\1" * 32] * 64).encode(),
    ],
)  # fmt: skip
async def test_what_is_no_request(tmp_path: Path, text: bytes) -> None:
    async with hostile.serving(ENTRIES[:5]) as market:
        wanted = plan(tmp_path, market.url)
        async with validating(wanted):
            assert (await post(address(wanted), text))[0] == 400


async def test_a_body_that_is_too_large(tmp_path: Path) -> None:
    async with hostile.serving(ENTRIES[:5]) as market:
        wanted = plan(tmp_path, market.url)
        async with validating(wanted):
            assert (await post(address(wanted), b"x" * 200_000))[0] == 413


async def test_a_head_that_is_not_replayed_waits_for_the_replay(tmp_path: Path) -> None:
    async with hostile.serving(ENTRIES[:50]) as market:
        wanted = plan(tmp_path, market.url)
        async with validating(wanted) as (validator, watch):
            await validator.round()
            market.show(ENTRIES[:90])
            async with asyncio.TaskGroup() as group:
                running = group.create_task(validator.run())
                status, line, _ = await post(address(wanted), body(50, 90))
                running.cancel()
            assert watch.cosigner.last.size == 90
            if status == 200:
                assert cosignature.count(note(90) + line, [VERIFIER_KEY]) == 1
            else:  # its own round was faster
                assert (status, line) == (409, "90\n")


async def test_a_head_that_nobody_can_replay_is_not_cosigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "CATCH_UP_SECONDS", 0.2)
    async with hostile.serving(ENTRIES[:50]) as market:
        wanted = plan(tmp_path, market.url)
        async with validating(wanted) as (validator, watch):
            await validator.round()
            assert (await post(address(wanted), body(50, 90)))[0] == 503
            assert watch.cosigner.last.size == 50


async def test_another_root_at_the_same_size_is_evidence(tmp_path: Path) -> None:
    forged = [*ENTRIES[:30], hostile.payment(4_000).envelope]
    async with hostile.serving(ENTRIES[:31]) as market:
        wanted = plan(tmp_path, market.url)
        async with validating(wanted) as (validator, watch):
            await validator.round()
            assert (await post(address(wanted), body(31, 31, shown=note(31, entries=forged))))[0] == 422  # fmt: skip
            await validator.round()
            assert watch.refused
            assert [item.kind for item in watch.shelf.items] == ["split"]
            assert (await post(address(wanted), body(31, 31)))[0] == 422


async def test_many_calls_at_once_never_lower_the_size(tmp_path: Path) -> None:
    """All from one old size: one of them wins, whichever; the stored size only grows."""
    async with hostile.serving(ENTRIES) as market:
        wanted = plan(tmp_path, market.url)
        async with validating(wanted) as (_, watch):
            await watch.following.step()
            cosigned = 0
            for _ in range(6):
                sizes = range(cosigned + 1, min(cosigned + 25, 400))
                async with asyncio.TaskGroup() as group:
                    calls = [
                        group.create_task(post(address(wanted), body(cosigned, size)))
                        for size in sizes
                    ]
                answers = {size: call.result() for size, call in zip(sizes, calls, strict=True)}
                won = [size for size, answer in answers.items() if answer[0] == 200]
                assert won == [watch.cosigner.last.size]
                assert {answer[:2] for size, answer in answers.items() if size not in won} == {
                    (409, f"{won[0]}\n")
                }
                assert won[0] > cosigned
                cosigned = won[0]


async def test_what_is_cosigned_is_stored_before_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk refuses, nobody gets a line; after a restart the old size stands."""

    def full(path: Path, data: bytes) -> None:
        raise MisConfigured(f"{path}: no space left")

    async with hostile.serving(ENTRIES) as market:
        wanted = plan(tmp_path, market.url)
        async with validating(wanted) as (_, watch):
            await watch.following.step()
            assert (await post(address(wanted), body(0, 100)))[0] == 200
            with monkeypatch.context() as patched:
                patched.setattr("settlement.validator.cosigner.files.write", full)
                status, text, _ = await post(address(wanted), body(100, 200))
            assert status == 500
            assert NAME not in text
        async with validating(wanted) as (_, watch):
            assert watch.cosigner.last.size == 100


async def test_one_folder_serves_one_process_and_one_key(tmp_path: Path) -> None:
    async with hostile.serving(ENTRIES[:5]) as market:
        async with validating(plan(tmp_path, market.url)) as (validator, _):
            await validator.round()
            with pytest.raises(MisConfigured, match="another process"):
                async with validating(plan(tmp_path, market.url)):
                    pass
        with pytest.raises(MisConfigured, match="another key"):
            async with validating(plan(tmp_path, market.url, key=PrivateKey(b"\x62" * 32))):
                pass


async def test_a_log_whose_time_is_far_ahead_is_not_cosigned_until_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No evidence is kept and nothing is lost: it goes on by itself when this clock is there."""
    began = hostile.entries_of(10)
    at_ms = time.time_ns() // 1_000_000 + watching.AHEAD_MS + 60_000
    ahead = msgspec.structs.replace(hostile.state(began).statement, at_ms=at_ms)
    entries = [*began, sign(ahead, hostile.LEDGER).envelope]
    path = merkle.consistency(
        merkle.nodes_of([merkle.leaf_hash(entry) for entry in entries]), old=10, size=11
    )
    async with hostile.serving(began) as market:
        wanted = plan(tmp_path, market.url)
        async with validating(wanted) as (validator, watch):
            await validator.round()
            assert (watch.state, watch.cosigner.last.size) == ("following", 10)
            market.show(entries)
            await validator.round()
            assert (watch.state, watch.cosigner.last.size, watch.copy.size) == ("ahead", 10, 11)
            assert "ahead of this machine's" in watch.status().detail
            asked = body(10, 11, shown=note(11, entries=entries), path=path)
            assert (await post(address(wanted), asked))[0] == 503
            assert (watch.cosigner.last.size, watch.shelf.items) == (10, [])
            real = time.time_ns
            monkeypatch.setattr(time, "time_ns", lambda: real() + 120 * 10**9)
            await validator.round()
            assert (watch.state, watch.cosigner.last.size) == ("following", 11)
