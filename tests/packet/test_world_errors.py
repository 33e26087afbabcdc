"""ICMP errors about what left under a guise, and about what came to one: rewritten to the last octet."""

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded
from scapy.packet import Raw

from meshfabric.model.tables import Reason
from tests.packet.abroad import (
    EACH_KIND,
    FAMILIES,
    KINDS,
    LINK,
    arrive,
    change,
    delivered,
    guise_of,
    ignored,
    leave,
    left,
    refused,
)
from tests.packet.frames import FROM_PORT, V4, V6, ip, tcp, udp
from tests.packet.outside import NODE, REMOTE, ROUTER, SECOND
from tests.packet.rig import Rig
from tests.packet.world import ALPHA, World

ELSEWHERE = {V4: "100.64.9.9", V6: "2001:db8:77::1"}
"""A router somewhere on the way."""
HEADS: dict[str, dict[int, Callable[[], Any]]] = {
    "unreachable": {V4: lambda: ICMP(type=3, code=3), V6: lambda: ICMPv6DestUnreach(code=4)},
    "too big": {V4: lambda: ICMP(type=3, code=4, nexthopmtu=1300), V6: lambda: ICMPv6PacketTooBig(mtu=1300)},
    "time exceeded": {V4: lambda: ICMP(type=11), V6: lambda: ICMPv6TimeExceeded()},
}
EACH_ERROR = pytest.mark.parametrize("error", HEADS)
LEAST = {V4: 28, V6: 48}
"""A quote has the IP header and 8 octets at least (RFC 792)."""


def wrong(source: str, destination: str, quote: bytes, family: int, error: str, **rest: int) -> bytes:
    """An error that quotes so much."""
    return bytes(ip(source, destination, family, **rest) / HEADS[error][family]() / Raw(quote))


@FAMILIES
@EACH_KIND
@EACH_ERROR
@pytest.mark.parametrize("whole", [True, False])
def test_an_error_on_the_way_reaches_the_workload(
    rig: Rig, abroad: World, family: int, kind: str, error: str, whole: bool
) -> None:
    ask, _, port = KINDS[kind]
    guise = guise_of(leave(rig, ask("alpha", REMOTE[family], family=family)))
    size = None if whole else LEAST[family]
    quoted = ask(NODE[family], REMOTE[family], family=family, sport=guise, ttl=7)[:size]
    meant = ask("alpha", REMOTE[family], family=family, sport=port, ttl=7)[:size]
    for sender in (ELSEWHERE[family], ROUTER[family], REMOTE[family]):
        back = arrive(rig, wrong(sender, NODE[family], quoted, family, error))
        assert delivered(back) == wrong(sender, "alpha", meant, family, error, ttl=63)
    assert back.packet[:6].hex(":") == abroad.workloads[ALPHA].mac
    assert rig.flow_count() == (1, 0)


@FAMILIES
def test_a_quote_without_checksum_gets_none(rig: Rig, abroad: World, family: int) -> None:
    guise = guise_of(leave(rig, udp("alpha", REMOTE[family], 53, family=family)))
    at = LEAST[family] - 2
    quoted, meant = (
        data[:at] + bytes(2) + data[at + 2 :]
        for data in (
            udp(NODE[family], REMOTE[family], 53, 9, sport=guise, family=family),
            udp("alpha", REMOTE[family], 53, 9, family=family),
        )
    )
    back = arrive(rig, wrong(ELSEWHERE[family], NODE[family], quoted, family, "unreachable"))
    assert delivered(back) == wrong(ELSEWHERE[family], "alpha", meant, family, "unreachable", ttl=63)


@FAMILIES
@EACH_ERROR
def test_errors_about_others_packets_are_none_of_ours(
    rig: Rig, abroad: World, family: int, error: str
) -> None:
    guise = guise_of(leave(rig, udp("alpha", REMOTE[family], 53, family=family)))
    quotes = (
        udp(NODE[family], REMOTE[family], 53, sport=guise ^ 1, family=family),
        udp(NODE[family], REMOTE[family], 54, sport=guise, family=family),
        udp(REMOTE[family], NODE[family], guise, sport=53, family=family),
        tcp(NODE[family], REMOTE[family], 53, sport=guise, family=family),
        udp(NODE[family], REMOTE[family], 53, sport=guise, family=family)[: LEAST[family] - 1],
        b"",
    )
    for quote in quotes:
        packet = wrong(ELSEWHERE[family], NODE[family], quote, family, error)
        assert ignored(arrive(rig, packet), packet)
    rightly = udp(NODE[family], REMOTE[family], 53, sport=guise, family=family)
    elsewhere = wrong(ELSEWHERE[family], SECOND[family], rightly, family, error)
    assert ignored(arrive(rig, elsewhere), elsewhere)


@FAMILIES
def test_an_error_about_a_flow_that_may_have_been_revoked_is_not_told(
    rig: Rig, abroad: World, family: int
) -> None:
    guise = guise_of(leave(rig, udp("alpha", REMOTE[family], 53, family=family)))
    quoted = udp(NODE[family], REMOTE[family], 53, sport=guise, family=family)
    packet = wrong(ELSEWHERE[family], NODE[family], quoted, family, "too big")
    change(rig, abroad, lambda world: world.rules.clear(), ALPHA)
    assert refused(arrive(rig, packet), Reason.POLICY_INGRESS)
    rig.age_flows(121)
    assert ignored(arrive(rig, packet), packet)


@FAMILIES
@EACH_ERROR
@pytest.mark.parametrize("whole", [True, False])
def test_a_workloads_own_error_names_the_node(
    rig: Rig, abroad: World, family: int, error: str, whole: bool
) -> None:
    guise = guise_of(leave(rig, udp("alpha", REMOTE[family], 53, family=family)))
    answer = udp(REMOTE[family], NODE[family], guise, 60, sport=53, family=family)
    heard = delivered(arrive(rig, answer))
    size = None if whole else LEAST[family]
    run = leave(rig, wrong("alpha", REMOTE[family], heard[:size], family, error))
    assert left(run), run.counted
    meant = udp(REMOTE[family], NODE[family], guise, 60, sport=53, family=family, ttl=63)[:size]
    assert run.packet[LINK:] == wrong(NODE[family], REMOTE[family], meant, family, error, ttl=63)


@FAMILIES
def test_a_workloads_error_about_nothing_does_not_leave(rig: Rig, abroad: World, family: int) -> None:
    quote = udp(REMOTE[family], "alpha", FROM_PORT, sport=53, family=family)
    run = leave(rig, wrong("alpha", REMOTE[family], quote, family, "unreachable"))
    assert refused(run, Reason.UNSUPPORTED)
