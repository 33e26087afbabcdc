"""Packets by the names of the drawing in `world`: `tcp("alpha", "far", 443)`.

All are IP packets, as a tunnel carries them; `frame` puts Ethernet around one,
as a workload sends it. Made with scapy, which computes every checksum anew.
"""

from ipaddress import ip_address
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.packet.world import GATEWAY_MAC

POD_MAC = "02:6d:66:aa:00:01"  # what a workload calls itself does not matter
FROM_PORT, ECHO_ID = 40000, 0x1234
V4, V6 = 4, 6

_ADDRESSES = {
    "alpha": ("10.77.0.1", "fd77::1"),
    "beta": ("10.77.0.2", "fd77::2"),
    "guest": ("10.77.0.3", "fd77::3"),
    "host": ("10.77.0.9", "fd77::9"),
    "far": ("10.77.1.5", "fd77:0:0:1::5"),
    "away": ("10.77.2.5", "fd77:0:0:2::5"),
    "mute": ("10.77.3.5", "fd77:0:0:3::5"),
    "nobody": ("10.77.99.1", "fd77:0:0:99::1"),
    "stranger": ("192.0.2.1", "2001:db8::1"),
    "gateway": ("169.254.1.1", "fe80::6d66"),
    "multicast": ("224.0.0.5", "ff02::5"),
    "broadcast": ("255.255.255.255", "ff02::1"),
}


def address(name: str, family: int = V4) -> str:
    """The address of a name of the drawing; an address stands for itself."""
    if name in _ADDRESSES:
        return _ADDRESSES[name][family == V6]
    return name


def ip(source: str, destination: str, family: int = V4, **fields: Any) -> Any:
    """The IP header alone, a scapy layer; `ttl` sets the hop limit too."""
    ends = {"src": address(source, family), "dst": address(destination, family)}
    if ip_address(ends["src"]).version == V6:
        fields["hlim"] = fields.pop("ttl", 64)
        return IPv6(**ends, **fields)
    return IP(**ends, **fields)


def tcp(source: str, destination: str, port: int, flags: str = "S", **rest: Any) -> bytes:
    """A TCP segment to `port`; `sport` is FROM_PORT unless told."""
    sport, size = rest.pop("sport", FROM_PORT), rest.pop("size", 0)
    return bytes(ip(source, destination, **rest) / TCP(sport=sport, dport=port, flags=flags) / _load(size))


def udp(source: str, destination: str, port: int, size: int = 0, **rest: Any) -> bytes:
    """A UDP datagram to `port` with `size` octets of payload."""
    sport = rest.pop("sport", FROM_PORT)
    return bytes(ip(source, destination, **rest) / UDP(sport=sport, dport=port) / _load(size))


def echo(
    source: str,
    destination: str,
    family: int = V4,
    reply: bool = False,
    size: int = 0,
    identifier: int = ECHO_ID,
    **rest: Any,
) -> bytes:
    """An ICMP or ICMPv6 echo request, or the reply to one."""
    if family == V6:
        layer = (ICMPv6EchoReply if reply else ICMPv6EchoRequest)(id=identifier, seq=1)
    else:
        layer = ICMP(type="echo-reply" if reply else "echo-request", id=identifier, seq=1)
    return bytes(ip(source, destination, family, **rest) / layer / _load(size))


def frame(packet: bytes, source_mac: str = POD_MAC, kind: int | None = None) -> bytes:
    """The packet as a workload sends it to the gateway."""
    family = packet[0] >> 4 if packet else V4
    ethertype = kind if kind is not None else 0x86DD if family == V6 else 0x0800
    return bytes(Ether(src=source_mac, dst=GATEWAY_MAC, type=ethertype)) + packet


def _load(size: int) -> Any:
    return Raw(bytes(index & 0xFF for index in range(size)))
