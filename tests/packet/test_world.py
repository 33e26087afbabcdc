"""From workloads to the world and back, under the node's address: each packet beside one made anew."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from meshfabric.model import tables
from meshfabric.model.tables import Direction, Reason, Verdict
from tests.packet import outside
from tests.packet.abroad import (
    EACH_KIND,
    FAMILIES,
    KINDS,
    LINK,
    addressed,
    arrive,
    change,
    delivered,
    guise_of,
    ignored,
    leave,
    left,
    refused,
)
from tests.packet.frames import FROM_PORT, V4, V6, echo, frame, ip, tcp, udp
from tests.packet.outside import BANNED, BEHIND_UP1, NODE, PORTS, RANGE, REMOTE, SECOND, translations
from tests.packet.rig import Rig
from tests.packet.world import ALPHA, BETA, ID_ALPHA, ID_BETA, ID_GUEST, POD_MTU, Rule, World

UDP_NEW_S, UDP_ANSWERED_S = 120, 300


def let(subject: int) -> Callable[[World], None]:
    """Let it speak to the world."""
    return lambda world: world.rules.append(Rule(subject, outside.ANY_WORLD, Direction.EGRESS))


@FAMILIES
@EACH_KIND
def test_a_flow_leaves_as_the_node_and_its_answer_comes_back(
    rig: Rig, abroad: World, family: int, kind: str
) -> None:
    ask, answer, port = KINDS[kind]
    run = leave(rig, ask("alpha", REMOTE[family], family=family))
    guise = guise_of(run)
    assert run.packet[LINK:] == ask(NODE[family], REMOTE[family], family=family, sport=guise, ttl=63)
    assert (rig.flow_count(), translations(rig)) == ((1, 0), (1, 0))
    back = arrive(rig, answer(REMOTE[family], NODE[family], guise, family=family))
    assert delivered(back) == answer(REMOTE[family], "alpha", port, family=family, ttl=63)
    assert back.packet[:6].hex(":") == abroad.workloads[ALPHA].mac
    if kind == "tcp":  # counts as a connection once the answer is acknowledged
        assert (rig.flow_count(), translations(rig)) == ((1, 0), (1, 0))
        leave(rig, ask("alpha", REMOTE[family], flags="A", family=family))
    for _ in range(2):
        delivered(arrive(rig, answer(REMOTE[family], NODE[family], guise, family=family)))
        assert (rig.flow_count(), translations(rig)) == ((0, 1), (0, 1))
        assert guise_of(leave(rig, ask("alpha", REMOTE[family], family=family))) == guise


@FAMILIES
def test_a_guest_behind_a_tap_hears_answers_too(rig: Rig, abroad: World, family: int) -> None:
    change(rig, abroad, let(ID_GUEST))
    guise = guise_of(leave(rig, udp("guest", REMOTE[family], 53, family=family), "mfp3"))
    back = arrive(rig, udp(REMOTE[family], NODE[family], guise, 5, sport=53, family=family))
    assert delivered(back) == udp(REMOTE[family], "guest", FROM_PORT, 5, sport=53, family=family, ttl=63)
    assert back.mark


@FAMILIES
def test_the_kernels_routes_choose_the_uplink_and_so_the_address(
    rig: Rig, abroad: World, family: int
) -> None:
    run = leave(rig, udp("alpha", BEHIND_UP1[family], 53, family=family))
    guise = guise_of(run)
    assert run.packet[LINK:] == udp(
        SECOND[family], BEHIND_UP1[family], 53, sport=guise, ttl=63, family=family
    )
    answer = udp(BEHIND_UP1[family], SECOND[family], guise, sport=53, family=family)
    delivered(arrive(rig, answer, "up1"))


def _protocol(family: int, number: int, body: bytes = bytes(20)) -> bytes:
    fields = {"proto": number} if family == V4 else {"nh": number}
    return bytes(ip("alpha", REMOTE[family], family, **fields) / body)


def _icmp(family: int) -> bytes:
    """A timestamp request, a router solicitation."""
    protocol, kind = {V4: (1, 13), V6: (58, 133)}[family]
    return _protocol(family, protocol, bytes([kind]) + bytes(19))


LOOPBACK = {V4: "127.0.0.1", V6: "::1"}
METADATA = {V4: "169.254.169.254", V6: "fe80::9"}
REFUSED: dict[str, tuple[Callable[[int], bytes], Reason]] = {
    "a policy denies that end": (lambda f: udp("alpha", BANNED[f], 53, family=f), Reason.POLICY_EGRESS),
    "the node's own address": (lambda f: tcp("alpha", NODE[f], 22, family=f), Reason.NO_ROUTE),
    "the node's other address": (lambda f: tcp("alpha", SECOND[f], 22, family=f), Reason.NO_ROUTE),
    "the node's loopback": (lambda f: tcp("alpha", LOOPBACK[f], 22, family=f), Reason.NO_ROUTE),
    "no route": (lambda f: tcp("alpha", outside.UNROUTED[f], 22, family=f), Reason.NO_ROUTE),
    "no uplink's route": (lambda f: tcp("alpha", outside.BY_OTHERS[f], 22, family=f), Reason.NO_ROUTE),
    "a fabric address that nobody has": (lambda f: tcp("alpha", "nobody", 22, family=f), Reason.NO_ROUTE),
    "multicast": (lambda f: udp("alpha", "multicast", 22, family=f), Reason.LINK_SCOPE),
    "broadcast": (lambda f: udp("alpha", "broadcast", 22, family=f), Reason.LINK_SCOPE),
    "link-local": (lambda f: udp("alpha", METADATA[f], 80, family=f), Reason.LINK_SCOPE),
    "SCTP": (lambda f: _protocol(f, 132), Reason.UNSUPPORTED),
    "a protocol without ports": (lambda f: _protocol(f, 47), Reason.UNSUPPORTED),
    "ICMP that is no echo": (_icmp, Reason.UNSUPPORTED),
    "an unasked echo reply": (lambda f: echo("alpha", REMOTE[f], f, reply=True), Reason.POLICY_EGRESS),
}


@FAMILIES
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_leave(rig: Rig, abroad: World, family: int, name: str) -> None:
    packet, reason = REFUSED[name]
    run = leave(rig, packet(family))
    assert refused(run, reason), run.counted
    assert translations(rig) == (0, 0)


@FAMILIES
def test_the_node_needs_an_address_of_the_family(rig: Rig, abroad: World, family: int) -> None:
    other = {V4: V6, V6: V4}[family]
    change(rig, abroad, lambda world: world.underlay.update(up0=(NODE[other],)))
    assert refused(leave(rig, udp("alpha", REMOTE[family], 53, family=family)), Reason.NO_ROUTE)
    assert left(leave(rig, udp("alpha", REMOTE[other], 53, family=other)))


@FAMILIES
def test_a_workload_without_permission_has_no_way_out(rig: Rig, abroad: World, family: int) -> None:
    assert refused(leave(rig, udp("guest", REMOTE[family], 53, family=family), "mfp3"), Reason.POLICY_EGRESS)
    assert refused(leave(rig, udp("beta", REMOTE[family], 53, family=family)), Reason.SPOOFED_SOURCE)


@FAMILIES
def test_a_permission_for_the_fabric_is_none_for_the_world(rig: Rig, abroad: World, family: int) -> None:
    def edit(world: World) -> None:
        world.rules = [rule for rule in world.rules if rule.peer != outside.ANY_WORLD]

    change(rig, abroad, edit)
    assert refused(leave(rig, udp("alpha", REMOTE[family], 53, family=family)), Reason.POLICY_EGRESS)


def test_no_checksum_stays_none(rig: Rig, abroad: World) -> None:
    data = udp("alpha", REMOTE[V4], 53, 9)
    run = leave(rig, data[:26] + bytes(2) + data[28:])
    wanted = udp(NODE[V4], REMOTE[V4], 53, 9, sport=guise_of(run), ttl=63)
    assert run.packet[LINK:] == wanted[:26] + bytes(2) + wanted[28:]


@FAMILIES
def test_a_checksum_of_zero_is_sent_as_all_ones(rig: Rig, abroad: World, family: int) -> None:
    """RFC 768: zero means that there is none. One payload of all gives that sum."""
    port = guise_of(leave(rig, udp("alpha", REMOTE[family], 53, 2, family=family)))
    head = len(udp("alpha", "far", 53, family=family))
    made = udp(NODE[family], REMOTE[family], 53, 2, sport=port, ttl=63, family=family)
    check, before = (int.from_bytes(part, "big") for part in (made[head - 2 : head], made[head:]))
    payload = ((before + check) % 0xFFFF).to_bytes(2, "big")
    run = leave(rig, _resummed(udp("alpha", REMOTE[family], 53, 2, family=family)[:head] + payload))
    assert run.packet[LINK:][head - 2 : head] == b"\xff\xff"
    assert run.packet[LINK:] == _resummed(made[:head] + payload)


def _resummed(packet: bytes) -> bytes:
    parsed = (IP if packet[0] >> 4 == V4 else IPv6)(packet)
    del parsed[UDP].chksum
    return bytes(parsed)


@FAMILIES
def test_the_last_hop_is_spent_before_the_world(rig: Rig, abroad: World, family: int) -> None:
    run = leave(rig, udp("alpha", REMOTE[family], 53, family=family, ttl=1))
    assert (run.reason, run.told) == (Reason.TTL_EXPIRED, Reason.EXPIRED_TOLD)
    assert left(leave(rig, udp("alpha", REMOTE[family], 53, family=family, ttl=2)))


@FAMILIES
def test_what_is_too_big_for_the_uplink_is_told(rig: Rig, abroad: World, family: int) -> None:
    room = outside.UPLINK_MTU - (28 if family == V4 else 48)
    assert left(leave(rig, udp("alpha", REMOTE[family], 53, room, family=family)))
    run = leave(rig, udp("alpha", REMOTE[family], 53, room + 1, family=family))
    assert (run.reason, run.told) == (Reason.TOO_BIG, Reason.TOO_BIG_TOLD)
    head = run.packet[LINK + (20 if family == V4 else 40) :]
    assert int.from_bytes(head[4:8], "big") == outside.UPLINK_MTU


@FAMILIES
def test_segments_count_by_themselves(rig: Rig, abroad: World, family: int) -> None:
    data = tcp("alpha", REMOTE[family], 443, "A", size=3000, family=family)
    room = outside.UPLINK_MTU - (40 if family == V4 else 60)
    assert left(leave(rig, data, segment=room))
    assert leave(rig, data, segment=room + 1).reason == Reason.TOO_BIG


def _syn(source: str, destination: str, family: int, mss: int, ttl: int = 64, **fields: Any) -> bytes:
    return bytes(ip(source, destination, family, ttl=ttl) / TCP(options=[("MSS", mss)], **fields))


@FAMILIES
def test_both_ends_ask_for_segments_that_the_workload_can_take(rig: Rig, abroad: World, family: int) -> None:
    most = POD_MTU - (40 if family == V4 else 60)
    asked: dict[str, Any] = {"dport": 443, "flags": "S"}
    run = leave(rig, _syn("alpha", REMOTE[family], family, 8960, sport=FROM_PORT, **asked))
    guise = guise_of(run)
    assert run.packet[LINK:] == _syn(NODE[family], REMOTE[family], family, most, 63, sport=guise, **asked)
    answered: dict[str, Any] = {"sport": 443, "flags": "SA"}
    back = arrive(rig, _syn(REMOTE[family], NODE[family], family, 1460, dport=guise, **answered))
    assert delivered(back) == _syn(REMOTE[family], "alpha", family, most, 63, dport=FROM_PORT, **answered)


def test_nobody_begins_by_a_guise(rig: Rig, abroad: World) -> None:
    """Without a flow, or from another end than the flow's, it is none of our business."""
    guise = guise_of(leave(rig, udp("alpha", REMOTE[V4], 53)))
    for packet in (
        udp(REMOTE[V4], NODE[V4], guise, sport=54),
        udp("192.0.2.81", NODE[V4], guise, sport=53),
        udp(REMOTE[V4], SECOND[V4], guise, sport=53),
        tcp(REMOTE[V4], NODE[V4], guise, "S", sport=53),
        *(udp(REMOTE[V4], NODE[V4], port, sport=53) for port in RANGE if port != guise),
        echo(REMOTE[V4], NODE[V4]),
        echo(REMOTE[V4], NODE[V4], reply=True),
        tcp(REMOTE[V4], NODE[V4], 22),
    ):
        assert ignored(arrive(rig, packet), packet)
    assert rig.flow_count() == (1, 0)


