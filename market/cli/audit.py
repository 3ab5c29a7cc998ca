"""`ledger audit`: recompute everything from the public log, and name the first entry that is wrong."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from market.cli.connect import options_of
from market.cli.log_key import mirrored_log_key, told_log_key
from market.cli.output import (
    Exit,
    Globals,
    credits_text,
    print_fields,
    print_json,
    print_table,
    say,
)
from settlement.domain.errors import MisConfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from settlement.validator.audit import Audit, Report
    from settlement.validator.audit_file import Snapshot

PROGRESS_SECONDS: Final = 5.0
STANDINGS_SHOWN: Final = 50
Context = typer.Context


def audit(
    context: Context,
    from_url: Annotated[
        str | None, typer.Option(help="The market or a mirror; else the one that is meant.")
    ] = None,
    from_dir: Annotated[
        Path | None, typer.Option(help="A mirror's folder instead.", exists=True, file_okay=False)
    ] = None,
    log_key: Annotated[
        str | None, typer.Option(help="The log's verifier key; else the pinned one.")
    ] = None,
    snapshot: Annotated[
        Path | None, typer.Option(help="Go on from this snapshot.", exists=True, dir_okay=False)
    ] = None,
    save_snapshot: Annotated[
        Path | None, typer.Option(help="Write one at the end.", dir_okay=False)
    ] = None,
    to_size: Annotated[int | None, typer.Option(help="Only so many entries.", min=1)] = None,
    processes: Annotated[
        int | None, typer.Option(help="That check signatures.", min=1, max=16)
    ] = None,
) -> None:
    """Recompute every balance and standing from the log; 6 and the entry's number if one is wrong.

    Every file is checked against the signed head, every signature, every rule, every state root.
    A snapshot saves the time for what was audited before, and shows if that was changed.
    """
    from settlement.validator.audit_file import encode

    options = options_of(context)
    if from_url is not None and from_dir is not None:
        raise MisConfigured("name --from-url or --from-dir, not both")
    if save_snapshot is not None and to_size is not None:
        raise MisConfigured("a snapshot is of all that is signed: leave out --to-size")
    url = None if from_dir is not None else _url(options, from_url)
    key, ledger_key = (log_key, "") if log_key else _known(options, url, from_dir)
    start = _start(snapshot, key)
    report, taken = asyncio.run(
        _run(
            url, from_dir, key, ledger_key=ledger_key, start=start, to_size=to_size,
            processes=processes, progress=_teller(options),
        )
    )  # fmt: skip
    _show(report, options)
    if save_snapshot is not None and taken is not None and report.finding is None:
        save_snapshot.write_bytes(encode(taken))
        say(options, f"wrote {save_snapshot}")
    raise typer.Exit(Exit.OK if report.finding is None else Exit.UNVERIFIED)


def _start(file: Path | None, log_key: str) -> "Snapshot | None":
    from settlement.validator.audit_file import decode

    return None if file is None else decode(file.read_bytes(), log_key)


def _url(options: Globals, named: str | None) -> str:
    from market.sdk import wallet

    return (named or wallet.choose(options.folder(), url=options.url).url).rstrip("/")


def _known(options: Globals, url: str | None, folder: Path | None) -> tuple[str, str]:
    """The keys that are trusted: the mirror's, the pinned ones, or what the market says of itself."""
    from market.sdk import wallet

    if folder is not None:
        kept = mirrored_log_key(folder)
        if kept is None:
            raise MisConfigured(f"{folder} names no log key: give --log-key")
        return kept, ""
    assert url is not None
    pin = wallet.load_profile(options.folder()).pins.get(url)
    if pin is not None:
        return pin.log_key, pin.ledger_key
    key = told_log_key(url)
    say(options, f"warning: no key is pinned for {url}; it says of itself that its key is {key}")
    return key, ""


async def _run(
    url: str | None, folder: Path | None, log_key: str, *, ledger_key: str,
    start: "Snapshot | None", to_size: int | None, processes: int | None,
    progress: "Callable[[int, int], None]",
) -> "tuple[Report, Snapshot | None]":  # fmt: skip
    from market.sdk.client import MarketClient
    from market.sdk.exits import state_lines
    from settlement.validator.audit import Audit
    from settlement.validator.source import FolderSource, HttpSource, new_session

    if url is None:
        assert folder is not None
        work = Audit(
            FolderSource(folder), log_key, ledger_key=ledger_key, start=start, to_size=to_size,
            progress=progress, workers=processes,
        )  # fmt: skip
        return await _finished(work)
    async with new_session() as session, MarketClient(url) as client:

        async def states(size: int) -> bytes | None:
            return await state_lines(client, size)

        work = Audit(
            HttpSource(session, url), log_key, ledger_key=ledger_key, start=start, to_size=to_size,
            states=states, progress=progress, workers=processes,
        )  # fmt: skip
        return await _finished(work)


async def _finished(work: "Audit") -> "tuple[Report, Snapshot | None]":
    report = await work.run()
    return report, work.snapshot


def _teller(options: Globals) -> "Callable[[int, int], None]":
    """A line now and then, of a log that takes long."""
    began = last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            say(options, f"{done} of {total} entries, {now - began:.0f} s")

    return tell


def _show(report: "Report", options: Globals) -> None:
    if options.json:
        print_json(report)
        return
    finding = report.finding
    print_fields(
        f"Audit of {report.market}",
        {
            "verdict": "every entry is right" if finding is None else "the log is wrong",
            "entries": f"{report.audited} of {report.size} signed" + (f", from {report.first} on" if report.first else ""),
            "root": report.root,
            "transfers": report.transfers,
            "parties": report.parties,
            "issued": f"{credits_text(report.issued)} credits",
            "newest_state": f"of {report.stated} entries" + (", its lines compared" if report.compared else ""),
            "finality": _finality(report),
            "seconds": f"{report.seconds:.1f}",
        },
    )  # fmt: skip
    print_table("Statements", ("kind", ">count"), list(report.statements.items()))
    sums = [(purpose, credits_text(total)) for purpose, total in report.balances.items()]
    print_table("Balances by purpose", ("purpose", ">credits"), sums)
    if report.standings:
        shown = sorted(report.standings, key=lambda each: (-each.agreed, each.provider))
        rows = [(each.provider, each.agreed, each.differed) for each in shown[:STANDINGS_SHOWN]]
        print_table("Standings", ("provider", ">agreed", ">differed"), rows)
    if finding is not None:
        at = f"entry {finding.index}" if finding.index >= 0 else "the log"
        fields = {"rule": finding.rule, "expected": finding.expected, "found": finding.found}
        fields |= {"file": finding.path} if finding.path else {}
        print_fields(f"First difference: {at}", fields | {"detail": finding.detail})


def _finality(report: "Report") -> str:
    if not report.quorum:
        return "no validators are named: nothing is final"
    final = "final" if report.final else "not final"
    return f"{final}: {report.cosignatures} of {report.validators} cosigned, {report.quorum} needed"
