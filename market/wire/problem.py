"""Errors ↔ RFC 9457 problem documents, both directions: the SDK raises the server's class."""

from typing import Final

import msgspec

from settlement.domain.errors import GridpactError

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:gridpact:error:"  # an identifier; docs/reference/errors.md has the text
STATUS_DEFAULT: Final = 500

STATUS: Final[dict[str, int]] = {
    "malformed": 400,
    "refused": 400,
    "oversized": 413,
    "unsigned": 401,
    "bad-signature": 401,
    "stale-request": 401,
    "wrong-authority": 421,
    "wrong-market": 422,
    "duplicate-key": 422,
    "forbidden": 403,
    "not-found": 404,
    "stale": 409,
    "limit-exceeded": 403,
    "rate-limited": 429,
    "digest-mismatch": 422,
    "unavailable": 503,
    "unreachable": 503,
    "unknown-outcome": 503,
    "bad-amount": 422,
    "insufficient-funds": 402,
    "budget-exceeded": 402,
    "ledger-refused": 409,
    "bad-statement": 422,
    "bad-receipt": 422,
    "bad-proof": 422,
    "bad-checkpoint": 422,
    "bad-log": 422,
    "split-view": 422,
    "bad-key": 422,
    "bad-transition": 409,
    "environment-mismatch": 409,
    "no-offer": 409,
    "unsafe-result": 422,
    "task-failed": 422,
    "job-ended": 409,
}


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457, with our stable `code` and what to do next in `cure`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    cure: str = ""


def from_error(error: GridpactError) -> Problem:
    """The document for an error; its class's docstring is the title."""
    title = " ".join((type(error).__doc__ or "").split())
    status = STATUS.get(error.code, STATUS_DEFAULT)
    return Problem(TYPE_PREFIX + error.code, title, status, error.detail, error.code, error.cure)


def to_error(data: bytes, status: int) -> GridpactError:
    """The error of a document; anything that is none becomes a plain failure with its status."""
    try:
        problem = msgspec.json.decode(data, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = data[:200].decode(errors="replace")
        return GridpactError.from_code("failed", f"HTTP {status}: {text}")
    return GridpactError.from_code(problem.code, problem.detail)
