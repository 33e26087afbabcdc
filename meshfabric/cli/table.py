"""Rows as a table that people read, fitted to the terminal.

What gives way when a terminal is narrow, in this order: lists stand one item a
line, texts wrap, spare columns are left out (and named below the table). With
no width (a pipe) every row is one line with every column, for grep and awk.

Measuring, folding and colours are rich's; its `Table` is not used, because it
takes seconds for ten thousand endpoints.
"""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

Row = Mapping[str, Any]

GAP = 2  # columns of the terminal between two of the table
WRAPPED = 28  # a text is not made narrower than this while a spare column can go
NOTHING = "-"
HEADER = "bold"
WIDEST_LETTER = 2


def plain(value: Any) -> str:
    """A value as a cell: yes and no, `-` for nothing, `?` for what would move the cursor."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NOTHING if value is None or value == "" else printable(str(value))


def printable(text: str) -> str:
    """The text on one line, with nothing that moves a terminal's cursor."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


class Column(NamedTuple):
    """How one key of the rows is shown.

    `spare` 0 is always there, others go with all of their number, the highest first; `split` separates
    the items of a list; `wraps` marks a text of many words; `styles` gives a
    colour to certain cells, never the only thing that tells them apart.
    """

    key: str
    title: str
    spare: int = 0
    right: bool = False
    split: str = ""
    wraps: bool = False
    show: Callable[[Any], str] = plain
    styles: Mapping[str, str] = {}

    def cell(self, row: Row, stacked: bool) -> str:
        """The text of one row's cell, a list as lines if `stacked`."""
        text = self.show(row.get(self.key))
        return text.replace(self.split, "\n") if stacked and self.split else text


def columns_of(text: str, **more: Any) -> tuple[Column, ...]:
    """Columns for `"node kind"`, titled like their keys."""
    return tuple(Column(key, key.upper().replace("_", " "), **more) for key in text.split())


class Layout(NamedTuple):
    """What was chosen for a width: columns shown with theirs, spare ones left out, lists stacked or not."""

    shown: tuple[Column, ...]
    widths: tuple[int, ...]
    left: tuple[Column, ...] = ()
    stacked: bool = False


def lay_out(rows: Sequence[Row], columns: Sequence[Column], width: int | None) -> Layout:
    """Choose what to show of `columns` in `width` columns of a terminal (None: no bound)."""
    shown, natural = tuple(columns), _natural(rows, columns, stacked=False)
    if width is None or _total(natural.values()) <= width:
        return Layout(shown, tuple(natural.values()))
    natural = _natural(rows, columns, stacked=True)
    while spare := max(column.spare for column in shown):
        if _total(_least(column, natural) for column in shown) <= width:
            break
        shown = tuple(column for column in shown if column.spare < spare)
    left = tuple(column for column in columns if column not in shown)
    return Layout(shown, _share(shown, natural, width), left, stacked=True)


def _natural(rows: Sequence[Row], columns: Iterable[Column], *, stacked: bool) -> dict[str, int]:
    return {
        column.key: max(length(line) for text in _texts(rows, column, stacked) for line in text.split("\n"))
        for column in columns
    }


def _texts(rows: Iterable[Row], column: Column, stacked: bool) -> Iterator[str]:
    yield column.title
    yield from (column.cell(row, stacked) for row in rows)


def _least(column: Column, natural: Mapping[str, int]) -> int:
    return min(natural[column.key], WRAPPED) if column.wraps else natural[column.key]


def _total(widths: Iterable[int]) -> int:
    return sum(width + GAP for width in widths) - GAP


def _share(columns: Sequence[Column], natural: Mapping[str, int], width: int) -> tuple[int, ...]:
    """Take from the widest until it fits: from texts down to what is theirs, then from all."""
    widths = [natural[column.key] for column in columns]
    least = [_least(column, natural) for column in columns]
    while _total(widths) > width and max(widths) > 1:
        roomy = [at for at in range(len(widths)) if widths[at] > least[at]] or range(len(widths))
        widths[max(roomy, key=lambda at: widths[at])] -= 1
    return tuple(widths)


def render(rows: Sequence[Row], columns: Sequence[Column], width: int | None, colour: bool) -> str:
    """The table as text without a last newline; one line for each row where `width` is None."""
    layout = lay_out(rows, columns, width)
    lines = _line(
        [Cell(column.title, column.right, HEADER) for column in layout.shown], layout.widths, colour
    )
    for row in rows:
        cells = [_cell(column, row, layout.stacked) for column in layout.shown]
        lines += _line(cells, layout.widths, colour)
    return "\n".join([*lines, *_note(layout.left, width)])


def render_facts(
    facts: Iterable[tuple[str, str]], width: int | None, colour: bool, styles: Mapping[str, str] | None = None
) -> str:
    """Names with their values, one a line, as text without a last newline; `styles` gives colours by name."""
    painted = styles or {}
    pairs = [(name, printable(value)) for name, value in facts]
    names = max(length(name) for name, _ in pairs)
    values = max(length(value) for _, value in pairs)
    widths = names, values if width is None else max(min(values, width - names - GAP), 1)
    return "\n".join(
        line
        for name, value in pairs
        for line in _line(
            [Cell(name, style=HEADER), Cell(value, style=painted.get(name, ""))], widths, colour
        )
    )


class Cell(NamedTuple):
    """A text (lines, if it is a list) in its column."""

    text: str
    right: bool = False
    style: str = ""


def _cell(column: Column, row: Row, stacked: bool) -> Cell:
    text = column.cell(row, stacked)
    return Cell(text, column.right, column.styles.get(text, ""))


def _line(cells: Sequence[Cell], widths: Sequence[int], colour: bool) -> list[str]:
    """One row: as many lines as its longest cell has."""
    columns = [_wrap(cell.text, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for parts in zip_longest(*columns, fillvalue=""):
        padded = [_pad(*one, colour) for one in zip(parts, cells, widths, strict=True)]
        lines.append((" " * GAP).join(padded).rstrip())
    return lines


def _pad(part: str, cell: Cell, width: int, colour: bool) -> str:
    blanks = " " * (width - length(part))
    painted = _paint(part, cell.style) if colour and cell.style and part else part
    return blanks + painted if cell.right else painted + blanks


def _wrap(text: str, width: int) -> list[str]:
    if "\n" not in text and length(text) <= width:
        return [text]
    return [piece for line in text.split("\n") for piece in _pieces(line, width)]


def _pieces(line: str, width: int) -> list[str]:
    if length(line) <= width:
        return [line]
    if line.isascii():
        return textwrap.wrap(line, width, break_on_hyphens=False)
    from rich.cells import chop_cells

    return chop_cells(line, max(width, WIDEST_LETTER))


def _note(left: Sequence[Column], width: int | None) -> list[str]:
    if not left or not width:
        return []
    titles = ", ".join(column.title.lower() for column in left)
    return textwrap.wrap(f"({titles}: in a wider terminal or with -o json)", width)


def length(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _paint(text: str, style: str) -> str:
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)
