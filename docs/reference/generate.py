"""Writes the pages of docs/reference from the code, so that they cannot drift from it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from market.wire import problem
from settlement.domain.errors import Failed, GridpactError, Refused

FOLDER: Final = Path(__file__).resolve().parent
NOTICE: Final = "<!-- Written by `make docs`; edit the code instead. -->"


def errors_page() -> str:
    """One row per error code, in order of code."""
    rows = [_error_row(code, kind) for code, kind in sorted(GridpactError.registry.items())]
    return "\n".join(
        [
            NOTICE,
            "# Errors",
            "",
            "Every refusal carries one of these codes: in a problem document (`code`), in the",
            "exception that the SDK raises, and in the command line's message. `refused` kinds will",
            "not succeed when repeated unchanged; `failed` kinds may.",
            "",
            "| Code | Status | Class | Kind | Meaning | Cure |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _error_row(code: str, kind: type[GridpactError]) -> str:
    meaning = " ".join((kind.__doc__ or "").split())
    family = "refused" if issubclass(kind, Refused) else "failed"
    assert issubclass(kind, Refused | Failed)
    status = problem.STATUS.get(code, "–")  # errors of a machine never travel
    return f"| `{code}` | {status} | `{kind.__name__}` | {family} | {meaning} | {kind.cure} |"


PAGES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType({"errors.md": errors_page})


def main() -> None:
    """Write every page that differs."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
