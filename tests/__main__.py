"""`python -m tests`: the whole suite, labs beside all the rest, and one summary.

Labs wait most of the time, all else computes: side by side they take little more than the longer
of the two. What computes steps back (nice), so that a lab's processes, whose losses are counted,
have a processor when they want one. A junit.xml of each share is left in build/test.
"""

import sys
import time
from pathlib import Path

from tests.shares import HEADINGS, PYTEST, side_by_side, tally

CHECKOUT = Path(__file__).parents[1]
OUT = CHECKOUT / "build" / "test"
SHARES = {
    "lab": ("tests/lab",),
    "rest": ("tests", "--ignore=tests/lab"),
}
STEPS_BACK = {"rest": ("nice", "-n", "10")}
MINUTE_S = 60.0


def main() -> int:
    """1 when any share did not end well."""
    begun = time.monotonic()
    OUT.mkdir(parents=True, exist_ok=True)
    reports = {share: OUT / f"junit-{share}.xml" for share in SHARES}
    for report in reports.values():
        report.unlink(missing_ok=True)
    commands = {
        share: (*STEPS_BACK.get(share, ()), *PYTEST, f"--junitxml={reports[share]}", *tests)
        for share, tests in SHARES.items()
    }
    statuses = side_by_side(commands, CHECKOUT)
    print("\n".join(summary(reports, statuses, time.monotonic() - begun)), flush=True)
    return 1 if any(statuses.values()) else 0


def summary(reports: dict[str, Path], statuses: dict[str, int], took_s: float) -> list[str]:
    """The lines that end the run."""
    lines = ["", f"{'SHARE':8}{HEADINGS}"]
    lines += [f"{share:8}{tally([report]).figures}" for share, report in reports.items()]
    lines += tally(reports.values()).reasons
    lines += [f"{share}: exit status {status}" for share, status in statuses.items() if status]
    return [*lines, f"{took_s / MINUTE_S:.1f} minutes"]


if __name__ == "__main__":
    sys.exit(main())
