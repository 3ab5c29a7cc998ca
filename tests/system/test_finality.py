"""Final is what the validators cosigned that a client trusts: shown, demanded, and never taken on the market's word."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from market.sdk import exits, trust, wallet
from market.sdk.client import MarketClient
from market.sdk.evidence import verify_trusted
from market.service import public
from settlement.domain import cosignature, policy
from settlement.domain.errors import BadProof, MarketChanged, NotFound
from settlement.domain.governance import Approval, Validators
from settlement.domain.identity import PrivateKey
from settlement.domain.statement import sign
from settlement.validator.main import Market, Plan, opened
from tests.system.running import Running
from tests.system.trading import Buyer, until_there

OPERATOR: Final = PrivateKey(b"\3" * 32)  # as conftest makes it
KEYS: Final = [PrivateKey(bytes([number]) * 32) for number in range(0x81, 0x85)]
NAMES: Final = [f"validator-{number}.example/1" for number in range(len(KEYS))]
MEMBERS: Final = [cosignature.verifier_key(*pair) for pair in zip(NAMES, KEYS, strict=True)]


@dataclass
class Seen:
    """A consumer with a state folder of its own."""

    running: Running
    home: Path

    @asynccontextmanager
    async def client(self) -> AsyncIterator[MarketClient]:
        key = PrivateKey(b"\x31" * 32)  # the buyer's
        async with MarketClient(self.running.url, key, home=self.home) as client:
            yield client

    @property
    def pinned(self) -> wallet.ValidatorsPin | None:
        return wallet.load_profile(self.home).validators.get(self.running.url)


@pytest.fixture
def seen(buyer: Buyer, tmp_path: Path) -> Seen:
    return Seen(buyer.running, tmp_path / "home")


async def name(running: Running, members: list[str], quorum: int) -> str:
    """The operator names validators; the statement's digest."""
    said, _ = await public.set_validators(running.market, OPERATOR.address, members, quorum, now_ms=now())  # fmt: skip
    return said.digest


def now() -> int:
    return time.time_ns() // 1_000_000


async def approve(running: Running, digest: str, key: PrivateKey) -> None:
    said = Approval(
        v=1, kind="approval", market=running.market.origin, validator=key.address, statement=digest,
        at_ms=now(),
    )  # fmt: skip
    await public.approve(running.market, sign(said, key).envelope)


async def cosign(running: Running, folder: Path, number: int) -> int:
    """One look of a validator: it replays, cosigns and brings its line; the size."""
    async with running.client() as client:
        log_key = (await client.market()).log_key
    plan = Plan((Market(running.url, log_key),), NAMES[number], KEYS[number], folder / str(number))
    async with opened(plan) as validator:
        await validator.round()
        (watch,) = validator.watches
        assert watch.state == "following", watch.detail
        return watch.cosigner.last.size


async def final_exit(seen: Seen, folder: Path, numbers: tuple[int, ...]) -> bytes:
    """An exit proof that is final, while those validators cosign."""
    async with seen.client() as client:
        await exits.fetch(client, client.address)  # a state for it is logged

        async def look() -> bytes | None:
            for number in numbers:
                await cosign(seen.running, folder, number)
            try:
                return await client.transport.request(
                    "GET", f"/v1/accounts/{client.address}/exit", signed=False,
                    query={"final": "true", "wait_ms": 100},
                )  # fmt: skip
            except NotFound:
                return None

        return await until_there(look)


async def test_without_validators_nothing_is_final(seen: Seen) -> None:
    async with seen.client() as client:
        data = await exits.fetch(client, client.address)
        trusted = await trust.trusted(client)
        assert not exits.verify(data, trusted, address=client.address).final
        with pytest.raises(BadProof, match="not final"):
            exits.verify(data, trusted, final=True)
        with pytest.raises(NotFound):
            await client.transport.request(
                "GET", f"/v1/accounts/{client.address}/exit", signed=False,
                query={"final": "true", "wait_ms": 0},
            )  # fmt: skip


async def test_a_quorum_makes_an_exit_final(seen: Seen, tmp_path: Path) -> None:
    await name(seen.running, MEMBERS[:3], 2)
    data = await final_exit(seen, tmp_path, (0, 1))
    async with seen.client() as client:
        trusted = await trust.trusted(client)
        owned = exits.verify(data, trusted, address=client.address, final=True)
        balances = await client.balances()
        assert owned.available == int(balances.available)
        assert seen.pinned is not None
        assert (seen.pinned.members, seen.pinned.quorum) == (MEMBERS[:3], 2)
        stricter = policy.simple(trusted.log_key, MEMBERS[:3], quorum=3)
        strict = trust.Trusted(trusted.log_key, trusted.ledger_key, stricter)
        assert not exits.verify(data, strict).final
        others = policy.simple(trusted.log_key, MEMBERS[2:], quorum=1)
        assert not trust.Trusted(trusted.log_key, trusted.ledger_key, others).is_final(_note(data))
        with pytest.raises(BadProof, match="another party"):
            exits.verify(data, trusted, address=OPERATOR.address)


