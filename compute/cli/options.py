"""Options that more than one command of the provider takes."""

from typing import Annotated, Final

import typer

RATE_MAX: Final = 10**12

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Name = Annotated[str | None, typer.Option(help="Shown beside the offer.")]
Cpus = Annotated[
    str | None, typer.Option(help="Cpus offered, as 3.5 or 50%; all where nothing is said.")
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", "--memory-mib", help="Memory offered: MiB, 8GiB or 50%; half where nothing is said."
    ),
]  # fmt: skip
CpuRate = Annotated[
    int | None, typer.Option(min=0, max=RATE_MAX, help="Micro-credits per second of one cpu.")
]
GibRate = Annotated[
    int | None, typer.Option(min=0, max=RATE_MAX, help="Micro-credits per second of one GiB.")
]
GpuRate = Annotated[
    int | None, typer.Option(min=0, max=RATE_MAX, help="Micro-credits per second of one GPU.")
]
ExecutorName = Annotated[str | None, typer.Option("--executor", help="`ray` or `local`.")]
YieldLoad = Annotated[
    float | None,
    typer.Option(help="Give the machine back while others keep that many cpus busy; 0 is never."),
]
MetricsPort = Annotated[
    int | None, typer.Option(help="Prometheus figures on 127.0.0.1 at this port; 0 is off.")
]
