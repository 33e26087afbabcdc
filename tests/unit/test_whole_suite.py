"""When the whole suite tries a test again, and how it tells."""

from pathlib import Path

import pytest

from tests.__main__ import AGAIN, OF_LABS, SHARES, summary
from tests.shares import is_worth_another_try

KERNEL = "tests/kernel/test_wireguard.py::test_x"
ONE, OTHER, THIRD = (f"tests/lab/test_{name}.py::test_x" for name in ("cut", "drift", "keys"))


@pytest.mark.parametrize(
    ("tests", "statuses", "worth"),
    [
        ([], {"lab": 0, "rest": 0}, False),
        ([ONE], {"lab": 1, "rest": 0}, True),
        ([ONE, f"{ONE}[2]", OTHER], {"lab": 1, "rest": 0, "quick": 1}, True),
        ([ONE], {"lab": 0, "rest": 0, "late": 1}, True),
        ([ONE, OTHER, THIRD], {"lab": 1, "rest": 0}, False),
        ([ONE, KERNEL], {"lab": 1, "rest": 1}, False),
        ([ONE, "tests/unit/test_x.py::test_x"], {"lab": 1, "rest": 1}, False),
        ([ONE], {"lab": 2, "rest": 0}, False),
        ([ONE], {"lab": -9, "rest": 0}, False),
    ],
)
def test_only_a_file_or_two_are_tried_again(tests: list[str], statuses: dict[str, int], worth: bool) -> None:
    assert is_worth_another_try(tests, statuses, OF_LABS) is worth


def test_what_failed_is_named_whether_it_passed_then_or_not(tmp_path: Path) -> None:
    reports = {share: tmp_path / f"{share}.xml" for share in (*SHARES, AGAIN)}
    bad = '<testcase classname="tests.unit.test_whole_suite" name="{}"><failure message="{}"/></testcase>'
    good = '<testcase classname="tests.unit.test_whole_suite" name="{}"/>'
    suite = "<testsuites>{}</testsuites>"
    reports["lab"].write_text(
        suite.format(bad.format("a", "assert 1 == 2&#10;  and so on") + good.format("b"))
    )
    reports["quick"].write_text(suite.format(bad.format("c", "assert 0")))

    def told(status: int) -> list[str]:
        return "\n".join(summary(reports, {"lab": status, "rest": 0}, 90.0)).splitlines()

    here = "tests/unit/test_whole_suite.py"
    how = ["    assert 1 == 2", "      and so on"]
    assert told(1)[-7:] == [
        f"failed: {here}::a",
        *how,
        f"failed: {here}::c",
        "    assert 0",
        "lab: exit status 1",
        "1.5 minutes",
    ]
    reports[AGAIN].write_text(suite.format(good.format("a") + bad.format("c", "assert 0")))
    assert told(0)[-6:-1] == [
        f"passed only when tried again: {here}::a",
        *how,
        f"failed: {here}::c",
        "    assert 0",
    ]
    assert told(0)[-1] == "1.5 minutes"
    assert [line.split() for line in told(0)[1:4]] == [
        ["SHARE", "PASSED", "FAILED", "SKIPPED"],
        ["lab", "1", "1", "0"],
        ["quick", "0", "1", "0"],
    ]
