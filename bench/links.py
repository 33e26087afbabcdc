"""What a pod's device costs: netkit beside veth, and beside no pod at all.

    .venv/bin/python -m bench.links [ROUNDS]

One lab with two pairs of nodes that differ only in the devices of their pods.
Host to host is a node's own fabric address to another's, and the nodes'
underlay addresses, in clear. In each round every way has its turn, so that a ratio
compares neighbours in time (`ends` says what is measured). Needs a kernel with
netkit: `make bench-vm`.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import cell
from bench.ends import Ends, serving
from bench.rows import Goal, Row, ratio_at_least, report, row
from meshfabric.lab import build, topology
from meshfabric.lab.state import Lab
from meshfabric.lab.status import addresses

LAB = "bench"
ROUNDS = 7
NETKIT_RATE = ratio_at_least(1.1)


class Way(NamedTuple):
    """From a place to a place, at the sink's fabric address or (`clear`) its underlay's."""

    source: str
    sink: str
    clear: bool = False


class Pair(NamedTuple):
    """What is held against what; the goal is for the rate of round trips."""

    name: str
    ours: Way
    beside: Way
    goal: Goal | None = None


ACROSS, ACROSS_VETH = Way("one/left", "two/far"), Way("three/left-veth", "four/far-veth")
WITHIN, WITHIN_VETH = Way("one/left", "one/near"), Way("three/left-veth", "three/near-veth")
HOSTS, CLEAR = Way("one", "two"), Way("one", "two", clear=True)
PAIRS = (
    Pair("pod to pod on one node, netkit beside veth", WITHIN, WITHIN_VETH, NETKIT_RATE),
    Pair("pod to pod on another node, netkit beside veth", ACROSS, ACROSS_VETH, NETKIT_RATE),
    Pair("pod to pod on another node by netkit, beside host to host", ACROSS, HOSTS),
    Pair("pod to pod on another node by veth, beside host to host", ACROSS_VETH, HOSTS),
    Pair("host to host by the fabric, beside in clear", HOSTS, CLEAR),
)
Figures = dict[Way, dict[str, list[float]]]


def measure_all(lab: Lab, ends: Ends, rounds: int) -> Figures:
    """What every way gave; the first round only warms up."""
    ways = {way: _address(lab, way) for pair in PAIRS for way in (pair.ours, pair.beside)}
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for turn in range(rounds + 1):
        for way, address in ways.items():
            for what, value in ends.measure(way.source, address).items() if turn else ():
                figures[way][what].append(value)
    return figures


def rows_of(figures: Figures) -> Iterator[Row]:
    """One pair after the other."""
    for pair in PAIRS:
        ours, beside = figures[pair.ours], figures[pair.beside]
        yield row(f"round trips, {pair.name}", ours["rate"], "1/s", beside=beside["rate"], goal=pair.goal)
        yield row(f"round trip, {pair.name}", ours["median_us"], "us", beside=beside["median_us"])
        yield row(f"TCP, {pair.name}", ours["Mbit/s"], "Mbit/s", beside=beside["Mbit/s"])


def _address(lab: Lab, way: Way) -> str:
    if way.clear:
        ports = lab.topology.ports(lab.topology.segments[0].name)
        return next(str(port.addresses[0].ip) for port in ports if port.node == way.sink)
    return next(address for address in addresses(lab, way.sink) if ":" not in address)


def run(rounds: int) -> None:
    """Raise the lab, measure, end it."""
    lab = build.up(topology.read(Path(__file__).with_name("links.yaml").read_text(), "links.yaml"), LAB)
    try:
        with serving(lab, {way.sink for pair in PAIRS for way in (pair.ours, pair.beside)}) as ends:
            report("links", list(rows_of(measure_all(lab, ends, rounds))))
    finally:
        build.down(LAB)


if __name__ == "__main__":
    cell.enclose("links")
    run(int(sys.argv[1]) if sys.argv[1:] else ROUNDS)
