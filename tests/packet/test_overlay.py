"""Packets out of tunnels and into them: what other nodes may bring here, and what may leave."""

from collections.abc import Callable

import pytest

from meshfabric.model.tables import Reason
from tests.packet import world as fabric
from tests.packet.frames import V4, V6, echo, frame, tcp, udp
from tests.packet.oracle import NEXT, SHOT
from tests.packet.rig import MARK, Scene
from tests.packet.world import ALPHA, BETA, FAR, ID_BETA, Owner, World

LOCAL, NODE = Reason.FORWARDED_TO_LOCAL, Reason.FORWARDED_TO_NODE
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
TUNNEL = "mfwg00"
Packets = Callable[[int], bytes]

CASES: dict[str, tuple[Packets, Reason]] = {
    "allowed": (lambda family: tcp("far", "beta", 80, family=family), LOCAL),
    "denied for one port": (lambda family: tcp("far", "beta", 22, family=family), Reason.POLICY_INGRESS),
    "only one port allowed": (lambda family: tcp("far", "alpha", 443, family=family), LOCAL),
    "another port": (lambda family: tcp("far", "alpha", 80, family=family), Reason.POLICY_INGRESS),
    "a stronger denial of one peer": (lambda f: udp("away", "guest", 53, family=f), Reason.POLICY_INGRESS),
    "to a guest": (lambda family: udp("far", "guest", 53, family=family), LOCAL),
    "to the host": (lambda family: udp("far", "host", 53, family=family), LOCAL),
    "an echo request": (lambda family: echo("far", "beta", family), LOCAL),
    "an echo reply unasked": (lambda family: echo("far", "beta", family, True), Reason.POLICY_INGRESS),
    "from one of our own": (lambda family: udp("alpha", "beta", 53, family=family), Reason.SPOOFED_SOURCE),
    "from nobody": (lambda family: udp("nobody", "beta", 53, family=family), Reason.SPOOFED_SOURCE),
    "for another node": (lambda family: udp("far", "away", 53, family=family), Reason.NOT_OURS),
    "for nobody": (lambda family: udp("far", "nobody", 53, family=family), Reason.NOT_OURS),
    "to many": (lambda family: udp("far", "multicast", 53, family=family), Reason.NOT_OURS),
    "hops spent": (lambda family: tcp("far", "beta", 80, family=family, ttl=1), Reason.TTL_EXPIRED),
    "to no host's reflector": (lambda family: udp("far", "beta", 862, family=family, sport=50862), LOCAL),
    "too big": (lambda family: udp("far", "beta", 80, fabric.POD_MTU - 27, family=family), Reason.TOO_BIG),
}


@FAMILIES
@pytest.mark.parametrize("name", CASES)
def test_case(scene: Scene, name: str, family: int) -> None:
    packet, reason = CASES[name]
    assert scene.from_overlay(TUNNEL, packet(family)) == reason
    assert scene.rig.flow_count()[0] == (reason in (LOCAL, Reason.TTL_EXPIRED, Reason.TOO_BIG))


@FAMILIES
def test_the_answer_to_a_workload_needs_no_permission(scene: Scene, family: int) -> None:
    request = frame(tcp("alpha", "far", 80, family=family))
    answer = tcp("far", "alpha", 40000, "SA", sport=80, family=family)
    assert scene.from_overlay(TUNNEL, answer) == Reason.POLICY_INGRESS
    assert scene.from_workload("mfp1", request) == NODE
    assert scene.from_overlay(TUNNEL, answer) == LOCAL
    assert scene.from_overlay("mfwg01", answer) == LOCAL, "whichever tunnel it comes by"
    assert scene.rig.flow_count() == (1, 0)
    acknowledged = frame(tcp("alpha", "far", 80, "A", family=family))
    assert scene.from_workload("mfp1", acknowledged) == NODE
    assert scene.rig.flow_count() == (0, 1)


