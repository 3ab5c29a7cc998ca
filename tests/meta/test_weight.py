"""What each program loads: a consumer's or provider's machine needs no database, the API no Ray."""

import json
import subprocess
import sys
from typing import Final

import pytest

from tests.meta.tree import ROOT

DATABASE: Final = ("alembic", "asyncpg", "sqlalchemy", "settlement.store", "market.store")
RAY: Final = ("ray",)
PROBE: Final = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("market.sdk.client", (*DATABASE, *RAY, "compute", "numpy", "sklearn")),
        ("market.sdk.blocking", (*DATABASE, *RAY, "compute", "numpy", "sklearn")),
        ("compute.daemon.main", (*DATABASE, *RAY)),
        ("market.api.app", (*RAY, "compute")),
        ("market.worker.main", (*RAY, "compute")),
        ("market.cli.main", (*DATABASE, *RAY, "compute", "aiohttp", "pydantic")),
    ],
)
def test_a_program_loads_only_what_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    loaded = _modules_after(module)
    assert module in loaded
    surplus = [name for name in loaded if name in unwanted or name.startswith(_below(unwanted))]
    assert surplus == []


def test_the_probe_sees_what_is_loaded() -> None:
    assert "sqlalchemy" in _modules_after("sqlalchemy")


def _below(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


def _modules_after(module: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stdout)
    return loaded
