"""The group `validator`: replay other people's logs, cosign what is right, publish what is wrong."""

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from market.cli.connect import options_of
from market.cli.output import Exit, Globals, print_json, print_table, say, show_one
from settlement.domain.errors import BadKey, MisConfigured

if TYPE_CHECKING:
    from settlement.validator.routes import Overview

NAME_SUFFIX: Final = ".vkey"
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
COLUMNS: Final = ("Log", "State", ">Shown", ">Replayed", ">Cosigned", ">Final", "Market", "Detail")

commands = typer.Typer(no_args_is_help=True, help="Replay a market's log and cosign it.")
Context = typer.Context


def start_log(options: Globals) -> None:
    """Remarks of a long run, on stderr."""
    level = logging.WARNING if options.quiet else logging.INFO
    logging.basicConfig(level=level, format=LOG_FORMAT)


@commands.command("init")
def init(
    context: Context,
    file: Annotated[Path, typer.Argument(help="The new key file.")],
    name: Annotated[str, typer.Option(help="Your name in signature lines, like host.example/1.")],
) -> None:
    """Create a validator's key (mode 0600); print what a market needs to name it."""
    from market.sdk.wallet import create_key
    from settlement.domain import cosignature

    options = options_of(context)
    cosignature.check_name(name)
    key = create_key(file)
    verifier_key = cosignature.verifier_key(name, key)
    name_file(file).write_text(f"{verifier_key}\n", encoding="utf-8")
    fields = {"verifier_key": verifier_key, "address": key.address, "key_file": str(file)}
    show_one(fields, options, f"Validator {name}", fields)


@commands.command("run")
def run(  # noqa: PLR0913, PLR0917 - its options
    context: Context,
    market: Annotated[list[str], typer.Option(help="A market's address; may stand repeatedly.")],
    log_key: Annotated[list[str], typer.Option(help="Its log's verifier key; one per --market.")],
    state: Annotated[Path, typer.Option(help="The folder for copies, snapshots and evidence.")],
    name: Annotated[str | None, typer.Option(help="Your name, if not as at `init`.")] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT to serve on.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="Another validator's address.")] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.05)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One look, then end.")] = False,
) -> None:
    """Follow markets with the key of --key: replay, cosign, or refuse and publish why.

    Ends with 6 if a log is refused or cannot be verified.
    """
    from market.sdk.wallet import load_key
    from settlement.validator import main

    options = options_of(context)
    if options.key is None:
        raise MisConfigured("name the validator's key file with --key")
    if len(market) != len(log_key):
        raise MisConfigured("every --market needs its --log-key, in the same order")
    file = Path(options.key)
    plan = main.Plan(
        markets=tuple(main.Market(url, key) for url, key in zip(market, log_key, strict=True)),
        name=name or stored_name(file),
        key=load_key(file),
        folder=state,
        listen=main.parse_listen(listen) if listen is not None else None,
        peers=tuple(peer or ()),
        interval_seconds=interval,
    )
    start_log(options)
    overview = asyncio.run(main.validate(plan, once=once))
    if once:
        _show(overview, options)
    raise typer.Exit(_exit(overview))


@commands.command("status")
def status(
    context: Context,
    address: Annotated[str, typer.Argument(help="The validator's address (its --listen).")],
) -> None:
    """Ask a running validator how it stands with its logs."""
    from settlement.validator.asking import ask

    options = options_of(context)
    overview = asyncio.run(ask(address))
    _show(overview, options)
    raise typer.Exit(_exit(overview))


@commands.command("approve-takeover")
def approve_takeover(
    context: Context,
    takeover: Annotated[
        Path, typer.Argument(help="The statement of `gridpact server propose-takeover`.")
    ],
    checkpoint: Annotated[
        Path, typer.Option(help="The checkpoint that you cosigned, as the mirror has it.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where your approval goes.")],
    name: Annotated[str | None, typer.Option(help="Your name, if not as at `init`.")] = None,
) -> None:
    """Approve a takeover with the key of --key; only of a tree that you cosigned yourself."""
    from market.sdk.reader import now_ms
    from market.sdk.wallet import load_key
    from market.service import takeover as service
    from settlement.domain import checkpoint as checkpoints
    from settlement.domain import cosignature

    options = options_of(context)
    if options.key is None:
        raise MisConfigured("name the validator's key file with --key")
    file = Path(options.key)
    key = load_key(file)
    note = checkpoint.read_text(encoding="utf-8")
    member = cosignature.verifier_key(name or stored_name(file), key)
    approval = service.approve(
        takeover.read_bytes(), note, member, key, market=checkpoints.head(note).origin,
        now_ms=now_ms(),
    )  # fmt: skip
    output.write_bytes(approval.envelope)
    fields = {"approval": approval.digest, "file": str(output)}
    show_one(fields, options, "Takeover approved", fields)


@commands.command("approve-set")
def approve_set(
    context: Context,
    market: Annotated[str, typer.Argument(help="The market's address.")],
    digest: Annotated[str, typer.Argument(help="The proposed set, as the market names it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Agree, with the key of --key, to the validators that a market proposes."""
    from market.sdk.reader import now_ms
    from market.sdk.wallet import load_key
    from settlement.domain.canonical import digest_bytes
    from settlement.validator import asking

    options = options_of(context)
    if options.key is None:
        raise MisConfigured("name the validator's key file with --key")
    key = load_key(Path(options.key))
    digest_bytes(digest)
    if not yes:
        shown = asyncio.run(asking.proposal(market, digest))
        for member in shown.members:
            typer.echo(f"  {member}", err=True)
        typer.confirm(f"Shall {shown.quorum} of these make a checkpoint final?", abort=True)
    done = asyncio.run(asking.approve(market, digest, key, now_ms=now_ms()))
    fields = {"proposal": done.digest, "state": done.state, "approvals": len(done.approvals)}
    show_one(done, options, "Approved", fields)


def name_file(key_file: Path) -> Path:
    """Beside the key: the verifier key, which holds the name."""
    return key_file.with_name(key_file.name + NAME_SUFFIX)


def stored_name(key_file: Path) -> str:
    """The name that the key was made for."""
    from settlement.domain import cosignature

    path = name_file(key_file)
    try:
        return cosignature.parse_verifier_key(path.read_text(encoding="utf-8").strip()).name
    except (OSError, UnicodeDecodeError, BadKey):
        raise MisConfigured(f"give --name: {path} does not hold a verifier key") from None


def _show(overview: "Overview", options: Globals) -> None:
    if options.json:
        print_json(overview)
        return
    rows = [
        (
            log.origin, log.state, log.shown_size, log.replayed_size, log.cosigned_size,
            log.final_size, log.published, log.detail,
        )
        for log in overview.logs
    ]  # fmt: skip
    print_table(f"Validator {overview.name}", COLUMNS, rows)
    for peer, note in sorted(overview.peers.items()):
        say(options, f"peer {peer}: {note}")


def _exit(overview: "Overview") -> Exit:
    states = {log.state for log in overview.logs}
    if states - {"following", "unreachable"}:
        return Exit.UNVERIFIED
    return Exit.REMOTE if "unreachable" in states else Exit.OK
