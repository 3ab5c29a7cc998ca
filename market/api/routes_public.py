"""Routes of the public log: checkpoints, tiles, proofs, states, exits, validators, cosignatures."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from market.http.endpoint import Access, Call, Endpoint, Text
from market.service import exits, public
from market.wire.public import (
    Approve,
    Cosigned,
    EvidenceQuery,
    ExitQuery,
    FinalQuery,
    SetValidators,
    ValidatorsView,
)
from market.wire.trade import Moved
from settlement.domain import identity
from settlement.domain.checkpoint import NOTE_BYTES_MAX
from settlement.domain.errors import BadCheckpoint, NotFound, Unavailable
from settlement.service import finality, publish

POLL_SECONDS: Final = 0.05
SIZE_DIGITS_MAX: Final = 19


async def checkpoint(call: Call, query: FinalQuery) -> Text:
    """The newest signed tree head with its cosignatures (C2SP checkpoint); `final`: the newest final one."""
    note = await finality.checkpoint(call.market.database, final=query.final)
    if note is None:
        raise Unavailable(
            "no checkpoint is final yet" if query.final else "no checkpoint is signed yet"
        )
    return Text(note.encode(), "text/plain")


async def tile(call: Call, path: str) -> Text:
    """A static tile of the log (C2SP tlog-tiles): hashes or entries."""
    data = await publish.tile(call.market.database, path)
    if data is None:
        raise NotFound("there is no such tile")
    return Text(data, "application/octet-stream", immutable=True)


async def statement_evidence(call: Call, digest: str, query: EvidenceQuery) -> Text:
    """A statement with its inclusion proof and the signed checkpoint: checkable offline."""

    async def look() -> bytes | None:
        return await publish.evidence(call.market.database, digest, final=query.final)

    what = "no final checkpoint" if query.final else "no signed checkpoint"
    return Text(
        await _until(look, query.wait_ms, f"{what} covers such a statement"), "application/json"
    )


async def receipt_evidence(call: Call, digest: str, query: EvidenceQuery) -> Text:
    """A receipt's evidence file: envelope, proof, signed checkpoint."""
    return await statement_evidence(call, digest, query)


async def exit_proof(call: Call, address: str, query: ExitQuery) -> Text:
    """What the party owns, proven in one file; a state as of now is logged for it."""
    if not identity.is_address(address):
        raise NotFound("an address has 64 lower-case hex digits")
    at = await exits.prepare(call.market, now_ms=call.now_ms)

    async def look() -> bytes | None:
        return await exits.proof(call.market, address, at, final=query.final)

    return Text(
        await _until(look, query.wait_ms, "no checkpoint covers the state yet"), "application/json"
    )


async def state_lines(call: Call, size: str) -> Text:
    """All lines of the state that a statement of that size names, one a line."""
    number = int(size) if size.isascii() and size.isdigit() and len(size) < SIZE_DIGITS_MAX else -1
    lines = await exits.state_lines(call.market, number)
    if lines is None:
        raise NotFound("the lines of that state are not kept; the newest are")
    return Text(lines, "application/x-ndjson", immutable=True)


async def show_validators(call: Call) -> ValidatorsView:
    """Who cosigns, how far the log is final, and what is proposed."""
    return await public.validators(call.market)


async def set_validators(call: Call, body: SetValidators) -> Moved:
    """The operator names validators; a present set has to approve."""
    opened, index = await public.set_validators(
        call.market, call.address, body.members, body.quorum, now_ms=call.now_ms
    )
    return Moved(opened.digest, index, "applied")


async def post_approval(call: Call, body: Approve) -> ValidatorsView:
    """A validator's signed approval of a proposed set."""
    return await public.approve(call.market, body.approval)


async def show_cosignatures(call: Call) -> Text:
    """The newest checkpoint that a validator cosigned: it is final once enough others did too."""
    note = await finality.cosigned(call.market.database)
    if note is None:
        raise NotFound("no validator has cosigned yet")
    return Text(note.encode(), "text/plain")


async def post_cosignatures(call: Call, body: bytes) -> Cosigned:
    """A checkpoint of this log with lines of its validators: what comes proves itself."""
    if len(body) > NOTE_BYTES_MAX:
        raise BadCheckpoint(f"a note has at most {NOTE_BYTES_MAX} bytes")
    try:
        note = body.decode()
    except UnicodeDecodeError:
        raise BadCheckpoint("a note is UTF-8 text") from None
    taken = await finality.take(
        call.market.database, note, log_key=call.edge.log_key, now_ms=call.now_ms
    )
    return Cosigned(size=taken.size, taken=taken.lines, final=taken.final)


async def _until(look: Callable[[], Awaitable[bytes | None]], wait_ms: int, what: str) -> bytes:
    """The sealer covers a new statement within a quarter of a second; wait for it."""
    deadline = time.monotonic() + wait_ms / 1_000
    while True:
        data = await look()
        if data is not None:
            return data
        if time.monotonic() >= deadline:
            raise NotFound(what)
        await asyncio.sleep(POLL_SECONDS)


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/receipts/{digest}/evidence", receipt_evidence),
    Endpoint("GET", "/v1/statements/{digest}/evidence", statement_evidence),
    Endpoint("GET", "/v1/accounts/{address}/exit", exit_proof),
    Endpoint("GET", "/v1/log/states/{size}", state_lines),
    Endpoint("GET", "/v1/validators", show_validators),
    Endpoint("POST", "/v1/validators", set_validators, Access.WRITE),
    Endpoint("POST", "/v1/validators/approvals", post_approval, Access.PROVEN),
    Endpoint("GET", "/v1/log/cosignatures", show_cosignatures),
    Endpoint("POST", "/v1/log/cosignatures", post_cosignatures, Access.PROVEN),
    Endpoint("GET", "/checkpoint", checkpoint),
    Endpoint("GET", "/tile/{path:.+}", tile),
)
