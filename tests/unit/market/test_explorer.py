"""Cursors that cannot be made up, and CSV that no spreadsheet runs and every reader reads back."""

import csv
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.wire import explorer as wire
from settlement.domain.errors import Malformed

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


class Row(msgspec.Struct):
    name: str
    number: int | None
    words: list[str]
    raw: msgspec.Raw


@given(st.lists(st.lists(CELLS, min_size=2, max_size=5), min_size=1, max_size=5))
def test_csv_reads_back(table: list[list[str]]) -> None:
    """Whatever is in a cell, the reader of the standard library finds it again."""
    text = "".join(wire.csv_line(cells) for cells in table)
    read = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert [[cell.removeprefix("'") for cell in line] for line in read] == [
        [cell.removeprefix("'") for cell in line] for line in table
    ]
    for line, cells in zip(read, table, strict=True):
        for shown, cell in zip(line, cells, strict=True):
            assert shown in {cell, "'" + cell}


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "-2-3", "+5",
        "-", "\uff1d1+1", '=HYPERLINK("http://x","y")',
    ],
)  # fmt: skip
def test_what_a_spreadsheet_would_run_is_text(cell: str) -> None:
    (line,) = csv.reader(io.StringIO(wire.csv_line([cell]), newline=""), strict=True)
    assert line == ["'" + cell]


@pytest.mark.parametrize("cell", ["-5", "0", "12345678901234567890", "-0.5", "a=b", "{}"])
def test_numbers_stay_numbers(cell: str) -> None:
    assert wire.csv_line([cell]) == cell + "\r\n"


def test_a_row_has_its_fields_and_its_cursor() -> None:
    row = Row("a,b", None, ["one", "two"], msgspec.Raw(b'{"memo":"x"}'))
    assert wire.csv_header(Row) == "name,number,words,raw,cursor\r\n"
    assert wire.csv_row(row, "abc") == '"a,b",,one two,"{""memo"":""x""}",abc\r\n'


@given(st.lists(st.integers(min_value=0, max_value=wire.NUMBER_MAX), min_size=1, max_size=3))
def test_a_cursor_is_read_back_by_its_own_list_alone(values: list[int]) -> None:
    text = wire.cursor("entries", *values)
    assert [
        wire.number(part) for part in wire.parse_cursor(text, "entries", values=len(values))
    ] == values
    for kind, count in (("receipts", len(values)), ("entries", len(values) + 1)):
        with pytest.raises(Malformed):
            wire.parse_cursor(text, kind, values=count)


@given(st.text(max_size=40))
def test_no_text_is_a_cursor_by_accident(text: str) -> None:
    with pytest.raises(Malformed):
        wire.parse_cursor(text, "entries", values=1)


def test_a_cursor_has_one_spelling() -> None:
    """Spare bits and padding are refused, as are numbers in other forms."""
    text = wire.cursor("entries", 12)
    for other in (text + "=", text[:-1] + chr(ord(text[-1]) + 1), text + "A"):
        with pytest.raises(Malformed):
            wire.parse_cursor(other, "entries", values=1)
    for form in ("01", "-1", "1.0", str(2**63), "", "\uff11"):
        with pytest.raises(Malformed):
            wire.number(form)
    with pytest.raises(Malformed):
        wire.identifier("entries")