@FAMILIES
def test_a_flow_that_is_over_has_no_guise(rig: Rig, abroad: World, family: int) -> None:
    guise = guise_of(leave(rig, udp("alpha", REMOTE[family], 53, family=family)))
    answer = udp(REMOTE[family], NODE[family], guise, sport=53, family=family)
    rig.age_flows(UDP_NEW_S - 1)
    delivered(arrive(rig, answer))
    rig.age_flows(UDP_ANSWERED_S + 1)
    assert ignored(arrive(rig, answer), answer)


def test_no_first_packet_takes_over_a_closing_connection_from_outside(rig: Rig, abroad: World) -> None:
    guise = guise_of(leave(rig, tcp("alpha", REMOTE[V4], 443)))
    delivered(arrive(rig, tcp(REMOTE[V4], NODE[V4], guise, "FA", sport=443)))
    assert refused(arrive(rig, tcp(REMOTE[V4], NODE[V4], guise, "S", sport=443)), Reason.POLICY_INGRESS)
    assert guise_of(leave(rig, tcp("alpha", REMOTE[V4], 443))) == guise, "the same ports, the same guise"


@FAMILIES
def test_a_permission_that_is_revoked_cuts_both_ways(rig: Rig, abroad: World, family: int) -> None:
    ask = udp("alpha", REMOTE[family], 53, family=family)
    guise = guise_of(leave(rig, ask))
    answer = udp(REMOTE[family], NODE[family], guise, sport=53, family=family)
    delivered(arrive(rig, answer))
    deny = Rule(ID_ALPHA, outside.ID_WORLD, Direction.EGRESS, Verdict.DENY, precedence=300)
    change(rig, abroad, lambda world: world.rules.append(deny), ALPHA)
    assert refused(arrive(rig, answer), Reason.POLICY_EGRESS)
    assert refused(leave(rig, ask), Reason.POLICY_EGRESS)
    change(rig, abroad, lambda world: world.rules.remove(deny), ALPHA)
    assert guise_of(leave(rig, ask)) == guise, "the flow is the same, and so is what it is seen as"
    delivered(arrive(rig, answer))


@pytest.mark.parametrize("bumped", [ALPHA, tables.WORLD])
@pytest.mark.parametrize("answered", [False, True])
def test_generations_move_and_the_guise_stays(rig: Rig, abroad: World, bumped: int, answered: bool) -> None:
    ask = tcp("alpha", REMOTE[V4], 443)
    guise = guise_of(leave(rig, ask))
    answer = tcp(REMOTE[V4], NODE[V4], guise, "A", sport=443)
    for _ in range(3):
        if answered:
            delivered(arrive(rig, answer))
        change(rig, abroad, lambda world: None, bumped)
        assert guise_of(leave(rig, ask)) == guise
    change(rig, abroad, lambda world: None, bumped)
    delivered(arrive(rig, answer))


def test_the_workload_moves_away_and_nobody_hears_its_answers(rig: Rig, abroad: World) -> None:
    guise = guise_of(leave(rig, udp("alpha", REMOTE[V4], 53)))
    away = {"10.77.0.1": replace(abroad.addresses["10.77.0.1"], place=tables.FIRST_NODE)}
    change(rig, abroad, lambda world: world.addresses.update(away), ALPHA)
    assert refused(arrive(rig, udp(REMOTE[V4], NODE[V4], guise, sport=53)), Reason.NOT_OURS)


def test_no_two_flows_to_one_end_have_one_guise(rig: Rig, abroad: World) -> None:
    """And when none is left, that is what is said; other ends have ports of their own."""
    taken = [guise_of(leave(rig, udp("alpha", REMOTE[V4], 53, sport=1000 + i))) for i in range(PORTS)]
    assert sorted(taken) == list(RANGE)
    late = udp("alpha", REMOTE[V4], 53, sport=5000)
    assert refused(leave(rig, late), Reason.NAT_FULL)
    assert left(leave(rig, udp("alpha", REMOTE[V4], 54, sport=5000)))
    assert left(leave(rig, tcp("alpha", REMOTE[V4], 53, sport=5000)))
    assert left(leave(rig, udp("alpha", BEHIND_UP1[V4], 53, sport=5000)))
    for i, guise in enumerate(taken):
        back = arrive(rig, udp(REMOTE[V4], NODE[V4], guise, sport=53))
        assert delivered(back) == udp(REMOTE[V4], "alpha", 1000 + i, sport=53, ttl=63)
    assert refused(leave(rig, late), Reason.NAT_FULL)
    rig.age_flows(UDP_ANSWERED_S + 1)
    assert left(leave(rig, late)), "what is over gives its port back"


def test_workloads_with_one_port_are_told_apart(rig: Rig, abroad: World) -> None:
    change(rig, abroad, let(ID_BETA))
    one = guise_of(leave(rig, udp("alpha", REMOTE[V4], 53)))
    other = guise_of(leave(rig, udp("beta", REMOTE[V4], 53), "mfp2"))
    assert one != other
    for name, place, guise in (("alpha", ALPHA, one), ("beta", BETA, other)):
        back = arrive(rig, udp(REMOTE[V4], NODE[V4], guise, sport=53))
        assert delivered(back) == udp(REMOTE[V4], name, FROM_PORT, sport=53, ttl=63)
        assert back.packet[:6].hex(":") == abroad.workloads[place].mac


