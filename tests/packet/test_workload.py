"""Packets from workloads: who may speak to whom, how flows begin, are answered, and end."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from meshfabric.model.tables import Direction, Reason, Verdict
from tests.packet import world as fabric
from tests.packet.frames import V4, V6, echo, frame, ip, tcp, udp
from tests.packet.rig import Scene
from tests.packet.world import ALPHA, BETA, FAR, ID_ALPHA, ID_BETA, ID_FAR, Owner, Rule, World

LOCAL, NODE = Reason.FORWARDED_TO_LOCAL, Reason.FORWARDED_TO_NODE
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
Packets = Callable[[int], bytes]


@dataclass
class Case:
    """A conversation: (device, packet for a family, expected reason), one after the other."""

    steps: list[tuple[str, Packets, Reason]]
    flows: tuple[int, int] | None = None  # new and answered ones at the end
    edit: Callable[[World], None] = field(default=lambda world: None)


def _tcp(source: str, destination: str, port: int, flags: str = "S", **rest: int) -> Packets:
    return lambda family: tcp(source, destination, port, flags, family=family, **rest)


def _udp(source: str, destination: str, port: int, size: int = 0, **rest: int) -> Packets:
    return lambda family: udp(source, destination, port, size, family=family, **rest)


def _echo(source: str, destination: str, reply: bool = False) -> Packets:
    return lambda family: echo(source, destination, family, reply)


OPEN = ("mfp1", _tcp("alpha", "beta", 8080), LOCAL)
ANSWER = ("mfp2", _tcp("beta", "alpha", fabric_port := 40000, "SA", sport=8080), LOCAL)
ACKNOWLEDGED = ("mfp1", _tcp("alpha", "beta", 8080, "A"), LOCAL)
HANDSHAKE = (OPEN, ANSWER, ACKNOWLEDGED)
REQUEST = ("mfp1", _tcp("alpha", "far", 443), NODE)

CASES = {
    "tcp to a port that the receiver takes": Case([OPEN], (1, 0)),
    "tcp to another port": Case([("mfp1", _tcp("alpha", "beta", 8081), Reason.POLICY_INGRESS)], (0, 0)),
    "udp to the first port of the range": Case([("mfp1", _udp("alpha", "beta", 0x1F00), LOCAL)]),
    "udp to the last port of the range": Case([("mfp1", _udp("alpha", "beta", 0x1FFF), LOCAL)]),
    "udp beyond the range": Case([("mfp1", _udp("alpha", "beta", 0x2000), Reason.POLICY_INGRESS)]),
    "an answer needs no permission": Case([OPEN, ANSWER], (1, 0)),
    "the same packet unasked": Case([(*ANSWER[:2], Reason.POLICY_EGRESS)], (0, 0)),
    "a handshake that is not completed": Case([OPEN, ANSWER, OPEN, ANSWER], (1, 0)),
    "a conversation": Case([*HANDSHAKE, ANSWER], (0, 1)),
    "nobody may speak without a rule": Case([("mfp2", _udp("beta", "far", 9), Reason.POLICY_EGRESS)]),
    "echo, answered": Case(
        [("mfp1", _echo("alpha", "beta"), LOCAL), ("mfp2", _echo("beta", "alpha", True), LOCAL)], (0, 1)
    ),
    "an echo reply that nobody asked for": Case(
        [("mfp1", _echo("alpha", "beta", True), Reason.POLICY_EGRESS)], (0, 0)
    ),
    "an echo request does not pass for a reply": Case(
        [("mfp1", _echo("alpha", "beta"), LOCAL), ("mfp2", _echo("beta", "alpha"), Reason.POLICY_EGRESS)],
        (1, 0),
    ),
    "to another node": Case([REQUEST], (1, 0)),
    "to another node, of which the receiver's side knows more": Case(
        [("mfp1", _tcp("alpha", "far", 1), NODE)], (1, 0)
    ),
    "a node without tunnel": Case([("mfp1", _tcp("alpha", "mute", 443), Reason.NO_PATH)]),
    "an address that nobody holds": Case([("mfp1", _tcp("alpha", "nobody", 443), Reason.NO_ROUTE)], (0, 0)),
    "another's source address": Case([("mfp1", _tcp("beta", "alpha", 80), Reason.SPOOFED_SOURCE)], (0, 0)),
    "a remote source address": Case([("mfp1", _tcp("far", "beta", 80), Reason.SPOOFED_SOURCE)]),
    "nobody's source address": Case([("mfp1", _tcp("nobody", "beta", 80), Reason.SPOOFED_SOURCE)]),
    "spoofing into another's flow": Case([*HANDSHAKE, ("mfp3", OPEN[1], Reason.SPOOFED_SOURCE)], (0, 1)),
    "a device of nobody": Case([("stray0", _tcp("alpha", "beta", 8080), Reason.UNKNOWN_WORKLOAD)]),
    "to a guest, out of its tap": Case([("mfp1", _udp("alpha", "guest", 53), LOCAL)]),
    "the host speaks to a workload": Case([("mfhost1", _udp("host", "guest", 53), LOCAL)]),
    "the last hop is spent": Case([("mfp1", _udp("alpha", "guest", 53, ttl=1), Reason.TTL_EXPIRED)]),
    "no hop left at all": Case([("mfp1", _udp("alpha", "guest", 53, ttl=0), Reason.TTL_EXPIRED)]),
    "two hops are enough": Case([("mfp1", _udp("alpha", "guest", 53, ttl=2), LOCAL)]),
    "what would not live to be delivered enters no tunnel": Case(
        [("mfp1", _udp("alpha", "far", 53, ttl=1), Reason.TTL_EXPIRED)]
    ),
    "the hop is taken where the packet is delivered": Case([("mfp1", _udp("alpha", "far", 53, ttl=2), NODE)]),
    "as large as the receiver's MTU": Case(
        [("mfp1", lambda family: _sized(family, "guest", fabric.GUEST_MTU), LOCAL)]
    ),
    "larger than the receiver's MTU": Case(
        [("mfp1", lambda family: _sized(family, "guest", fabric.GUEST_MTU + 1), Reason.TOO_BIG)]
    ),
    "as large as the tunnel's MTU": Case(
        [("mfp1", lambda family: _sized(family, "far", 1380), NODE)],
        edit=lambda world: setattr(world.nodes[FAR], "mtu", 1380),
    ),
    "larger than the tunnel's MTU": Case(
        [("mfp1", lambda family: _sized(family, "far", 1381), Reason.TOO_BIG)],
        edit=lambda world: setattr(world.nodes[FAR], "mtu", 1380),
    ),
    "to the gateway itself": Case([("mfp1", _echo("alpha", "gateway"), Reason.LINK_SCOPE)], (0, 0)),
    "multicast": Case([("mfp1", _udp("alpha", "multicast", 5353), Reason.LINK_SCOPE)], (0, 0)),
    "broadcast": Case([("mfp1", _udp("alpha", "broadcast", 67), Reason.LINK_SCOPE)], (0, 0)),
    "a first packet against the flow's direction": Case(
        [("mfp1", _udp("alpha", "far", 53), NODE), ("mfp1", _udp("alpha", "far", 53), NODE)], (1, 0)
    ),
    "a probe's ports are not for workloads": Case(
        [("mfp1", _udp("alpha", "far", 862, sport=50862), Reason.UNSUPPORTED)]
    ),
    "not for the host's ordinary traffic either": Case(
        [("mfhost1", _udp("host", "far", 50862, sport=862), Reason.UNSUPPORTED)]
    ),
    "a workload may speak to itself": Case(
        [("mfp1", _tcp("alpha", "alpha", 80), LOCAL)],
        edit=lambda world: world.rules.append(Rule(ID_ALPHA, ID_ALPHA, Direction.INGRESS)),
    ),
}


def _sized(family: int, destination: str, length: int) -> bytes:
    return udp("alpha", destination, 53, length - (28 if family == V4 else 48), family=family)


def _on_netkit(world: World) -> None:
    for place in (ALPHA, BETA):
        world.workloads[place].netkit = True


@pytest.mark.parametrize("pods", [lambda world: None, _on_netkit], ids=["veth", "netkit"])
@FAMILIES
@pytest.mark.parametrize("name", CASES)
def test_case(scene: Scene, name: str, family: int, pods: Callable[[World], None]) -> None:
    case = CASES[name]
    scene.change(pods)
    scene.change(case.edit)
    for device, packet, reason in case.steps:
        assert scene.from_workload(device, frame(packet(family))) == reason
    if case.flows is not None:
        assert scene.rig.flow_count() == case.flows


@pytest.mark.parametrize("checksum", [0x0000, 0x1234, 0xFE00, 0xFEFE, 0xFEFF, 0xFF00, 0xFFFE])
def test_the_header_checksum_of_one_hop_less(scene: Scene, checksum: int) -> None:
    """The identifier is chosen to give the checksum: sums with and without a carry (RFC 1624)."""
    without = udp("alpha", "guest", 53, id=0)
    ident = (int.from_bytes(without[10:12], "big") - checksum) % 0xFFFF
    data = udp("alpha", "guest", 53, id=ident)
    assert int.from_bytes(data[10:12], "big") == checksum
    assert scene.from_workload("mfp1", frame(data)) == LOCAL


@FAMILIES
def test_a_flow_of_other_protocols_has_no_ports(scene: Scene, family: int) -> None:
    """SCTP has them, GRE has none: beta takes the one and not the other."""
    sctp = bytes(ip("alpha", "beta", family, **_next(family, fabric.SCTP))) + bytes(12)
    gre = bytes(ip("alpha", "beta", family, **_next(family, fabric.GRE))) + bytes(12)
    assert scene.from_workload("mfp1", frame(_fixed(sctp))) == LOCAL
    assert scene.from_workload("mfp1", frame(_fixed(gre))) == Reason.POLICY_INGRESS


def _next(family: int, protocol: int) -> dict[str, int]:
    return {"proto": protocol} if family == V4 else {"nh": protocol}


def _fixed(packet: bytes) -> bytes:
    """With the length of what was appended behind scapy's back."""
    body = bytearray(packet)
    at, length = (2, len(packet)) if packet[0] >> 4 == V4 else (4, len(packet) - 40)
    body[at : at + 2] = length.to_bytes(2, "big")
    return bytes(body)


