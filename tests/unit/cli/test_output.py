"""A stranger's words on a terminal: shown, never obeyed."""

import pytest

from market.cli import output
from settlement.domain.errors import NotFound

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold]name[/] [/nothing]\r\x9b31m\u202e"


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table("", ("provider", ">n"), [(HOSTILE, 1)])
    output.print_fields("", {"name": HOSTILE})
    output.print_error(NotFound(HOSTILE), as_json=False)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert "[bold]name[/] [/nothing]" in text
        assert all(mark == "\n" or mark.isprintable() for mark in text)


def test_what_people_write_stays() -> None:
    assert output.printable("Zürich ✓ 日本\n\ta") == "Zürich ✓ 日本\n\ta"
