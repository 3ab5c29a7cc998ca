"""A mirror is byte for byte the log, survives kill -9 anywhere, and never shows what is not verified."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from settlement.domain import checkpoint, conflict, merkle, tiles
from settlement.domain.errors import BadCheckpoint, BadLog, MisConfigured, SplitView
from settlement.domain.identity import PrivateKey
from settlement.domain.tiles import Tile
from settlement.validator import files, main
from settlement.validator.following import Behind
from settlement.validator.mirror import Mirror, read_tile, static_app
from settlement.validator.source import FolderSource, HttpSource, Source, new_session
from settlement.validator.tree import SignedTree, read_head
from tests.system import hostile
from tests.system.running import Running, free_port

ENTRIES: Final = hostile.entries_of(700)
SIZES: Final = (1, 2, 255, 256, 257, 300, 512, 513, 700)


@asynccontextmanager
async def mirroring(folder: Path, url: str) -> AsyncIterator[Mirror]:
    async with new_session() as session:
        mirror = Mirror(folder, HttpSource(session, url), hostile.LOG_KEY)
        mirror.load()
        yield mirror


def assert_is(folder: Path, entries: list[bytes]) -> None:
    """Every file of the honest log stands in the folder."""
    for path, data in hostile.static_files(entries).items():
        assert (folder / path).read_bytes() == data, path


async def read_all(source: Source) -> list[bytes]:
    """Every entry, verified against the signed root."""
    head = await read_head(source, hostile.LOG_KEY)
    tree = SignedTree(source, head.checkpoint)
    await tree.open()
    return [
        entry async for bundles in tree.batches(0) for bundle in bundles for entry in bundle.entries
    ]


async def test_a_mirror_is_the_log_at_every_size(tmp_path: Path) -> None:
    async with hostile.serving(ENTRIES[:1]) as market:
        for size in SIZES:
            market.show(ENTRIES[:size])
            async with mirroring(tmp_path, market.url) as mirror:
                await mirror.step()
                await mirror.step()
            assert_is(tmp_path, ENTRIES[:size])
            assert await read_all(FolderSource(tmp_path)) == ENTRIES[:size]
    left = [path for path in tmp_path.rglob("*") if path.name.startswith(".") and path.is_file()]
    assert left == []


async def test_a_mirror_of_a_mirror(tmp_path: Path) -> None:
    listen = ("127.0.0.1", free_port())
    async with (
        hostile.serving(ENTRIES) as market,
        mirroring(tmp_path / "one", market.url) as mirror,
    ):
        await mirror.step()
    async with main.serving(static_app(tmp_path / "one"), listen):
        async with mirroring(tmp_path / "two", f"http://{listen[0]}:{listen[1]}") as second:
            await second.step()
        assert_is(tmp_path / "two", ENTRIES)


async def test_what_is_served(tmp_path: Path) -> None:
    """Any narrower start of a tile that the checkpoint covers, and nothing beyond."""
    listen = ("127.0.0.1", free_port())
    url = f"http://{listen[0]}:{listen[1]}"
    async with aiohttp.ClientSession() as session:

        async def get(path: str) -> tuple[int, bytes]:
            async with session.get(f"{url}/{path}") as response:
                return response.status, await response.read()

        async with main.serving(static_app(tmp_path), listen):
            assert (await get("checkpoint"))[0] == 503
            assert (await get("tile/0/000.p/1"))[0] == 404
            async with (
                hostile.serving(ENTRIES[:300]) as market,
                mirroring(tmp_path, market.url) as mirror,
            ):
                await mirror.step()
            leaves = [merkle.leaf_hash(entry) for entry in ENTRIES]
            assert await get("tile/0/001.p/44") == (200, b"".join(leaves[256:300]))
            assert await get("tile/0/001.p/3") == (200, b"".join(leaves[256:259]))
            assert await get("tile/0/000.p/9") == (200, b"".join(leaves[:9]))
            assert await get("tile/entries/001.p/2") == (200, tiles.bundle(ENTRIES[256:258]))
            for path in ("tile/0/001.p/45", "tile/0/001", "tile/0/002", "tile/2/000.p/1",
                         "tile/0/../state", "tile/%2e%2e/state", "state", "tile/9/000"):  # fmt: skip
                assert (await get(path))[0] == 404, path


async def test_a_fork_is_refused_for_good_and_the_old_copy_stays(tmp_path: Path) -> None:
    forged = [*ENTRIES[:130], hostile.payment(9_000).envelope, *ENTRIES[131:400]]
    async with hostile.serving(ENTRIES[:300]) as market:
        async with mirroring(tmp_path, market.url) as mirror:
            await mirror.step()
            market.show(forged)
            with pytest.raises(SplitView, match="entry 130 was") as caught:
                await mirror.step()
            conflict.verify_split(caught.value.evidence, hostile.LOG_KEY)
            market.show(ENTRIES)
            with pytest.raises(SplitView):
                await mirror.step()
        with pytest.raises(SplitView):
            async with mirroring(tmp_path, market.url):
                pass
    assert_is(tmp_path, ENTRIES[:300])
    (kept,) = (tmp_path / "evidence").iterdir()
    assert kept.read_bytes() == caught.value.evidence


async def test_what_is_not_verified_is_not_shown(tmp_path: Path) -> None:
    async with hostile.serving(ENTRIES[:280]) as market:  # noqa: SIM117 - the other needs its address
        async with mirroring(tmp_path, market.url) as mirror:
            await mirror.step()
            shown = (tmp_path / "checkpoint").read_bytes()
            market.show(ENTRIES[:600])
            broken = bytearray(market.files["tile/entries/002.p/88"])
            broken[-1] ^= 1
            market.files["tile/entries/002.p/88"] = bytes(broken)
            with pytest.raises(BadLog, match="entry 599 should hash"):
                await mirror.step()
            assert (tmp_path / "checkpoint").read_bytes() == shown
            assert_is(tmp_path, ENTRIES[:280])
            market.files = hostile.static_files(ENTRIES[:600], key=hostile.LEDGER)
            with pytest.raises(BadCheckpoint):
                await mirror.step()
            market.show(ENTRIES[:600])
            await mirror.step()
            assert_is(tmp_path, ENTRIES[:600])
            market.show(ENTRIES[:100])
            assert isinstance(await mirror.step(), Behind)
            assert_is(tmp_path, ENTRIES[:600])


async def test_one_folder_is_one_log(tmp_path: Path) -> None:
    async with hostile.serving(ENTRIES[:3]) as market:
        async with mirroring(tmp_path, market.url) as mirror:
            await mirror.step()
        key = checkpoint.verifier_key("other.example/log", hostile.LOG)
        async with new_session() as session:
            with pytest.raises(MisConfigured, match="another log"):
                Mirror(tmp_path, HttpSource(session, market.url), key).load()


async def test_a_damaged_copy_is_named(tmp_path: Path) -> None:
    async with hostile.serving(ENTRIES[:300]) as market:
        async with mirroring(tmp_path, market.url) as mirror:
            await mirror.step()
        path = tmp_path / "tile/0/001.p/44"
        path.write_bytes(bytes(44 * 32))
        with pytest.raises(MisConfigured, match="damaged"):
            async with mirroring(tmp_path, market.url):
                pass


async def test_a_stop_before_each_single_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write of the way from 200 to 700 entries is the last once; the next process completes it."""
    write = files.write
    before, stop = tmp_path / "before", 0
    async with hostile.serving(ENTRIES[:200]) as market:
        async with mirroring(before, market.url) as mirror:
            await mirror.step()
        market.show(ENTRIES)
        ended = False
        while not ended:
            folder, written = tmp_path / str(stop), 0
            _copy(before, folder)

            def stopping(path: Path, data: bytes) -> None:
                nonlocal written
                if written == stop:  # noqa: B023 - of this round
                    raise InterruptedError
                written += 1
                write(path, data)

            with monkeypatch.context() as patched:
                patched.setattr(files, "write", stopping)
                try:
                    async with mirroring(folder, market.url) as mirror:
                        await mirror.step()
                    ended = True
                except InterruptedError:
                    pass
            await _assert_consistent(folder)
            async with mirroring(folder, market.url) as mirror:
                await mirror.step()
            assert_is(folder, ENTRIES)
            stop += 1
    assert stop > 10


