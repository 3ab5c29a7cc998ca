"""A progress bar for people who wait for a map; drawn on stderr, so that output stays clean."""

from typing import Protocol


class Progress(Protocol):
    """What a map tells of itself."""

    def advance(self, tasks: int) -> None: ...

    def stop(self) -> None: ...


class _Silent:
    def advance(self, tasks: int) -> None:
        del tasks

    def stop(self) -> None:
        return


class _Bar:
    def __init__(self, title: str, total: int) -> None:
        # Imported here: a program that shows no bar need not load it.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.progress import Progress as Bar  # noqa: PLC0415

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=total)
        self._bar.start()

    def advance(self, tasks: int) -> None:
        self._bar.advance(self._task, tasks)

    def stop(self) -> None:
        self._bar.stop()


def no_progress() -> Progress:
    """Nothing is shown."""
    return _Silent()


def progress_bar(title: str, total: int) -> Progress:
    """A bar with done, total and time."""
    return _Bar(title, total)
