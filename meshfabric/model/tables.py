"""The bytes of the eBPF maps: `bpf/include/types.h` as Python sees it.

One packer for each key and value that the agent writes, one reader for each
that it reads. Native byte order except where the name says `be`; the layout is
held against the compiled objects' BTF by a test.
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

from meshfabric.model.addresses import Address, Prefix, is_ipv4, mask_of

FABRIC_MARK = 0x6D667061  # on a packet between two of the programs
FIRST_NODE = 4096
PLACES = 8192
WORLD = PLACES - 1
ANSWERS_TO_TRUST = 3  # in a row before a path is used, or used again
PROBES_TO_GIVE_UP = 3  # in a row without an answer
MAX_PATHS = 8
BITS_OF_A_RANK = 4
MAX_PREFIXES = 8
MAX_EXPOSED = 8
MAX_SLOTS = 8
CLASSES = 16
PRIORITIES = 8
ANY_DSCP = 64
PS_PER_BYTE_AT_1_BIT = 8 * 10**12  # a byte at 1 bit/s, in ps
NOWHERE = 0

ADDRESS_KEY = struct.Struct("=I16s")
ADDRESS_VALUE = struct.Struct("=II")
WORKLOAD = struct.Struct("=IIHBB6sB5x")
CLASS_RULE_KEY = struct.Struct("=IIBB2s")
TRAFFIC_CLASS = struct.Struct("=IIBB?x")
CLASS_COUNTER = struct.Struct("=5Q")
SHARES = 64
NODE = struct.Struct(f"=I{MAX_PATHS}H{MAX_PATHS}II{SHARES}s")
PLAIN_KEY = struct.Struct("=II")
PLAIN_END = struct.Struct("=16s16sII")
PATH = struct.Struct("=QQQQQ6IQQQ10IQQQQII24x")
RELAY_SOURCE_KEY = struct.Struct("=16s2s6x")
RELAY_END = struct.Struct("=IBBBx")
RELAY_SOURCE = struct.Struct("=IBBBxI4x16s")
RELAY_TARGET = struct.Struct("=16s16sII2s6x")
PROBE_ENDS = struct.Struct("=16s16s")
LOOP = struct.Struct("=II")
TOKEN = struct.Struct("=6Q5I8xI")
POLICY_KEY = struct.Struct("=IIIBB2s")
POLICY_VALUE = struct.Struct("=IBB2x")
TURN = struct.Struct("=QQIII4x")
AUDIT = struct.Struct("=16s16sII2sBB4x")
FABRIC_HEAD = struct.Struct("=II")
FABRIC_PREFIX = struct.Struct("=16s16s")
FABRIC_COUNT = struct.Struct("=I4x")
UPLINK = struct.Struct("=III4x16s16s")
NUMBER = struct.Struct("=I")
COUNTER = struct.Struct("=QQ")
FLOW_KEY = struct.Struct("=16s16s2s2sB3x")
FLOW = struct.Struct("=Q6I5BxH2s6x16s")

POLICY_FIXED_BITS = 72  # subject, peer, direction
CLASS_FIXED_BITS = 40  # place, DSCP
PROTOCOL_BITS = 8
PORT_BITS = 16


class Delivery(IntEnum):
    """How a workload gets its packets (enum delivery)."""

    PEER = 1
    EGRESS = 2


class ClassRule(IntFlag):
    """How the class of a workload's packets is found, beside its own (enum class_rule)."""

    BY_PORT = 1
    BY_DSCP = 2
    TELLS_DEFAULT = 4


class Direction(IntEnum):
    """Seen from the subject of a policy entry (enum direction)."""

    EGRESS = 0
    INGRESS = 1


AUDITING = 2
"""Beside a direction: as it would be with the policies in audit (enum direction_flag)."""


class Verdict(IntEnum):
    """enum verdict."""

    DENY = 0
    ALLOW = 1


class Fault(IntFlag):
    """Why a path that answers is not as good as another: the higher the sum, the worse (enum fault)."""

    SLOW = 1
    LOSSY = 2
    HELD = 4


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
    AUDITED = 27
    FORWARDED_TO_WORLD = 28
    NAT_FULL = 29
    STRANGER = 30
    FLOW_MOVED = 31
    RELAYED = 32
    RELAY_FULL = 33
    QUEUE_FULL = 34