def _note(data: bytes) -> str:
    note: str = json.loads(json.loads(data)["state"])["checkpoint"]
    return note


async def test_a_statements_evidence_can_be_final(seen: Seen, tmp_path: Path) -> None:
    await name(seen.running, MEMBERS[:1], 1)
    async with seen.client() as client:
        moved = await client.pay(OPERATOR.address, 1)
        await client.statement_evidence(moved.statement)
        with pytest.raises(NotFound, match="no final checkpoint"):
            await client.statement_evidence(moved.statement, wait_ms=0, final=True)
        await cosign(seen.running, tmp_path, 0)
        data = await client.statement_evidence(moved.statement, wait_ms=0, final=True)
        trusted = await trust.trusted(client)
        assert trusted.is_final(_checkpoint(data))
        with pytest.raises(Exception, match="kind payment"):  # it is no receipt
            verify_trusted(data, trusted, final=True)


def _checkpoint(data: bytes) -> str:
    note: str = json.loads(data)["checkpoint"]
    return note


# ── pins ────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_set_is_taken_at_first_use(seen: Seen) -> None:
    async with seen.client() as client:
        assert (await trust.current(client)).members == []
        await name(seen.running, MEMBERS[:2], 2)
        assert (await trust.current(client)).members == MEMBERS[:2]
        size = seen.pinned.size if seen.pinned else 0
        assert (await trust.current(client)).size == size > 0


async def test_a_change_that_the_pinned_set_approved_is_followed(seen: Seen) -> None:
    await name(seen.running, MEMBERS[:3], 2)
    async with seen.client() as client:
        await trust.current(client)
        for members, agreed in ((MEMBERS[1:4], (0, 1)), (MEMBERS[2:4], (1, 3))):
            digest = await name(seen.running, members, 2)
            for number in agreed:
                assert seen.pinned is not None
                await trust.current(client)
                assert seen.pinned.members != members
                await approve(seen.running, digest, KEYS[number])
        assert (await trust.current(client)).members == MEMBERS[2:4]
        assert seen.pinned is not None
        assert seen.pinned.members == MEMBERS[2:4]


async def test_a_change_on_the_markets_word_alone_is_refused(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The market shows a set that nobody approved, or that strangers did."""
    await name(seen.running, MEMBERS[:2], 2)
    async with seen.client() as client:
        await trust.current(client)
        pinned = seen.pinned
        real = client.transport.request

        async def lying(method: str, path: str, *rest: object, **more: object) -> bytes:
            data: bytes = await real(method, path, *rest, **more)  # type: ignore[arg-type]
            if path == "/v1/validators":
                return data.replace(MEMBERS[1].encode(), MEMBERS[3].encode(), 1)
            return data

        monkeypatch.setattr(client.transport, "request", lying)
        with pytest.raises(MarketChanged, match="--accept"):
            await trust.current(client)
        assert seen.pinned == pinned
        await trust.current(client, accept=True)
        assert seen.pinned is not None
        assert seen.pinned.members == [MEMBERS[0], MEMBERS[3]]


def test_only_the_pinned_members_count() -> None:
    """Approvals of others, of a set that came before, or of nothing at all."""
    ledger = PrivateKey(b"\1" * 32)
    follow = trust._Follow(wallet.ValidatorsPin(MEMBERS[:2], 2, 10))
    wanted = sign(
        Validators(v=1, kind="validators", market="m", members=MEMBERS[2:], quorum=2, at_ms=1),
        ledger,
    )

    def say(index: int, key: PrivateKey, digest: str = wanted.digest) -> None:
        said = Approval(v=1, kind="approval", market="m", validator=key.address, statement=digest, at_ms=1)  # fmt: skip
        follow.take(index, sign(said, key))

    say(11, KEYS[0])
    follow.take(12, wanted)
    for index, key in ((13, KEYS[2]), (14, KEYS[3]), (15, KEYS[0]), (16, KEYS[0])):
        say(index, key)
    say(17, KEYS[1], "sha256:" + "0" * 64)
    assert follow.now.members == MEMBERS[:2]
    say(18, KEYS[1])
    assert follow.now == wallet.ValidatorsPin(MEMBERS[2:], 2, 19)


def test_unpin_forgets_the_validators_too(tmp_path: Path) -> None:
    pin = wallet.ValidatorsPin(MEMBERS, 3, 5)
    wallet.pin_validators(tmp_path, "http://one", pin)
    wallet.pin_validators(tmp_path, "http://two", pin)
    wallet.unpin(tmp_path, "http://one")
    assert wallet.load_profile(tmp_path).validators == {"http://two": pin}
