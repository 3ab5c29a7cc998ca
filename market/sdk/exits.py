"""Exit proofs as their party holds them: fetched, and checked without a server."""

from typing import Final

from market.sdk.reader import MILLISECONDS, MarketReader
from market.sdk.transport import REQUEST_TIMEOUT_SECONDS
from market.sdk.trust import Trusted
from settlement.domain import exit_proof
from settlement.domain.errors import BadProof, GridpactError
from settlement.domain.exit_proof import Owned

WAIT_MS: Final = 10_000
FINAL_WAIT_MS: Final = 30_000


async def state_lines(client: MarketReader, size: int) -> bytes | None:
    """The lines that the market keeps of its state of that size; None if it shows none."""
    try:
        return await client.transport.request("GET", f"/v1/log/states/{size}", signed=False)
    except GridpactError:  # a mirror has none, and a market only the newest
        return None


async def fetch(client: MarketReader, address: str, *, final: bool = False) -> bytes:
    """A party's exit proof; with `final`, against a checkpoint that a quorum cosigned."""
    wait_ms = FINAL_WAIT_MS if final else WAIT_MS
    query: dict[str, str | int] = {"wait_ms": wait_ms} | ({"final": "true"} if final else {})
    return await client.transport.request(
        "GET", f"/v1/accounts/{address}/exit", query=query, signed=False,
        timeout_seconds=REQUEST_TIMEOUT_SECONDS + wait_ms / MILLISECONDS,
    )  # fmt: skip


def verify(
    data: bytes, trusted: Trusted, *, address: str | None = None, final: bool = False
) -> Owned:
    """What the file proves, offline; `final`: nothing less. BadProof and its like otherwise."""
    owned = exit_proof.verify(
        data, log_key=trusted.log_key, ledger_key=trusted.ledger_key, policy=trusted.policy
    )
    if address is not None and owned.address != address:
        raise BadProof("the file is about another party than the one asked for")
    if final and not owned.final:
        raise BadProof("the file is not final: too few of the trusted validators cosigned")
    return owned