@FAMILIES
def test_a_revoked_permission_ends_the_flow(scene: Scene, family: int) -> None:
    for device, packet, reason in HANDSHAKE:
        assert scene.from_workload(device, frame(packet(family))) == reason
    scene.change(lambda world: world.rules.remove(_rule(world, ID_BETA, fabric.TCP)), BETA)
    assert scene.from_workload("mfp2", frame(ANSWER[1](family))) == Reason.POLICY_INGRESS
    assert scene.from_workload("mfp1", frame(OPEN[1](family))) == Reason.POLICY_INGRESS


@FAMILIES
def test_a_revoked_flow_is_not_taken_for_one_that_the_other_end_begins(scene: Scene, family: int) -> None:
    """beta may speak to alpha as it likes: what it says in alpha's conversation is no less revoked."""

    def free(world: World) -> None:
        world.rules += [Rule(ID_BETA, ID_ALPHA, Direction.EGRESS), Rule(ID_ALPHA, ID_BETA, Direction.INGRESS)]

    scene.change(free, ALPHA, BETA)
    for device, packet, reason in HANDSHAKE:
        assert scene.from_workload(device, frame(packet(family))) == reason
    scene.change(lambda world: world.rules.remove(_rule(world, ID_BETA, fabric.TCP)), BETA)
    for _ in range(3):
        assert scene.from_workload("mfp2", frame(ANSWER[1](family))) == Reason.POLICY_INGRESS
        assert scene.from_workload("mfp1", frame(OPEN[1](family))) == Reason.POLICY_INGRESS
    assert scene.from_workload("mfp2", frame(tcp("beta", "alpha", 80, family=family))) == LOCAL


def _rule(world: World, subject: int, protocol: int) -> Rule:
    return next(rule for rule in world.rules if (rule.subject, rule.protocol) == (subject, protocol))


@FAMILIES
@pytest.mark.parametrize("bumped", [ALPHA, BETA])
def test_a_stale_flow_keeps_its_direction(scene: Scene, family: int, bumped: int) -> None:
    """beta may not open anything, but goes on answering after something unrelated changed."""
    for device, packet, reason in HANDSHAKE:
        assert scene.from_workload(device, frame(packet(family))) == reason
    scene.change(lambda world: None, bumped)
    assert scene.from_workload("mfp2", frame(ANSWER[1](family))) == LOCAL
    assert scene.rig.flow_count() == (0, 1)


@FAMILIES
def test_a_stale_new_flow_may_be_answered(scene: Scene, family: int) -> None:
    assert scene.from_workload("mfp1", frame(OPEN[1](family))) == LOCAL
    scene.change(lambda world: None, ALPHA)
    assert scene.from_workload("mfp2", frame(ANSWER[1](family))) == LOCAL
    assert scene.rig.flow_count() == (1, 0)


def test_without_a_new_generation_nothing_is_asked_again(scene: Scene) -> None:
    """What the agent promises by bumping it last: until then the old verdict holds."""
    assert scene.from_workload("mfp1", frame(OPEN[1](V4))) == LOCAL
    scene.change(lambda world: world.rules.clear())
    assert scene.from_workload("mfp1", frame(OPEN[1](V4))) == LOCAL


@FAMILIES
def test_an_address_moves_to_another_node(scene: Scene, family: int) -> None:
    """The flow follows it, once both places' generations moved."""
    for device, packet, reason in HANDSHAKE:
        assert scene.from_workload(device, frame(packet(family))) == reason

    def move(world: World) -> None:
        world.addresses["10.77.0.2"] = world.addresses["fd77::2"] = Owner(ID_BETA, FAR)

    scene.change(move, BETA, FAR)
    assert scene.from_workload("mfp1", frame(tcp("alpha", "beta", 8080, "A", family=family))) == NODE
    assert scene.rig.flow_count() == (0, 1)


@FAMILIES
def test_an_address_that_is_gone(scene: Scene, family: int) -> None:
    assert scene.from_workload("mfp1", frame(OPEN[1](family))) == LOCAL

    def remove(world: World) -> None:
        del world.addresses["10.77.0.2"], world.addresses["fd77::2"]

    scene.change(remove, BETA)
    assert scene.from_workload("mfp1", frame(OPEN[1](family))) == Reason.NO_ROUTE


FINISH = ("mfp1", _tcp("alpha", "beta", 8080, "FA"), LOCAL)
FINISHED = ("mfp2", _tcp("beta", "alpha", 40000, "FA", sport=8080), LOCAL)
RESET = ("mfp2", _tcp("beta", "alpha", 40000, "R", sport=8080), LOCAL)

LIFETIMES = {
    "tcp without answer": ([OPEN], 239, 241),
    "tcp, half open": ([OPEN, ANSWER], 239, 241),
    "tcp, established": ([*HANDSHAKE], 86399, 86401),
    "tcp, half closed": ([*HANDSHAKE, FINISH], 239, 241),
    "tcp, half closed by the other end": ([*HANDSHAKE, FINISHED], 239, 241),
    "tcp, closed": ([*HANDSHAKE, FINISH, FINISHED], 239, 241),
    "tcp, reset": ([*HANDSHAKE, RESET], 239, 241),
    "tcp, refused": ([OPEN, RESET], 239, 241),
    "udp without answer": ([("mfp1", _udp("alpha", "beta", 0x1F00), LOCAL)], 119, 121),
    "udp, answered": (
        [
            ("mfp1", _udp("alpha", "beta", 0x1F00), LOCAL),
            ("mfp2", _udp("beta", "alpha", 40000, sport=0x1F00), LOCAL),
        ],
        299,
        301,
    ),
    "echo": ([("mfp1", _echo("alpha", "beta"), LOCAL)], 59, 61),
}


@pytest.mark.parametrize("name", LIFETIMES)
@pytest.mark.parametrize("late", [False, True], ids=["in time", "too late"])
def test_a_flow_ends_by_silence(scene: Scene, name: str, late: bool) -> None:
    """After its time nothing is known of it: an answer comes unasked."""
    steps, alive, dead = LIFETIMES[name]
    for device, packet, reason in steps:
        assert scene.from_workload(device, frame(packet(V4))) == reason
    scene.age(dead if late else alive)
    answer = {"echo": _echo("beta", "alpha", True)}.get(name, _udp("beta", "alpha", 40000, sport=0x1F00))
    answer = ANSWER_ACK if name.startswith("tcp") else answer
    wanted = Reason.POLICY_EGRESS if late else LOCAL
    assert scene.from_workload("mfp2", frame(answer(V4))) == wanted


ANSWER_ACK = _tcp("beta", "alpha", 40000, "A", sport=8080)


def test_a_closed_connections_ports_are_taken_again(scene: Scene) -> None:
    """The new connection is judged: from the other side it is not allowed."""
    for device, packet, reason in (*HANDSHAKE, FINISH):
        assert scene.from_workload(device, frame(packet(V4))) == reason
    backwards = tcp("beta", "alpha", 40000, "S", sport=8080)
    assert scene.from_workload("mfp2", frame(backwards)) == Reason.POLICY_EGRESS
    assert scene.from_workload("mfp1", frame(OPEN[1](V4))) == LOCAL
    assert scene.rig.flow_count() == (1, 0)


def test_a_stale_flow_may_close_too(scene: Scene) -> None:
    for device, packet, reason in HANDSHAKE:
        assert scene.from_workload(device, frame(packet(V4))) == reason
    scene.change(lambda world: None, ALPHA)
    assert scene.from_workload("mfp1", frame(tcp("alpha", "beta", 8080, "FA"))) == LOCAL
    scene.age(241)
    assert scene.from_workload("mfp2", frame(ANSWER_ACK(V4))) == Reason.POLICY_EGRESS


def test_traffic_keeps_a_flow_alive(scene: Scene) -> None:
    for device, packet, reason in HANDSHAKE:
        assert scene.from_workload(device, frame(packet(V4))) == reason
    for _ in range(3):
        scene.age(80000)
        assert scene.from_workload("mfp2", frame(ANSWER_ACK(V4))) == LOCAL


ANY_VERSUS_EXACT = {
    "the exact peer's rule is stronger": (100, Verdict.DENY, 200, Verdict.ALLOW, LOCAL),
    "the rule for all is stronger": (200, Verdict.DENY, 100, Verdict.ALLOW, Reason.POLICY_INGRESS),
    "on a tie the denial wins, for all": (100, Verdict.DENY, 100, Verdict.ALLOW, Reason.POLICY_INGRESS),
    "on a tie the denial wins, for the peer": (100, Verdict.ALLOW, 100, Verdict.DENY, Reason.POLICY_INGRESS),
    "both allow": (100, Verdict.ALLOW, 200, Verdict.ALLOW, LOCAL),
}


@pytest.mark.parametrize("name", ANY_VERSUS_EXACT)
def test_precedence(scene: Scene, name: str) -> None:
    any_precedence, any_verdict, exact_precedence, exact_verdict, wanted = ANY_VERSUS_EXACT[name]

    def edit(world: World) -> None:
        world.rules = [
            Rule(ID_ALPHA, ID_BETA, Direction.EGRESS),
            Rule(ID_BETA, fabric.ANY, Direction.INGRESS, any_verdict, precedence=any_precedence),
            Rule(ID_BETA, ID_ALPHA, Direction.INGRESS, exact_verdict, precedence=exact_precedence),
        ]

    scene.change(edit)
    assert scene.from_workload("mfp1", frame(udp("alpha", "beta", 7))) == wanted


def test_a_longer_port_prefix_is_stronger_than_precedence(scene: Scene) -> None:
    """Within one peer's entries the longest prefix wins, whatever its precedence."""

    def edit(world: World) -> None:
        world.rules = [
            Rule(ID_ALPHA, ID_FAR, Direction.EGRESS, precedence=900),
            Rule(ID_ALPHA, ID_FAR, Direction.EGRESS, Verdict.DENY, fabric.TCP, precedence=500),
            Rule(ID_ALPHA, ID_FAR, Direction.EGRESS, Verdict.ALLOW, fabric.TCP, 443, 16, precedence=1),
        ]

    scene.change(edit)
    assert scene.from_workload("mfp1", frame(tcp("alpha", "far", 443))) == NODE
    assert scene.from_workload("mfp1", frame(tcp("alpha", "far", 444))) == Reason.POLICY_EGRESS
    assert scene.from_workload("mfp1", frame(udp("alpha", "far", 444))) == NODE


SEGMENTS = {
    "segments that fit": (1000, LOCAL),
    "segments as large as the MTU allows": (fabric.GUEST_MTU - 40, LOCAL),
    "segments that are too large": (fabric.GUEST_MTU - 39, Reason.TOO_BIG),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_what_a_large_packet_will_be_cut_into_counts(scene: Scene, name: str) -> None:
    segment, wanted = SEGMENTS[name]
    data = frame(tcp("alpha", "guest", 80, "A", size=3500))
    assert scene.from_workload("mfp1", data, segment=segment) == wanted


def test_udp_segments(scene: Scene) -> None:
    data = frame(udp("alpha", "guest", 53, 3500))
    assert scene.from_workload("mfp1", data, segment=fabric.GUEST_MTU - 28) == LOCAL
    assert scene.from_workload("mfp1", data, segment=fabric.GUEST_MTU - 27) == Reason.TOO_BIG


def test_only_what_these_programs_send_reaches_a_workload(scene: Scene) -> None:
    rig, data = scene.rig, frame(udp("alpha", "guest", 53))
    passed = rig.run("to_workload", data, "mfp3", mark=0x6D667061)
    assert (passed.action, passed.mark, passed.counted) == (0xFFFFFFFF, 0, {})
    for mark in (0, 1, 0x6D667062):
        stopped = rig.run("to_workload", data, "mfp3", mark=mark)
        assert (stopped.action, stopped.reason) == (2, Reason.NOT_FROM_FABRIC)
