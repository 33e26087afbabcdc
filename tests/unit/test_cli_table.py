"""Tables fitted to a width, and values as text."""

from io import StringIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshfabric.cli.output import Format, encode, size, span
from meshfabric.cli.table import Column, Row, lay_out, plain, render, render_facts
from meshfabric.model.yamltext import parse

COLUMNS = (
    Column("name", "NAME"),
    Column("age", "AGE", right=True, spare=1),
    Column("tags", "TAGS", split=", "),
    Column("kin", "KIN", spare=2),
    Column("kith", "KITH", spare=2),
    Column("story", "STORY", wraps=True),
)
ROWS: list[Row] = [
    {"name": "ada", "age": 7, "tags": "x, y", "kin": "eve", "kith": "bob", "story": "once upon a time " * 3},
    {"name": "bo", "age": None, "tags": "", "kin": "", "kith": "", "story": "the end"},
]


def test_a_pipe_has_one_line_a_row_and_every_column() -> None:
    assert render(ROWS, COLUMNS, None, colour=False).splitlines() == [
        "NAME  AGE  TAGS  KIN  KITH  STORY",
        "ada     7  x, y  eve  bob   once upon a time once upon a time once upon a time",
        "bo      -  -     -    -     the end",
    ]


def test_first_lists_are_stacked_and_texts_wrapped() -> None:
    assert render(ROWS, COLUMNS, 60, colour=False).splitlines() == [
        "NAME  AGE  TAGS  KIN  KITH  STORY",
        "ada     7  x     eve  bob   once upon a time once upon a",
        "           y                time once upon a time",
        "bo      -  -     -    -     the end",
    ]


def test_then_spare_columns_go_and_are_named() -> None:
    assert render(ROWS, COLUMNS, 48, colour=False).splitlines() == [
        "NAME  AGE  TAGS  STORY",
        "ada     7  x     once upon a time once upon a",
        "           y     time once upon a time",
        "bo      -  -     the end",
        "(kin, kith: in a wider terminal or with -o json)",
    ]


def test_at_last_cells_are_folded_and_nothing_is_lost() -> None:
    rows = [{"name": "x" * 30, "tags": "y" * 30, "story": "z" * 30}]
    text = render(rows, COLUMNS, 40, colour=False)
    assert [text.count(letter) for letter in "xyz"] == [30, 30, 30]
    assert max(map(len, text.splitlines())) <= 40


patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
LETTERS = st.text("ab ,界", max_size=40).map(str.strip)  # rich drops blanks at the end


@patient
@given(
    st.lists(st.fixed_dictionaries({column.key: LETTERS for column in COLUMNS}), max_size=6),
    st.integers(30, 200),
)
def test_no_table_is_wider_than_the_terminal_and_none_loses_a_letter(rows: list[Row], width: int) -> None:
    layout = lay_out(rows, COLUMNS, width)
    assert sorted((*layout.shown, *layout.left), key=COLUMNS.index) == list(COLUMNS)
    text = render(rows, COLUMNS, width, colour=False)
    assert all(cell_len(line) <= width for line in text.splitlines())
    for letter in "ab界":
        assert text.count(letter) >= sum(
            str(row[column.key]).count(letter) for row in rows for column in layout.shown
        )


@patient
@given(st.lists(st.fixed_dictionaries({column.key: LETTERS for column in COLUMNS}), min_size=1, max_size=6))
def test_without_a_bound_it_is_what_rich_makes(rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in COLUMNS:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(column.cell(row, stacked=False)) for column in COLUMNS))
    console = Console(file=StringIO(), width=1000)
    with console.capture() as captured:
        console.print(table)
    expected = [line.rstrip() for line in captured.get().splitlines()]
    assert render(rows, COLUMNS, None, colour=False).splitlines() == expected


def test_markup_and_escape_codes_stay_text() -> None:
    rows = [{"name": "[red]x[/red]", "story": "a\x1b[2Jb\nc"}]
    assert render(rows, COLUMNS[:1] + COLUMNS[-1:], None, colour=False).splitlines()[1].split("  ") == [
        "[red]x[/red]",
        "a?[2Jb?c",
    ]


def test_colours_only_add_to_what_is_written() -> None:
    columns = [Column("state", "STATE", styles={"down": "red"})]
    coloured = render([{"state": "down"}], columns, 80, colour=True)
    assert "\x1b[31mdown" in coloured
    assert render([{"state": "down"}], columns, 80, colour=False) == "STATE\ndown"


def test_facts_wrap_beside_their_names() -> None:
    assert render_facts([("name", "ada"), ("story", "once upon a time")], 18, colour=False).splitlines() == [
        "name   ada",
        "story  once upon a",
        "       time",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(True, "yes"), (False, "no"), (None, "-"), ("", "-"), (0, "0"), ("a\tb", "a?b")]
)
def test_values_as_cells(value: object, text: str) -> None:
    assert plain(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 40, "5.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3725, "1 h 2 min"),
        (90000, "1 d 1 h"),
        (86400, "1 d 0 h"),
    ],
)
def test_spans(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=12)


@patient
@given(
    st.lists(
        st.dictionaries(TEXTS, TEXTS | st.integers(-(10**9), 10**9) | st.booleans() | st.none(), max_size=4)
    )
)
def test_yaml_is_read_back_by_our_own_reader(rows: list[dict[str, object]]) -> None:
    assert parse(encode(rows, Format.YAML), "rows", list[dict[str, object]]) == rows


@pytest.mark.parametrize(
    "text", ["0o17", "0x1F", "1_000", "12:30", "yes", "null", "~", "", "-", "8000-8100", ".5", "+1"]
)
def test_texts_that_look_like_something_else_are_quoted(text: str) -> None:
    assert parse(encode([text], Format.YAML), "rows", list[str]) == [text]


def test_json_keeps_the_order_of_keys() -> None:
    assert encode([{"b": 1, "a": None}], Format.JSON) == '[\n  {\n    "b": 1,\n    "a": null\n  }\n]'
