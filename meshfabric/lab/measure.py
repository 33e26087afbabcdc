"""Measurements between two places of a lab: `traffic` run at both ends, and what they say put together."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from meshfabric.lab import traffic
from meshfabric.lab.build import run, target
from meshfabric.lab.process import enter
from meshfabric.lab.state import Lab
from meshfabric.lab.tools import environment
from meshfabric.model.errors import TemporaryError

FIRST_PORT = 7000
PING_TIMEOUT_S = 2
STREAM_INTERVAL_MS = 1
END_TIMEOUT_S = 600.0  # a gigabyte on a busy machine
CONNECT_S = 10.0
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")  # nsenter forks: killing it alone ends nothing


class Role:
    """One end of a measurement, running; `result` waits for its line. `script` is like `traffic`."""

    def __init__(self, lab: Lab, where: str, *arguments: str, script: str = traffic.__file__) -> None:
        self.where = where
        argv = [*ENDS_WITH_US, sys.executable, "-I", "-S", script, *arguments]
        self._process = subprocess.Popen(
            enter(target(lab, where), argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def wait_begun(self) -> None:
        """Return once it listens, or speaks."""
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != traffic.BEGUN:
            raise TemporaryError(f"{self.where} does not begin: {self._process.communicate()[1].strip()}")

    def stop(self) -> None:
        """Tell one that waits for it to come to its end, and return at once."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `result` tells why it ended
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def result(self, timeout_s: float = END_TIMEOUT_S) -> dict[str, Any]:
        """What it says at its end; raises `TemporaryError` when it fails or takes too long."""
        try:
            said, error = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as cause:
            self.end()
            raise TemporaryError(f"{self.where}: no end after {timeout_s} s") from cause
        if self._process.returncode:
            raise TemporaryError(f"{self.where}: {error.strip().splitlines()[-1] if error else 'failed'}")
        result: dict[str, Any] = json.loads(said.splitlines()[-1])
        return result

    def end(self) -> None:
        """Kill it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def ping(lab: Lab, where: str, address: str, count: int = 3) -> float | None:
    """The least round-trip time in ms, or None when nothing comes back."""
    argv = ["ping", "-n", "-q", "-i", "0.05", "-c", str(count), "-W", str(PING_TIMEOUT_S), address]
    done = run(lab, where, argv)
    if done.returncode:
        return None
    return float(done.stdout.rsplit("=", 1)[1].split("/")[0])


def transfer(
    lab: Lab,
    source: str,
    sink: str,
    address: str,
    size: int,
    port: int = FIRST_PORT,
    connect_s: float = CONNECT_S,
) -> dict[str, Any]:
    """Send `size` bytes by TCP; the receiver's line with `intact`, and `mbit_s` as the sender saw it.

    Raises `TemporaryError` when there is no connection within `connect_s`.
    """
    with ended(Role(lab, sink, "receive", address, str(port))) as far:
        far.wait_begun()
        with ended(Role(lab, source, "send", address, str(port), str(size), str(connect_s))) as near:
            sent, got = near.result(), far.result()
    intact = (sent["bytes"], sent["sha256"]) == (got["bytes"], got["sha256"])
    return {**got, "intact": intact, "mbit_s": sent["bytes"] * 8 / sent["seconds"] / 1e6}


@contextlib.contextmanager
def stream(lab: Lab, source: str, sink: str, address: str, port: int = FIRST_PORT) -> Iterator["Stream"]:
    """A datagram each millisecond until `result` is asked."""
    with ended(Role(lab, sink, "hear", address, str(port))) as far:
        far.wait_begun()
        with ended(Role(lab, source, "say", address, str(port), str(STREAM_INTERVAL_MS))) as near:
            near.wait_begun()
            yield Stream(near, far)


class Stream:
    """A stream of datagrams under way."""

    def __init__(self, near: Role, far: Role) -> None:
        self._near, self._far = near, far

    def result(self) -> dict[str, Any]:
        """End it: sent, heard, lost, and the longest silence in ms."""
        return {**self._near.result(), **self._far.result()}


@contextlib.contextmanager
def ended(role: Role) -> Iterator[Role]:
    """The role, certainly ended afterwards."""
    try:
        yield role
    finally:
        role.end()
