"""What the datapath ought to do, in the plainest Python: slow, obvious, one packet after the other.

Knows the world (`world.World`) and the flows that its own verdicts made. It
shares nothing with the programs but the rules: it reads bytes one field at a
time, walks all rules and all prefixes, and keeps flows in a dict. Lifetimes are
left to the tests that age a flow (`age`).
"""

from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from meshfabric.model.tables import FIRST_NODE, Direction, Reason, Verdict
from tests.packet.complaints import complaint, may_be_told, with_fitting_mss
from tests.packet.headers import (
    ARP,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    TCP,
    UDP,
    Address,
    End,
    Packet,
    Refused,
    number,
    parse,
)
from tests.packet.world import ANY, Rule, World

SHOT, REDIRECT, NEXT = 2, 7, 0xFFFFFFFF  # TC_ACT_SHOT, TC_ACT_REDIRECT, TC_ACT_UNSPEC
ETHERNET = 14
FIN, SYN, RST, ACK = 1, 2, 4, 16
STAMP_PORT, PROBE_PORT = 862, 50862
DAY_S = 24 * 3600

TOLD = {Reason.TOO_BIG: Reason.TOO_BIG_TOLD, Reason.TTL_EXPIRED: Reason.EXPIRED_TOLD}

Flows = dict[tuple[frozenset[End], int], "Flow"]


@dataclass(frozen=True)
class Outcome:
    """`packet` is None where it does not matter any more, `mark` tells whether ours is on it."""

    action: int
    reason: Reason | None
    packet: bytes | None = None
    marked: bool = False
    dropped: Reason | None = None  # why there had to be a `packet` that tells of it


@dataclass
class Flow:
    """Who spoke first to whom, and what was known of both then."""

    first: End
    second: End
    generations: tuple[int, int]
    places: tuple[int, int]
    replied: bool = False
    half_open: bool = False
    closing: set[End] = field(default_factory=set)  # ends that say no more
    idle_s: float = 0.0

    def note(self, packet: Packet) -> None:
        """Who spoke, and what TCP makes of it: it takes three steps to be established (RFC 9293, 3.5)."""
        turned = packet.speaker != self.first
        acknowledges = packet.flags & (SYN | RST | ACK) == ACK
        if packet.protocol != TCP:
            self.replied |= turned
        elif not self.closing and not turned:
            self.replied |= self.half_open and acknowledges
        self.half_open |= turned
        if packet.flags & RST:
            self.closing = {self.first, self.second}
        elif packet.flags & FIN:
            self.closing = self.closing | {packet.speaker}


