"""Nodes whose tunnels the kernel runs beside nodes that run wireguard-go: all are one fabric.

iron (kernel) ── up0 ── red ── up0 ── gold (wireguard-go)
              ── up1 ── blue ── up1 ──
                        blue ── up0 ── lead (what is there)
"""

from collections.abc import Iterator
from itertools import permutations

import pytest
from msgspec.structs import replace

from meshfabric.kernel import features
from meshfabric.lab import agents, build, measure
from meshfabric.lab.state import Lab
from meshfabric.model.errors import PermanentError
from meshfabric.model.settings import WireGuardKind
from tests.features import requires
from tests.lab.places import Echo, answers, connects, ping
from tests.lab.small import fresh_name, raised, said
from tests.lab.whole import DRIFT, address, listing, places, raised_whole, told, wait_ready, wait_whole

pytestmark = requires("capabilities")

both = requires("wireguard", "wireguard-go", "tun")
TEXT = f"""\
segments:
  - {{name: red, ipv4: 172.31.1.0/24}}
  - {{name: blue, ipv4: 172.31.2.0/24, ipv6: "fd00:b1::/64"}}
nodes:
  - name: iron
    wireguard: kernel
    uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue}}]
  - name: gold
    wireguard: userspace
    uplinks: [{{name: up0, segment: red}}, {{name: up1, segment: blue}}]
  - {{name: lead, uplinks: [{{name: up0, segment: blue}}]}}
workloads:
  - {{name: web, node: iron}}
  - {{name: db, node: gold}}
{DRIFT}"""
ALONE = """\
segments: [{name: red, ipv4: 172.31.1.0/24}]
nodes: [{name: iron, wireguard: kernel, uplinks: [{name: up0, segment: red}]}]
"""
TRANSFER_BYTES = 4 << 20
KINDS = {WireGuardKind.KERNEL: "wireguard", WireGuardKind.USERSPACE: "tun"}
NAMES = ("iron", "gold", "lead")


@pytest.fixture(scope="module")
def mixed_kinds() -> Iterator[Lab]:
    with raised_whole(TEXT) as lab:
        yield lab


def devices(lab: Lab, node: str) -> dict[str, str]:
    """The tunnels of a node with their public keys."""
    lines = said(lab, node, "wg show all public-key").splitlines()
    return dict(line.split("\t") for line in lines)


def drivers(lab: Lab, node: str) -> set[str]:
    """The kinds of a node's tunnel devices, as the kernel has them."""
    found = set()
    for kind in KINDS.values():
        shown = said(lab, node, f"ip -br link show type {kind}")
        found |= {kind for line in shown.splitlines() if line.startswith("mfwg")}
    return found


def run_by(lab: Lab, node: str, kind: WireGuardKind) -> Lab:
    """The lab with another setting in a node's configuration, and its agent started with it."""
    nodes = (replace(one, wireguard=kind) if one.name == node else one for one in lab.topology.nodes)
    changed = replace(lab, topology=replace(lab.topology, nodes=tuple(nodes)))
    agents.kill_agent(lab, node)
    agents.start_agent(changed, node)
    wait_ready(changed, node)
    return changed


def demand_reach(lab: Lab) -> None:
    with Echo(lab, *places(lab)):
        for source, sink in permutations(places(lab), 2):
            for family in (4, 6):
                to = address(lab, sink, family)
                assert ping(lab, source, to) is not None, (source, sink, family)
                assert connects(lab, source, to), (source, sink, family)
                assert answers(lab, source, to, 3000), (source, sink, family)


@both
def test_all_reach_all(mixed_kinds: Lab) -> None:
    wait_whole(mixed_kinds)
    assert drivers(mixed_kinds, "iron") == {"wireguard"}
    assert drivers(mixed_kinds, "gold") == {"tun"}
    demand_reach(mixed_kinds)


@both
@pytest.mark.parametrize(("source", "sink"), [("iron/web", "gold/db"), ("gold/db", "iron/web")])
def test_megabytes_arrive_as_they_were(mixed_kinds: Lab, source: str, sink: str) -> None:
    for family in (4, 6):
        to = address(mixed_kinds, sink, family)
        assert measure.transfer(mixed_kinds, source, sink, to, TRANSFER_BYTES)["intact"]


@both
def test_each_node_tells_what_runs_its_tunnels(mixed_kinds: Lab) -> None:
    assert told(mixed_kinds, "iron")["wireguard"] == "kernel"
    assert told(mixed_kinds, "gold")["wireguard"].startswith("userspace /")
    for node in NAMES:
        rows = {row["node"]: row["wireguard"] for row in listing(mixed_kinds, node, "nodes")}
        assert rows == {"iron": "kernel", "gold": "userspace", "lead": "kernel"}


@both
@pytest.mark.parametrize("node", ["iron", "gold"])
def test_tunnels_are_made_anew_by_the_other_kind_and_keep_their_keys(mixed_kinds: Lab, node: str) -> None:
    wait_whole(mixed_kinds)
    keys = devices(mixed_kinds, node)
    first = mixed_kinds.topology.node(node).wireguard
    other = next(kind for kind in KINDS if kind is not first)
    try:
        changed = run_by(mixed_kinds, node, other)
        wait_whole(changed)
        assert devices(changed, node) == keys
        assert drivers(changed, node) == {KINDS[other]}
        noted = {
            event["detail"] for event in told(changed, node)["events"] if event["name"] == "tunnel made anew"
        }
        assert noted == {f"{device} by {other}, its key is kept" for device in keys}
        assert said(changed, node, "pidof wireguard-go || true") == "" or other is WireGuardKind.USERSPACE
        demand_reach(changed)
    finally:
        run_by(mixed_kinds, node, first)
    wait_whole(mixed_kinds)
    assert devices(mixed_kinds, node) == keys


@both
def test_a_word_that_is_taken_back_leaves_what_works(mixed_kinds: Lab) -> None:
    """`auto` prefers the kernel, but not at the price of tunnels that run."""
    wait_whole(mixed_kinds)
    process = said(mixed_kinds, "gold", "pidof wireguard-go")
    try:
        changed = run_by(mixed_kinds, "gold", WireGuardKind.AUTO)
        wait_whole(changed)
        assert said(changed, "gold", "pidof wireguard-go") == process
    finally:
        run_by(mixed_kinds, "gold", WireGuardKind.USERSPACE)
    assert said(mixed_kinds, "gold", "pidof wireguard-go") == process


def test_a_kernel_that_cannot_is_refused_in_one_line() -> None:
    if features.wireguard_module().present:
        pytest.skip("the kernel has WireGuard")
    with raised(fresh_name(), ALONE) as lab:
        with pytest.raises(PermanentError) as refused:
            build.start_agents(lab, lambda step: None)
        assert "wireguard: kernel: this kernel makes no WireGuard devices (load the module" in str(
            refused.value
        )