@FAMILIES
def test_a_workload_answers_another_node(scene: Scene, family: int) -> None:
    """beta may not open anything towards far, but answers."""
    assert scene.from_overlay(TUNNEL, tcp("far", "beta", 80, family=family)) == LOCAL
    answer = frame(tcp("beta", "far", 40000, "SA", sport=80, family=family))
    assert scene.from_workload("mfp2", answer) == NODE
    assert scene.from_workload("mfp1", answer) == Reason.SPOOFED_SOURCE
    assert scene.rig.flow_count() == (1, 0)
    assert scene.from_overlay(TUNNEL, tcp("far", "beta", 80, "A", family=family)) == LOCAL
    assert scene.rig.flow_count() == (0, 1)


@pytest.mark.parametrize("bumped", [BETA, FAR])
def test_a_revoked_permission_ends_the_flow(scene: Scene, bumped: int) -> None:
    data = tcp("far", "beta", 80, "A")
    assert scene.from_overlay(TUNNEL, data) == LOCAL
    scene.change(lambda world: world.rules.clear(), bumped)
    assert scene.from_overlay(TUNNEL, data) == Reason.POLICY_INGRESS
    assert scene.from_overlay(TUNNEL, data) == Reason.POLICY_INGRESS


def test_the_sender_moves_here_and_the_tunnel_no_longer_speaks_for_it(scene: Scene) -> None:
    data = udp("far", "beta", 80)
    assert scene.from_overlay(TUNNEL, data) == LOCAL

    def move(world: World) -> None:
        world.addresses["10.77.1.5"] = Owner(fabric.ID_FAR, ALPHA)

    scene.change(move, FAR, ALPHA)
    assert scene.from_overlay(TUNNEL, data) == Reason.SPOOFED_SOURCE


def test_the_receiver_moves_away(scene: Scene) -> None:
    data = udp("far", "beta", 80)
    assert scene.from_overlay(TUNNEL, data) == LOCAL

    def move(world: World) -> None:
        world.addresses["10.77.0.2"] = Owner(ID_BETA, fabric.AWAY)

    scene.change(move, BETA, fabric.AWAY)
    assert scene.from_overlay(TUNNEL, data) == Reason.NOT_OURS


@pytest.mark.parametrize("version", [0, 5, 15])
def test_what_is_no_ip(scene: Scene, version: int) -> None:
    data = bytes([version << 4]) + bytes(59)
    assert scene.from_overlay(TUNNEL, data) == Reason.NOT_IP


@FAMILIES
def test_segments_count_by_themselves(scene: Scene, family: int) -> None:
    data = tcp("far", "beta", 80, "A", size=3000, family=family)
    header = 40 if family == V4 else 60
    assert scene.from_overlay(TUNNEL, data, segment=fabric.POD_MTU - header) == LOCAL
    assert scene.from_overlay(TUNNEL, data, segment=fabric.POD_MTU - header + 1) == Reason.TOO_BIG


@FAMILIES
def test_only_what_these_programs_send_enters_a_tunnel(scene: Scene, family: int) -> None:
    data = udp("alpha", "far", 53, family=family)
    passed = scene.rig.run("to_overlay", data, TUNNEL, mark=MARK, told=len(data))
    assert (passed.action, passed.mark, passed.counted) == (NEXT, 0, {})
    assert passed.packet == data
    stopped = scene.rig.run("to_overlay", data, TUNNEL)
    assert (stopped.action, stopped.reason) == (SHOT, Reason.NOT_FROM_FABRIC)


@pytest.mark.parametrize("more", [-14, -1, 1, 14])
def test_a_packet_that_was_cut_elsewhere_than_it_was_judged_enters_no_tunnel(scene: Scene, more: int) -> None:
    """Judged is what follows 14 bytes; sent is what follows the place where the kernel sees the header."""
    data = udp("alpha", "far", 53)
    run = scene.rig.run("to_overlay", data, TUNNEL, mark=MARK, told=len(data) + more)
    assert (run.action, run.reason) == (SHOT, Reason.MALFORMED)
