"""Pods and guests speak with a host outside of the fabric: under their node's address, or exposed.

    outside 198.51.100.7, 172.31.1.1 ──── red ──┬──── edge  with pod web, guest
                                                └──── other with pod db

The host outside is the underlay's own namespace, where etcd is as well.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from meshfabric.lab import build, measure
from meshfabric.lab.capture import capture
from meshfabric.lab.state import Lab, locked
from meshfabric.lab.underlay import ip
from meshfabric.model.versions import LANGUAGE
from tests.features import requires
from tests.lab.places import ECHO_PORT, SILENCE_S, Echo, Packets, answers, asked, connects, opened, ping
from tests.lab.policies import policy
from tests.lab.small import fresh_name
from tests.lab.store import Store
from tests.lab.whole import (
    DRIFT,
    address,
    bring_up,
    described,
    dropping,
    drops,
    everywhere,
    until,
    wait_whole,
)

pytestmark = requires("capabilities")

TEXT = f"""\
world: translate
segments:
  - {{name: red, ipv4: 172.31.1.0/24, ipv6: "fd00:ed::/64"}}
nodes:
  - {{name: edge, uplinks: [{{name: up0, segment: red}}]}}
  - {{name: other, uplinks: [{{name: up0, segment: red}}]}}
workloads:
  - {{name: web, node: edge, labels: {{app: web}}}}
  - {{name: guest, node: edge, kind: vm, labels: {{app: guest}}}}
  - {{name: db, node: other, labels: {{app: db}}}}
{DRIFT}"""
OUTSIDE = "underlay"
PODS = ("edge/web", "edge/guest", "other/db")
WORLD = {4: "198.51.100.7", 6: "2001:db8::7"}
NEXT = {4: "172.31.1.1", 6: "fd00:ed::1"}
"""The outside's address in the segment, from which it answers datagrams."""
EDGE = {4: "172.31.1.11", 6: "fd00:ed::11"}
TRANSFER_BYTES = 20 << 20
ABORTED = struct.pack("ii", 1, 0)
"""As SO_LINGER: nothing of a connection is sent again once it is closed, to be counted as something else."""
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    name, topology = fresh_name(), described(TEXT)
    try:
        with locked(name) as folder:
            lab = build.raise_nodes(topology, name, folder, lambda step: None)
        ip(lab.init, [f"address add {one} dev lo" for one in WORLD.values()])
        for node in ("edge", "other"):
            ip(lab.node(node), [f"route add default via {one} dev up0" for one in NEXT.values()])
        bring_up(lab)
        yield lab
    finally:
        build.down(name)


@pytest.fixture
def lab(standing: Lab) -> Lab:
    Store(standing).tidy()
    expose(standing)
    wait_whole(standing)
    return standing


def expose(lab: Lab, *prefixes: str) -> None:
    """What of the fabric the world may see, in force on every node."""
    everywhere(lab, Store(lab).put("config", {"prefixes": lab.topology.prefixes, "exposed": prefixes}))


@contextlib.contextmanager
def routed(lab: Lab, where: str) -> Iterator[str]:
    """The outside knows a way to a workload of edge's; its address."""
    for family in (4, 6):
        ip(lab.init, [f"route replace {address(lab, where, family)} via {EDGE[family]}"])
    try:
        yield where
    finally:
        for family in (4, 6):
            ip(lab.init, [f"route delete {address(lab, where, family)}"])


@FAMILIES
def test_everyone_speaks_with_the_world_and_no_fabric_address_is_seen(lab: Lab, family: int) -> None:
    with capture(lab, "red") as wire, Echo(lab, OUTSIDE):
        for where in PODS:
            assert ping(lab, where, WORLD[family]) is not None, where
            assert connects(lab, where, WORLD[family]), where
            assert answers(lab, where, NEXT[family]), where
            until(lambda where=where: answers(lab, where, NEXT[family], 3000, answer_s=SILENCE_S))  # type: ignore[misc]  # bound in time
        assert wire.counts().fabric == 0, wire.in_clear()
    assert drops(lab, "edge", "clear_egress") == drops(lab, "edge", "nat_full") == 0


@FAMILIES
@pytest.mark.parametrize("where", ["edge/web", "edge/guest"])
def test_megabytes_arrive_as_they_were(lab: Lab, where: str, family: int) -> None:
    """Outward, and from the outside in answer: with all that devices leave to each other to compute."""
    got = measure.transfer(lab, where, OUTSIDE, WORLD[family], TRANSFER_BYTES)
    assert (got["intact"], got["bytes"]) == (True, TRANSFER_BYTES)
    print(f"{where} {family}: {got['mbit_s']:.0f} Mbit/s")


