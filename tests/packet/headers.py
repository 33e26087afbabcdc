"""What a packet's headers say: a parser of plain slices and no cleverness, for the oracle.

Written from the RFCs beside `bpf/include/parse.h`, not from it. What cannot be
read raises `Refused` with the reason that the datapath is to count.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from meshfabric.model.tables import Reason

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TCP, UDP, ICMP, ICMPV6, SCTP = 6, 17, 1, 58, 132
REFUSED_PROTOCOLS = {4, 41, 59}  # IP in IP, twice, and "no next header"
HOP, ROUTING, FRAGMENT_HEADER, OPTIONS = 0, 43, 44, 60
EXTENSIONS = {HOP, ROUTING, FRAGMENT_HEADER, OPTIONS}
MAX_EXTENSIONS = 6
ECHO = {ICMP: (8, 0), ICMPV6: (128, 129)}
ERRORS = {ICMP: {3, 11, 12}, ICMPV6: {1, 2, 3, 4}}

Address = IPv4Address | IPv6Address
End = tuple[Address, int]  # address and port


class Refused(Exception):
    """The packet is dropped, and this is why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


@dataclass
class Packet:
    """What the headers say."""

    source: Address
    destination: Address
    protocol: int
    length: int
    ttl: int
    l3: int
    sport: int = 0
    dport: int = 0
    flags: int = 0
    transport: int = 0
    role: str = "opens"
    more_fragments: bool = False
    fragment_id: bytes = b""
    fragment_offset: int = 0  # in units of 8 octets

    @property
    def later_fragment(self) -> bool:
        return self.fragment_offset > 0

    @property
    def first_fragment(self) -> bool:
        return self.more_fragments and not self.later_fragment

    @property
    def speaker(self) -> End:
        return self.source, self.sport

    @property
    def listener(self) -> End:
        return self.destination, self.dport

    @property
    def key(self) -> tuple[frozenset[End], int]:
        return frozenset([self.speaker, self.listener]), self.protocol

    @property
    def stream(self) -> tuple[Address, Address, bytes, int]:
        """What all fragments of one packet have in common."""
        return self.source, self.destination, self.fragment_id, self.source.version


def parse(data: bytes, l3: int, version: int, quoted: bool = False) -> Packet:
    """The packet that starts at `l3`; a later fragment has no ports yet. `quoted`: it may be cut short."""
    if version not in (4, 6):
        raise Refused(Reason.NOT_IP)
    return (_parse4 if version == 4 else _parse6)(data, l3, quoted)


def _parse4(data: bytes, l3: int, quoted: bool) -> Packet:
    head = _take(data, l3, 20, len(data))
    header, length = (head[0] & 15) * 4, number(head[2:4])
    if head[0] >> 4 != 4 or header < 20 or length < header:
        raise Refused(Reason.MALFORMED)
    end = _end(data, l3, length, quoted)
    ends = ip_address(head[12:16]), ip_address(head[16:20])
    packet = Packet(*ends, head[9], length, head[8], l3, transport=l3 + header)
    fragment = number(head[6:8])
    packet.fragment_offset, packet.more_fragments = fragment & 0x1FFF, bool(fragment & 0x2000)
    packet.fragment_id = head[4:6] + bytes([head[9]])
    if l3 + header > end:
        raise Refused(Reason.MALFORMED)
    if not packet.later_fragment:
        _transport(packet, data, end, quoted)
    return packet


def _parse6(data: bytes, l3: int, quoted: bool) -> Packet:
    head = _take(data, l3, 40, len(data))
    if head[0] >> 4 != 6:
        raise Refused(Reason.MALFORMED)
    length = 40 + number(head[4:6])
    end = _end(data, l3, length, quoted)
    ends = IPv6Address(head[8:24]), IPv6Address(head[24:40])
    if any(address.ipv4_mapped for address in ends):
        raise Refused(Reason.MALFORMED)
    packet = Packet(*ends, head[6], length, head[7], l3, transport=l3 + 40)
    _walk_extensions(packet, data, end)
    if not packet.later_fragment:
        _transport(packet, data, end, quoted)
    return packet


def _walk_extensions(packet: Packet, data: bytes, end: int) -> None:
    for _ in range(MAX_EXTENSIONS):
        if packet.protocol not in EXTENSIONS or packet.later_fragment:
            return
        head = _take(data, packet.transport, 8, end)
        if packet.protocol == ROUTING and (head[3] or not head[2]):
            raise Refused(Reason.UNSUPPORTED)
        packet.transport += 8
        if packet.protocol == FRAGMENT_HEADER:
            packet.fragment_offset, packet.more_fragments = number(head[2:4]) >> 3, bool(head[3] & 1)
            packet.fragment_id = head[4:8]
        else:
            packet.transport += head[1] * 8
        packet.protocol = head[0]
        if packet.transport > end:
            raise Refused(Reason.MALFORMED)
    if packet.protocol in EXTENSIONS:
        raise Refused(Reason.UNSUPPORTED)


def _take(data: bytes, at: int, size: int, end: int) -> bytes:
    if at + size > min(end, len(data)):
        raise Refused(Reason.MALFORMED)
    return data[at : at + size]


def number(data: bytes) -> int:
    """In network byte order."""
    return int.from_bytes(data, "big")


def _end(data: bytes, l3: int, length: int, quoted: bool) -> int:
    if l3 + length <= len(data):
        return l3 + length
    if not quoted:
        raise Refused(Reason.MALFORMED)
    return len(data)


def _transport(packet: Packet, data: bytes, end: int, quoted: bool) -> None:
    protocol, version = packet.protocol, packet.source.version
    if protocol in REFUSED_PROTOCOLS or protocol == (ICMPV6 if version == 4 else ICMP):
        raise Refused(Reason.UNSUPPORTED)
    if protocol not in (TCP, UDP, SCTP, ICMP, ICMPV6):
        return
    if protocol == TCP and not quoted:
        packet.flags = _take(data, packet.transport, 20, end)[13]
    head = _take(data, packet.transport, 8, end)
    if protocol in (TCP, UDP, SCTP):
        packet.sport, packet.dport = number(head[:2]), number(head[2:4])
        return
    kind, (request, reply) = head[0], ECHO[protocol]
    if kind == request:
        packet.sport, packet.dport = number(head[4:6]), request
    elif kind == reply:
        packet.sport, packet.dport, packet.role = request, number(head[4:6]), "answers"
    else:
        packet.sport = packet.dport = kind
        packet.role = "reports" if kind in ERRORS[protocol] else "stands alone"
