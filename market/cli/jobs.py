"""The group `job`: run a function of a file, follow jobs, take their results."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from market.cli import money, programs
from market.cli.connect import ask, options_of
from market.cli.output import (
    Exit,
    Globals,
    credits_text,
    print_json,
    printable,
    say,
    short,
    show,
    show_one,
)
from settlement.domain.errors import GridpactError, Malformed, NotFound

if TYPE_CHECKING:
    from market.sdk.client import MarketClient
    from market.sdk.function import Terms
    from market.sdk.packing import Outcome
    from market.wire.jobs import Events, JobView

commands = typer.Typer(no_args_is_help=True, help="Run work on the market, and follow it.")
money.add_to_job(commands)
Context = typer.Context
FOLLOW_WAIT_MS: Final = 10_000
VALUE_CHARS_SHOWN: Final = 80


def _fields(view: "JobView") -> dict[str, Any]:
    return {
        "job": view.id,
        "name": view.name,
        "state": view.state + (f" ({view.reason})" if view.reason else ""),
        "tasks": f"{view.accepted} of {view.tasks} accepted",
        "sealed": view.sealed,
        "leases": f"{view.leases} of {view.slots} slots",
        "paused": view.paused,
        "budget": credits_text(view.budget),
        "spent": credits_text(view.spent),
        "refunded": credits_text(view.refunded),
        "rate_cap": f"{view.rate_cap} micro-credits per slot-second",
        "verify": view.verify,
        "environment": view.environment,
    }


@commands.command("ls")
def list_jobs(
    context: Context,
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 50,
    after: Annotated[str, typer.Option(help="Cursor of the page before.")] = "",
) -> None:
    """List your jobs, newest first."""
    options = options_of(context)
    page = ask(options, lambda client: client.list_jobs(after=after, limit=limit))
    columns = ("job", "name", "state", "reason", ">accepted", ">tasks", ">leases", ">spent")
    rows = [
        (
            view.id, view.name, view.state, view.reason, view.accepted, view.tasks, view.leases,
            credits_text(view.spent),
        )
        for view in page.jobs
    ]  # fmt: skip
    show(page, options, "Jobs", columns, rows)


@commands.command("show")
def show_job(context: Context, job: Annotated[str, typer.Argument()]) -> None:
    """Show a job's state and money."""
    options = options_of(context)
    view = ask(options, lambda client: client.job(job))
    show_one(view, options, "Job", _fields(view))


@commands.command("events")
def show_events(
    context: Context,
    job: Annotated[str, typer.Argument()],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until the job is closed.")
    ] = False,
) -> None:
    """Show what happened to a job, in order."""
    options = options_of(context)

    async def read(client: "MarketClient") -> None:
        after = 0
        while True:
            page = await client.events(job, after=after, wait_ms=FOLLOW_WAIT_MS if follow else 0)
            _print_events(page, options)
            done = not page.events and (not follow or (await client.job(job)).state == "closed")
            if done:
                return
            after = page.next

    ask(options, read)


def _print_events(page: "Events", options: Globals) -> None:
    from datetime import UTC, datetime

    for event in page.events:
        if options.json:  # one object a line, so that a follower can read on
            import msgspec

            sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
        else:
            at = datetime.fromtimestamp(event.at_ms / 1_000, UTC).strftime("%H:%M:%S.%f")[:-3]
            sys.stdout.write(f"{at}  {event.kind:<20} {printable(event.detail)}\n")
    sys.stdout.flush()


@commands.command("results")
def show_results(
    context: Context,
    job: Annotated[str, typer.Argument()],
    wait: Annotated[bool, typer.Option("--wait", help="Until all are there.")] = False,
) -> None:
    """Show accepted results; 5 if a task failed."""
    options = options_of(context)

    async def take(client: "MarketClient") -> "list[Outcome]":
        from market.sdk.runs import outcome_of

        found, after = [], 0
        while True:
            page = await client.results(job, after=after, wait_ms=FOLLOW_WAIT_MS if wait else 0)
            found += [await outcome_of(client, result) for result in page.results]
            if not page.results and (not wait or page.state == "closed"):
                return found
            after = page.next

    _show_outcomes(ask(options, take), options)


def _show_outcomes(outcomes: "list[Outcome]", options: Globals) -> None:
    rows = [_row(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.index)]
    columns = (">task", "status", "value", "provider")
    shown = [
        (row["index"], row["status"], _clip(row["value"]), short(row["provider"])) for row in rows
    ]
    show(rows, options, "Results", columns, shown)
    if any(row["status"] != "ok" for row in rows):
        raise typer.Exit(Exit.REMOTE)


def _row(outcome: "Outcome") -> dict[str, Any]:
    try:
        value = _jsonable(outcome.value())
    except Exception as error:  # noqa: BLE001 - what the task raised is its result
        value = f"{type(error).__name__}: {error}"
    return {
        "index": outcome.index,
        "status": outcome.status,
        "value": value,
        "log": outcome.log,
        "provider": outcome.provider,
        "attempt": outcome.attempt,
    }


