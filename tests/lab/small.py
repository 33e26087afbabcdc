"""A small lab without agents, for the tests of the lab itself.

pear ── up0 ── red (both families) ── up0 ── plum      pear has a pod and a guest
     ── up1 ── blue (IPv6 only)    ── up1 ──
"""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator

from meshfabric.lab import build, state
from meshfabric.lab.records import Topology
from meshfabric.lab.state import Lab
from meshfabric.lab.topology import read

TEXT = """\
segments:
  - {name: red, ipv4: 172.31.1.0/24, ipv6: "fd00:ed::/64"}
  - {name: blue, ipv6: "fd00:b1::/64", mtu: 9000}
nodes:
  - {name: pear, kind: vm, uplinks: [{name: up0, segment: red}, {name: up1, segment: blue}]}
  - {name: plum, uplinks: [{name: up0, segment: red}, {name: up1, segment: blue, mtu: 1500}]}
workloads:
  - {name: pod, node: pear}
  - {name: guest, node: pear, kind: vm}
"""
PEAR_RED, PLUM_RED = "172.31.1.11", "172.31.1.12"
PLUM_RED6, PLUM_BLUE6 = "fd00:ed::12", "fd00:b1::12"
DEADLINE_S = 10.0
_numbers = itertools.count()


def topology() -> Topology:
    return read(TEXT, "test.yaml")


def fresh_name() -> str:
    return f"t{os.getpid()}-{next(_numbers)}"


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def raised(name: str) -> Iterator[Lab]:
    try:
        with state.locked(name) as folder:
            lab = build.raise_nodes(topology(), name, folder, lambda step: None)
        yield lab
    finally:
        build.down(name)


def said(lab: Lab, where: str, script: str) -> str:
    done = build.run(lab, where, ["sh", "-euc", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def pings(lab: Lab, where: str, address: str, count: int = 1) -> bool:
    argv = ["ping", "-n", "-q", "-c", str(count), "-i", "0.02", "-W", "1", address]
    return build.run(lab, where, argv).returncode == 0
