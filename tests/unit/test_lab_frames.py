"""Classic BPF programs that recognise frames, run by the kernel on a socket, with frames of scapy."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from meshfabric.lab import frames
from meshfabric.lab.capture import attach_filter

PREFIXES = ("10.64.0.0/16", "fd6d:6600::/48", "192.0.2.7/32", "2001:db8:1:2:3:4::/95")
DATA = b"\x04\x00\x00\x00" + bytes(28)


class Sieve:
    """A pair of sockets; what is put in comes out only if the program accepts it."""

    def __init__(self, program: list[frames.Instruction]) -> None:
        # The kernel runs a socket's filter for datagrams of any family, so that no root is needed.
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._far.setblocking(False)
        attach_filter(self._far, program)

    def accepts(self, frame: Packet) -> bool:
        """Whether the frame passes."""
        try:
            self._near.send(bytes(frame))
        except PermissionError:  # how a UNIX socket says that the peer's filter refused it
            return False
        try:
            self._far.recv(frames.ACCEPT_BYTES)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give the sockets back."""
        self._near.close()
        self._far.close()


@pytest.fixture(scope="module")
def fabric() -> Iterator[Sieve]:
    sieve = Sieve(frames.addresses_in(PREFIXES))
    yield sieve
    sieve.close()


@pytest.fixture(scope="module")
def wireguard() -> Iterator[Sieve]:
    sieve = Sieve(frames.wireguard_data())
    yield sieve
    sieve.close()


def ether(packet: Packet) -> Packet:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet


@pytest.mark.parametrize(
    ("packet", "ours"),
    [
        (IP(src="10.64.1.2", dst="10.64.2.3") / ICMP(), True),
        (IP(src="10.64.1.2", dst="8.8.8.8") / ICMP(), True),
        (IP(src="8.8.8.8", dst="10.64.255.255") / UDP(), True),
        (IP(src="10.65.0.0", dst="10.63.255.255") / UDP(), False),
        (IP(src="192.0.2.7", dst="192.0.2.8") / TCP(), True),
        (IP(src="192.0.2.6", dst="192.0.2.8") / TCP(), False),
        (IP(src="8.8.8.8", dst="9.9.9.9") / IP(src="10.64.1.2", dst="10.64.2.3") / ICMP(), False),
        (IPv6(src="fd6d:6600::1", dst="2001:db8::1") / TCP(), True),
        (IPv6(src="2001:db8::1", dst="fd6d:6600:0:ffff::1") / TCP(), True),
        (IPv6(src="fd6d:6600:1::1", dst="2001:db8::1") / TCP(), False),
        (IPv6(src="2001:db8:1:2:3:4::1", dst="::1") / TCP(), True),
        (IPv6(src="2001:db8:1:2:3:6::1", dst="::1") / TCP(), False),
        (ARP(psrc="10.64.1.2", pdst="10.64.1.3"), False),
        (Raw(b""), False),
    ],
)
def test_fabric_addresses_in_the_outer_header(fabric: Sieve, packet: Packet, ours: bool) -> None:
    assert fabric.accepts(ether(packet)) is ours


_v4 = st.sampled_from(["10.64.0.1", "10.65.0.1", "192.0.2.7"]) | st.ip_addresses(v=4).map(str)
_v6 = st.sampled_from(["fd6d:6600::5", "fd6d:6601::5"]) | st.ip_addresses(v=6).map(str)


@settings(max_examples=200)
@given(st.tuples(_v4, _v4) | st.tuples(_v6, _v6))
def test_the_program_agrees_with_the_standard_library(fabric: Sieve, ends: tuple[str, str]) -> None:
    source, destination = ends
    header = IPv6 if ":" in source else IP
    expected = any(ip_address(end) in ip_network(prefix) for end in ends for prefix in PREFIXES)
    assert fabric.accepts(ether(header(src=source, dst=destination) / UDP())) is expected


@pytest.mark.parametrize(
    ("packet", "there"),
    [
        (IP() / UDP(dport=51948) / DATA, True),
        (IP(options=[IPOption_NOP()] * 4) / UDP(dport=51948) / DATA, True),
        (IPv6(src="::1", dst="::1") / UDP(dport=51948) / DATA, True),
        (IP() / UDP(sport=51948, dport=51820) / DATA, False),
        (IPv6(src="::1", dst="::1") / UDP(dport=51947) / DATA, False),
        (IP() / TCP(dport=51948) / DATA, False),
        (IP(frag=1) / UDP(dport=51948) / DATA, False),
    ],
)
def test_datagrams_to_a_port(packet: Packet, there: bool) -> None:
    sieve = Sieve(frames.udp_to(51948))
    assert sieve.accepts(ether(packet)) is there
    sieve.close()


@pytest.mark.parametrize(
    ("packet", "encrypted"),
    [
        (IP() / UDP() / DATA, True),
        (IP(options=[IPOption_NOP()] * 4) / UDP() / DATA, True),
        (IPv6(src="::1", dst="::1") / UDP() / DATA, True),
        (IP() / UDP() / (b"\x01\x00\x00\x00" + bytes(144)), False),
        (IP() / UDP() / (b"\x04\x00\x00\x01" + bytes(28)), False),
        (IP() / TCP() / DATA, False),
        (IP(frag=100) / UDP() / DATA, False),
        (IP() / UDP(), False),
    ],
)
def test_data_messages_of_wireguard(wireguard: Sieve, packet: Packet, encrypted: bool) -> None:
    assert wireguard.accepts(ether(packet)) is encrypted


def test_everything_is_everything() -> None:
    sieve = Sieve(frames.everything())
    assert sieve.accepts(ether(ARP()))
    sieve.close()
