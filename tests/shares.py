"""Shares of a test suite, each in a process of its own, all at once; what came of them.

Every line of a share is printed as it comes, behind the share's name.
"""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.told")
NOT_RUN = 125
TESTS_FAILED = pytest.ExitCode.TESTS_FAILED
FILES_TRIED_AGAIN = 2

REPORTS = Path(__file__).parents[1] / "build" / "test"
"""Where the whole suite leaves a junit.xml of each of its shares."""


class Tally(NamedTuple):
    """Tests by outcome (`passed`, `failure`, `error`, `skipped`), and the skipped ones by reason."""

    counts: Counter[str]
    skips: Counter[str]

    @property
    def figures(self) -> str:
        """What stands below `HEADINGS`."""
        failed = self.counts["failure"] + self.counts["error"]
        return f"{self.counts['passed']:7}{failed:7}{self.counts['skipped']:8}"

    @property
    def reasons(self) -> list[str]:
        """A line for each reason."""
        return [f"{count} skipped: {reason}" for reason, count in sorted(self.skips.items())]


HEADINGS = f"{'PASSED':>7}{'FAILED':>7}{'SKIPPED':>8}"


def side_by_side(commands: Mapping[str, Sequence[str]], cwd: Path, **more: str) -> dict[str, int]:
    """Run all; their exit statuses. `more`: variables for their environment."""
    statuses = dict.fromkeys(commands, NOT_RUN)

    def run(name: str, command: Sequence[str]) -> None:
        statuses[name] = _run(f"{name:8}", command, cwd, {**os.environ, **more})

    # A thread that is stuck must not keep a program that was told to end.
    threads = [threading.Thread(target=run, args=one, daemon=True) for one in commands.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def _run(margin: str, command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> int:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with process:
        for line in process.stdout or ():
            print(f"{margin}{line}", end="", flush=True)
    return process.returncode


def tally(reports: Iterable[Path]) -> Tally:
    """What some junit.xml say together; nothing where no test has ended."""
    found = Tally(Counter(), Counter())
    for report in filter(Path.exists, reports):
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            found.counts[kinds[0] if kinds else "passed"] += 1
            found.skips.update(child.get("message", "") for child in case if child.tag == "skipped")
    return found


def skipped(reports: Iterable[Path], checkout: Path) -> list[str]:
    """The tests that some junit.xml say were skipped, as pytest wants to be told of them."""
    return list(_ended(reports, checkout, "skipped"))


def failed(reports: Iterable[Path], checkout: Path) -> dict[str, str]:
    """The tests that some junit.xml say failed, as pytest wants to be told of them; of each, how."""
    return _ended(reports, checkout, "failure", "error")


def is_worth_another_try(tests: Iterable[str], statuses: Mapping[str, int], among: tuple[str, ...]) -> bool:
    """Whether all that went wrong are `tests` (by pytest's names) of a file or two `among` these paths."""
    files = {test.partition("::")[0] for test in tests}
    only_tests = all(status in (0, TESTS_FAILED) for status in statuses.values())
    few = 0 < len(files) <= FILES_TRIED_AGAIN
    return only_tests and few and all(file.startswith(among) for file in files)


def failures_told(reports: Iterable[Path], again: Path, checkout: Path) -> list[str]:
    """What the summary says of each test that failed; `again`: where another try reported, if one did."""
    twice = failed([again], checkout)
    lines = []
    for test, how in failed(reports, checkout).items():
        passed = again.exists() and test not in twice
        lines += [f"{'passed only when tried again' if passed else 'failed'}: {test}", indent(how, "    ")]
    return lines


def _ended(reports: Iterable[Path], checkout: Path, *ways: str) -> dict[str, str]:
    return {
        _node_id(case, checkout): child.get("message", "")
        for report in filter(Path.exists, reports)
        for case in ElementTree.parse(report).iter("testcase")
        for child in case
        if child.tag in ways
    }


def _node_id(case: ElementTree.Element, checkout: Path) -> str:
    """Of a case it is known in which class of which module it stands, as one name with dots."""
    parts = case.get("classname", "").split(".")
    file = next(
        path
        for count in range(len(parts), 0, -1)
        if (checkout / (path := Path(*parts[:count]).with_suffix(".py"))).is_file()
    )
    return "::".join([str(file), *parts[len(file.parts) :], case.get("name", "")])
