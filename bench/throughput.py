"""TCP between pods and between nodes: through the fabric, over bare wireguard-go, and in clear.

    .venv/bin/python -m bench.throughput [ROUNDS]

One lab of two nodes, and beside the fabric two other ways between the same
namespaces with the same MTU (`ways`). In each round every way has its turn, so that a
ratio compares neighbours in time. Throughput is what iperf3's receiver got with
CUBIC, latency and rate are of a 64-byte message to and fro (`pingpong`); client
and server have a CPU each.
"""

import contextlib
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import cell, pingpong
from bench.rows import Goal, Row, ratio_at_least, report, row
from bench.ways import Way, prepare
from meshfabric.lab import build, topology
from meshfabric.lab.process import enter
from meshfabric.lab.state import Lab

LAB = "bench"
ROUNDS = 7
SECONDS = 2
IPERF_PORT, PING_PORT = 5201, 7500
CLIENT_CPU, SERVER_CPU = 0, 1
TIMEOUT_S = 30
MBIT = 1e6
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")

FABRIC, BARE, CLEAR = Way._fields
TITLES = {FABRIC: "the fabric", BARE: "bare wireguard-go", CLEAR: "kernel routing in clear"}
Figures = dict[tuple[str, str], dict[str, list[float]]]


class Route(NamedTuple):
    """From where to where, by which ways, and what the fabric is held against."""

    name: str
    source: str
    sink: str
    ways: tuple[str, ...]
    against: dict[str, Goal | None]


ROUTES = (
    Route(
        "pod to pod on another node",
        "one/left",
        "two/far",
        (FABRIC, BARE, CLEAR),
        {BARE: ratio_at_least(0.95), CLEAR: None},
    ),
    Route("node to node", "one", "two", (FABRIC, BARE, CLEAR), {BARE: ratio_at_least(0.95), CLEAR: None}),
    Route("pod to pod on one node", "one/left", "one/near", (FABRIC, CLEAR), {CLEAR: ratio_at_least(1.0)}),
)


class Ends:
    """The programs at both ends: servers that stay, clients that come and go."""

    def __init__(self, lab: Lab, ways: dict[str, Way], stack: contextlib.ExitStack) -> None:
        self._lab, self._ways = lab, ways
        for place in sorted({route.sink for route in ROUTES}):
            for argv in self._servers(place):
                stack.enter_context(self._serving(place, argv))

    def measure(self, route: Route, way: str) -> dict[str, float]:
        """One turn: Mbit/s, round trips a second, and microseconds of one."""
        address = getattr(self._ways[route.sink], way)
        flags = ["-C", "cubic", "-t", str(SECONDS), "-O", "0.3", "-J", "-p", str(IPERF_PORT)]
        sent = self._ask(route.source, ["iperf3", "-c", address, *flags])
        times = self._ask(route.source, _python("ping", address, str(PING_PORT), str(SECONDS / 2)))
        return {"Mbit/s": sent["end"]["sum_received"]["bits_per_second"] / MBIT, **times}

    def _servers(self, place: str) -> Iterator[list[str]]:
        yield ["iperf3", "-s", "-p", str(IPERF_PORT), "--forceflush"]
        yield _python("pong", "0.0.0.0", str(PING_PORT))

    @contextlib.contextmanager
    def _serving(self, place: str, argv: Sequence[str]) -> Iterator[None]:
        server = subprocess.Popen(self._inside(place, SERVER_CPU, argv), stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            while "listening" not in (line := server.stdout.readline()):
                if not line:
                    raise RuntimeError(f"{argv[0]} ended at {place}")
            yield
        finally:
            server.kill()
            server.communicate()

    def _ask(self, place: str, argv: Sequence[str]) -> Any:
        command = self._inside(place, CLIENT_CPU, argv)
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{argv[0]} at {place}: {done.stderr or done.stdout}")
        return json.loads(done.stdout)

    def _inside(self, place: str, cpu: int, argv: Sequence[str]) -> list[str]:
        pinned = ["taskset", "--cpu-list", str(cpu), *argv]
        return enter(build.target(self._lab, place), [*DIES_WITH_US, *pinned], ("net",))


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", pingpong.__file__, *arguments]


def measure_all(ends: Ends, rounds: int) -> Figures:
    """What every way gave, by route and way; the first round only warms up."""
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for turn in range(rounds + 1):
        for route in ROUTES:
            for way in route.ways:
                got = ends.measure(route, way)
                for what, value in got.items() if turn else ():
                    figures[route.name, way][what].append(value)
    return figures


def rows_of(figures: Figures) -> Iterator[Row]:
    """The fabric beside each other way; a goal holds for throughput and for rate."""
    for route in ROUTES:
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
        with contextlib.ExitStack() as stack:
            ends = Ends(lab, prepare(lab, attached.mtu), stack)
            report("throughput", list(rows_of(measure_all(ends, rounds))))
    finally:
        build.down(LAB)


if __name__ == "__main__":
    cell.enclose("throughput")
    run(int(sys.argv[1]) if sys.argv[1:] else ROUNDS)
