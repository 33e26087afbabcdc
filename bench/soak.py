"""False switches while TCP fills a tunnel and others want every CPU.

    .venv/bin/python -m bench.soak [MINUTES]

The lab of `reroute`, at each pace of the probes: a pod sends to one on the other node, one
transfer after the other, beside as many busy processes as twice the CPUs. Nothing is cut, so
whatever path is given up was given up for nothing. Where wireguard-go encrypts it waits for a CPU like
the others, which at the faster pace cannot be told from a cut: there the count has no goal.
"""

import sys
import time
from os import cpu_count
from pathlib import Path

from msgspec.structs import replace

from bench import cell
from bench.busy import crowded
from bench.rows import Row, at_most, report, row
from meshfabric.api.client import call
from meshfabric.api.messages import Ask
from meshfabric.kernel import features
from meshfabric.lab import build, measure, status, topology
from meshfabric.lab.state import Lab

LAB = "bench"
MINUTES = 10.0
PACES_MS = (50, 10)
"""The default, and the one that is fast."""
SIZE = 256 << 20
SOURCE, SINK = "one/left", "two/right"
NODES = ("one", "two")
MINUTE_S = 60.0


def falls(lab: Lab) -> int:
    """How often any path of either node was given up so far."""
    return sum(row["flaps"] for node in NODES for row in call(lab.socket(node), Ask("paths")))


def filled(lab: Lab, seconds: float) -> list[float]:
    """Mbit/s of transfer after transfer, until the time is up."""
    deadline, speeds = time.monotonic() + seconds, []
    sink = status.addresses(lab, SINK)[0]
    while time.monotonic() < deadline:
        speeds.append(measure.transfer(lab, SOURCE, SINK, sink, SIZE)["mbit_s"])
    return speeds


def rows_of(lab: Lab, pace_ms: int, minutes: float) -> list[Row]:
    """One pace."""
    before, crowd = falls(lab), 2 * (cpu_count() or 1)
    with crowded(crowd):
        speeds = filled(lab, minutes * MINUTE_S)
    has_goal = pace_ms == max(PACES_MS) or features.wireguard_module().present
    goal = at_most(0) if has_goal else None
    name = f"probed each {pace_ms} ms, beside {crowd} hogs"
    return [
        row(f"given up in {minutes:g} minutes, {name}", [falls(lab) - before], "paths", goal=goal),
        row(f"TCP, {name}", speeds, "Mbit/s"),
    ]


def run(minutes: float) -> None:
    """Raise a lab for each pace, fill it, end it."""
    described = topology.read(Path(__file__).with_name("reroute.yaml").read_text(), "reroute.yaml")
    found: list[Row] = []
    for pace_ms in PACES_MS:
        paced = replace(described, probe=replace(described.probe, interval_ms=pace_ms))
        lab = build.up(paced, LAB)
        try:
            found += rows_of(lab, pace_ms, minutes)
        finally:
            build.down(LAB)
    report("soak", found)


if __name__ == "__main__":
    cell.enclose("soak")
    run(float(sys.argv[1]) if sys.argv[1:] else MINUTES)
