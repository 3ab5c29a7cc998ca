"""The reference of the ledger's figures: pgbench, TPC-B-like, of the same PostgreSQL on the same server."""

import re
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from settlement.store.postgres_programs import find

CLIENTS: Final = 16
THREADS: Final = 2
SCALE: Final = 20
DATABASE: Final = "pgbench"
TPS: Final = re.compile(r"^tps = ([0-9.]+) ", re.MULTILINE)


class Pgbench:
    """Its tables stand in a database of their own beside the ledger's."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        self._folder = find().folder
        self._server = [
            "--host", query["host"][0], "--port", query["port"][0],
            "--username", str(parts.username),
        ]  # fmt: skip

    def prepare(self, scale: int = SCALE) -> None:
        """Make and fill the tables."""
        self._run("createdb", DATABASE)
        self._run("pgbench", "--initialize", "--quiet", "--scale", str(scale), DATABASE)

    def tps(self, seconds: int) -> float:
        """Transactions a second."""
        said = self._run(
            "pgbench", "--protocol", "prepared", "--client", str(CLIENTS), "--jobs", str(THREADS),
            "--time", str(seconds), "--no-vacuum", DATABASE,
        )  # fmt: skip
        found = TPS.search(said)
        if found is None:
            raise RuntimeError(f"pgbench said no rate:\n{said}")
        return float(found[1])

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(Path(self._folder, program)), *self._server, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout
