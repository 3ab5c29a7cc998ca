"""What is to be run, with limits: the specification whose digest order and receipts name."""

from typing import Annotated, Final

import msgspec

from market.domain.kind import Kind
from settlement.domain import canonical
from settlement.domain.errors import EnvironmentMismatch
from settlement.domain.resources import Resources
from settlement.domain.statement import Digest
from settlement.domain.trade import Manifest

TASK_TIMEOUT_MS_MAX: Final = 24 * 3_600_000
KEY_LIBRARIES: Final = ("numpy", "scikit-learn", "scipy", "cloudpickle")
WASM_LIBRARY: Final = "wasmtime"

SLOT_LEAST: Final = Resources(50, 64, 0)  # less starts no interpreter in useful time


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A job's code and limits. `client` is what the caller runs, compared with the environment.

    `function` is the digest of the code, whatever its kind.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    kind: Kind
    function: Digest
    environment: Digest
    client: Manifest
    slot: Resources
    task_timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=TASK_TIMEOUT_MS_MAX)]
    protection: Annotated[str, msgspec.Meta(pattern=r"^(W|S|G|R|L|none)$(?!\n)")]
    verify: Annotated[str, msgspec.Meta(pattern=r"^(none|spot)$(?!\n)")]
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]

    def digest(self) -> str:
        return canonical.digest(canonical.encode(self))


def check_environment(kind: Kind, client: Manifest, environment: Manifest) -> None:
    """Whether code of this kind, made by this client, may run in the environment."""
    if kind == "function":
        check_client(client, environment)
    elif kind == "wasm" and WASM_LIBRARY not in environment.packages:
        raise EnvironmentMismatch(f"the environment has no {WASM_LIBRARY}, so no WASM runs in it")


def check_client(client: Manifest, environment: Manifest) -> None:
    """Pickled code crosses neither Python minors nor key-library versions: refuse, naming both.

    A library that the client lacks cannot be in what it pickled, so only differing ones count.
    """
    differing = []
    if client.python != environment.python:
        differing.append(f"Python {client.python} here, {environment.python} in the environment")
    for library in KEY_LIBRARIES:
        ours, theirs = client.packages.get(library), environment.packages.get(library)
        if ours is not None and theirs is not None and ours != theirs:
            differing.append(f"{library} {ours} here, {theirs} in the environment")
    if differing:
        raise EnvironmentMismatch("; ".join(differing))


# Which classes of sandbox satisfy a demand, weakest last; W and R are other kinds of work.
_STRENGTH: Final = {"none": 0, "L": 1, "S": 2, "G": 3, "R": 2, "W": 3}


def protects(offered: str, demanded: str) -> bool:
    """Whether a protection class satisfies a demanded one."""
    return _STRENGTH[offered] >= _STRENGTH[demanded]
