"""Packets that mean something, bent in all the ways that a broken, strange or hostile sender bends them.

Hypothesis strategies: `sent` is what a workload may do, `framed` a frame of one name of the
drawing in `world`, `bent` the IP packet alone.
"""

from collections.abc import Callable

from hypothesis import strategies as st
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy.packet import Raw

from tests.packet.frames import V4, V6, echo, frame, ip, tcp, udp
from tests.packet.test_neighbour import _request as arp_request
from tests.packet.test_neighbour import _solicitation as solicitation

LONGEST = 3500
SHORTEST = 60
"""A test-run wants a whole IP header behind an Ethernet one."""
EXTENSIONS = (0, 43, 44, 60)
PROTOCOLS = (1, 4, 6, 17, 41, 47, 58, 59, 132, 255)
ETHERNET_TYPES = (0x8100, 0x88A8, 0x0806, 0x88B5, 0x0005)
LOCAL_NAMES = {"alpha": "mfp1", "beta": "mfp2", "guest": "mfp3", "host": "mfhost1"}
FREQUENT = ("guest", "guest", "beta", "far", "far", "far", "far", "far", "far")
NAMES = (*LOCAL_NAMES, *FREQUENT, "away", "mute", "nobody", "gateway", "multicast", "broadcast")
KINDS_OF_PACKET = ("tcp", "udp", "udp", "echo", "reply", "error", "options", "options", "chain", "piece")
PORTS = (22, 53, 80, 443, 862, 8080, 50862, 0x1F00)
Bend = Callable[[bytes], bytes]

names = st.sampled_from(NAMES)
receivers = st.sampled_from([*LOCAL_NAMES, *LOCAL_NAMES, *NAMES])  # of what comes out of a tunnel
families = st.sampled_from([V4, V6])
ports = st.sampled_from(PORTS)
octets = st.binary(max_size=40)
MSS = bytes.fromhex("02042300")
tcp_options = st.lists(
    st.one_of(
        st.sampled_from([MSS, MSS, b"\1", b"\1", b"\0", b"\3\3\7", b"\2", b"\2\3"]), st.binary(max_size=4)
    ),
    max_size=16,
).map(lambda pieces: b"".join(pieces)[:40])


@st.composite
def whole(draw: st.DrawFn, source: str) -> bytes:
    """A packet that could be honest."""
    destination = draw(names if source in LOCAL_NAMES else receivers)
    family, port = draw(families), draw(ports)
    fields = {"sport": draw(ports), "family": family, "ttl": draw(st.sampled_from([1, 2, 64, 64]))}
    size = draw(st.sampled_from([0, 1, 7, 600, 1272, 1352, 1373, 1400]))
    kind = draw(st.sampled_from(KINDS_OF_PACKET))
    match kind:
        case "tcp":
            return tcp(source, destination, port, draw(st.sampled_from(["S", "SA", "A", "FA"])), **fields)
        case "udp":
            return udp(source, destination, port, size, **fields)
        case "error":
            return _error(source, destination, family, draw(whole_quote(source, destination, family)))
        case "options":
            return _with_tcp_options(source, destination, port, family, draw(tcp_options))
        case "chain":
            return _chain(source, destination, draw(st.lists(extension, max_size=8)), draw(octets))
        case "piece":
            return _piece(source, destination, family, draw(st.integers(0, 3)), draw(st.booleans()))
        case _:
            return echo(source, destination, family, reply=kind == "reply", size=size)


@st.composite
def whole_quote(draw: st.DrawFn, source: str, destination: str, family: int) -> bytes:
    """What an ICMP error may quote, whole or not."""
    quoted = udp(destination, source, draw(ports), 20, sport=draw(ports), family=family)
    return quoted[: draw(st.integers(0, len(quoted)))]


def _error(source: str, destination: str, family: int, quoted: bytes) -> bytes:
    head = ICMP(type=3, code=4, nexthopmtu=1280) if family == V4 else ICMPv6PacketTooBig(mtu=1280)
    return bytes(ip(source, destination, family) / head / Raw(quoted))