def _jsonable(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Plain data is richer than JSON; what JSON lacks is shown by its repr."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return repr(value)


def _clip(value: object) -> str:
    text = str(value)
    return text if len(text) <= VALUE_CHARS_SHOWN else text[: VALUE_CHARS_SHOWN - 1] + "…"


@commands.command("receipts")
def show_receipts(context: Context, job: Annotated[str, typer.Argument()]) -> None:
    """List the attempts of a job with their receipts (as `receipt ls`)."""
    from market.cli.consumer import list_receipts

    list_receipts(context, job)


@commands.command("cancel")
def cancel_job(context: Context, job: Annotated[str, typer.Argument()]) -> None:
    """End a job now; what ran is paid, the rest of the budget comes back."""
    options = options_of(context)
    view = ask(options, lambda client: client.cancel(job))
    show_one(view, options, "Job", _fields(view))


@commands.command("top-up")
def top_up(
    context: Context,
    job: Annotated[str, typer.Argument()],
    amount: Annotated[str, typer.Argument(help="Credits.")],
) -> None:
    """Add to a job's budget; a paused one goes on."""
    from settlement.domain.amount import parse_credits

    options, microcredits = options_of(context), parse_credits(amount)
    view = ask(options, lambda client: client.top_up(job, microcredits))
    show_one(view, options, "Job", _fields(view))


@commands.command("run")
def run_job(  # noqa: PLR0913, PLR0917 - a command line
    context: Context,
    words: Annotated[
        list[str], typer.Argument(metavar="FILE.py:FUNCTION | MODULE.wasm [ARGS] | -- CMD ARGS")
    ],
    values: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="One call's argument, as JSON; of a command, as it is."),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", exists=True, dir_okay=False, help="One a line.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", "-C", exists=True, file_okay=False, help="Travels along."),
    ] = None,
    collect: Annotated[
        list[str] | None, typer.Option(help="Pattern of files that a command leaves.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for these files.")] = None,
    fuel: Annotated[int | None, typer.Option(help="The most that a WASM call may take.")] = None,
    max_price: Annotated[str | None, typer.Option(help="Credits per slot-hour.")] = None,
    budget: Annotated[str | None, typer.Option(help="Credits for the whole job.")] = None,
    cpu: Annotated[float | None, typer.Option()] = None,
    memory_mib: Annotated[int | None, typer.Option()] = None,
    slots: Annotated[int | None, typer.Option()] = None,
    verify: Annotated[str | None, typer.Option(help="spot or none.")] = None,
    task_timeout: Annotated[float | None, typer.Option(help="Seconds.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait.")] = False,
) -> None:
    """Run a function, a command or a WASM module once per input, as one job.

    In a command {input} is the input, {input_file} a file that holds it; else it is standard input.
    """
    options = options_of(context)
    given = {
        "max_price": max_price,
        "budget": budget,
        "cpu": cpu,
        "memory_mib": memory_mib,
        "slots": slots,
        "verify": verify,
        "task_timeout_seconds": task_timeout,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    lines = _lines(values or [], inputs)
    if not programs.is_program(words):
        _run_function(options, words[0], lines, chosen, detach=detach)
        return
    wish = programs.Wish(
        words=words, inputs=lines, directory=directory, collect=collect or [], output=output,
        fuel=fuel,
    )  # fmt: skip
    _run_program(options, wish, chosen, detach=detach)


def _run_program(
    options: Globals, wish: programs.Wish, chosen: dict[str, Any], *, detach: bool
) -> None:
    if detach:
        raise typer.BadParameter("a command or a module is waited for; leave out --detach")

    async def work(client: "MarketClient") -> "list[Outcome]":
        from market.sdk.function import Terms

        return await programs.run(client, wish, Terms(**chosen), options)

    programs.finish(ask(options, work), wish, options)


def _run_function(
    options: Globals, target: str, lines: list[str], chosen: dict[str, Any], *, detach: bool
) -> None:
    import dataclasses

    plain, terms = _load(target)
    terms = dataclasses.replace(terms, **chosen)
    calls = _parsed(lines)

    async def work(client: "MarketClient") -> "list[Outcome]":
        from market.sdk.function import Function

        job = await Function(client, plain, terms).map([((call,), {}) for call in calls])
        say(options, f"job {job.job_id}: {job.total} tasks")
        if detach:
            _told_detached(job.job_id, options)
            return []
        found: list[Outcome] = []
        while fresh := await job.take():
            found += fresh
            say(options, f"  {len(found)} of {job.total}")
        say(options, f"spent {await job.cost()} credits")
        return found

    outcomes = ask(options, work)
    if not detach:
        _show_outcomes(outcomes, options)


def _told_detached(job: str, options: Globals) -> None:
    if options.json:
        print_json({"job": job})
    else:
        sys.stdout.write(job + "\n")


def _lines(values: list[str], file: Path | None) -> list[str]:
    lines = list(values)
    if file is not None:
        lines += [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines


def _parsed(lines: list[str]) -> list[Any]:
    if not lines:
        raise typer.BadParameter("give --input or --inputs")
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise Malformed(f"an input is not JSON: {error}") from None


def _load(target: str) -> "tuple[Callable[..., Any], Terms]":
    """A plain or decorated function of a Python file."""
    from market.sdk import blocking
    from market.sdk.function import Terms

    path_text, _, name = target.rpartition(":")
    path = Path(path_text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not name or spec is None or spec.loader is None or not path.is_file():
        raise NotFound(f"{target!r} is not FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that its code can travel by value
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        spec.loader.exec_module(module)
    except GridpactError:
        raise
    except Exception as error:
        raise Malformed(f"{path}: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if isinstance(found, blocking.Function):
        return found.plain, found.terms
    if not callable(found):
        raise NotFound(f"{path} has no function {name!r}")
    return found, Terms()
