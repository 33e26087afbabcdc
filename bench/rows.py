"""What every bench says at its end: rows, as a table for people and as JSON for programs.

A row is one figure: the median of what was measured, the quartiles, where it
makes sense what the same round gave for something else (`beside`) and the
ratio of the two, and a goal with whether it was met. Goals are told, never asserted:
machines differ and neighbours are noisy.

    build/bench/<bench>.json
        {"rows": [{"name", "value", "unit", "spread", "beside", "ratio", "goal", "met"}]}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import msgspec

RESULTS = Path(__file__).parents[1] / "build" / "bench"
SIGNIFICANT = 3
"""Digits: more are noise."""
_QUARTILES = 4
_HEAD = ("", "median", "spread", "unit", "beside", "ratio", "goal", "met")
_LEFT = {0, 3, 6, 7}
"""Columns of words."""
_MET = {True: "yes", False: "NO", None: ""}


class Goal(NamedTuple):
    """At most or at least `limit`, for the value or (`of_ratio`) for the ratio."""

    limit: float
    at_least: bool = False
    of_ratio: bool = False

    def is_met(self, value: float, ratio: float | None) -> bool:
        """Whether a row with these figures meets it; without the figure in question it does not."""
        figure = ratio if self.of_ratio else value
        return figure is not None and (figure >= self.limit if self.at_least else figure <= self.limit)

    def __str__(self) -> str:
        return f"{'ratio ' if self.of_ratio else ''}{'>=' if self.at_least else '<='} {self.limit:g}"


class Row(msgspec.Struct, frozen=True):
    """One line; `spread` are the lower and the upper quartile, None where nothing was repeated."""

    name: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    beside: float | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None


def at_most(limit: float) -> Goal:
    """The value is to be no more than this."""
    return Goal(limit)


def at_least(limit: float) -> Goal:
    """The value is to be no less than this."""
    return Goal(limit, at_least=True)


def ratio_at_most(limit: float) -> Goal:
    """The value is to be this many times what is beside it, or less."""
    return Goal(limit, of_ratio=True)


def ratio_at_least(limit: float) -> Goal:
    """The value is to be this many times what is beside it, or more."""
    return Goal(limit, at_least=True, of_ratio=True)


def row(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    beside: Sequence[float] = (),
    goal: Goal | None = None,
) -> Row:
    """The median of `values`, which must not be empty.

    Where `beside` has as many values, each was taken next to its neighbour: then the ratio is the
    median of those of the pairs, which is steadier than the ratio of the medians.
    """
    value, other = median(values), median(beside) if beside else None
    ratio = _ratio(values, beside) if beside else None
    met = goal.is_met(value, ratio) if goal else None
    return Row(name, value, unit, _spread(values), other, ratio, str(goal) if goal else None, met)


def percentile(values: Sequence[float], percent: int) -> float:
    """The least value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100), 1) - 1]


def table(rows: Sequence[Row]) -> str:
    """One line a row under a head, in columns."""
    lines = [_HEAD, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in _LEFT else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def report(bench: str, rows: Sequence[Row], folder: Path = RESULTS) -> None:
    """Print the table and write the JSON."""
    print(table(rows), flush=True)
    save(bench, {"rows": rows}, folder)


def save(bench: str, content: Mapping[str, Sequence[msgspec.Struct]], folder: Path = RESULTS) -> None:
    """Write the JSON, whole or not at all; `rows` and whatever else there is to keep."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{bench}.json.new"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    draft.replace(folder / f"{bench}.json")


def _ratio(values: Sequence[float], beside: Sequence[float]) -> float | None:
    if len(values) == len(beside) and all(beside):
        return median(one / other for one, other in zip(values, beside, strict=True))
    below = median(beside)
    return median(values) / below if below else None


def _spread(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    low, _, high = quantiles(values, n=_QUARTILES, method="inclusive")
    return low, high


def _cells(row: Row) -> tuple[str, ...]:
    spread = f"{_figure(row.spread[0])} - {_figure(row.spread[1])}" if row.spread else ""
    beside, ratio = (_figure(each) for each in (row.beside, row.ratio))
    return (row.name, _figure(row.value), spread, row.unit, beside, ratio, row.goal or "", _MET[row.met])


def _figure(number: float | None) -> str:
    if number is None:
        return ""
    if abs(number) >= 10 ** (SIGNIFICANT - 1):
        return f"{number:,.0f}"
    return f"{number:.{SIGNIFICANT}g}"
