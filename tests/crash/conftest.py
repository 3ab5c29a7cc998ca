"""The server of the stories in which processes die."""

from pathlib import Path

import pytest

from tests.crash.points import Server


@pytest.fixture
def server(postgres: str, template: str, tmp_path: Path) -> Server:
    return Server(postgres, template, tmp_path)
