"""`python -m tests`: the whole suite, labs beside all the rest, and one summary.

Labs wait most of the time, all else computes: side by side they take little more than the longer
of the two, so some labs wait for the shorter one to end. What computes steps back (nice), so that a
lab's processes, whose losses are counted, have a processor when they want one. Tests of what is decided
within milliseconds come after all that, when nothing else runs. A junit.xml of each share is left in
build/test.

What fails in a file or two of labs is tried once more when nothing else runs: a machine that is too
busy stalls packets and processes alike. The summary names each such test and how it failed; what fails
twice, in more files than that, or elsewhere, fails the run.
"""

import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.shares import (
    HEADINGS,
    PYTEST,
    REPORTS,
    failed,
    failures_told,
    is_worth_another_try,
    side_by_side,
    tally,
)

CHECKOUT = Path(__file__).parents[1]
QUICK = (
    "tests/lab/test_failover.py",
    "tests/lab/test_degraded.py",
    "tests/packet/test_token_live.py",
)
LATE = ("tests/lab/test_guard.py", "tests/lab/test_keys.py")
LEFT_OUT = tuple(f"--ignore={path}" for path in (*QUICK, *LATE))
SHARES = {
    "lab": ("tests/lab", *LEFT_OUT),
    "rest": ("tests", "--ignore=tests/lab", *LEFT_OUT),
    "late": LATE,
    "quick": QUICK,
}
TURNS = ((("lab",), ("rest", "late")), (("quick",),))
"""Which lanes run at once, one turn after the other; the shares of a lane, too, run one after the other."""
STEPS_BACK = {"rest": ("nice", "-n", "19")}
OF_LABS = ("tests/lab/", *QUICK)
"""Where a failure may be the machine's."""
AGAIN = "again"
MINUTE_S = 60.0


def main() -> int:
    """1 when any share did not end well."""
    begun = time.monotonic()
    REPORTS.mkdir(parents=True, exist_ok=True)
    reports = {share: REPORTS / f"junit-{share}.xml" for share in (*SHARES, AGAIN)}
    for report in reports.values():
        report.unlink(missing_ok=True)
    statuses: dict[str, int] = {}
    for lanes in TURNS:
        with ThreadPoolExecutor() as pool:
            for ended in pool.map(partial(_lane, reports), lanes):
                statuses |= ended
    tests = tuple(failed((reports[share] for share in SHARES), CHECKOUT))
    if is_worth_another_try(tests, statuses, OF_LABS):
        retried = side_by_side({AGAIN: _command(AGAIN, reports[AGAIN], tests)}, CHECKOUT)
        statuses |= retried if any(retried.values()) else dict.fromkeys(SHARES, 0)
    print("\n".join(summary(reports, statuses, time.monotonic() - begun)), flush=True)
    return 1 if any(statuses.values()) else 0


def _lane(reports: Mapping[str, Path], shares: Iterable[str]) -> dict[str, int]:
    """Run shares one after the other; their exit statuses."""
    statuses: dict[str, int] = {}
    for share in shares:
        statuses |= side_by_side({share: _command(share, reports[share], SHARES[share])}, CHECKOUT)
    return statuses


def _command(share: str, report: Path, tests: tuple[str, ...]) -> tuple[str, ...]:
    return *STEPS_BACK.get(share, ()), *PYTEST, f"--junitxml={report}", *tests


def summary(reports: Mapping[str, Path], statuses: Mapping[str, int], took_s: float) -> list[str]:
    """The lines that end the run."""
    lines = ["", f"{'SHARE':8}{HEADINGS}"]
    lines += [f"{share:8}{tally([report]).figures}" for share, report in reports.items() if report.exists()]
    lines += tally(reports.values()).reasons
    lines += failures_told((reports[share] for share in SHARES), reports[AGAIN], CHECKOUT)
    lines += [f"{share}: exit status {status}" for share, status in statuses.items() if status]
    return [*lines, f"{took_s / MINUTE_S:.1f} minutes"]


if __name__ == "__main__":
    sys.exit(main())
