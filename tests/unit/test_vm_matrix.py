"""What the matrix makes of a doctor's answer and of a run's results, and how it tells."""

from collections import Counter
from pathlib import Path

import pytest

from tests.shares import Tally, side_by_side, skipped, tally
from tests.vm.kernels import NAMES
from tests.vm.matrix import CORE, PRESENT, SHARES, Outcome, chosen, compare, summary

ROOT = Path(__file__).parents[2]
JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="2" tests="5">
<testcase name="a"/>
<testcase name="b"><skipped type="pytest.skip" message="lacks netkit">x: lacks netkit</skipped></testcase>
<testcase name="c"><skipped type="pytest.skip" message="lacks netkit">y: lacks netkit</skipped></testcase>
<testcase name="d"><failure message="assert 0">...</failure></testcase>
<testcase name="e"><error message="no lab">...</error></testcase>
</testsuite></testsuites>
"""


def test_a_kernel_has_neither_less_nor_more_than_the_table_says() -> None:
    wanted = frozenset({"bpf", "fq"})
    assert compare({"bpf", "fq"}, wanted) == []
    assert compare({"bpf", "tcx"}, wanted) == [
        "doctor: this kernel should have fq",
        "doctor: this kernel should not have tcx, or the table is old",
    ]


def test_results_are_counted_and_skips_by_their_reason(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    (tmp_path / "other.xml").write_text("<testsuites><testcase name='f'/></testsuites>")
    counts, skips = tally([tmp_path / "junit.xml", tmp_path / "other.xml"])
    assert counts == {"passed": 2, "skipped": 2, "failure": 1, "error": 1}
    assert skips == {"lacks netkit": 2}
    assert tally([tmp_path / "absent.xml"]) == (Counter(), Counter())


def test_what_was_skipped_is_named_as_pytest_wants_it(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").touch()
    case = '<testcase classname="{}" name="{}">{}</testcase>'
    cases = [
        case.format("tests.test_x.TestY", "test_z[netem-1]", '<skipped message="lacks netem"/>'),
        case.format("tests.test_x", "test_a", '<skipped message="lacks fq"/>'),
        case.format("tests.test_x", "test_b", ""),
    ]
    report = tmp_path / "junit.xml"
    report.write_text(f"<testsuites>{''.join(cases)}</testsuites>")
    assert skipped([report], tmp_path) == [
        "tests/test_x.py::TestY::test_z[netem-1]",
        "tests/test_x.py::test_a",
    ]


def test_what_was_missed_joins_its_share_once() -> None:
    in_lab, in_kernel = "tests/lab/test_impaired.py::test_x[netem]", "tests/kernel/test_pairs.py::test_x"
    elsewhere = "tests/unit/test_x.py::test_y"
    missed = [in_lab, in_kernel, elsewhere, SHARES["lab"][0]]
    everything = chosen(missed, brief=False)
    assert everything["lab"] == [*SHARES["lab"], in_lab]
    assert everything["kernel"] == [*SHARES["kernel"], elsewhere]
    assert chosen(missed, brief=True) == {"lab": list(CORE), "kernel": [in_kernel, elsewhere]}
    assert set(CORE) < set(SHARES["lab"])


def test_the_summary_shows_every_skip_and_every_complaint() -> None:
    good = Outcome("a", [], [], Tally(Counter(passed=5), Counter()), 90.0)
    counted = Tally(Counter(failure=1, skipped=2), Counter({"lacks fq": 2}))
    bad = Outcome("b", ["tests: exit status 1"], ["failed: tests/x.py::c"], counted, 30.0)
    lines = summary([good, bad])
    assert [line.split() for line in lines if line.startswith(("a ", "b "))] == [
        ["a", "-", "5", "0", "0", "1.5"],
        ["b", "-", "0", "1", "2", "0.5"],
    ]
    assert lines[-3:] == [
        "b: 2 skipped: lacks fq",
        "b: failed: tests/x.py::c",
        "b: tests: exit status 1",
    ]
    assert (good.is_good, bad.is_good) == (True, False)


def test_every_kernel_has_its_line_and_every_chosen_test_is_there() -> None:
    assert tuple(PRESENT) == NAMES
    for one in (one for share in SHARES.values() for one in share):
        file, *names = one.partition("[")[0].split("::")
        assert (ROOT / file).exists(), one
        assert not names or f"def {names[-1]}(" in (ROOT / file).read_text(), one


def test_shares_run_at_once_and_what_each_says_is_told_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ends = {"a": tmp_path / "a", "b": tmp_path / "b"}
    meet = "touch $1; until [ -e $2 ]; do sleep 0.01; done; echo $WHO met; exit $3"
    commands = {
        name: ["sh", "-c", meet, "sh", str(ends[name]), str(ends[other]), str(status)]
        for name, other, status in (("a", "b", 0), ("b", "a", 3))
    }
    assert side_by_side(commands, tmp_path, WHO="they") == {"a": 0, "b": 3}
    assert sorted(capfd.readouterr().out.splitlines()) == ["a       they met", "b       they met"]