@pytest.mark.parametrize("answered", [False, True])
def test_a_reverse_entry_that_was_lost_is_put_back(rig: Rig, abroad: World, answered: bool) -> None:
    ask = udp("alpha", REMOTE[V4], 53)
    guise = guise_of(leave(rig, ask))
    answer = udp(REMOTE[V4], NODE[V4], guise, sport=53)
    if answered:
        delivered(arrive(rig, answer))
    for name in ("nat", "new_nat"):
        rig.maps[name].delete_batch(list(rig.maps[name].keys()))
    assert ignored(arrive(rig, answer), answer)
    assert guise_of(leave(rig, ask)) == guise
    delivered(arrive(rig, answer))


def test_a_port_that_was_lost_to_another_flow_is_that_ones(rig: Rig, abroad: World) -> None:
    ask = udp("alpha", REMOTE[V4], 53)
    guise = guise_of(leave(rig, ask))
    rig.maps["new_nat"].delete_batch(list(rig.maps["new_nat"].keys()))
    ports = count(2000)
    while guise_of(leave(rig, udp("alpha", REMOTE[V4], 53, sport=(port := next(ports))))) != guise:
        pass
    assert guise_of(leave(rig, ask)) != guise
    back = arrive(rig, udp(REMOTE[V4], NODE[V4], guise, sport=53))
    assert delivered(back) == udp(REMOTE[V4], "alpha", port, sport=53, ttl=63)


def test_an_address_that_the_uplink_lost_is_no_guise_any_more(rig: Rig, abroad: World) -> None:
    ask = udp("alpha", REMOTE[V4], 53)
    guise_of(leave(rig, ask))
    change(rig, abroad, lambda world: world.underlay.update(up0=("198.18.0.77", NODE[V6])))
    run = leave(rig, ask)
    guise = guise_of(run)
    assert run.packet[LINK:] == udp("198.18.0.77", REMOTE[V4], 53, sport=guise, ttl=63)
    delivered(arrive(rig, udp(REMOTE[V4], "198.18.0.77", guise, sport=53)))


def test_a_mark_of_the_workloads_does_not_leave(rig: Rig, abroad: World) -> None:
    assert left(rig.run("from_workload", frame(udp("alpha", REMOTE[V4], 53)), "mfp1", mark=77))


def test_what_is_only_overheard_is_not_ours(rig: Rig, abroad: World) -> None:
    guise = guise_of(leave(rig, udp("alpha", REMOTE[V4], 53)))
    data = frame(udp(REMOTE[V4], NODE[V4], guise, sport=53))
    run = rig.run("from_uplink", data, "up0")
    assert (run.counted, run.packet) == ({}, data)


def test_a_tag_is_not_ours(rig: Rig, abroad: World) -> None:
    guise = guise_of(leave(rig, udp("alpha", REMOTE[V4], 53)))
    data = addressed(rig, udp(REMOTE[V4], NODE[V4], guise, sport=53))
    tagged = data[:12] + b"\x81\x00\x00\x05" + data[12:]
    run = rig.run("from_uplink", tagged, "up0")
    assert (run.counted, run.packet) == ({}, tagged)
