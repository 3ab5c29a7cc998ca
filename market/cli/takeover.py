"""`server propose-takeover` and `take-over`: become the market from a mirror, when a quorum agrees."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from market.cli.connect import options_of
from market.cli.output import say, show_one
from settlement.domain.errors import BadCheckpoint, MisConfigured

if TYPE_CHECKING:
    from market.http.settings import Settings
    from settlement.domain.replay import Replay
    from settlement.validator.tree import Head, SignedTree

HOUR_MS: Final = 3_600_000
GRACE_HOURS: Final = 24.0

Context = typer.Context
Mirror = Annotated[
    Path, typer.Option("--from-dir", help="The mirror's folder (`gridpact log mirror`).")
]
LogKey = Annotated[str, typer.Option(help="The verifier key of the old market's log.")]


def propose(
    context: Context,
    from_dir: Mirror,
    log_key: LogKey,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the statement goes.")],
    grace_hours: Annotated[
        float, typer.Option(help="How long parties may hand in again what was not final.", min=0)
    ] = GRACE_HOURS,
) -> None:
    """Write the statement that the validators are asked to approve, signed by your own ledger key.

    Your keys are those of GRIDPACT_KEYS_FOLDER. The mirror's checkpoint must be final.
    """
    from market.http.settings import LEDGER_KEY, LOG_KEY, Settings
    from market.sdk.reader import now_ms
    from market.service import takeover
    from settlement.domain.checkpoint import verifier_key

    options, settings = options_of(context), Settings()
    head, replay = asyncio.run(_replayed(from_dir, log_key))
    _check_final(head, replay)
    own_log = verifier_key(head.checkpoint.origin, settings.key(LOG_KEY))
    said = takeover.propose(
        head.checkpoint, settings.key(LEDGER_KEY), own_log, grace_ms=int(grace_hours * HOUR_MS),
        log_ms=replay.world.time_ms, now_ms=now_ms(),
    )  # fmt: skip
    output.write_bytes(said.envelope)
    fields = {
        "market": head.checkpoint.origin, "size": head.size, "statement": said.digest,
        "approvals_needed": replay.quorum, "file": str(output),
    }  # fmt: skip
    show_one(fields, options, "Takeover proposed", fields)


def begin(
    context: Context,
    from_dir: Mirror,
    log_key: LogKey,
    takeover: Annotated[Path, typer.Option(help="The statement of `propose-takeover`.")],
    approval: Annotated[list[Path], typer.Option(help="A validator's approval; repeatable.")],
) -> None:
    """Fill the empty database of DATABASE_URL from the mirror and go on as the market.

    May be repeated until it is done; then start `server run` and `server work` as always.
    """
    from market.http.settings import Settings

    options = options_of(context)
    settings = Settings()
    envelopes = [path.read_bytes() for path in approval]
    say(options, f"restoring from {from_dir} …")
    replay = asyncio.run(_begin(settings, from_dir, log_key, takeover.read_bytes(), envelopes))
    fields = {
        "market": replay.market, "entries": replay.size, "ledger_key": replay.ledger_key,
        "validators": len(replay.members), "quorum": replay.quorum,
    }  # fmt: skip
    show_one(fields, options, "Taken over", fields)


async def _begin(
    settings: "Settings", folder: Path, log_key: str, takeover: bytes, approvals: Sequence[bytes]
) -> "Replay":
    from market.http.running import running
    from market.sdk.reader import now_ms
    from market.service import takeover as service

    _, tree = await _tree(folder, log_key)
    if tree.head.origin != settings.market:
        raise MisConfigured(
            f"GRIDPACT_MARKET is {settings.market!r}, the mirror's is {tree.head.origin!r}"
        )
    async with running(settings, chartered=False) as market:
        return await service.begin(market, _pages(tree), takeover, approvals, now_ms=now_ms())


async def _replayed(folder: Path, log_key: str) -> "tuple[Head, Replay]":
    from settlement.domain.replay import Replay

    head, tree = await _tree(folder, log_key)
    replay = Replay(head.checkpoint.origin)
    async for page in _pages(tree):
        for envelope in page:
            replay.feed(replay.size, envelope)
    return head, replay


async def _tree(folder: Path, log_key: str) -> "tuple[Head, SignedTree]":
    from settlement.validator.source import FolderSource
    from settlement.validator.tree import SignedTree, read_head

    source = FolderSource(folder)
    head = await read_head(source, log_key)
    tree = SignedTree(source, head.checkpoint)
    await tree.open()
    return head, tree


async def _pages(tree: "SignedTree") -> AsyncIterator[Sequence[bytes]]:
    async for bundles in tree.batches(0):
        for bundle in bundles:
            yield bundle.entries


def _check_final(head: "Head", replay: "Replay") -> None:
    from settlement.domain import cosignature

    if not cosignature.is_final(head.note, replay.members, quorum=replay.quorum):
        raise BadCheckpoint(
            f"the mirror's checkpoint of {head.size} entries is not final:"
            f" {replay.quorum} of {len(replay.members)} validators have to cosign it"
        )
