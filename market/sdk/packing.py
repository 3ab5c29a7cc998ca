"""What travels to a provider and back: code and inputs as pickles, results as plain data."""

import functools
import platform
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import cloudpickle

from market.domain.jobspec import KEY_LIBRARIES, check_environment
from market.domain.kind import Kind
from market.sdk import results
from market.wire import plain
from market.wire.jobs import EnvironmentView
from settlement.domain.errors import (
    EnvironmentMismatch,
    GridpactError,
    NoOffer,
    NotFound,
    TaskFailed,
    UnsafeResult,
)
from settlement.domain.trade import Manifest

STATUS_OK: Final = "ok"
STATUS_ERROR: Final = "error"
STATUS_UNSAFE: Final = "unsafe_result"
LOG_CHARS_SHOWN: Final = 2_000
OUR_PACKAGES: Final = frozenset({"market", "settlement", "compute"})
_MEANING: Final = {
    "oom": "used more memory than its slot has",
    "timeout": "ran longer than its time limit",
    "died": "ended its process",
    "output_exceeded": "returned more bytes than are allowed",
    "cancelled": "was cancelled",
}


def client_manifest() -> Manifest:
    """This interpreter and the key libraries beside it, none of which gets imported."""
    packages = {}
    for library in KEY_LIBRARIES:
        try:
            packages[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    major, minor, _ = platform.python_version_tuple()
    return Manifest(packages, f"{major}.{minor}")


def choose_environment(
    offered: list[EnvironmentView], client: Manifest, wanted: str | None, *, kind: Kind
) -> EnvironmentView:
    """The environment that is wanted, else the most offered one that fits interpreter and kind.

    If none fits, the refusal is that of the most offered one and names both versions.
    """
    if wanted is not None:
        offered = [view for view in offered if view.digest == wanted]
        if not offered:
            raise NotFound(f"no provider offers the environment {wanted}")
    if not offered:
        raise NoOffer("no provider offers any environment now")
    refusal: GridpactError | None = None
    for view in sorted(offered, key=lambda view: (-view.providers, view.digest)):
        try:
            check_environment(kind, client, view.manifest)
        except EnvironmentMismatch as error:
            refusal = refusal or error
        else:
            return view
    assert refusal is not None
    raise refusal


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    named = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    return tuple({Path(name).resolve() for name in named} - {Path(sys.prefix).resolve()})


@functools.lru_cache(maxsize=10_000)  # asked for every loaded module at every call
def _is_local(name: str, origin: str) -> bool:
    """Whether a module is the user's own, so that no provider has it."""
    if name == "__main__" or name.partition(".")[0] in OUR_PACKAGES:
        return False
    path = Path(origin).resolve()
    return not any(path.is_relative_to(folder) for folder in _installed_folders())


@contextmanager
def by_value() -> Iterator[None]:
    """Within this block the user's own modules are pickled with their content, not by name."""
    known = cloudpickle.list_registry_pickle_by_value()
    local = [
        module
        for name, module in list(sys.modules.items())
        if type(module) is ModuleType  # programs put other things there too
        and name == module.__name__  # the registry asks for this
        and name not in known
        and (origin := getattr(module, "__file__", None))
        and _is_local(name, origin)
    ]
    for module in local:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in local:
            cloudpickle.unregister_pickle_by_value(module)


def pack_function(function: Callable[..., Any]) -> bytes:
    """The function with the code of the user's own modules in it."""
    with by_value():
        return bytes(cloudpickle.dumps(function))


def pack_inputs(calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[bytes]:
    """One pickle of positional and keyword arguments per task."""
    with by_value():
        return [bytes(cloudpickle.dumps(call)) for call in calls]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One task's accepted result, its bytes not yet looked at."""

    index: int
    status: str
    body: bytes
    log: str
    attempt: str
    provider: str
    kind: Kind = "function"

    def value(self) -> Any:  # noqa: ANN401 - whatever the function returns
        """What the function returned, or the program left; what it raised is raised here."""
        if self.status == STATUS_OK:
            return results.read(self.kind, plain.decode(self.body))
        raise self.error()

    def error(self) -> Exception:
        """The task's exception: of its own built-in class, else `TaskFailed`."""
        raised = self._decoded()
        if self.status == STATUS_ERROR and raised is not None:
            raised.add_note(f"(raised by task {self.index} at provider {self.provider[:12]}…)")
            return raised
        said = str(raised) if raised is not None else ""
        if self.status == STATUS_UNSAFE:
            return UnsafeResult(f"task {self.index}: {said or 'the result is not plain data'}")
        meaning = _MEANING.get(self.status, self.status)
        failure = TaskFailed(f"task {self.index} {meaning}" + (f": {said}" if said else ""))
        if self.log:
            failure.add_note(f"its log ends with:\n{self.log[-LOG_CHARS_SHOWN:]}")
        return failure

    def _decoded(self) -> Exception | None:
        if not self.body:
            return None
        try:
            value = plain.decode(self.body)
        except UnsafeResult as error:
            return error
        return value if isinstance(value, Exception) else None
