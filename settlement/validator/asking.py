"""What a validator's operator asks a running validator, and says to a market."""

from typing import Final, TypeVar

import aiohttp
import msgspec

from settlement.domain.errors import GridpactError, Malformed, NotFound, Unreachable
from settlement.domain.governance import Approval
from settlement.domain.identity import PrivateKey
from settlement.domain.statement import sign
from settlement.validator.routes import Overview
from settlement.validator.source import http_address, new_session, read_within

STATUS_BYTES_MAX: Final = 4 * 1024 * 1024
OK: Final = 200

T = TypeVar("T")


class Named(msgspec.Struct, frozen=True):
    """What we need of `/v1/market`."""

    market: str


class Proposal(msgspec.Struct, frozen=True):
    """What we need of a proposed set."""

    digest: str
    members: list[str]
    quorum: int
    approvals: list[str]
    state: str


class Proposed(msgspec.Struct, frozen=True):
    """What we need of `/v1/validators`."""

    proposals: list[Proposal]


async def approve(address: str, digest: str, key: PrivateKey, *, now_ms: int) -> Proposal:
    """Sign our approval of a proposed set and bring it to the market; how the set stands then."""
    url = http_address(address)
    async with new_session() as session:
        named = await _call(session, "GET", f"{url}/v1/market", Named)
        said = Approval(
            v=1, kind="approval", market=named.market, validator=key.address, statement=digest,
            at_ms=now_ms,
        )  # fmt: skip
        body = msgspec.json.encode({"approval": sign(said, key).envelope})
        answer = await _call(session, "POST", f"{url}/v1/validators/approvals", Proposed, body)
    return _proposal(answer, digest)


async def proposal(address: str, digest: str) -> Proposal:
    """A proposed set, to be looked at before it is approved."""
    url = http_address(address)
    async with new_session() as session:
        return _proposal(await _call(session, "GET", f"{url}/v1/validators", Proposed), digest)


def _proposal(answer: Proposed, digest: str) -> Proposal:
    for one in answer.proposals:
        if one.digest == digest:
            return one
    raise NotFound(f"the market shows no proposal {digest}")


class Refusal(msgspec.Struct, frozen=True):
    """What we need of a problem document."""

    code: str
    detail: str


async def _call(
    session: aiohttp.ClientSession, method: str, url: str, kind: type[T], body: bytes = b""
) -> T:
    try:
        async with session.request(
            method,
            url,
            data=body or None,
            headers={"Content-Type": "application/json"} if body else None,
            allow_redirects=False,
        ) as response:
            data = await read_within(response, STATUS_BYTES_MAX)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(f"{url}: {error}") from None
    try:
        if response.status != OK:
            refusal = msgspec.json.decode(data, type=Refusal)
            raise GridpactError.from_code(refusal.code, refusal.detail)
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"{url}: HTTP {response.status}: {error}") from None


async def ask(address: str) -> Overview:
    """How a validator stands with its logs."""
    async with new_session() as session:
        return await _call(session, "GET", http_address(address) + "/status", Overview)
