"""A pytest plugin (`-p tests.told`): each failure is told when it happens.

A long run need not end to be told of, and a VM whose time is up takes with it what pytest keeps for the end.
"""

import sys

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say what failed and how."""
    if report.failed:
        sys.stderr.write(f"\nFAILED {report.nodeid} ({report.when}, {report.duration:.0f} s)\n")
        sys.stderr.write(f"{report.longreprtext}\n{report.capstderr}\n{report.caplog}\n")
        sys.stderr.flush()
