"""TCP between pods and between nodes: through the fabric, over bare WireGuard, and in clear.

    .venv/bin/python -m bench.throughput [ROUNDS]

One lab of two nodes, and beside the fabric two other ways between the same
namespaces with the same MTU (`ways`). In each round every way has its turn, so that a
ratio compares neighbours in time (`ends` says what is measured).
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench import cell
from bench.ends import Ends, serving
from bench.rows import Goal, Row, ratio_at_least, report, row
from bench.ways import Way, prepare
from meshfabric.kernel import features
from meshfabric.lab import build, topology

LAB = "bench"
ROUNDS = 7

FABRIC, BARE, CLEAR = Way._fields
TITLES = {FABRIC: "the fabric", BARE: "bare WireGuard", CLEAR: "kernel routing in clear"}
Figures = dict[tuple[str, str], dict[str, list[float]]]


class Route(NamedTuple):
    """From where to where, by which ways, and what the fabric is held against."""

    name: str
    source: str
    sink: str
    ways: tuple[str, ...]
    against: dict[str, Goal | None]


@cache
def routes() -> tuple[Route, ...]:
    """All that is measured; the kernel's own WireGuard leaves us less to lose than wireguard-go does."""
    bare = ratio_at_least(0.97 if features.wireguard_module().present else 0.95)
    all_ways, beside = (FABRIC, BARE, CLEAR), {BARE: bare, CLEAR: None}
    return (
        Route("pod to pod on another node", "one/left", "two/far", all_ways, beside),
        Route("node to node", "one", "two", all_ways, beside),
        Route("pod to pod on one node", "one/left", "one/near", (FABRIC, CLEAR), {CLEAR: ratio_at_least(1)}),
    )


def measure_all(ends: Ends, ways: dict[str, Way], rounds: int) -> Figures:
    """What every way gave, by route and way; the first round only warms up."""
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for turn in range(rounds + 1):
        for route in routes():
            for way in route.ways:
                got = ends.measure(route.source, getattr(ways[route.sink], way))
                for what, value in got.items() if turn else ():
                    figures[route.name, way][what].append(value)
    return figures


def rows_of(figures: Figures) -> Iterator[Row]:
    """The fabric beside each other way; a goal holds for throughput and for rate."""
    for route in routes():
        ours = figures[route.name, FABRIC]
        for way, goal in route.against.items():
            other = figures[route.name, way]
            name = f"{route.name}, beside {TITLES[way]}"
            yield row(f"TCP, {name}", ours["Mbit/s"], "Mbit/s", beside=other["Mbit/s"], goal=goal)
            yield row(f"round trips, {name}", ours["rate"], "1/s", beside=other["rate"], goal=goal)
            yield row(f"round trip, {name}", ours["median_us"], "us", beside=other["median_us"])
            yield row(f"round trip p99, {name}", ours["p99_us"], "us", beside=other["p99_us"])


def run(rounds: int) -> None:
    """Raise the lab, measure, end it."""
    described = topology.read(Path(__file__).with_name("pair.yaml").read_text(), "pair.yaml")
    lab = build.up(described, LAB)
    try:
        attached = lab.attached(described.workloads[0].name)
        assert attached is not None
        ways = prepare(lab, attached.mtu)
        with serving(lab, {route.sink for route in routes()}) as ends:
            report("throughput", list(rows_of(measure_all(ends, ways, rounds))))
    finally:
        build.down(LAB)


if __name__ == "__main__":
    cell.enclose("throughput")
    run(int(sys.argv[1]) if sys.argv[1:] else ROUNDS)
