"""`gridpact provider init`: from nothing to a key, settings and a price, step by step or by flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from compute.cli.examination import examined, print_report
from compute.cli.options import (
    CpuRate,
    Cpus,
    ExecutorName,
    GibRate,
    GpuRate,
    JsonFlag,
    Memory,
    MetricsPort,
    Name,
    YieldLoad,
)
from compute.cli.place import home_of, market_url
from market.cli.connect import options_of
from market.cli.output import Globals, credits_text, print_fields, print_json, say
from settlement.domain.errors import GridpactError, MisConfigured

if TYPE_CHECKING:
    from compute.daemon.pricing import Suggestion
    from compute.daemon.settings import Settings

DEFAULT_MEMORY: Final = "50%"
DEFAULT_CPUS: Final = "100%"
DEFAULT_NAME: Final = "provider"

Wishes = dict[str, Any]


@dataclass
class Seen:
    """What the market said, as far as it could be reached."""

    offers: list[Any]
    fee_basis_points: int | None = None
    trouble: str = ""


def init(  # noqa: PLR0913, PLR0917 - one option each
    context: typer.Context,
    name: Name = None,
    cpus: Cpus = None,
    memory: Memory = None,
    cpu_rate: CpuRate = None,
    gib_rate: GibRate = None,
    gpu_rate: GpuRate = None,
    executor: ExecutorName = None,
    yield_when_load: YieldLoad = None,
    metrics_port: MetricsPort = None,
    yes: Annotated[
        bool, typer.Option(help="Ask nothing; what is there stays, flags change it.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Make the key and the settings of a provider, and show what is protected and what it may earn.

    Run it again at any time: what is set already is offered as the answer, and the key stays.
    """
    options = options_of(context)
    options.json = options.json or json
    if options.json and not yes:
        raise MisConfigured("--json asks nothing: add --yes")
    flags: Wishes = {
        "name": name, "cpus": cpus, "memory_mib": memory, "cpu_rate": cpu_rate, "gib_rate": gib_rate,
        "gpu_rate": gpu_rate, "executor": executor, "yield_when_load": yield_when_load,
        "metrics_port": metrics_port, "url": options.url, "key": options.key,
    }  # fmt: skip
    _set_up(
        options, {name: value for name, value in flags.items() if value is not None}, ask=not yes
    )


def _set_up(options: Globals, flags: Wishes, *, ask: bool) -> None:
    from compute.daemon import main, settings, settings_file

    home = home_of(options)
    kept = settings_file.read(home)
    before = dict(kept)
    if not kept.get("url") and "url" not in flags:
        kept |= market_url(None, options)
    if ask:
        kept["url"] = _asked("Market", flags.get("url", kept.get("url")))
    url = str(flags.get("url") or kept.get("url"))
    key = main.provider_key(settings.load({**kept, "url": url}, home=_made(home), key=_path(flags)))
    seen = _look(options, url, home)
    suggestion = _suggest(seen, key.address)
    wanted = _answers(kept, flags, suggestion, ask=ask)
    wanted["url"] = url
    found = settings.load(wanted, home=home, **{k: v for k, v in wanted.items() if k != "key"})
    capacity = main.capacity(found)
    if wanted != before:
        if (
            before
            and ask
            and not typer.confirm(f"Change {home / settings_file.SETTINGS_FILE}?", err=True)
        ):
            raise typer.Exit(2)
        settings_file.write(home, wanted)
    report = examined(options)
    hourly = _hourly(capacity, found, seen)
    if options.json:
        print_json({
            "home": str(home), "address": key.address, "changed": wanted != before, "settings": wanted,
            "capacity": capacity, "suggestion": suggestion, "hourly_microcredits": hourly,
            "market": {"url": url, "trouble": seen.trouble}, "doctor": report,
        })  # fmt: skip
        return
    print_report(report)
    fields = {
        "key": f"{key.address}",
        "settings": str(home / settings_file.SETTINGS_FILE),
        "offered": f"{capacity.cpus_milli / 1_000:g} cpus, {capacity.memory_mib} MiB",
        "rates": f"cpu {found.cpu_rate}, gib {found.gib_rate}, gpu {found.gpu_rate}"
        f" (suggested from {suggestion.offers} offers: cpu {suggestion.rates.cpu}, gib {suggestion.rates.gib})",
        "an hour, fully leased": "the market was not reached"
        if hourly is None
        else credits_text(hourly),
    }
    print_fields("Provider", fields)
    if seen.trouble:
        say(options, f"the market was not reached: {seen.trouble}")
    say(options, "next: `gridpact provider join`, or `gridpact provider install-service`")


def _made(home: Path) -> Path:
    """The folder, private, which the key needs."""
    from compute.sandbox.staging import make_passable

    make_passable(home.parent)
    try:
        home.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise MisConfigured(f"{home}: {error.strerror}") from None
    return home


def _path(flags: Wishes) -> Path | None:
    return Path(flags["key"]).absolute() if "key" in flags else None


def _look(options: Globals, url: str, home: Path) -> Seen:
    """The present offers and the fee; without the market all else still works."""
    import asyncio

    from market.sdk.client import MarketClient

    async def look() -> Seen:
        async with MarketClient(url, None, home=home) as client:
            view = await client.market()
            return Seen(await client.offers(), view.fee_basis_points)

    say(options, f"looking at the offers of {url}")
    try:
        return asyncio.run(look())
    except GridpactError as error:
        return Seen([], None, error.detail)


def _suggest(seen: Seen, own: str) -> "Suggestion":
    from compute.daemon import bench, pricing

    return pricing.suggest(seen.offers, cpu_mib_s=bench.hashing(1), own=own)


def _answers(kept: Wishes, flags: Wishes, suggestion: "Suggestion", *, ask: bool) -> Wishes:
    """Flags, then what is kept, then what is suggested; a person may change each."""
    usual: Wishes = {
        "name": DEFAULT_NAME, "cpus": DEFAULT_CPUS, "memory_mib": DEFAULT_MEMORY,
        "cpu_rate": suggestion.rates.cpu, "gib_rate": suggestion.rates.gib, "gpu_rate": suggestion.rates.gpu,
    }  # fmt: skip
    wanted = usual | kept | flags
    if "key" in flags:
        wanted["key"] = str(_path(flags))
    if not ask:
        return wanted
    questions = (
        ("name", "Name, shown beside the offer"),
        ("cpus", "Cpus to offer, a number or a part"),
        ("memory_mib", "Memory to offer, as 8GiB or a part"),
        ("cpu_rate", f"Micro-credits per second of one cpu (suggested {suggestion.rates.cpu})"),
        ("gib_rate", f"Micro-credits per second of one GiB (suggested {suggestion.rates.gib})"),
    )
    for field, question in questions:
        if field not in flags:
            wanted[field] = _asked(question, wanted[field])
    return wanted


def _asked(question: str, default: object) -> object:
    kind = int if isinstance(default, int) else str
    return typer.prompt(question, default=default, type=kind, err=True)


def _hourly(capacity: Any, found: "Settings", seen: Seen) -> int | None:  # noqa: ANN401 - Resources
    from compute.daemon import pricing
    from settlement.domain.resources import Rates

    if seen.fee_basis_points is None:
        return None
    rates = Rates(found.cpu_rate, found.gib_rate, found.gpu_rate)
    return pricing.hourly_microcredits(capacity, rates, fee_basis_points=seen.fee_basis_points)


def add(group: typer.Typer) -> None:
    """Join the group."""
    group.command()(init)
