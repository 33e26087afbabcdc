"""Exposed addresses: seen by the world as they are, in both directions, and by policy; others never."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy.packet import Raw

from meshfabric.model import tables
from meshfabric.model.tables import Direction, Reason, Verdict
from tests.packet import outside
from tests.packet.abroad import (
    FAMILIES,
    LINK,
    WORLD,
    addressed,
    arrive,
    change,
    delivered,
    guise_of,
    leave,
    left,
    refused,
)
from tests.packet.arena import Arena, arena
from tests.packet.complaints import complaint
from tests.packet.frames import FROM_PORT, POD_MAC, V4, V6, address, echo, frame, ip, tcp, udp
from tests.packet.headers import parse
from tests.packet.oracle import NEXT, REDIRECT, TOLD
from tests.packet.outside import BANNED, NODE, REMOTE, expose, open_to_world, translations
from tests.packet.rig import MARK, SIZES, Rig, Run
from tests.packet.world import ALPHA, GUEST, GUEST_MTU, POD_MTU, Rule, World, standard


@pytest.fixture
def exposed(rig: Rig) -> World:
    """alpha and guest are exposed, beta is not (but for IPv6, whose prefix has guest's neighbour in it)."""
    made = expose(open_to_world(standard()))
    rig.reset(made)
    return made


def bare(run: Run) -> bytes:
    """The packet that left as it was, for the uplink's program to let pass."""
    assert (run.action, run.reason, run.mark) == (REDIRECT, WORLD, MARK), run.counted
    return run.packet[LINK:]


def passes(rig: Rig, packet: bytes) -> bool:
    """Through the uplink's program, on its way out."""
    run = rig.run("to_uplink", frame(packet), "up0", mark=MARK)
    return (run.action, run.counted) == (NEXT, {})


@FAMILIES
def test_an_exposed_workload_speaks_under_its_own_address(rig: Rig, exposed: World, family: int) -> None:
    packet = bare(leave(rig, udp("alpha", REMOTE[family], 53, family=family)))
    assert packet == udp("alpha", REMOTE[family], 53, family=family, ttl=63)
    assert passes(rig, packet)
    back = arrive(rig, udp(REMOTE[family], "alpha", FROM_PORT, sport=53, family=family))
    assert delivered(back) == udp(REMOTE[family], "alpha", FROM_PORT, sport=53, family=family, ttl=63)
    assert (rig.flow_count(), translations(rig)) == ((0, 1), (0, 0))
    bare(leave(rig, udp("alpha", REMOTE[family], 53, family=family)))


@FAMILIES
def test_its_policy_holds_for_the_world_too(rig: Rig, exposed: World, family: int) -> None:
    denied = udp("alpha", BANNED[family], 53, family=family)
    assert refused(leave(rig, denied), Reason.POLICY_EGRESS)
    assert refused(leave(rig, udp("guest", REMOTE[family], 53, family=family), "mfp3"), Reason.POLICY_EGRESS)


@FAMILIES
def test_the_world_begins_what_the_receiver_takes(rig: Rig, exposed: World, family: int) -> None:
    asked = tcp(REMOTE[family], "guest", 80, family=family)
    assert delivered(arrive(rig, asked)) == tcp(REMOTE[family], "guest", 80, family=family, ttl=63)
    answer = tcp("guest", REMOTE[family], FROM_PORT, "SA", sport=80, family=family)
    packet = bare(leave(rig, answer, "mfp3"))
    assert packet == tcp("guest", REMOTE[family], FROM_PORT, "SA", sport=80, family=family, ttl=63)
    assert passes(rig, packet)
    assert refused(arrive(rig, tcp(REMOTE[family], "guest", 81, family=family)), Reason.POLICY_INGRESS)
    assert refused(arrive(rig, udp(REMOTE[family], "alpha", 53, family=family)), Reason.POLICY_INGRESS)
    assert refused(arrive(rig, echo(REMOTE[family], "guest", family, reply=True)), Reason.POLICY_INGRESS)


@FAMILIES
def test_a_permission_that_is_revoked_cuts_both_ways(rig: Rig, exposed: World, family: int) -> None:
    asked = tcp(REMOTE[family], "guest", 80, "A", family=family)
    answer = tcp("guest", REMOTE[family], FROM_PORT, "A", sport=80, family=family)
    delivered(arrive(rig, asked))
    bare(leave(rig, answer, "mfp3"))
    deny = Rule(103, outside.ANY_WORLD, Direction.INGRESS, Verdict.DENY, 6, 80, 16, precedence=300)
    change(rig, exposed, lambda world: world.rules.append(deny), GUEST)
    assert refused(arrive(rig, asked), Reason.POLICY_INGRESS)
    assert refused(leave(rig, answer, "mfp3"), Reason.POLICY_INGRESS)


@pytest.mark.parametrize("end", ["guest", "alpha"])
@FAMILIES
def test_an_exposure_that_ended_ends_what_it_let(rig: Rig, exposed: World, family: int, end: str) -> None:
    """What the world began has no other way out; what a workload began goes on as a flow of the node's."""
    asked = tcp(REMOTE[family], "guest", 80, "A", family=family)
    answer = tcp("guest", REMOTE[family], FROM_PORT, "A", sport=80, family=family)
    own = udp("alpha", REMOTE[family], 53, family=family)
    delivered(arrive(rig, asked))
    bare(leave(rig, answer, "mfp3"))
    bare(leave(rig, own))
    change(rig, exposed, lambda world: setattr(world, "exposed", ()))
    if end == "guest":
        assert refused(arrive(rig, asked), Reason.CLEAR_INGRESS)
        assert refused(leave(rig, answer, "mfp3"), Reason.NO_ROUTE)
    else:
        assert left(leave(rig, own))


@FAMILIES
def test_a_flow_keeps_its_guise_when_its_address_is_exposed(rig: Rig, abroad: World, family: int) -> None:
    ask = udp("alpha", REMOTE[family], 53, family=family)
    guise = guise_of(leave(rig, ask))
    change(rig, abroad, expose)
    assert guise_of(leave(rig, ask)) == guise
    bare(leave(rig, udp("alpha", REMOTE[family], 54, family=family)))
    back = arrive(rig, udp(REMOTE[family], NODE[family], guise, sport=53, family=family))
    delivered(back)


INWARD: dict[str, tuple[Callable[[int], bytes], Reason]] = {
    "not exposed": (lambda f: udp(REMOTE[f], "host", 53, family=f), Reason.CLEAR_INGRESS),
    "another node's": (lambda f: udp(REMOTE[f], "far", 53, family=f), Reason.CLEAR_INGRESS),
    "nobody's": (lambda f: udp(REMOTE[f], "nobody", 53, family=f), Reason.CLEAR_INGRESS),
    "from within the fabric": (lambda f: udp("far", "guest", 53, family=f), Reason.CLEAR_INGRESS),
    "from an exposed one": (lambda f: udp("alpha", "guest", 53, family=f), Reason.CLEAR_INGRESS),
    "from the fabric to the world": (lambda f: udp("far", REMOTE[f], 53, family=f), Reason.CLEAR_INGRESS),
    "from this host": (
        lambda f: udp({V4: "127.0.0.1", V6: "::1"}[f], "guest", 53, family=f),
        Reason.SPOOFED_SOURCE,
    ),
    "from nowhere": (
        lambda f: udp({V4: "0.0.0.0", V6: "::"}[f], "guest", 53, family=f),
        Reason.SPOOFED_SOURCE,
    ),
    "from many": (lambda f: udp("multicast", "guest", 53, family=f), Reason.SPOOFED_SOURCE),
    "from the link": (
        lambda f: udp({V4: "169.254.1.1", V6: "fe80::6d66"}[f], "guest", 53, family=f),
        Reason.SPOOFED_SOURCE,
    ),
}


@FAMILIES
@pytest.mark.parametrize("name", INWARD)
def test_what_does_not_come_in(rig: Rig, exposed: World, family: int, name: str) -> None:
    packet, reason = INWARD[name]
    run = arrive(rig, packet(family))
    assert refused(run, reason), run.counted


@FAMILIES
@pytest.mark.parametrize("reason", [Reason.TOO_BIG, Reason.TTL_EXPIRED], ids=lambda reason: reason.name)
@pytest.mark.parametrize("name", ["guest", "a guise"])
def test_the_world_is_told_what_goes_no_further(
    rig: Rig, exposed: World, family: int, reason: Reason, name: str
) -> None:
    """By whom it spoke to."""
    to, port, size = address("guest", family), 53, 1300
    if name == "a guise":
        change(rig, exposed, lambda world: setattr(world, "exposed", ()))
        guise = guise_of(leave(rig, udp("alpha", REMOTE[family], 9, family=family)))
        to, port, size = NODE[family], guise, 1400
    size, ttl = (size, 64) if reason is Reason.TOO_BIG else (5, 1)
    packet = udp(REMOTE[family], to, port, size, sport=9, family=family, ttl=ttl)
    run = arrive(rig, packet)
    assert (run.action, run.reason, run.told) == (REDIRECT, reason, TOLD[reason])
    assert passes(rig, run.packet[LINK:])
    asked = parse(frame(packet), LINK, family)
    mtu = POD_MTU if name == "a guise" else GUEST_MTU
    assert run.packet[LINK:] == complaint(asked, frame(packet), reason, mtu, POD_MAC, to)[LINK:]


def test_an_exposed_address_of_another_node_is_not_carried_on(rig: Rig, exposed: World) -> None:
    change(rig, exposed, lambda world: setattr(world, "exposed", ("10.77.0.0/16",)))
    assert refused(arrive(rig, udp(REMOTE[V4], "far", 53)), Reason.NOT_OURS)
    assert refused(arrive(rig, udp(REMOTE[V4], "nobody", 53)), Reason.NOT_OURS)


@FAMILIES
def test_a_tagged_frame_does_not_come_in(rig: Rig, exposed: World, family: int) -> None:
    data = addressed(rig, udp(REMOTE[family], "guest", 53, family=family))
    assert refused(rig.run("from_uplink", frame(data[14:]), "up0"), Reason.CLEAR_INGRESS), "overheard"
    run = rig.run("from_uplink", data[:12] + b"\x81\x00\x00\x05" + data[12:], "up0")
    assert refused(run, Reason.CLEAR_INGRESS)


OUTWARD: dict[str, tuple[Callable[[int], bytes], int]] = {
    "not by these programs": (lambda f: udp("alpha", REMOTE[f], 53, family=f), 0),
    "not exposed": (lambda f: udp("host", REMOTE[f], 53, family=f), MARK),
    "to the fabric": (lambda f: udp("alpha", "far", 53, family=f), MARK),
    "to an exposed one": (lambda f: udp("alpha", "guest", 53, family=f), MARK),
    "from the world": (lambda f: udp(REMOTE[f], "alpha", 53, family=f), MARK),
}


@FAMILIES
@pytest.mark.parametrize("name", OUTWARD)
def test_what_does_not_go_out(rig: Rig, exposed: World, family: int, name: str) -> None:
    packet, mark = OUTWARD[name]
    run = rig.run("to_uplink", frame(packet(family)), "up0", mark=mark)
    assert refused(run, Reason.CLEAR_EGRESS)


@FAMILIES
def test_without_exposure_nothing_passes_marked_or_not(rig: Rig, abroad: World, family: int) -> None:
    assert not passes(rig, udp("alpha", REMOTE[family], 53, family=family))
    assert refused(arrive(rig, udp(REMOTE[family], "guest", 53, family=family)), Reason.CLEAR_INGRESS)


def _too_big(source: str, destination: str, quote: bytes, family: int, **rest: Any) -> bytes:
    head = ICMP(type=3, code=4, nexthopmtu=1200) if family == V4 else ICMPv6PacketTooBig(mtu=1200)
    return bytes(ip(source, destination, family, **rest) / head / Raw(quote))


@FAMILIES
def test_an_error_on_the_way_reaches_an_exposed_workload(rig: Rig, exposed: World, family: int) -> None:
    """From whoever it comes: no policy is about routers."""
    sent = bare(leave(rig, udp("alpha", REMOTE[family], 53, family=family)))
    router = outside.ROUTER[family]
    back = arrive(rig, _too_big(router, "alpha", sent, family))
    assert delivered(back) == _too_big(router, "alpha", sent, family, ttl=63)
    unsent = udp("alpha", REMOTE[family], 54, family=family)
    assert refused(arrive(rig, _too_big(router, "alpha", unsent, family)), Reason.POLICY_INGRESS)
    change(rig, exposed, lambda world: world.rules.clear(), ALPHA)
    assert refused(arrive(rig, _too_big(router, "alpha", sent, family)), Reason.POLICY_INGRESS)


@FAMILIES
def test_what_cannot_be_translated_passes_as_it_is(rig: Rig, exposed: World, family: int) -> None:
    fields = {"proto": 132} if family == V4 else {"nh": 132}
    sctp = bytes(ip("alpha", REMOTE[family], family, **fields) / bytes(20))
    assert passes(rig, bare(leave(rig, sctp)))


@pytest.fixture(scope="module")
def off(place: Arena) -> Iterator[Rig]:
    """Programs that translate nothing: what they do as they come. (`place` has built them.)"""
    with arena() as other, other.load(SIZES) as datapath:
        made = Rig(other, datapath)
        outside.settle(other)
        yield made


@FAMILIES
def test_without_translation_the_world_has_no_route(off: Rig, family: int) -> None:
    off.reset(open_to_world(standard()))
    for packet in (
        udp("alpha", REMOTE[family], 53, family=family),
        udp("alpha", BANNED[family], 53, family=family),
        echo("alpha", REMOTE[family], family),
    ):
        assert refused(leave(off, packet), Reason.NO_ROUTE)
    assert off.flow_count() == (0, 0)


@FAMILIES
def test_a_guise_of_an_earlier_run_is_worth_nothing(off: Rig, family: int) -> None:
    """The flow is there, the programs translate no more."""
    packet = udp("alpha", REMOTE[family], 53, family=family)
    world = expose(open_to_world(standard()))
    off.reset(world)
    bare(leave(off, packet))
    change(off, world, lambda world: setattr(world, "exposed", ()))
    assert refused(leave(off, packet), Reason.NO_ROUTE)


@FAMILIES
def test_without_translation_exposed_addresses_have_one(off: Rig, family: int) -> None:
    off.reset(expose(open_to_world(standard())))
    assert passes(off, bare(leave(off, udp("alpha", REMOTE[family], 53, family=family))))
    delivered(arrive(off, udp(REMOTE[family], "alpha", FROM_PORT, sport=53, family=family)))


@FAMILIES
def test_no_tunnel_brings_what_is_of_the_world(rig: Rig, exposed: World, family: int) -> None:
    """Neither at first, nor for a flow that is there."""
    packet = udp(REMOTE[family], "guest", 53, family=family)
    assert refused(rig.run("from_overlay", packet, "mfwg00"), Reason.SPOOFED_SOURCE)
    delivered(arrive(rig, packet))
    assert refused(rig.run("from_overlay", packet, "mfwg00"), Reason.SPOOFED_SOURCE)
    outward = udp("far", REMOTE[family], 53, family=family)
    assert refused(rig.run("from_overlay", outward, "mfwg00"), Reason.NOT_OURS)
    assert tables.WORLD not in exposed.nodes
