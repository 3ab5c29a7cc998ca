"""A validator follows an honest log, cosigns what it replayed, and goes on after any restart."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import pytest

from market.wire.public import SetValidators
from settlement.domain import checkpoint, cosignature, merkle
from settlement.domain.errors import GridpactError
from settlement.domain.identity import PrivateKey
from settlement.validator import main
from settlement.validator.main import Market, Plan, Validator, opened
from settlement.validator.routes import Overview
from settlement.validator.watch import Watch
from tests.system import hostile
from tests.system.running import Running, free_port

NAME: Final = "validator.example/one"
KEY: Final = PrivateKey(b"\x61" * 32)
VERIFIER_KEY: Final = cosignature.verifier_key(NAME, KEY)


def plan(
    folder: Path, url: str, *, log_key: str = hostile.LOG_KEY, peers: tuple[str, ...] = (),
    name: str = NAME, key: PrivateKey = KEY,
) -> Plan:  # fmt: skip
    return Plan(
        markets=(Market(url, log_key),), name=name, key=key, folder=folder, peers=peers,
        listen=("127.0.0.1", free_port()),
    )  # fmt: skip


def address(wanted: Plan) -> str:
    assert wanted.listen is not None
    return f"http://{wanted.listen[0]}:{wanted.listen[1]}"


@asynccontextmanager
async def validating(wanted: Plan) -> AsyncIterator[tuple[Validator, Watch]]:
    async with opened(wanted) as validator:
        yield validator, validator.watches[0]


async def get(url: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.read()


async def test_an_honest_log_is_cosigned(tmp_path: Path) -> None:
    entries = hostile.entries_of(300)
    entries.append(hostile.state(entries).envelope)
    wanted = plan(tmp_path, "")
    async with hostile.serving(entries) as market:
        wanted = plan(tmp_path, market.url)
        async with validating(wanted) as (validator, watch):
            assert (await get(f"{address(wanted)}/checkpoint/{hostile.ORIGIN}"))[0] == 404
            await validator.round()
            status, note = await get(f"{address(wanted)}/checkpoint/{hostile.ORIGIN}")
            shown = msgspec.json.decode((await get(f"{address(wanted)}/status"))[1], type=Overview)
            assert (await get(f"{address(wanted)}/evidence"))[1] == b'{"evidence":[]}'
        assert status == 200
        assert checkpoint.verify(note.decode(), hostile.LOG_KEY).size == 301
        assert cosignature.count(note.decode(), [VERIFIER_KEY]) == 1
        assert market.cosignatures == [note.decode()]
        assert (shown.logs[0].state, shown.logs[0].cosigned_size, shown.logs[0].lag) == ("following", 301, 0)  # fmt: skip
        assert shown.verifier_key == VERIFIER_KEY
        assert watch.replay.size == 301


async def test_growth_is_followed_step_by_step(tmp_path: Path) -> None:
    entries = hostile.entries_of(520)
    async with hostile.serving(entries[:2]) as market:  # noqa: SIM117 - the plan needs its address
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            for size in (2, 3, 255, 256, 257, 511, 512, 513, 520, 520):
                market.show(entries[:size])
                await validator.round()
                assert (watch.state, watch.cosigner.last.size) == ("following", size), watch.detail
                assert watch.copy.root == merkle.root(entries[:size])


async def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    entries = hostile.entries_of(700)
    async with hostile.serving(entries[:600]) as market:
        async with validating(plan(tmp_path, market.url)) as (validator, _):
            await validator.round()
        market.show(entries)
        market.asked.clear()
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            assert (watch.replay.size, watch.copy.size, watch.cosigner.last.size) == (600,) * 3
            await validator.round()
            assert watch.cosigner.last.size == 700
        assert "tile/entries/000" not in market.asked
        assert "tile/entries/002.p/188" in market.asked


async def test_without_its_snapshot_it_begins_anew_and_keeps_its_word(tmp_path: Path) -> None:
    entries = hostile.entries_of(40)
    async with hostile.serving(entries) as market:
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            await validator.round()
            folder = main.folder_of(tmp_path, hostile.LOG_KEY)
        (folder / "state").unlink()
        forged = [*entries[:20], hostile.payment(999).envelope, *entries[21:]]
        market.show([*forged, *entries[30:35]])
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            assert watch.copy.size == 0
            await validator.round()
            assert watch.refused
            assert watch.cosigner.last.size == 40


async def test_another_log_key_goes_on_with_the_same_log(tmp_path: Path) -> None:
    """After a takeover: the key is new, what was cosigned stays said."""
    entries = hostile.entries_of(40)
    key = checkpoint.verifier_key(hostile.ORIGIN, hostile.LEDGER)
    async with hostile.serving(entries[:30]) as market:
        async with validating(plan(tmp_path, market.url)) as (validator, _):
            await validator.round()
        forged = [*entries[:9], hostile.payment(999).envelope, *entries[10:]]
        market.files = hostile.static_files(forged, key=hostile.LEDGER)
        async with validating(plan(tmp_path, market.url, log_key=key)) as (validator, watch):
            await validator.round()
            assert watch.state == "wrong-checkpoint"
            assert watch.cosigner.last.size == 30
            market.files = hostile.static_files(entries, key=hostile.LEDGER)
            await validator.round()
            assert (watch.state, watch.cosigner.last.size) == ("following", 40)


async def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    async with hostile.serving(hostile.entries_of(40)) as market:
        async with validating(plan(tmp_path, market.url)) as (validator, _):
            await validator.round()
        path = main.folder_of(tmp_path, hostile.LOG_KEY) / "state"
        data = bytearray(path.read_bytes())
        for at in range(0, len(data), 97):
            broken = bytearray(data)
            broken[at] ^= 1
            path.write_bytes(broken)
            with pytest.raises(GridpactError):
                async with validating(plan(tmp_path, market.url)):
                    pass


async def test_a_full_tile_serves_where_the_narrow_one_is_gone(tmp_path: Path) -> None:
    entries = hostile.entries_of(512)
    async with hostile.serving(entries[:300]) as market:
        note = market.files["checkpoint"]
        market.show(entries)
        market.files["checkpoint"] = note
        market.files["tile/1/000.p/1"] = market.files["tile/1/000.p/2"][:32]
        async with validating(plan(tmp_path, market.url)) as (validator, watch):
            await validator.round()
            assert (watch.state, watch.cosigner.last.size) == ("following", 300), watch.detail
        assert "tile/entries/001.p/44" in market.asked


async def test_several_logs_and_a_dead_market(tmp_path: Path) -> None:
    entries = hostile.entries_of(5)
    other_key = checkpoint.verifier_key("dead.example/log", hostile.LOG)
    async with hostile.serving(entries) as market:
        wanted = Plan(
            markets=(Market(f"http://127.0.0.1:{free_port()}", other_key), Market(market.url, hostile.LOG_KEY)),
            name=NAME, key=KEY, folder=tmp_path,
        )  # fmt: skip
        async with opened(wanted) as validator:
            await validator.round()
            assert [watch.state for watch in validator.watches] == ["unreachable", "following"]


async def test_a_real_market_is_followed(whole: Running, tmp_path: Path) -> None:
    async with whole.client(PrivateKey(b"\x71" * 32)) as client:
        moved = await client.faucet(5_000_000)
        log_key = (await client.market()).log_key
        await client.evidence(moved.statement)
    async with validating(plan(tmp_path, whole.url, log_key=log_key)) as (validator, watch):
        await validator.round()
        assert watch.state == "following", watch.detail
        assert watch.cosigner.last.size > moved.index


async def test_three_validators_make_a_growing_log_final(whole: Running, tmp_path: Path) -> None:
    """They look at different moments; each new head that one begins is completed by the others."""
    keys = [PrivateKey(bytes([0x63 + number]) * 32) for number in range(3)]
    names = [f"validator.example/{number}" for number in range(3)]
    members = [cosignature.verifier_key(name, key) for name, key in zip(names, keys, strict=True)]
    async with (
        whole.client(PrivateKey(b"\x03" * 32)) as operator,
        whole.client(PrivateKey(b"\x73" * 32)) as client,
        AsyncExitStack() as stack,
    ):
        await operator._write("POST", "/v1/validators", SetValidators(members, 2))
        log_key = (await client.market()).log_key
        validators = [
            await stack.enter_async_context(
                opened(plan(tmp_path / name, whole.url, log_key=log_key, name=name, key=key))
            )
            for name, key in zip(names, keys, strict=True)
        ]
        watches = [validator.watches[0] for validator in validators]
        finals: list[int] = []
        for number in range(12):
            moved = await client.faucet(1_000)
            status, _ = await get(f"{whole.url}/v1/statements/{moved.statement}/evidence")
            assert status == 200  # sealed
            await validators[number % 3].round()
            finals.append(max(watch.final_size for watch in watches))
        assert [watch.state for watch in watches] == ["following"] * 3
        assert all(watch.published.endswith(": taken") for watch in watches)
        status, note = await get(f"{whole.url}/checkpoint?final=true")
        assert status == 200
        assert checkpoint.verify(note.decode(), log_key).size >= finals[-1] > finals[5] > 0
        assert cosignature.is_final(note.decode(), members, quorum=2)