async def _assert_consistent(folder: Path) -> None:
    """Whatever its checkpoint shows can be read and verified."""
    assert await read_all(FolderSource(folder)) in (ENTRIES[:200], ENTRIES)


def _copy(one: Path, other: Path) -> None:
    for path in one.rglob("*"):
        if path.is_file():
            target = other / path.relative_to(one)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


async def test_kill_9_while_the_log_grows(tmp_path: Path) -> None:
    """The real process, killed at ten moments; the copy is always whole and goes on."""
    sizes = range(60, 660, 60)
    command = [
        sys.executable, "-m", "market.cli.main", "log", "mirror", "--to", str(tmp_path),
        "--log-key", hostile.LOG_KEY, "--interval", "0.05", "-q",
    ]  # fmt: skip
    async with hostile.serving(ENTRIES[:30]) as market:
        for size in sizes:
            process = await asyncio.create_subprocess_exec(*command, "--from-url", market.url)
            wanted = "tile/entries/"
            market.asked.clear()
            while not any(path.startswith(wanted) for path in market.asked):
                assert process.returncode is None
                market.show(ENTRIES[:size])
                await asyncio.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            if (tmp_path / "checkpoint").exists():
                shown = await read_all(FolderSource(tmp_path))
                assert shown == ENTRIES[: len(shown)]
        market.show(ENTRIES)
        process = await asyncio.create_subprocess_exec(
            *command, "--from-url", market.url, "--once", stdout=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0
    assert_is(tmp_path, ENTRIES)


async def test_a_real_market_is_mirrored(whole: Running, tmp_path: Path) -> None:
    async with whole.client(PrivateKey(b"\x72" * 32)) as client:
        moved = await client.faucet(5_000_000)
        log_key = (await client.market()).log_key
    async with new_session() as session:
        mirror = Mirror(tmp_path, HttpSource(session, whole.url), log_key)
        mirror.load()
        while mirror.copy.size <= moved.index:
            await mirror.step()
    assert read_tile(tmp_path, Tile(tiles.ENTRIES, 0, moved.index + 1), mirror.copy.size)