@FAMILIES
def test_errors_of_the_world_reach_who_asked(lab: Lab, family: int) -> None:
    for where in PODS:
        with opened(lab, where, family, socket.SOCK_DGRAM) as link:
            link.connect((NEXT[family], 9))
            link.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                link.recv(10)
        with opened(lab, where, family, socket.SOCK_STREAM) as link, pytest.raises(ConnectionRefusedError):
            link.connect((WORLD[family], 9))


@FAMILIES
def test_the_node_itself_and_its_link_are_not_the_world(lab: Lab, family: int) -> None:
    with Echo(lab, "edge"):
        with dropping(lab, "edge", "no_route"):
            assert ping(lab, "edge/web", EDGE[family], answer_s=SILENCE_S) is None
        assert not connects(lab, "edge/web", EDGE[family], answer_s=SILENCE_S)
    assert connects_another(lab, family), "another node's underlay is, as any other host's"


def connects_another(lab: Lab, family: int) -> bool:
    other = {4: "172.31.1.12", 6: "fd00:ed::12"}[family]
    with Echo(lab, "other"):
        return connects(lab, "edge/web", other)


def test_forwarding_that_somebody_turns_off_everywhere_comes_back(lab: Lab) -> None:
    """As does who sets ip_forward: it writes the setting of every device."""
    with Echo(lab, OUTSIDE):
        for family, switch in ((4, "ipv4/ip_forward"), (6, "ipv6/conf/all/forwarding")):
            script = f"echo 1 >/proc/sys/net/{switch}; echo 0 >/proc/sys/net/{switch}"
            assert build.run(lab, "edge", ["sh", "-euc", script]).returncode == 0
            until(lambda family=family: connects(lab, "edge/web", WORLD[family], answer_s=SILENCE_S))  # type: ignore[misc]  # bound in time


@FAMILIES
def test_a_policy_that_comes_cuts_what_runs(lab: Lab, family: int) -> None:
    rules = {"tier": "admin", "min_version": LANGUAGE}
    deny = {"action": "deny", "to": [{"entity": "world"}]}
    with Echo(lab, OUTSIDE), opened(lab, "edge/web", family, socket.SOCK_STREAM) as link:
        link.connect((WORLD[family], ECHO_PORT))
        assert asked(link, b"hello")
        with policy(lab, "no-world", "app=web", **rules, egress=[deny]):
            link.settimeout(SILENCE_S)
            assert not asked(link, b"still there?")
            assert not connects(lab, "edge/web", WORLD[family], answer_s=SILENCE_S)
            assert connects(lab, "edge/guest", WORLD[family]), "the policy is about web alone"
        assert connects(lab, "edge/web", WORLD[family])


@FAMILIES
def test_the_outside_begins_nothing_unless_a_workload_is_exposed(lab: Lab, family: int) -> None:
    for where in ("edge/web", "edge/guest"):
        with Echo(lab, where), routed(lab, where):
            to = address(lab, where, family)
            with dropping(lab, "edge", "clear_ingress"):
                assert ping(lab, OUTSIDE, to, answer_s=SILENCE_S) is None
            assert not connects(lab, OUTSIDE, to, answer_s=SILENCE_S)
            expose(lab, to)
            assert ping(lab, OUTSIDE, to, Packets(1000)) is not None
            assert connects(lab, OUTSIDE, to)
            assert answers(lab, OUTSIDE, to)
            with opened(lab, OUTSIDE, family, socket.SOCK_STREAM) as link:
                link.connect((to, ECHO_PORT))
                assert asked(link, b"hello")
                expose(lab)
                link.settimeout(SILENCE_S)
                assert not asked(link, b"still there?")
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORTED)


@FAMILIES
def test_an_exposed_workload_is_seen_by_its_own_address(lab: Lab, family: int) -> None:
    with routed(lab, "edge/web"), Echo(lab, OUTSIDE):
        own = address(lab, "edge/web", family)
        expose(lab, own)
        with capture(lab, "red") as wire:
            assert connects(lab, "edge/web", WORLD[family])
            until(lambda: wire.counts().fabric > 0)
            assert own in " ".join(wire.in_clear())
        with capture(lab, "red") as wire:
            assert connects(lab, "edge/guest", WORLD[family])
            assert wire.counts().fabric == 0, wire.in_clear()


@FAMILIES
def test_the_fabric_is_as_it_was(lab: Lab, family: int) -> None:
    with Echo(lab, "other/db", "edge/web"), capture(lab, "red") as wire:
        for source, sink in (("edge/web", "other/db"), ("other/db", "edge/web"), ("edge/guest", "edge/web")):
            assert connects(lab, source, address(lab, sink, family)), (source, sink)
            assert answers(lab, source, address(lab, sink, family)), (source, sink)
        assert wire.counts().fabric == 0, wire.in_clear()
