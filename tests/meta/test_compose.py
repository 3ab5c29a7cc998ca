"""docker-compose.yml calls only commands that exist, with settings that exist."""

import re
import subprocess
import sys
from typing import Any, Final

import pytest
import yaml

from tests.meta import tree

SERVICES: Final[dict[str, dict[str, Any]]] = yaml.safe_load(
    (tree.ROOT / "docker-compose.yml").read_text(encoding="utf-8")
)["services"]
COMMANDS: Final = {
    name: service["command"]
    for name, service in SERVICES.items()
    if service.get("command", [""])[0] == "gridpact"
}
CALL: Final = "import sys; from market.cli.main import main; sys.argv[0] = 'gridpact'; main()"


def test_the_whole_market_is_there() -> None:
    assert {"db", "migrate", "api", "worker"} <= set(SERVICES)
    assert {"migrate", "api", "worker"} <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_exists(name: str) -> None:
    words = COMMANDS[name][1:]
    plain = [word for word in words if not word.startswith("-")]
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    done = subprocess.run(
        [sys.executable, "-c", CALL, *plain, "--help"],
        cwd=tree.ROOT, capture_output=True, text=True, check=False, env={"COLUMNS": "200", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [option for option in options if option not in done.stdout] == []


def test_every_variable_exists() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in tree.modules(*tree.PACKAGES))
    prefixes = set(re.findall(r"env_prefix=\"([A-Z_]+)\"", sources))
    for name, service in SERVICES.items():
        if name == "db":
            continue  # the image's own
        for variable in service.get("environment", {}).keys() - {"PATH"}:
            fields = [
                variable.removeprefix(prefix).lower()
                for prefix in prefixes
                if variable.startswith(prefix)
            ]
            known = variable in sources or any(f"\n    {field}: " in sources for field in fields)
            assert known, f"{name}: nothing reads {variable}"