FIRST_DROP = Reason.MALFORMED
NO_DROPS = frozenset(one for one in Reason if one < FIRST_DROP) | {
    Reason.AUDITED,
    Reason.FORWARDED_TO_WORLD,
    Reason.FLOW_MOVED,
    Reason.RELAYED,
}
DROPS = tuple(reason for reason in Reason if reason not in NO_DROPS)


class AuditRecord(NamedTuple):
    """What policies in audit would have stopped (struct audit): who spoke first, to whom, on which port or
    with which type of ICMP, and on which side it would have been denied.
    """

    source: bytes
    destination: bytes
    source_identity: int
    destination_identity: int
    protocol: int
    port: int
    direction: Direction


class RelayEnd(NamedTuple):
    """A tunnel's end at a node that packets are handed on for (struct relay_end)."""

    number: int  # place of the node - FIRST_NODE
    local: int
    remote: int
    generation: int

    def key(self) -> bytes:
        """Key of `relay_ends`."""
        return RELAY_END.pack(*self)


class PathState(NamedTuple):
    """One tunnel's state as the datapath keeps it (struct path); times in ns of the monotonic clock."""

    unanswered_ns: int = 0
    traffic_ns: int = 0
    sent_ns: int = 0
    sent: int = 0
    heard: int = 0
    leniency: int = 0
    rtt_peak_us: int = 0
    streak: int = 0
    faults: int = 0  # sum of Fault
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
    padded: int = 0
    flaps: int = 0
    missing: int = 0  # bits, of probes
    late: int = 0  # bits, of answers
    held_until_ns: int = 0
    hold_ns: int = 0
    falls: int = 0
    rtt_us: int = 0

    @property
    def next_probe(self) -> int:
        """The sequence number that the next one will have."""
        return self.sent & 0xFFFFFFFF

    @property
    def open_probes(self) -> int:
        """How many left since the last one that was answered."""
        return (self.sent - self.answered) & 0xFFFFFFFF


class Grade(IntEnum):
    """How a path is, beside the sums of `Fault` of one that works; the lowest is taken (enum grade)."""

    SOUND = 0
    SILENT = 8
    NOWHERE = 9


class Turn(NamedTuple):
    """A path got better or worse, or is silent (struct turn); times in ns, monotonic clock."""

    at_ns: int  # from when on packets choose otherwise
    heard_ns: int  # the last answer
    place: int
    ifindex: int
    grade: int  # from then on


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


class ClassCount(NamedTuple):
    """What became of the packets of a class at an uplink (struct class_counter); `delay_ns` is the sum of how
    long each of `packets` was held back, `dropped` are none of them.
    """

    packets: int = 0
    octets: int = 0
    marked: int = 0
    dropped: int = 0
    delay_ns: int = 0


class FlowSeen(NamedTuple):
    """A flow as the datapath keeps it (struct flow_key, struct flow); of two the first is the end that spoke
    first. `ports`: of ICMP echoes the identifier at the asking end, the request's type at the other.
    """

    protocol: int
    addresses: tuple[Address, Address]
    ports: tuple[int, int]
    seen_ns: int
    replied: bool
    closing: bool


def address_key(prefix: Prefix) -> bytes:
    """Key of `addresses`."""
    return ADDRESS_KEY.pack(prefix.length, prefix.address)


def address_value(identity: int, place: int) -> bytes:
    """Value of `addresses`."""
    return ADDRESS_VALUE.pack(identity, place)


def workload_value(
    ifindex: int,
    identity: int,
    mtu: int,
    delivery: Delivery,
    mac: str,
    class_number: int = 0,
    class_rules: int = 0,
) -> bytes:
    """Value of `workloads`; `class_rules` is a sum of `ClassRule`."""
    octets = bytes.fromhex(mac.replace(":", ""))
    return WORKLOAD.pack(ifindex, identity, mtu, delivery, class_number, octets, class_rules)


def class_rule_key(
    place: int, dscp: int = ANY_DSCP, protocol: int = 0, port: int = 0, port_bits: int = 0
) -> bytes:
    """Key of `class_rules`; protocol 0 means any protocol, no `port_bits` any port."""
    bits = CLASS_FIXED_BITS + (PROTOCOL_BITS + port_bits if protocol else 0)
    return CLASS_RULE_KEY.pack(bits, place, dscp, protocol, port.to_bytes(2, "big"))


