"""The bytes of the eBPF maps: `bpf/include/types.h` as Python sees it.

One packer for each key and value that the agent writes, one reader for each
that it reads. Native byte order except where the name says `be`; the layout is
held against the compiled objects' BTF by a test.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from meshfabric.model.addresses import Address, Prefix, mask_of

FABRIC_MARK = 0x6D667061  # on a packet between two of the programs
FIRST_NODE = 4096
PLACES = 8192
MAX_PATHS = 8
MAX_PREFIXES = 8
NOWHERE = 0

ADDRESS_KEY = struct.Struct("=I16s")
ADDRESS_VALUE = struct.Struct("=II")
WORKLOAD = struct.Struct("=IIHBx6s6x")
NODE = struct.Struct(f"=II{MAX_PATHS}I")
PATH = struct.Struct("=QQQQQ6IQQQ8I8x")
PROBE_ENDS = struct.Struct("=16s16s")
LOOP = struct.Struct("=II")
TOKEN = struct.Struct("=6Q5I8xI")
POLICY_KEY = struct.Struct("=IIIBB2s")
POLICY_VALUE = struct.Struct("=IB3x")
FABRIC_HEAD = struct.Struct("=II")
FABRIC_PREFIX = struct.Struct("=16s16s")
UPLINK = struct.Struct("=I")
NUMBER = struct.Struct("=I")
COUNTER = struct.Struct("=QQ")

POLICY_FIXED_BITS = 72  # subject, peer, direction
PROTOCOL_BITS = 8
PORT_BITS = 16


class Delivery(IntEnum):
    """How a workload gets its packets (enum delivery)."""

    PEER = 1
    EGRESS = 2


class Direction(IntEnum):
    """Seen from the subject of a policy entry (enum direction)."""

    EGRESS = 0
    INGRESS = 1


class Verdict(IntEnum):
    """enum verdict."""

    DENY = 0
    ALLOW = 1


class Reason(IntEnum):
    """Why a packet went or did not go (enum reason)."""

    FORWARDED_TO_NODE = 0
    FORWARDED_TO_LOCAL = 1
    PROBE_REFLECTED = 2
    PROBE_HEARD = 3
    NEIGHBOUR_ANSWERED = 4
    TOO_BIG_TOLD = 5
    EXPIRED_TOLD = 6
    ERROR_WITHHELD = 7
    MALFORMED = 8
    NOT_IP = 9
    LINK_SCOPE = 10
    UNKNOWN_WORKLOAD = 11
    SPOOFED_SOURCE = 12
    TTL_EXPIRED = 13
    NO_ROUTE = 14
    POLICY_EGRESS = 15
    POLICY_INGRESS = 16
    NO_PATH = 17
    TOO_BIG = 18
    NOT_OURS = 19
    FLOWS_FULL = 20
    CLEAR_EGRESS = 21
    CLEAR_INGRESS = 22
    WRONG_UPLINK = 23
    NOT_FROM_FABRIC = 24
    FRAGMENT = 25
    UNSUPPORTED = 26


FIRST_DROP = Reason.MALFORMED


class PathState(NamedTuple):
    """One tunnel's state as the datapath keeps it (struct path); times in ns of the monotonic clock."""

    unanswered_ns: int = 0
    traffic_ns: int = 0
    sent_ns: int = 0
    sent: int = 0
    heard: int = 0
    rtt_us: int = 0
    rtt_peak_us: int = 0
    streak: int = 0
    flaps: int = 0
    ifindex: int = 0
    answered: int = 0
    heard_ns: int = 0
    transit_out_ns: int = 0
    transit_back_ns: int = 0
    jitter_out_ns: int = 0
    jitter_back_ns: int = 0
    lost_out: int = 0
    lost_back: int = 0
    heard_question: int = 0
    heard_answer: int = 0
    reflected: int = 0
    caution: int = 0

    @property
    def open_probes(self) -> int:
        """How many left since the last one that was answered."""
        return (self.sent - self.answered) & 0xFFFFFFFF


class TokenState(NamedTuple):
    """What paces the probes, as the datapath keeps it (struct token)."""

    ticked_ns: int
    started_ns: int
    swept_ns: int
    ticks: int
    starts: int
    probes: int
    generation: int
    early: int
    next_active: int
    last_active: int
    next_idle: int
    strays: int


def address_key(prefix: Prefix) -> bytes:
    """Key of `addresses`."""
    return ADDRESS_KEY.pack(prefix.length, prefix.address)


def address_value(identity: int, place: int) -> bytes:
    """Value of `addresses`."""
    return ADDRESS_VALUE.pack(identity, place)


def workload_value(ifindex: int, identity: int, mtu: int, delivery: Delivery, mac: str) -> bytes:
    """Value of `workloads`."""
    return WORKLOAD.pack(ifindex, identity, mtu, delivery, bytes.fromhex(mac.replace(":", "")))


def node_value(ifindexes: list[int], mtu: int = 0) -> bytes:
    """Value of `nodes`: WireGuard devices, the preferred one first, at most MAX_PATHS.

    `mtu` is the largest IP packet for the node, in bytes; 0 lets every one pass.
    """
    padded = ifindexes[:MAX_PATHS] + [0] * (MAX_PATHS - len(ifindexes))
    return NODE.pack(min(len(ifindexes), MAX_PATHS), mtu, *padded)


def probe_value(source: Address, destination: Address) -> bytes:
    """Value of `probes`: both of one family."""
    return PROBE_ENDS.pack(source, destination)


def loop_value(out_ifindex: int, in_ifindex: int) -> bytes:
    """The one value of `loop`."""
    return LOOP.pack(out_ifindex, in_ifindex)


def policy_key(
    subject: int,
    peer: int,
    direction: Direction,
    protocol: int = 0,
    port: int = 0,
    port_bits: int | None = None,
) -> bytes:
    """Key of `policy`. `port_bits` None means any port; protocol 0 means any protocol."""
    bits = POLICY_FIXED_BITS
    if protocol:
        bits += PROTOCOL_BITS + (port_bits or 0)
    return POLICY_KEY.pack(bits, subject, peer, direction, protocol, port.to_bytes(2, "big"))


def policy_value(precedence: int, verdict: Verdict) -> bytes:
    """Value of `policy`."""
    return POLICY_VALUE.pack(precedence, verdict)


def fabric_value(self_place: int, prefixes: list[Prefix]) -> bytes:
    """The one value of `fabric`; at most MAX_PREFIXES prefixes."""
    body = b"".join(FABRIC_PREFIX.pack(prefix.address, mask_of(prefix)) for prefix in prefixes)
    size = MAX_PREFIXES * FABRIC_PREFIX.size
    return FABRIC_HEAD.pack(len(prefixes), self_place) + body.ljust(size, b"\0")


def number(value: int) -> bytes:
    """A 32-bit key or value."""
    return NUMBER.pack(value)


def read_path(value: bytes) -> PathState:
    """Value of `paths`."""
    return PathState(*PATH.unpack(value))


def path_value(state: PathState) -> bytes:
    """The same the other way; only the datapath writes it."""
    return PATH.pack(*state)


def read_token(value: bytes) -> TokenState:
    """The one value of `token`."""
    return TokenState(*TOKEN.unpack(value))


def read_counter(per_cpu: list[bytes]) -> tuple[int, int]:
    """Packets and bytes of one reason, summed over the CPUs."""
    pairs = [COUNTER.unpack(value[: COUNTER.size]) for value in per_cpu]
    return sum(packets for packets, _ in pairs), sum(octets for _, octets in pairs)
