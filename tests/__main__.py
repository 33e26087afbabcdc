"""`python -m tests`: the whole suite, labs beside all the rest, and one summary.

Labs wait most of the time, all else computes: side by side they take little more than the longer
of the two. What computes steps back (nice), so that a lab's processes, whose losses are counted,
have a processor when they want one. Tests of what is decided within milliseconds come after all
that, when nothing else runs. A junit.xml of each share is left in build/test.
"""

import sys
import time
from pathlib import Path

from tests.shares import HEADINGS, PYTEST, REPORTS, side_by_side, tally

CHECKOUT = Path(__file__).parents[1]
QUICK = (
    "tests/lab/test_failover.py",
    "tests/lab/test_degraded.py",
    "tests/packet/test_token_live.py",
)
NOT_QUICK = tuple(f"--ignore={path}" for path in QUICK)
SHARES = {
    "lab": ("tests/lab", *NOT_QUICK),
    "rest": ("tests", "--ignore=tests/lab", *NOT_QUICK),
    "quick": QUICK,
}
TURNS = (("lab", "rest"), ("quick",))
"""Which shares run at once, one turn after the other."""
STEPS_BACK = {"rest": ("nice", "-n", "19")}
MINUTE_S = 60.0


def main() -> int:
    """1 when any share did not end well."""
    begun = time.monotonic()
    REPORTS.mkdir(parents=True, exist_ok=True)
    reports = {share: REPORTS / f"junit-{share}.xml" for share in SHARES}
    for report in reports.values():
        report.unlink(missing_ok=True)
    statuses: dict[str, int] = {}
    for turn in TURNS:
        statuses |= side_by_side({share: _command(share, reports[share]) for share in turn}, CHECKOUT)
    print("\n".join(summary(reports, statuses, time.monotonic() - begun)), flush=True)
    return 1 if any(statuses.values()) else 0


def _command(share: str, report: Path) -> tuple[str, ...]:
    return *STEPS_BACK.get(share, ()), *PYTEST, f"--junitxml={report}", *SHARES[share]


def summary(reports: dict[str, Path], statuses: dict[str, int], took_s: float) -> list[str]:
    """The lines that end the run."""
    lines = ["", f"{'SHARE':8}{HEADINGS}"]
    lines += [f"{share:8}{tally([report]).figures}" for share, report in reports.items()]
    lines += tally(reports.values()).reasons
    lines += [f"{share}: exit status {status}" for share, status in statuses.items() if status]
    return [*lines, f"{took_s / MINUTE_S:.1f} minutes"]


if __name__ == "__main__":
    sys.exit(main())
