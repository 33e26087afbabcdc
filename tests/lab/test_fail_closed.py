"""A packet for another node leaves by a tunnel or not at all, whatever is broken and whoever sends it.

That nothing of the fabric was ever seen on a wire is also checked at the end of
every lab of these tests (`whole.watched`).
"""

import signal

import pytest
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from meshfabric.lab import agents, build, measure
from meshfabric.lab.capture import capture
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import port_name
from tests.features import requires
from tests.lab.places import clear, ping, send_frame, stranger
from tests.lab.streams import Flow, flowing
from tests.lab.whole import DEADLINE_S, address, dropping, drops, names, until

pytestmark = requires("capabilities")

WORLD = {4: "198.51.100.7", 6: "2001:db8::7"}
BURST = 20
TRANSFER_BYTES = 10 << 20
BACK_WITHIN_MS = 1000 * DEADLINE_S


def kill_tunnels(lab: Lab, node: str) -> None:
    """SIGKILL for every wireguard-go of a node, and of no other."""
    done = build.run(lab, node, ["sh", "-euc", "kill -9 $(pidof wireguard-go)"])
    assert done.returncode == 0, done.stderr


def outward(lab: Lab, family: int) -> list[Packet]:
    """What must not leave kube1: from the fabric, to the fabric, within it; and in a VLAN."""
    near, far, world = address(lab, "kube1/web", family), address(lab, "kube2/db", family), WORLD[family]
    frames = [clear(near, world), clear(world, far), clear(near, far)]
    tagged = Ether(dst=frames[0].dst) / Dot1Q(vlan=7) / frames[0].payload
    return [*frames, tagged]


def test_the_wires_carry_wireguard_and_nothing_of_the_fabric(fabric: Lab) -> None:
    with capture(fabric, "red") as red, capture(fabric, "blue") as blue:
        for family in (4, 6):
            sink = address(fabric, "kube2/db", family)
            assert measure.transfer(fabric, "kube1/web", "kube2/db", sink, TRANSFER_BYTES)["intact"]
        until(lambda: all(wire.counts().encrypted for wire in (red, blue)))  # probes go over both
        counts = [red.counts(), blue.counts()]
    assert [one.fabric for one in counts] == [0, 0]
    # With segmentation offload a packet of the capture is up to 64 KiB.
    assert sum(one.encrypted for one in counts) > 2 * TRANSFER_BYTES >> 16


@pytest.mark.parametrize("family", [4, 6])
def test_what_the_node_puts_on_an_uplink_in_clear_is_dropped_and_counted(fabric: Lab, family: int) -> None:
    for frame in outward(fabric, family):
        with capture(fabric, "red") as wire:
            with dropping(fabric, "kube1", "clear_egress", BURST):
                send_frame(fabric, "kube1", "up0", frame, BURST)
            assert wire.counts().fabric == 0, frame.summary()


@pytest.mark.parametrize("family", [4, 6])
def test_what_arrives_on_an_uplink_in_clear_is_dropped_and_counted(fabric: Lab, family: int) -> None:
    port = port_name(fabric.topology, "kube1", 0)
    for frame in outward(fabric, family):
        with dropping(fabric, "kube1", "clear_ingress", BURST):
            send_frame(fabric, "underlay", port, frame, BURST)


def test_what_is_not_the_fabrics_passes_the_uplinks(fabric: Lab) -> None:
    before = [drops(fabric, "kube1", reason) for reason in ("clear_egress", "clear_ingress")]
    with capture(fabric, "red") as wire:
        send_frame(fabric, "kube1", "up0", stranger("172.31.1.13", WORLD[4]), BURST)
        until(lambda: wire.counts().total >= BURST)
    assert ping(fabric, "kube1", "172.31.1.14") is not None
    assert ping(fabric, "kube1", "fd00:b1::14") is not None
    assert [drops(fabric, "kube1", reason) for reason in ("clear_egress", "clear_ingress")] == before


def test_wireguard_is_not_taken_from_another_uplink(fabric: Lab) -> None:
    """The port of slot 0's device, addressed to the node by its other segment."""
    frame = stranger("172.31.2.14", "172.31.2.13", port=51820)
    with dropping(fabric, "kube1", "wrong_uplink", BURST):
        send_frame(fabric, "underlay", port_name(fabric.topology, "kube1", 1), frame, BURST)


def test_traffic_comes_back_by_itself_after_every_tunnel_died(userspace: Lab) -> None:
    flows = Flow("kube1/web", "kube2/db"), Flow("metal1", "kube1/client", 6), Flow("vm1/guest1", "kube2", 4)
    with capture(userspace, "red") as red, capture(userspace, "blue") as blue:
        with flowing(userspace, *flows) as streams:
            until(streams.all_pass)
            for node in names(userspace):
                kill_tunnels(userspace, node)
            until(streams.all_came_back)
        assert (red.counts().fabric, blue.counts().fabric) == (0, 0)
    for one in streams.datagrams:
        print(f"{one.flow}: {one.outage_ms:.0f} ms, {one.lost} of {one.sent} lost")
        assert 0 < one.outage_ms < BACK_WITHIN_MS


def test_without_tunnels_and_without_an_agent_nothing_leaves(userspace: Lab) -> None:
    agents.kill_agent(userspace, "kube1")
    kill_tunnels(userspace, "kube1")
    with capture(userspace, "red") as red, capture(userspace, "blue") as blue:
        for source in ("kube1/web", "kube1"):
            for family in (4, 6):
                assert ping(userspace, source, address(userspace, "kube2/db", family), answer_s=0.3) is None
        assert (red.counts().fabric, blue.counts().fabric) == (0, 0)
        until(lambda: red.counts().encrypted)  # the others still speak
    agents.start_agent(userspace, "kube1")
    db = address(userspace, "kube2/db")
    took = until(lambda: ping(userspace, "kube1/web", db, answer_s=0.2) is not None)
    print(f"back {took:.1f} s after the agent's start")


def test_a_tunnels_device_that_is_gone_is_no_way_out(fabric: Lab) -> None:
    """A redirect to a device that is not there drops; the agent, once it may run, makes it again."""
    flow = Flow("kube1/web", "kube2/db")
    with capture(fabric, "red") as red, flowing(fabric, flow) as streams:
        until(streams.all_pass)
        agents.kill_agent(fabric, "kube1", signal.SIGSTOP)
        for device in ("mfwg00", "mfwg11"):
            assert build.run(fabric, "kube1", ["ip", "link", "delete", device]).returncode == 0
        until(streams.none_pass)
        agents.kill_agent(fabric, "kube1", signal.SIGCONT)
        until(streams.all_came_back)
        assert red.counts().fabric == 0
    assert streams.datagrams[0].outage_ms < BACK_WITHIN_MS