def class_value(priority: int, dscp: int, guaranteed: int = 0, most: int = 0) -> bytes:
    """Value of `classes`; the rates in bit/s, at least 2 kbit/s, 0: none is set."""
    return TRAFFIC_CLASS.pack(ps_per_byte(guaranteed), ps_per_byte(most), priority, dscp, True)


def ps_per_byte(rate: int) -> int:
    """How long a byte takes at a rate in bit/s, in picoseconds; 0 for the rate 0, which is none."""
    return -(-PS_PER_BYTE_AT_1_BIT // rate) if rate else 0


def node_value(
    paths: list[tuple[int, int]], order: Sequence[int] | None = None, shares: Sequence[int] = ()
) -> bytes:
    """Value of `nodes`: tunnels' devices by position, at most MAX_PATHS, (0, 0) where there is none.

    Beside each is the largest IP packet for the node that fits there, in bytes; 0 lets every one pass.
    `order` has positions, the preferred one first; those that it does not have come after, as they stand.
    `shares`: SHARES positions, whose each flow takes the one that its hash leads to; empty: all take the
    preferred one.
    """
    used = paths[:MAX_PATHS]
    padded = used + [(0, 0)] * (MAX_PATHS - len(used))
    ifindexes, mtus = zip(*padded, strict=True)
    ranks = _order(order or ()) if any(ifindexes) else 0
    sharers = sum(1 << position for position in set(shares))
    return NODE.pack(ranks, *mtus, *ifindexes, sharers, bytes(shares))


def _order(first: Sequence[int]) -> int:
    positions = dict.fromkeys([*first, *range(MAX_PATHS)])
    return sum(position << BITS_OF_A_RANK * rank for rank, position in enumerate(positions))


def read_node(value: bytes) -> list[tuple[int, int]]:
    """Devices and MTUs of a value of `nodes`, the preferred one first."""
    order, *rest, _, _ = NODE.unpack(value)
    paths = list(zip(rest[MAX_PATHS:], rest[:MAX_PATHS], strict=True))
    positions = [order >> BITS_OF_A_RANK * rank & MAX_PATHS - 1 for rank in range(MAX_PATHS)]
    return [paths[position] for position in positions if paths[position][0]]


def plain_key(ifindex: int, place: int) -> bytes:
    """Key of `plain_ends`: a device, and the place of a node."""
    return PLAIN_KEY.pack(ifindex, place)


def plain_value(remote: Address, local: Address, vni: int, mark: int) -> bytes:
    """Value of `plain_ends`: the node's uplink and ours."""
    return PLAIN_END.pack(remote, local, vni, mark)


def relay_source_key(address: Address, port: int) -> bytes:
    """Key of `relay_sources`: a socket that packets come from."""
    return RELAY_SOURCE_KEY.pack(address, port.to_bytes(2, "big"))


def relay_source_value(end: RelayEnd, ifindex: int, own: Address) -> bytes:
    """Value of `relay_sources`: whose it is, and by which of our devices and to which address they come."""
    return RELAY_SOURCE.pack(*end, ifindex, own)


def relay_end_value(address: Address, source: Address, port: int, ifindex: int, mark: int) -> bytes:
    """Value of `relay_ends`: the node's socket, and our address and device towards it."""
    return RELAY_TARGET.pack(address, source, ifindex, mark, port.to_bytes(2, "big"))


def positions(value: bytes) -> dict[int, int]:
    """Where each device of a value of `nodes` stands."""
    ifindexes = NODE.unpack(value)[1 + MAX_PATHS : 1 + 2 * MAX_PATHS] if value else ()
    return {ifindex: position for position, ifindex in enumerate(ifindexes) if ifindex}


def probe_value(source: Address, destination: Address) -> bytes:
    """Value of `probes`: both of one family."""
    return PROBE_ENDS.pack(source, destination)


def loop_value(out_ifindex: int, in_ifindex: int) -> bytes:
    """The one value of `loop`."""
    return LOOP.pack(out_ifindex, in_ifindex)


def policy_key(
    subject: int,
    peer: int,
    direction: int,
    protocol: int = 0,
    port: int = 0,
    port_bits: int | None = None,
) -> bytes:
    """Key of `policy`. `port_bits` None means any port; protocol 0 means any protocol. `direction` may have
    AUDITING beside it.
    """
    bits = POLICY_FIXED_BITS
    if protocol:
        bits += PROTOCOL_BITS + (port_bits or 0)
    return POLICY_KEY.pack(bits, subject, peer, direction, protocol, port.to_bytes(2, "big"))


def policy_value(precedence: int, verdict: Verdict, audited: bool = False) -> bytes:
    """Value of `policy`."""
    return POLICY_VALUE.pack(precedence, verdict, audited)


def fabric_value(self_place: int, prefixes: list[Prefix], exposed: Sequence[Prefix] = ()) -> bytes:
    """The one value of `fabric`; at most MAX_PREFIXES prefixes and, within them, MAX_EXPOSED."""
    head = FABRIC_HEAD.pack(len(prefixes), self_place) + _packed_prefixes(prefixes, MAX_PREFIXES)
    return head + FABRIC_COUNT.pack(len(exposed)) + _packed_prefixes(exposed, MAX_EXPOSED)


def _packed_prefixes(prefixes: Sequence[Prefix], room: int) -> bytes:
    body = b"".join(FABRIC_PREFIX.pack(prefix.address, mask_of(prefix)) for prefix in prefixes)
    return body.ljust(room * FABRIC_PREFIX.size, b"\0")


def uplink_value(ifindex: int, addresses: Iterable[Address] = (), capacity: int = 0, lead: int = 0) -> bytes:
    """Value of `uplinks`; of each family the first address counts. `capacity` in bit/s, 0: nothing is
    scheduled; `lead` is the first slot of the same device.
    """
    by_family = {is_ipv4(address): address for address in reversed([*addresses])}
    own = (by_family.get(True, bytes(16)), by_family.get(False, bytes(16)))
    return UPLINK.pack(ifindex, ps_per_byte(capacity), lead, *own)


def number(value: int) -> bytes:
    """A 32-bit key or value."""
    return NUMBER.pack(value)


def read_path(value: bytes) -> PathState:
    """Value of `paths`."""
    return PathState(*PATH.unpack(value))


def path_value(state: PathState) -> bytes:
    """The same the other way; else only the datapath writes it."""
    return PATH.pack(*state)


def read_token(value: bytes) -> TokenState:
    """The one value of `token`."""
    return TokenState(*TOKEN.unpack(value))


def read_turn(value: bytes) -> Turn:
    """A record of the ring buffer `turns`."""
    return Turn(*TURN.unpack(value))


def read_audit(value: bytes) -> AuditRecord:
    """A record of the ring buffer `audits`."""
    source, destination, first, second, port, protocol, direction = AUDIT.unpack(value)
    about = (protocol, int.from_bytes(port, "big"), Direction(direction))
    return AuditRecord(source, destination, first, second, *about)


def read_counter(per_cpu: list[bytes]) -> tuple[int, int]:
    """Packets and bytes of one reason, summed over the CPUs."""
    pairs = [COUNTER.unpack(value[: COUNTER.size]) for value in per_cpu]
    return sum(packets for packets, _ in pairs), sum(octets for _, octets in pairs)


def read_class_counter(per_cpu: list[bytes]) -> ClassCount:
    """What became of one class at one uplink, summed over the CPUs."""
    counts = [CLASS_COUNTER.unpack(value[: CLASS_COUNTER.size]) for value in per_cpu]
    return ClassCount(*map(sum, zip(*counts, strict=True)))


def read_flow(key: bytes, value: bytes) -> FlowSeen:
    """An entry of `flows` or `new_flows`; `seen_ns` is of the monotonic clock."""
    low, high, low_be, high_be, protocol = FLOW_KEY.unpack(key)
    seen_ns, _, _, _, _, _, _, swapped, replied, closing, *_ = FLOW.unpack(value)
    addresses, ports = (low, high), (int.from_bytes(low_be, "big"), int.from_bytes(high_be, "big"))
    if swapped:
        addresses, ports = addresses[::-1], ports[::-1]
    return FlowSeen(protocol, addresses, ports, seen_ns, bool(replied), bool(closing))
