"""The programs at both ends of a measured way: servers that stay, clients that come and go.

Throughput is what iperf3's receiver got with CUBIC, latency and rate are of a
64-byte message to and fro (`pingpong`); client and server have a CPU each.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence, Set
from typing import Any

from bench import pingpong
from meshfabric.lab import build
from meshfabric.lab.process import enter
from meshfabric.lab.state import Lab

SECONDS = 2
IPERF_PORT, PING_PORT = 5201, 7500
CLIENT_CPU, SERVER_CPU = 0, 1
TIMEOUT_S = 60
MBIT = 1e6
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class Ends:
    """Clients in a lab whose servers run; from `serving`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def measure(self, source: str, address: str) -> dict[str, float]:
        """One turn from a place to a server: Mbit/s, round trips a second, and microseconds of one."""
        flags = ["-C", "cubic", "-t", str(SECONDS), "-O", "0.3", "-J", "-p", str(IPERF_PORT)]
        sent = self._ask(source, ["iperf3", "-c", address, *flags])
        times = self._ask(source, _python("ping", address, str(PING_PORT), str(SECONDS / 2)))
        return {"Mbit/s": sent["end"]["sum_received"]["bits_per_second"] / MBIT, **times}

    @contextlib.contextmanager
    def serve(self, place: str, argv: Sequence[str]) -> Iterator[None]:
        """A server that listens while the context lasts."""
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


@contextlib.contextmanager
def serving(lab: Lab, places: Set[str]) -> Iterator[Ends]:
    """Servers at these places (`node` or `node/pod`), which listen at all of their addresses."""
    ends = Ends(lab)
    with contextlib.ExitStack() as stack:
        for place in sorted(places):
            stack.enter_context(ends.serve(place, ["iperf3", "-s", "-p", str(IPERF_PORT), "--forceflush"]))
            stack.enter_context(ends.serve(place, _python("pong", "0.0.0.0", str(PING_PORT))))
        yield ends


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", pingpong.__file__, *arguments]
