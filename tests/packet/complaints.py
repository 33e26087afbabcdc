"""For the oracle: what the sender of a packet that cannot go on is told, and what is done to a SYN.

Written from the RFCs beside `bpf/lib/complaint.h` and `bpf/lib/mss.h`, not from
them: the whole error at once, every checksum over all of it.
"""

from ipaddress import IPv4Address, IPv6Address
from struct import pack

from meshfabric.model.tables import Reason
from tests.packet.headers import ICMP, ICMPV6, TCP, Packet, number

GATEWAY_MAC = bytes.fromhex("026d66000001")
GATEWAY4, GATEWAY6 = IPv4Address("169.254.1.1"), IPv6Address("fe80::6d66")
LONGEST4, LONGEST6 = 576, 1280
HEADERS4, HEADERS6, TCP_HEADER = 20, 40, 20
SYN = 2


def may_be_told(packet: Packet) -> bool:
    """Nothing is said of errors, of ICMP that is no echo, and of a later fragment."""
    return packet.role in ("opens", "answers") and not packet.later_fragment


def complaint(packet: Packet, data: bytes, reason: Reason, mtu: int, mac: str, speaker: str = "") -> bytes:
    """The frame that tells `mac` why its packet went nowhere; the gateway speaks, if nobody else does."""
    body = data[packet.l3 : packet.l3 + packet.length]
    destination = bytes.fromhex(mac.replace(":", ""))
    if packet.source.version == 4:
        source = IPv4Address(speaker) if speaker else GATEWAY4
        return destination + GATEWAY_MAC + b"\x08\x00" + _error4(packet, body, reason, mtu, source)
    source6 = IPv6Address(speaker) if speaker else GATEWAY6
    return destination + GATEWAY_MAC + b"\x86\xdd" + _error6(packet, body, reason, mtu, source6)


def _error4(packet: Packet, body: bytes, reason: Reason, mtu: int, speaker: IPv4Address) -> bytes:
    quote = body[: LONGEST4 - HEADERS4 - 8]
    kind, code = (3, 4) if reason is Reason.TOO_BIG else (11, 0)
    told = mtu if reason is Reason.TOO_BIG else 0
    message = _summed(pack("!BBHHH", kind, code, 0, 0, told) + quote, 2)
    ends = speaker.packed + packet.source.packed
    head = pack("!BBHHHBBH", 0x45, 0xC0, HEADERS4 + len(message), 0, 0, 64, ICMP, 0) + ends
    return _summed(head, 10) + message


def _error6(packet: Packet, body: bytes, reason: Reason, mtu: int, speaker: IPv6Address) -> bytes:
    quote = body[: LONGEST6 - HEADERS6 - 8]
    kind = 2 if reason is Reason.TOO_BIG else 3
    message = pack("!BBHI", kind, 0, 0, mtu if reason is Reason.TOO_BIG else 0) + quote
    ends = speaker.packed + packet.source.packed
    pseudo = ends + pack("!II", len(message), ICMPV6)
    message = _summed(pseudo + message, len(pseudo) + 2)[len(pseudo) :]
    return pack("!IHBB", 6 << 28, len(message), ICMPV6, 64) + ends + message


def _summed(data: bytes, at: int) -> bytes:
    """With the Internet checksum of it all at `at`, where there are zeros (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total = sum(number(padded[i : i + 2]) for i in range(0, len(padded), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + (~total & 0xFFFF).to_bytes(2, "big") + data[at + 2 :]


def with_fitting_mss(packet: Packet, data: bytes, mtu: int) -> bytes:
    """The same, but a SYN asks for no larger segments than the MTU has room for; 0: any has."""
    if packet.protocol != TCP or not packet.flags & SYN or packet.more_fragments or packet.later_fragment:
        return data
    at = _mss_at(packet, data)
    most = mtu - TCP_HEADER - (HEADERS4 if packet.source.version == 4 else HEADERS6)
    if not at or most <= 0 or number(data[at : at + 2]) <= most:
        return data
    changed = data[:at] + most.to_bytes(2, "big") + data[at + 2 :]
    return _with_same_sum(packet.transport, data, changed)


def _mss_at(packet: Packet, data: bytes) -> int:
    """Where the MSS stands in the data; 0 if nowhere, or if what is before it cannot be read."""
    end = packet.transport + (data[packet.transport + 12] >> 4) * 4
    at = packet.transport + TCP_HEADER
    if end > packet.l3 + packet.length:
        return 0
    while at + 4 <= end and data[at]:
        if data[at] == 2:
            return at + 2 if data[at + 1] == 4 else 0
        if data[at] != 1 and data[at + 1] < 2:
            return 0
        at += 1 if data[at] == 1 else data[at + 1]
    return 0


def _with_same_sum(transport: int, data: bytes, changed: bytes) -> bytes:
    """The TCP checksum moves by as much as all else did: right if it was, else as wrong as before."""
    check = transport + 16
    sums = [
        sum(number((one[transport:] + b"\0")[i : i + 2]) for i in range(0, len(one) - transport, 2))
        for one in (data, changed)
    ]
    was = number(data[check : check + 2])
    now = (was + sums[0] - sums[1]) % 0xFFFF
    return changed[:check] + now.to_bytes(2, "big") + changed[check + 2 :]
