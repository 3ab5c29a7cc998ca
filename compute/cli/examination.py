"""`gridpact provider doctor | bench`: what holds on this machine, and what it can do."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from compute.cli.options import JsonFlag
from compute.cli.place import home_of
from market.cli.connect import options_of
from market.cli.output import Exit, Globals, print_fields, print_json, print_table, say

if TYPE_CHECKING:
    from compute.daemon.doctor import Report

MARKS: Final = {"ok": "ok", "note": "–", "warn": "warn", "fail": "FAIL"}


def doctor(context: typer.Context, json: JsonFlag = False) -> None:
    """Try a sandbox on this machine and say what holds, what does not, and what to do."""
    options = options_of(context)
    options.json = options.json or json
    report = examined(options)
    if options.json:
        print_json(report)
    else:
        print_report(report)
    if not report.sound:
        raise typer.Exit(Exit.REMOTE)


def bench(
    context: typer.Context,
    ray: Annotated[bool, typer.Option(help="Also measure how long a Ray takes to start.")] = True,
    json: JsonFlag = False,
) -> None:
    """Measure this machine in a few seconds: cpu, memory, disk, starts of sandbox and Ray."""
    import asyncio

    from compute.daemon import bench as measuring
    from market.sdk.folders import state_folder

    options = options_of(context)
    options.json = options.json or json
    say(options, "measuring, a few seconds …")
    found = asyncio.run(measuring.run(state_folder(), ray=ray))
    if options.json:
        print_json(found)
        return
    print_table(
        "This machine",
        ("what", ">figure", "unit"),
        [
            ("cpu, one core", f"{found.cpu_single_mib_s:.0f}", "MiB/s of SHA-256"),
            (f"cpu, all {found.cpus:g}", f"{found.cpu_all_mib_s:.0f}", "MiB/s of SHA-256"),
            ("memory", f"{found.memory_mib_s:.0f}", "MiB/s copied"),
            ("disk", f"{found.disk_write_mib_s:.0f}", "MiB/s written and synced"),
            ("sandbox start", _figure(found.sandbox_start_ms, 1), "ms, median"),
            ("Ray start", _figure(found.ray_start_seconds, 1), "s"),
        ],
    )
    for note in found.notes:
        say(options, f"  {note}")


def examined(options: Globals) -> "Report":
    """The report on the provider that the options mean."""
    import asyncio
    from pathlib import Path

    from compute.daemon import doctor as checking
    from compute.daemon import main, settings_file
    from market.sdk.folders import state_folder

    home = home_of(options)
    kept = settings_file.read(home)
    url = options.url or kept.get("url")
    key = Path(str(options.key or kept.get("key") or home / main.KEY_FILE))
    return asyncio.run(
        checking.examine(state_folder(), key=key, url=None if url is None else str(url))
    )


def print_report(report: "Report") -> None:
    """For people: the class first, then each check, then what to do about those that fail."""
    fields = {
        "protection": report.protection or "none: no sandbox works",
        "cpus": f"{report.cpus:g}",
        "memory mib": report.memory_mib,
        "state folder": report.state_folder,
        "environment": report.environment,
    }
    print_fields("This machine as a provider", fields)
    print_table(
        "Checks",
        ("", "code", "found", "what to do"),
        [(MARKS[check.state], check.code, check.found, check.cure) for check in report.checks],
    )
    for check in report.checks:
        if check.state in {"warn", "fail"}:
            typer.echo(f"  {check.code}: {check.means}")


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def add(group: typer.Typer) -> None:
    """Join the group."""
    group.command()(doctor)
    group.command()(bench)
