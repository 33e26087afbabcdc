"""STAMP test packets (RFC 8762, unauthenticated mode), whole from the IP header on. Pure.

The datapath of the far node reflects them, that of the near node takes the
answer in (`bpf/lib/stamp.h`): here they are only written.

    IPv4 or IPv6 | UDP 50862 -> 862 | sequence 4, timestamp 8, error estimate 2, zero 30 | padding

Padding, if any, is an Extra Padding TLV (RFC 8972, 4.1), which reflectors send back as it is.
"""

import struct

from meshfabric.model.addresses import Address, is_ipv4

STAMP_PORT = 862
PROBE_PORT = 50862
TEST_SIZE = 44  # bytes of the unauthenticated test packet (RFC 8762, 4.2.1)
UDP = 17
HOPS = 64  # and one less by turns
TRAFFIC_CLASS = 0xC0  # CS6: network control (RFC 4594)
ERROR_ESTIMATE = 0x0001  # NTP format, not synchronised, multiplier 1 (RFC 4656, 4.1.2)
NTP_EPOCH_OFFSET_S = 2_208_988_800  # 1900 to 1970
NS = 1_000_000_000

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_UDP = struct.Struct("!HHHH")
_TEST = struct.Struct("!IQH30x")
_TLV = struct.Struct("!BBH")
UNRECOGNISED, EXTRA_PADDING = 0x80, 1  # a sender sets the flag, who knows the type clears it (RFC 8972, 4)


def probe(source: Address, destination: Address, sequence: int, time_ns: int, size: int = 0) -> bytes:
    """One test packet, padded to `size` bytes of IP if given. `time_ns` since 1970, written in NTP format.

    The hop limit is another one with each `sequence`: who joins datagrams of one flow on
    their way (UDP GRO, as wireguard-go does) leaves such two alone, and they stay two probes.
    """
    hops = HOPS - sequence % 2
    body = _TEST.pack(sequence & 0xFFFFFFFF, ntp_time(time_ns), ERROR_ESTIMATE)
    headers = (_IPV4 if is_ipv4(source) else _IPV6).size + _UDP.size
    body += _padding(size - headers - len(body)) if size else b""
    length = _UDP.size + len(body)
    if is_ipv4(source):
        near, far = source[12:], destination[12:]
        head = _IPV4.pack(0x45, TRAFFIC_CLASS, _IPV4.size + length, 0, 0, hops, UDP, 0, near, far)
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    else:
        near, far = source, destination
        head = _IPV6.pack(6 << 28 | TRAFFIC_CLASS << 20, length, UDP, hops, near, far)
    pseudo = near + far + struct.pack("!II", length, UDP)
    ports = _UDP.pack(PROBE_PORT, STAMP_PORT, length, 0)
    total = checksum(pseudo + ports + body) or 0xFFFF
    return head + ports[:6] + total.to_bytes(2, "big") + body


def _padding(size: int) -> bytes:
    return _TLV.pack(UNRECOGNISED, EXTRA_PADDING, size - _TLV.size) + bytes(size - _TLV.size)


def ntp_time(time_ns: int) -> int:
    """64-bit NTP timestamp: seconds since 1900 and a binary fraction (RFC 5905, 6)."""
    seconds, rest = divmod(time_ns, NS)
    return ((seconds + NTP_EPOCH_OFFSET_S) & 0xFFFFFFFF) << 32 | (rest << 32) // NS


def checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) & 1 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