@dataclass
class Oracle:
    """One node. `world` may be changed between packets, with `bump` where the agent would."""

    world: World
    flows: Flows = field(default_factory=dict)
    fragments: dict[tuple[object, ...], tuple[int, int, int, str]] = field(default_factory=dict)

    # the programs

    def from_workload(self, device: str, data: bytes, segment: int = 0) -> Outcome:
        """A frame from the workload behind `device`; `segment` is the payload of each GSO segment.

        A drop on a netkit pair is a redirect to nowhere: its sender is not to know.
        """
        outcome = self._from_workload(device, data, segment)
        lost = outcome.action == SHOT and self.world.is_netkit(device)
        return replace(outcome, action=REDIRECT) if lost else outcome

    def _from_workload(self, device: str, data: bytes, segment: int) -> Outcome:
        kind = number(data[12:14])
        if kind not in (IPV4, IPV6):
            return self._not_ip(kind, data)
        try:
            packet = self._parse(data, ETHERNET, 4 if kind == IPV4 else 6)
            place = self._followed(packet, device) or self._asked(packet, data, device)
            self._remember(packet)
        except Refused as refusal:
            if refusal.reason is Reason.LINK_SCOPE and _solicits_gateway(packet, data):
                return Outcome(REDIRECT, Reason.NEIGHBOUR_ANSWERED, None, True)
            return Outcome(SHOT, refusal.reason)
        try:
            return self._act(packet, data, place, segment, self.world.is_netkit(device))
        except Refused as refusal:
            return self._told(packet, data, place, refusal.reason, device)

    def from_overlay(self, data: bytes, segment: int = 0) -> Outcome:
        """A packet out of a tunnel, probes excepted."""
        try:
            packet = self._parse(data, 0, data[0] >> 4)
            place = self._followed(packet, None) or self._arrived(packet, data)
            self._remember(packet)
            return self._act(packet, data, place, segment)
        except Refused as refusal:
            return Outcome(SHOT, refusal.reason)

    def age(self, seconds: float) -> None:
        """Nobody spoke for so long."""
        for flow in self.flows.values():
            flow.idle_s += seconds

    # who may

    def _owner(self, address: Address) -> tuple[int, int]:
        """Identity and place by the longest prefix; place 0 is nowhere."""
        found = [
            (network.prefixlen, owner)
            for text, owner in self.world.addresses.items()
            if (network := ip_network(text)).version == address.version and address in network
        ]
        if not found:
            return 0, 0
        owner = max(found, key=lambda pair: pair[0])[1]
        return owner.identity, owner.place

    def _device_place(self, device: str) -> int:
        return next((p for p, w in self.world.workloads.items() if w.device == device), 0)

    def _generation(self, place: int) -> int:
        return self.world.generations.get(place, 0)

    def _allowed(self, subject: int, peer: int, direction: Direction, protocol: int, port: int) -> bool:
        def best(whose: int) -> Rule | None:
            fitting = [
                rule
                for rule in self.world.rules
                if (rule.subject, rule.peer, rule.direction) == (subject, whose, direction)
                and rule.protocol in (ANY, protocol)
                and (not rule.protocol or _port_fits(rule, port))
            ]
            return max(fitting, key=_specificity, default=None)

        rules = [rule for rule in (best(peer), best(ANY)) if rule]
        if not rules:
            return False
        highest = max(rule.precedence for rule in rules)
        return all(rule.verdict is Verdict.ALLOW for rule in rules if rule.precedence == highest)

    def _judge(self, first: Address, second: Address, protocol: int, port: int) -> None:
        (one, place), (other, far_place) = self._owner(first), self._owner(second)
        if place < FIRST_NODE and not self._allowed(one, other, Direction.EGRESS, protocol, port):
            raise Refused(Reason.POLICY_EGRESS)
        if far_place < FIRST_NODE and not self._allowed(other, one, Direction.INGRESS, protocol, port):
            raise Refused(Reason.POLICY_INGRESS)

    # flows

    def _living(self, packet: Packet) -> Flow | None:
        flow = self.flows.get(packet.key)
        if flow is None or flow.idle_s > _lifetime_s(flow, packet.protocol):
            return None
        if flow.closing and packet.flags & (SYN | ACK) == SYN:
            return None
        return flow

    def _is_current(self, flow: Flow) -> bool:
        return flow.generations == (self._generation(flow.places[0]), self._generation(flow.places[1]))

    def _followed(self, packet: Packet, device: str | None) -> int:
        """The place that a known and current flow leads to, or 0. `device` None is a tunnel."""
        flow = self._living(packet)
        if flow is None or not self._is_current(flow):
            return 0
        turned = flow.first != packet.speaker
        came, goes = flow.places[::-1] if turned else flow.places
        if device is None:
            if came < FIRST_NODE or goes >= FIRST_NODE:
                return 0
        elif self._device_place(device) != came:
            return 0
        flow.note(packet)
        flow.idle_s = 0.0
        return goes

    def _asked(self, packet: Packet, data: bytes, device: str) -> int:
        """The place that a workload's packet may go to, judged anew."""
        if _is_link_scope(packet.destination):
            raise Refused(Reason.LINK_SCOPE)
        place = self._device_place(device)
        if not place:
            raise Refused(Reason.UNKNOWN_WORKLOAD)
        if self._owner(packet.source)[1] != place:
            raise Refused(Reason.SPOOFED_SOURCE)
        if _is_probe(packet):
            raise Refused(Reason.UNSUPPORTED)
        goes = self._owner(packet.destination)[1]
        if not goes:
            raise Refused(Reason.NO_ROUTE)
        self._admit(packet, data, Reason.POLICY_EGRESS)
        return goes

    def _arrived(self, packet: Packet, data: bytes) -> int:
        if self._owner(packet.source)[1] < FIRST_NODE:
            raise Refused(Reason.SPOOFED_SOURCE)
        goes = self._owner(packet.destination)[1]
        if not goes or goes >= FIRST_NODE:
            raise Refused(Reason.NOT_OURS)
        self._admit(packet, data, Reason.POLICY_INGRESS)
        return goes

    def _admit(self, packet: Packet, data: bytes, unasked: Reason) -> None:
        flow = self._living(packet)
        if flow is None and packet.role == "reports" and self._quotes_flow(packet, data):
            return
        if flow is None and packet.role == "answers":
            raise Refused(unasked)
        first, second = (flow.first, flow.second) if flow else (packet.speaker, packet.listener)
        self._judge(first[0], second[0], packet.protocol, second[1])
        if packet.role == "opens" or flow:
            self._record(packet, flow, first, second)

    def _record(self, packet: Packet, flow: Flow | None, first: End, second: End) -> None:
        places = self._owner(first[0])[1], self._owner(second[0])[1]
        generations = self._generation(places[0]), self._generation(places[1])
        made = Flow(first, second, generations, places)
        if flow:
            made.replied, made.half_open, made.closing = flow.replied, flow.half_open, flow.closing
        made.note(packet)
        self.flows[packet.key] = made

    def _quotes_flow(self, packet: Packet, data: bytes) -> bool:
        try:
            quoted = self._parse(data, packet.transport + 8, packet.source.version, quoted=True)
        except Refused:
            return False
        if (quoted.source, quoted.destination) != (packet.destination, packet.source):
            return False
        flow = self._living(quoted)
        return flow is not None and self._is_current(flow)

    # what happens to it

    def _act(self, packet: Packet, data: bytes, place: int, segment: int, sending: bool = False) -> Outcome:
        """What is `sending` still goes out of the receiver's device, marked; what came in goes past it."""
        if place >= FIRST_NODE:
            node = self.world.nodes.get(place)
            if node is None or not node.tunnels:
                raise Refused(Reason.NO_PATH)
            if packet.ttl <= 1 and packet.l3:
                raise Refused(Reason.TTL_EXPIRED)
            if node.mtu and _size(packet, data, segment) > node.mtu:
                raise Refused(Reason.TOO_BIG)
            out = with_fitting_mss(packet, data, node.mtu)
            return Outcome(REDIRECT, Reason.FORWARDED_TO_NODE, out, True)
        workload = self.world.workloads.get(place)
        if workload is None:
            raise Refused(Reason.NO_ROUTE)
        if packet.ttl <= 1:
            raise Refused(Reason.TTL_EXPIRED)
        if _size(packet, data, segment) > workload.mtu:
            raise Refused(Reason.TOO_BIG)
        macs = bytes.fromhex((workload.mac + ":02:6d:66:00:00:01").replace(":", ""))
        kind = b"\x08\x00" if packet.source.version == 4 else b"\x86\xdd"
        out = macs + kind + _one_hop_less(with_fitting_mss(packet, data, workload.mtu)[packet.l3 :])
        marked = sending or workload.delivery.name == "EGRESS"
        return Outcome(REDIRECT, Reason.FORWARDED_TO_LOCAL, out, marked)

    def _told(self, packet: Packet, data: bytes, place: int, reason: Reason, device: str) -> Outcome:
        """A workload is told why its packet goes no further, if that is not about an error in its turn."""
        if reason not in TOLD or not may_be_told(packet):
            return Outcome(SHOT, reason)
        sender = self.world.workloads[self._device_place(device)]
        home = self.world.nodes[place] if place >= FIRST_NODE else self.world.workloads[place]
        out = complaint(packet, data, reason, home.mtu, sender.mac)
        return Outcome(REDIRECT, TOLD[reason], out, True, reason)

    def _not_ip(self, kind: int, data: bytes) -> Outcome:
        if kind != ARP:
            return Outcome(SHOT, Reason.NOT_IP)
        if len(data) < 42:
            return Outcome(SHOT, Reason.MALFORMED)
        request = data[14:22] == bytes.fromhex("0001080006040001")
        if not request or data[38:42] != bytes([169, 254, 1, 1]):
            return Outcome(SHOT, Reason.LINK_SCOPE)
        return Outcome(REDIRECT, Reason.NEIGHBOUR_ANSWERED, None, True)

    # fragments

    def _parse(self, data: bytes, l3: int, version: int, quoted: bool = False) -> Packet:
        packet = parse(data, l3, version, quoted)
        if packet.later_fragment:
            self._recall(packet)
        return packet

    def _remember(self, packet: Packet) -> None:
        if packet.first_fragment:
            self.fragments[packet.stream] = (packet.sport, packet.dport, packet.protocol, packet.role)

    def _recall(self, packet: Packet) -> None:
        first = self.fragments.get(packet.stream)
        if first is None or (first[2] == TCP and packet.fragment_offset == 1):
            raise Refused(Reason.FRAGMENT)
        packet.sport, packet.dport, packet.protocol, packet.role = first


