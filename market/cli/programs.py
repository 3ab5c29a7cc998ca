"""Commands and WASM modules from the command line: price and cap first, then progress, then what came."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from market.cli.output import Exit, Globals, print_json, printable, say, show

if TYPE_CHECKING:
    from market.sdk.client import MarketClient
    from market.sdk.function import Estimate, Terms
    from market.sdk.packing import Outcome
    from market.sdk.results import CommandResult, WasmResult

    Result = CommandResult | WasmResult

WASM_SUFFIX: Final = ".wasm"
EXIT_CODE_MAX: Final = 255
TEXT_CHARS_SHOWN: Final = 60


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to run. No inputs mean one task whose input is empty."""

    words: list[str]
    inputs: list[str]
    directory: Path | None
    collect: list[str]
    output: Path | None
    fuel: int | None


def is_program(words: Sequence[str]) -> bool:
    """Whether this is no function of a file: `FILE.py:NAME` is one word with a colon."""
    return len(words) > 1 or (":" not in words[0] and not words[0].endswith(".py"))


async def run(
    client: "MarketClient", wish: Wish, terms: "Terms", options: Globals
) -> list["Outcome"]:
    """Order all inputs as one job and wait for what comes."""
    work, inputs = _work(client, wish, terms), wish.inputs or [""]
    _say_price(await work.estimate(len(inputs)), options)
    job = await work.map(inputs)
    say(options, f"job {job.job_id}: {job.total} tasks")
    found: list[Outcome] = []
    try:
        while fresh := await job.take():
            found += fresh
            say(options, f"  {len(found)} of {job.total}")
    except BaseException:
        if len(found) < job.total:
            await job.cancel()
        raise
    say(options, f"spent {await job.cost()} credits")
    return sorted(found, key=lambda outcome: outcome.index)


def finish(outcomes: Sequence["Outcome"], wish: Wish, options: Globals) -> None:
    """Show what came and end as it ended: with the exit code of the first task that failed."""
    rows, codes = [], []
    for outcome in outcomes:
        result, failure = _result(outcome)
        codes.append(int(Exit.REMOTE) if result is None else _code(result))
        if result is not None and wish.output is not None:
            _save(result, wish.output if len(outcomes) == 1 else wish.output / str(outcome.index))
        rows.append(_row(outcome, result, failure))
    if options.json:
        print_json(rows)
    elif len(outcomes) == 1:
        _print_one(outcomes[0], options)
    else:
        columns = (">task", "status", ">exit", "output")
        shown = [
            (row["index"], row["status"], row["exit_code"], _short(row["stdout"] or row["error"]))
            for row in rows
        ]
        show(rows, options, "Results", columns, shown)
    code = next((code for code in codes if code), 0)
    if code:
        raise typer.Exit(code)


def _work(client: "MarketClient", wish: Wish, terms: "Terms") -> Any:  # noqa: ANN401 - one of two
    from market.sdk.command import Command
    from market.sdk.wasm import FUEL_DEFAULT, Wasm

    if wish.words[0].endswith(WASM_SUFFIX):
        fuel = wish.fuel or FUEL_DEFAULT
        return Wasm(client, Path(wish.words[0]), terms, arguments=wish.words[1:], fuel=fuel)
    return Command(client, wish.words, terms, directory=wish.directory, collect=wish.collect)


def _say_price(estimate: "Estimate", options: Globals) -> None:
    from market.cli.output import credits_text

    cap = credits_text(str(estimate.budget_microcredits))
    say(
        options,
        f"{estimate.tasks} tasks on {estimate.slots} slots at up to {estimate.unit} credits an hour"
        f" each: at most {estimate.worst_case} credits, and never more than {cap}",
    )


def _result(outcome: "Outcome") -> "tuple[Result | None, str]":
    try:
        return outcome.value(), ""
    except Exception as error:  # noqa: BLE001 - what the task raised is its result
        return None, f"{type(error).__name__}: {error}"


def _code(result: "Result") -> int:
    if getattr(result, "trap", ""):
        return int(Exit.REMOTE)
    return min(result.exit_code, EXIT_CODE_MAX)


def _save(result: "Result", folder: Path) -> None:
    files = getattr(result, "files", None)
    if files:
        result.save(folder)  # type: ignore[union-attr]  # only commands have files


def _row(outcome: "Outcome", result: "Result | None", failure: str) -> dict[str, Any]:
    return {
        "index": outcome.index,
        "status": outcome.status,
        "exit_code": None if result is None else result.exit_code,
        "stdout": "" if result is None else result.text,
        "fuel": getattr(result, "fuel", None),
        "error": failure or getattr(result, "trap", ""),
        "files": sorted(getattr(result, "files", ())),
        "log": outcome.log,
        "provider": outcome.provider,
        "attempt": outcome.attempt,
    }


def _print_one(outcome: "Outcome", options: Globals) -> None:
    """As the command itself would have written it."""
    result, failure = _result(outcome)
    if outcome.log:
        sys.stderr.write(printable(outcome.log).rstrip("\n") + "\n")
    if result is None:
        sys.stderr.write(printable(failure) + "\n")
        return
    trap = getattr(result, "trap", "")
    if trap:
        sys.stderr.write(f"trapped: {printable(trap)}\n")
    fuel = getattr(result, "fuel", None)
    if fuel is not None:
        say(options, f"fuel {fuel}")
    if sys.stdout.isatty():
        sys.stdout.write(printable(result.text))
    else:
        sys.stdout.buffer.write(result.stdout)
    sys.stdout.flush()


def _short(text: str) -> str:
    line = json.dumps(text, ensure_ascii=False)[1:-1]
    return line if len(line) <= TEXT_CHARS_SHOWN else line[: TEXT_CHARS_SHOWN - 1] + "…"