def _with_tcp_options(source: str, destination: str, port: int, family: int, extra: bytes) -> bytes:
    """A SYN whose options are anything."""
    extra += bytes(-len(extra) % 4)
    segment = TCP(sport=40000, dport=port, flags="S", dataofs=5 + len(extra) // 4) / Raw(extra)
    return bytes(ip(source, destination, family) / segment)


extension = st.tuples(st.sampled_from(EXTENSIONS), st.integers(0, 3), st.binary(min_size=6, max_size=6))


def _chain(source: str, destination: str, heads: list[tuple[int, int, bytes]], rest: bytes) -> bytes:
    """IPv6 extension headers in any order, and at their end any protocol."""
    last = PROTOCOLS[len(rest) % len(PROTOCOLS)]
    followers = [kind for kind, _, _ in heads[1:]] + [last]
    body = b"".join(
        bytes([follower, units]) + inner + bytes(8 * units if kind != 44 else 0)
        for follower, (kind, units, inner) in zip(followers, heads, strict=False)
    )
    first = heads[0][0] if heads else last
    return bytes(ip(source, destination, V6, nh=first) / Raw(body + rest))


def _piece(source: str, destination: str, family: int, offset: int, more: bool) -> bytes:
    """One fragment of a datagram."""
    body = bytes(UDP(sport=40000, dport=53)) + bytes(32)
    if family == V4:
        return bytes(ip(source, destination, proto=17, id=9, frag=offset, flags=int(more)) / Raw(body))
    head = bytes([17, 0, 0, offset << 3 | more, 0, 0, 0, 9])
    return bytes(ip(source, destination, V6, nh=44) / Raw(head + body))


@st.composite
def flips(draw: st.DrawFn) -> Bend:
    """Some bits are not what they were, mostly among the headers."""
    places = draw(st.lists(st.tuples(st.integers(0, 79), st.integers(0, 7)), min_size=1, max_size=4))

    def bend(data: bytes) -> bytes:
        out = bytearray(data)
        for at, bit in places:
            out[at % len(out)] ^= 1 << bit
        return bytes(out)

    return bend


@st.composite
def cuts(draw: st.DrawFn) -> Bend:
    """The end is missing."""
    length = draw(st.integers(1, 120))
    return lambda data: data[:length]


@st.composite
def repeats(draw: st.DrawFn) -> Bend:
    """A piece stands there twice."""
    at, length = draw(st.integers(0, 60)), draw(st.integers(1, 60))
    return lambda data: data[: at + length] + data[at:]


@st.composite
def lies(draw: st.DrawFn) -> Bend:
    """A field that is a length says something else."""
    at = draw(st.sampled_from([0, 2, 4, 24, 25, 32, 33, 41, 44, 52, 53]))
    value = draw(st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255)))
    wide = draw(st.booleans())
    lie = bytes([value] * (1 + wide))
    return lambda data: (data[:at] + lie + data[at + len(lie) :]) if len(data) > at + 1 else data


@st.composite
def strange_options(draw: st.DrawFn) -> Bend:
    """Bytes put in behind the IPv4 header, which counts them as its own."""
    extra = draw(octets)
    extra += bytes(-len(extra) % 4)

    def bend(data: bytes) -> bytes:
        if len(data) < 20 or data[0] >> 4 != V4:
            return data
        head = bytes([(data[0] + len(extra) // 4) & 0x4F | 0x40])
        length = (int.from_bytes(data[2:4], "big") + len(extra)) & 0xFFFF
        return head + data[1:2] + length.to_bytes(2, "big") + data[4:20] + extra + data[20:]

    return bend


bends = st.one_of(flips(), flips(), cuts(), repeats(), lies(), lies(), strange_options())


@st.composite
def bent(draw: st.DrawFn, source: str) -> bytes:
    """A packet that nothing, something or much is wrong with."""
    data = draw(whole(source))
    for bend in draw(st.one_of(st.just([]), st.lists(bends, max_size=3))):
        data = bend(data) or b"\0"
    return data[:LONGEST]


@st.composite
def framed(draw: st.DrawFn, source: str) -> bytes:
    """The same with a link header, which may have a tag or be of another kind; or no IP from the start."""
    what = draw(st.sampled_from(["ip"] * 8 + ["tag", "kind", "arp", "neighbour"]))
    if what in ("arp", "neighbour"):
        data = arp_request() if what == "arp" else solicitation()
        return padded(draw(flips())(data) if draw(st.booleans()) else data)
    data = frame(draw(bent(source)))
    if what == "tag":
        data = data[:12] + b"\x81\x00\x00\x05" + data[12:]
    if what == "kind":
        data = data[:12] + draw(st.sampled_from(ETHERNET_TYPES)).to_bytes(2, "big") + data[14:]
    return padded(data)


@st.composite
def rewritten(draw: st.DrawFn) -> bytes:
    """What of alpha's is not only passed on: a SYN with any options, a packet too big or too old."""
    destination, family = draw(st.sampled_from(["far", "guest"])), draw(families)
    if draw(st.booleans()):
        return padded(frame(_with_tcp_options("alpha", destination, 80, family, draw(tcp_options))))
    size, hops = draw(st.integers(0, 1450)), draw(st.sampled_from([1, 64]))
    return padded(frame(udp("alpha", destination, 53, size, family=family, ttl=hops)))


def is_no_probe(packet: bytes) -> bool:
    """Whether a probe's two ports do not stand in it side by side."""
    ports_of_one = bytes.fromhex("035ec6ae"), bytes.fromhex("c6ae035e")
    return not any(pair in packet for pair in ports_of_one)


def padded(data: bytes) -> bytes:
    return data.ljust(SHORTEST, b"\0")


@st.composite
def sent(draw: st.DrawFn) -> tuple[str, bytes, int]:
    """By whom, what, and how large the segments are that it will be cut into (0: it is not)."""
    name = draw(st.sampled_from([*LOCAL_NAMES, "alpha", "alpha", "alpha"]))
    segment = draw(st.sampled_from([0, 0, 0, 0, 1, 500, 1240, 1340]))
    return LOCAL_NAMES[name], draw(framed(draw(st.sampled_from([*[name] * 7, "far"])))), segment