def _is_probe(packet: Packet) -> bool:
    ports = {packet.sport, packet.dport} == {STAMP_PORT, PROBE_PORT}
    return packet.protocol == UDP and ports and not (packet.more_fragments or packet.later_fragment)


def _lifetime_s(flow: Flow, protocol: int) -> float:
    if protocol == TCP:
        return DAY_S if flow.replied and not flow.closing else 240
    if protocol in (ICMP, ICMPV6):
        return 60
    return 300 if flow.replied else 120


def _port_fits(rule: Rule, port: int) -> bool:
    unread = 16 - (rule.port_bits or 0)
    return rule.port >> unread == port >> unread


def _specificity(rule: Rule) -> int:
    return 8 + (rule.port_bits or 0) if rule.protocol else 0


def _is_link_scope(address: Address) -> bool:
    if address.version == 4:
        return address.is_multicast or address.is_link_local or str(address) == "255.255.255.255"
    return address.is_multicast or address.is_link_local


def _solicits_gateway(packet: Packet, data: bytes) -> bool:
    """A neighbour solicitation from this very link, for fe80::6d66."""
    message = data[packet.transport : packet.transport + 24]
    target = bytes.fromhex("fe80000000000000000000000000" + "6d66")
    return (
        packet.protocol == ICMPV6 and packet.ttl == 255 and message[:2] == b"\x87\0" and message[8:] == target
    )


def _size(packet: Packet, data: bytes, segment: int) -> int:
    """Of the packet, or of what it will be cut into."""
    if not segment:
        return packet.length
    header = (data[packet.transport + 12] >> 4) * 4 if packet.protocol == TCP else 8
    return min(packet.length, packet.transport - packet.l3 + header + segment)


def _one_hop_less(packet: bytes) -> bytes:
    """With the header's checksum computed anew, if it was right."""
    out = bytearray(packet)
    if packet[0] >> 4 == 6:
        out[7] -= 1
        return bytes(out)
    out[8] -= 1
    header = (out[0] & 15) * 4
    wrong = _ones_complement(packet[:header])
    out[10:12] = b"\0\0"
    total = _ones_complement(bytes(out[:header])) - wrong
    out[10:12] = (-total % 0xFFFF).to_bytes(2, "big")
    return bytes(out)


def _ones_complement(header: bytes) -> int:
    """The sum modulo 0xFFFF that the checksum makes zero (RFC 1071)."""
    return sum(number(header[i : i + 2]) for i in range(0, len(header), 2)) % 0xFFFF
