"""What the benches say of their figures, and in which form."""

import json
from pathlib import Path

import pytest

from bench import rows


def test_a_value_is_the_median_between_its_quartiles() -> None:
    found = rows.row("x", [5.0, 1.0, 2.0, 4.0, 3.0], "ns")
    assert (found.value, found.spread) == (3.0, (2.0, 4.0))


def test_a_single_value_has_no_spread() -> None:
    assert rows.row("x", [7.0], "ns").spread is None


def test_neighbours_are_compared_pair_by_pair() -> None:
    found = rows.row("x", [10.0, 200.0, 30.0], "ns", beside=[5.0, 100.0, 10.0])
    assert (found.beside, found.ratio) == (10.0, 2.0)  # of the medians it would be 3


def test_unequal_numbers_are_compared_by_their_medians() -> None:
    assert rows.row("x", [30.0, 10.0, 20.0], "ns", beside=[5.0]).ratio == 4.0


def test_nothing_is_divided_by_zero() -> None:
    assert rows.row("x", [1.0], "ns", beside=[0.0]).ratio is None


@pytest.mark.parametrize(
    ("goal", "value", "beside", "met"),
    [
        (rows.at_most(90), 90.0, (), True),
        (rows.at_most(90), 91.0, (), False),
        (rows.ratio_at_least(0.95), 95.0, (100.0,), True),
        (rows.ratio_at_least(0.95), 94.0, (100.0,), False),
        (rows.ratio_at_least(0.95), 94.0, (), False),
    ],
)
def test_a_goal_is_met_up_to_its_limit(
    goal: rows.Goal, value: float, beside: tuple[float, ...], met: bool
) -> None:
    assert rows.row("x", [value], "ns", beside=beside, goal=goal).met is met


def test_goals_say_which_way() -> None:
    assert [str(rows.at_most(90)), str(rows.ratio_at_least(0.95))] == ["<= 90", "ratio >= 0.95"]


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 201)]
    assert [rows.percentile(values, percent) for percent in (1, 50, 99, 100)] == [2.0, 100.0, 198.0, 200.0]
    assert rows.percentile([3.0], 1) == 3.0


def test_the_table_has_a_line_for_each_row_with_its_columns_in_line() -> None:
    shown = rows.table(
        [
            rows.row("short", [1.0], "ns"),
            rows.row("a longer one", [123456.0, 123458.0], "B", beside=[2.0, 2.0], goal=rows.at_most(5)),
        ]
    ).splitlines()
    assert len(shown) == 3
    expected = "a longer one  123,457  123,456 - 123,458  B  2  61,728  <= 5  NO"
    assert shown[2].split() == expected.split()
    assert [shown[1].index("ns")] == [shown[2].index("B")] == [shown[0].index("unit")]


def test_the_file_has_every_key_of_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [rows.row("a", [1.5], "ms", goal=rows.at_most(2)), rows.row("b", [2.0, 4.0], "ms", beside=[1.0])]
    rows.report("trial", given, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["trial.json"]
    first, second = json.loads((tmp_path / "trial.json").read_text())["rows"]
    assert {key for key, value in first.items() if value is None} == {"spread", "beside", "ratio"}
    assert (first["name"], first["value"], first["unit"]) == ("a", 1.5, "ms")
    assert (first["goal"], first["met"]) == ("<= 2", True)
    assert second.keys() == first.keys()
    assert (second["beside"], second["ratio"], second["goal"], second["met"]) == (1.0, 3.0, None, None)
    assert "median" in capsys.readouterr().out
