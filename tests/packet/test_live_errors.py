"""What a sender learns of packets that go nowhere: by its own kernel, from ICMP errors of ours.

All runs once for each kind of pair and each way to attach (`node`).
"""

import errno
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from meshfabric.kernel import links
from tests.packet import world as fabric
from tests.packet.frames import V4, V6, address, frame, udp
from tests.packet.node import BRIDGE, LARGEST, PODS, SOCKET, Node, ip
from tests.packet.oracle import Oracle
from tests.patience import DEADLINE_S

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
EXTENDED_ERROR = struct.Struct("=IBBBBII")  # struct sock_extended_err (ip(7)); who said it follows
PMTUDISC_DO = 2
SOL_PACKET, PACKET_AUXDATA, CHECKSUM_NOT_READY = 263, 8, 8  # linux/if_packet.h
PORT = 0x1F00
ERRORS = {
    "too big": (2000, 64, (errno.EMSGSIZE, {V4: (3, 4), V6: (2, 0)}, 1380)),
    "hops used up": (20, 1, (errno.EHOSTUNREACH, {V4: (11, 0), V6: (3, 0)}, 0)),
}


@FAMILIES
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("receiver", ["far", "beta"])
def test_a_pods_kernel_learns_why_its_packet_goes_nowhere(
    node: Node, receiver: str, name: str, family: int
) -> None:
    """By ICMP from the gateway, which it takes for true; IPv6 and `too big` tell it of the MTU, too."""
    size, hops, (number, kinds, info) = ERRORS[name]
    node.world.nodes[fabric.FAR].mtu = fabric.POD_MTU
    node.tables.write(node.world)
    with _wide(node, "alpha"), node.udp("alpha", family, 40000) as alpha:
        _prepare_for_errors(alpha, family, hops)
        alpha.sendto(bytes(size), (address(receiver, family), PORT))
        assert select.select([alpha], [], [], DEADLINE_S)[0], "nothing was said"
        _, ancillary, _, _ = alpha.recvmsg(LARGEST, 512, socket.MSG_ERRQUEUE)
    told, _, kind, code, _, mtu, _ = EXTENDED_ERROR.unpack_from(ancillary[0][2])
    assert (told, (kind, code), mtu) == (number, kinds[family], info)
    offender = ancillary[0][2][EXTENDED_ERROR.size :]
    at, length = (4, 4) if family == V4 else (8, 16)
    assert socket.inet_ntop(SOCKET[family], offender[at : at + length]) == address("gateway", family)


@FAMILIES
def test_no_checksum_in_a_complaint_is_left_to_a_device(node: Node, family: int) -> None:
    """Of what a pod sends it may be, and would be completed in the midst of the quote."""
    with node.raw("alpha", "eth0") as wire, node.udp("alpha", family, 40000) as alpha:
        wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        wire.settimeout(DEADLINE_S)
        _prepare_for_errors(alpha, family, 1)
        alpha.sendto(b"a datagram", (address("far", family), 9))
        unfinished: dict[bool, bool] = {}
        while len(unfinished) < 2:
            data, [(_, _, told)], _, (_, _, kind, *_) = wire.recvmsg(LARGEST, 64)
            if b"a datagram" in data:
                unfinished[kind == socket.PACKET_OUTGOING] = bool(
                    int.from_bytes(told[:4], sys.byteorder) & CHECKSUM_NOT_READY
                )
    assert unfinished == {True: True, False: False}, "sent is what is to be completed, heard is not"


@contextmanager
def _wide(node: Node, name: str) -> Iterator[None]:
    """The pod may send larger packets than others take."""
    pod, device = node.pods[name], PODS[name]
    inner = ["eth0", *([BRIDGE] if node.is_bridged(name) else [])]

    def widen(mtu: int) -> None:
        node.place.run(links.set_mtu, device, mtu)
        for one in inner:
            pod.run(links.set_mtu, one, mtu)

    widen(9000)
    try:
        yield
    finally:
        widen(fabric.POD_MTU)
        for family in (V4, V6):
            ip(pod, f"-{family} route flush cache")


def _prepare_for_errors(link: socket.socket, family: int, hops: int) -> None:
    """Nothing is cut up, and the socket keeps what it is told (ip(7), ipv6(7))."""
    level = socket.IPPROTO_IP if family == V4 else socket.IPPROTO_IPV6
    numbers = (10, 11, socket.IP_TTL) if family == V4 else (23, 25, socket.IPV6_UNICAST_HOPS)
    for option, value in zip(numbers, (PMTUDISC_DO, 1, hops), strict=True):
        link.setsockopt(level, option, value)


@FAMILIES
def test_a_guest_is_told_as_well(node: Node, family: int) -> None:
    data = frame(udp("guest", "far", 53, 1400, sport=PORT, family=family))
    node.world.nodes[fabric.FAR].mtu = fabric.POD_MTU
    node.tables.write(node.world)
    node.guest.write(data)
    assert node.guest.read() == Oracle(node.world).from_workload("mfp3", data).packet
