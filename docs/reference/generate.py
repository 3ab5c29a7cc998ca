"""Writes the pages of docs/reference from the code, so that they cannot drift from it."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, get_args

from market.wire import problem
from settlement.domain.errors import Failed, GridpactError, Refused

if TYPE_CHECKING:  # each page imports what it describes, so that one broken edge hides no other
    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

    from market.http.endpoint import Endpoint

FOLDER: Final = Path(__file__).resolve().parent
NOTICE: Final = "<!-- Written by `make docs`; edit the code instead. -->"
EVERYWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "GRIDPACT_HOME": "State folder; else /var/lib/gridpact as root, the user's data folder else.",
        "GRIDPACT_URL": "The market's address, for the SDK and the command line.",
        "GRIDPACT_BWRAP": "The bubblewrap to use; else the system's, else the package's.",
        "GRIDPACT_KEY": "The key file of the party that the SDK and the command line act for.",
    }
)


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


def settings_page() -> str:
    """Every environment variable of server and daemon."""
    from compute.daemon.settings import Settings as ProviderSettings
    from market.http.settings import Settings as ServerSettings

    return "\n".join(
        [
            NOTICE,
            "# Settings",
            "",
            "Environment variables. Flags of the command line, where there are any, come first. A",
            "provider keeps its settings, by their names without the prefix and in small letters, in",
            "`provider.toml` in its home; flags and variables come before that file.",
            "",
            *_settings_table("Server: `gridpact server …`", ServerSettings),
            *_settings_table("Provider: `gridpact provider join` and `run`", ProviderSettings),
            "## Everywhere",
            "",
            "| Variable | Meaning |",
            "|---|---|",
            *(f"| `{name}` | {meaning} |" for name, meaning in EVERYWHERE.items()),
            "",
        ]
    )


def _settings_table(title: str, settings: "type[BaseSettings]") -> list[str]:
    prefix = settings.model_config.get("env_prefix", "")
    rows = []
    for name, field in settings.model_fields.items():
        variable = field.validation_alias or f"{prefix}{name.upper()}"
        rows.append(f"| `{variable}` | {_default(field)} | {field.description} |")
    return [f"## {title}", "", "| Variable | Default | Meaning |", "|---|---|---|", *rows, ""]


def _default(field: "FieldInfo") -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default is None or field.default == "":
        return "–"
    return f"`{field.default}`"


def http_page() -> str:
    """Every route, in the order of paths."""
    from market.api.app import ENDPOINTS

    rows = [
        _route_row(endpoint) for endpoint in sorted(ENDPOINTS, key=lambda e: (e.path, e.method))
    ]
    return "\n".join(
        [
            NOTICE,
            "# HTTP API",
            "",
            "The shapes stand in `/openapi.json` of a running server, the signature profile in",
            "[protocol.md](../protocol.md), refusals in [errors.md](errors.md). Access: `open` to",
            "anybody, `read` and `write` to whoever signs; a write is done once per idempotency key.",
            "",
            "| Route | Access | Takes | Answers | What for |",
            "|---|---|---|---|---|",
            *rows,
            "| `GET /openapi.json` | open | | JSON | The OpenAPI 3.1 document. |",
            "| `GET /v1/control` | read | | WebSocket | The provider's control channel. |",
            "",
        ]
    )


def _route_row(endpoint: "Endpoint") -> str:
    path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", endpoint.path)
    body = "bytes" if endpoint.raw else _type_name(endpoint.hints.get("body"))
    answer = _type_name(endpoint.hints.get("return"))
    purpose = " ".join((inspect.getdoc(endpoint.handler) or "").split())
    return (
        f"| `{endpoint.method} {path}` | {endpoint.access.value} | {body} | {answer} | {purpose} |"
    )


def _type_name(kind: object) -> str:
    if kind is None or kind is type(None):
        return ""
    if isinstance(kind, type) and not get_args(kind):
        return f"`{kind.__name__}`"
    return f"`{re.sub(r'[a-z_.]+[.]', '', str(kind))}`"


def cli_page() -> str:
    """Every command, its arguments and options."""
    import typer

    from market.cli.main import app

    root = typer.main.get_command(app)
    shared = {option for parameter in root.params for option in parameter.opts}
    hidden = shared | {"--help", "--install-completion", "--show-completion"}
    rows = [
        f"| `{' '.join(words)}` | {_arguments(command, hidden)} | {_first_sentence(command.help)} |"
        for words, command in _commands(("gridpact",), root)
    ]
    return "\n".join(
        [
            NOTICE,
            "# Command line",
            "",
            f"Options of every command: {', '.join(f'`{option}`' for option in sorted(shared))}.",
            "`--help` says more. Exit codes: 0 ok, 2 usage, 3 refused, 4 not found, 5 remote failure,",
            "6 verification failed.",
            "",
            "| Command | Arguments and options | What for |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _commands(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands that do something, with the words that call them."""
    if not hasattr(command, "list_commands"):
        yield words, command
        return
    for name in command.list_commands(None):
        yield from _commands((*words, name), command.get_command(None, name))


def _arguments(command: Any, hidden: set[str]) -> str:
    names = []
    for parameter in command.params:
        own = [name for name in parameter.opts if name not in hidden]
        if parameter.param_type_name == "argument":
            names.append(f"`{parameter.name.upper()}`")
        elif own:
            names.append(f"`{max(own, key=len)}`")
    return " ".join(names)


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split()).partition(". ")[0].rstrip(".") + "."


PAGES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "cli.md": cli_page,
        "errors.md": errors_page,
        "settings.md": settings_page,
        "http-api.md": http_page,
    }
)


def main() -> None:
    """Write every page that differs."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
