"""Commands about what counts without the market: exit proofs, validators, what is final."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from market.cli.connect import ask, options_of
from market.cli.output import (
    Exit,
    Globals,
    credits_text,
    print_error,
    say,
    short,
    show_one,
)
from settlement.domain.errors import BadKey, GridpactError

if TYPE_CHECKING:
    from market.sdk.client import MarketClient
    from market.sdk.trust import Trusted
    from market.sdk.wallet import ValidatorsPin
    from settlement.domain.exit_proof import Owned

Context = typer.Context
LogKey = Annotated[
    str | None, typer.Option("--log-key", help="The log's verifier key, else the pinned one.")
]
PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy", help="Whose cosignatures count (C2SP), else the pinned ones.", exists=True
    ),
]


def exit_proof(
    context: Context,
    address: Annotated[str | None, typer.Argument(help="The party; else you.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; else exit-ADDRESS.json.")
    ] = None,
    final: Annotated[bool, typer.Option("--final", help="Only what a quorum cosigned.")] = False,
) -> None:
    """Fetch one file that proves what a party owns, check it, and write it."""
    options = options_of(context)

    async def fetch(client: "MarketClient") -> "tuple[bytes, Trusted, str]":
        from market.sdk import exits, trust

        party = address or client.address
        trusted = await trust.trusted(client)
        return await exits.fetch(client, party, final=final), trusted, party

    data, trusted, party = ask(options, fetch, signed=address is None)
    owned = _owned(data, trusted, options, address=party, final=final)
    target = output or Path(f"exit-{party[:12]}.json")
    target.write_bytes(data)
    _show(owned, options)
    say(options, f"wrote {target} ({len(data)} bytes)")


def verify_exit(
    context: Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    log_key: LogKey = None,
    ledger_key: Annotated[
        str | None, typer.Option("--ledger-key", help="The market's address, else the pinned one.")
    ] = None,
    policy: PolicyFile = None,
    final: Annotated[bool, typer.Option("--final", help="Refuse what is not final.")] = False,
) -> None:
    """Check an exit proof without any server; 6 if it does not hold."""
    options = options_of(context)
    trusted = known_keys(options, log_key=log_key, ledger_key=ledger_key, policy=policy)
    _show(_owned(file.read_bytes(), trusted, options, address=None, final=final), options)


def show_validators(
    context: Context,
    accept: Annotated[
        bool, typer.Option("--accept", help="Trust those that stand now, whoever approved them.")
    ] = False,
) -> None:
    """Show whose cosignatures make a checkpoint final, and pin them."""
    options = options_of(context)

    async def read(client: "MarketClient") -> "ValidatorsPin":
        from market.sdk import trust

        return await trust.current(client, accept=accept)

    pin = ask(options, read, signed=False)
    named = {f"validator_{number}": key for number, key in enumerate(pin.members, start=1)}
    show_one(pin, options, "Validators", {"quorum": f"{pin.quorum} of {len(pin.members)}", **named})


def known_keys(
    options: Globals,
    *,
    log_key: str | None,
    ledger_key: str | None = None,
    policy: Path | None = None,
    needs_ledger: bool = True,
) -> "Trusted":
    """The keys that are trusted without asking anybody: named here, in a policy file, or pinned."""
    from market.sdk import trust
    from market.sdk.wallet import choose, load_profile

    profile = load_profile(options.folder())
    trusted = None
    if policy is not None:
        trusted = trust.by_policy(policy.read_text(encoding="utf-8"), ledger_key or "")
        log_key = log_key or trusted.log_key
    pin = validators = None
    if log_key is None or (ledger_key is None and needs_ledger) or trusted is None:
        named = options.url or profile.url
        url = choose(options.folder(), url=options.url).url if named else ""
        pin, validators = profile.pins.get(url), profile.validators.get(url)
        if pin is None and log_key is None:
            raise BadKey(f"no log key is pinned for {url or 'any market'}: give --log-key")
        if pin is None and ledger_key is None and needs_ledger:
            raise BadKey(f"no market is pinned for {url or 'any address'}: give --ledger-key")
    log_key = log_key or (pin.log_key if pin else "")
    ledger_key = ledger_key or (pin.ledger_key if pin else "")
    if trusted is not None:
        return trust.Trusted(log_key, ledger_key, trusted.policy)
    mine = validators if pin is not None and pin.log_key == log_key else None
    return trust.by_pin(log_key, ledger_key, mine)


def _owned(
    data: bytes, trusted: "Trusted", options: Globals, *, address: str | None, final: bool
) -> "Owned":
    from market.sdk import exits

    try:
        return exits.verify(data, trusted, address=address, final=final)
    except GridpactError as error:
        print_error(error, as_json=options.json)
        raise typer.Exit(Exit.UNVERIFIED) from None


def _show(owned: "Owned", options: Globals) -> None:
    import datetime as dt

    at = dt.datetime.fromtimestamp(owned.at_ms / 1_000, dt.UTC)
    shown = {
        "market": owned.market,
        "after_entries": owned.size,
        "time": at.isoformat(timespec="seconds"),
        "available": credits_text(owned.available),
        "of_it_reserved": credits_text(owned.reserved),
        "held": credits_text(owned.held),
        "stake": credits_text(owned.stake),
        "budgets": credits_text(owned.budgets),
        "final": "yes" if owned.final else "not final: too few trusted validators cosigned",
    }
    show_one(owned._asdict(), options, f"{short(owned.address)} owns (credits)", shown)
