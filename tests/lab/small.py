"""A small lab without agents, for the tests of the lab itself.

pear ── up0 ── red (both families) ── up0 ── plum      pear has a pod and a guest
     ── up1 ── blue (IPv6 only)    ── up1 ──
"""

import contextlib
import itertools
import os
from collections.abc import Iterator

from meshfabric.lab import build, state
from meshfabric.lab.records import Topology
from meshfabric.lab.state import Lab
from meshfabric.lab.topology import read
from tests.patience import DEADLINE_S, PATIENCE

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
SILENCE_S = PATIENCE
"""How long no echo has to come back to say that none comes."""
_numbers = itertools.count()


def topology(text: str = TEXT) -> Topology:
    return read(text, "test.yaml")


def fresh_name() -> str:
    return f"t{os.getpid()}-{next(_numbers)}"


@contextlib.contextmanager
def raised(name: str, text: str = TEXT) -> Iterator[Lab]:
    try:
        with state.locked(name) as folder:
            lab = build.raise_nodes(topology(text), name, folder, lambda step: None)
        yield lab
    finally:
        build.down(name)


def said(lab: Lab, where: str, script: str) -> str:
    done = build.run(lab, where, ["sh", "-euc", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def pings(lab: Lab, where: str, address: str, count: int = 1) -> bool:
    """Whether every echo comes back, however late."""
    return _pings(lab, where, address, count, DEADLINE_S)


def is_silent(lab: Lab, where: str, address: str) -> bool:
    """Whether no echo comes back for a while."""
    return not _pings(lab, where, address, 1, SILENCE_S)


def _pings(lab: Lab, where: str, address: str, count: int, answer_s: float) -> bool:
    argv = ["ping", "-n", "-q", "-c", str(count), "-i", "0.02", "-W", f"{answer_s:g}", address]
    return build.run(lab, where, argv, timeout_s=2 * DEADLINE_S).returncode == 0
