"""What a packet costs: nanoseconds of each program, net of the harness.

    .venv/bin/python -m bench.datapath [TEXT...]     # rows whose name has one of the texts

The kernel runs the programs on packets in memory (BPF_PROG_TEST_RUN), many to a
call, each of another flow where there are many (`turntable`); at once after it as
many runs of an empty program, which are taken off. A packet out of a tunnel grows by a
link header: the turntable takes it off again, and that is part of its figures, as is
what a cold start costs every few runs.
Nothing here has a network card or a queue; `throughput` has.

The rows `of N policies` have the policy map of a node on which so many are enforced (`many policies`
of `compiler`), and the sender is one of those whom they select.
"""

import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from bench.entries import entries_of
from bench.rows import Goal, Row, at_most, report, row
from bench.turntable import LINK_HEADER, TC_ACT_UNSPEC, Spin, Turntable
from meshfabric.kernel.bpf import Map, SkbContext
from meshfabric.model import tables
from meshfabric.model.tables import Direction
from tests.packet import world as fabric
from tests.packet.arena import Arena, arena, build, compile_extra

TURNTABLE = Path(__file__).with_name("turn.bpf.c")
TC_ACT_SHOT, TC_ACT_REDIRECT = 2, 7  # linux/pkt_cls.h
ROUNDS = 31
RUNS = 65536  # in a round
ONE, MANY = 1, 65536
POLICIES = (1, 100, 10_000)
FIRSTS = 16384  # first packets to a round: what the table of new flows takes without evicting
PORT = 1024
PAYLOAD, LONG_PAYLOAD = bytes(22), bytes(1150)  # see GROWING_REPEAT
WG_PORT, UNDERLAY = 51820, ("192.0.2.1", "192.0.2.2")
TRUSTED = 100  # answers in a row
FLOW_PORTS_AT, FLOW_SWAPPED_AT = 32, 32  # in struct flow_key, in struct flow
PORT_BITS = 15  # of the first port; the rest of a flow's number is in the second
ALPHA = {4: "10.77.0.1", 6: "fd77::1"}
BETA = {4: "10.77.0.2", 6: "fd77::2"}
# Without a link header these bytes stand where the kernel takes the Ethernet type from, to shrink a packet.
FAR = {4: "8.0.1.5", 6: "fd77:0:86dd::5"}
FAR_BLOCKS = ("8.0.1.0/24", "fd77:0:86dd::/48")

Transport = Callable[[str], Packet]


class Sent(NamedTuple):
    """A packet, and the program that gets it on which device."""

    program: str
    device: str
    packet: bytes
    l3: int = LINK_HEADER


class Case(NamedTuple):
    """One row. `opens`, if any, make the flow an established one: the first goes the way of `sent`."""

    name: str
    sent: Sent
    flows: int = ONE
    opens: tuple[Sent, ...] = ()
    goal: Goal | None = None
    first: bool = False
    verdict: int = TC_ACT_REDIRECT
    policies: int = 0


def udp(flags: str) -> Packet:
    """Flags mean nothing here."""
    return UDP(sport=PORT, dport=PORT)


def tcp(flags: str) -> Packet:
    """A segment with these flags."""
    return TCP(sport=PORT, dport=PORT, flags=flags)


def datagram(
    version: int, source: str, destination: str, transport: Packet, payload: bytes = PAYLOAD
) -> bytes:
    """An IP packet."""
    head = IP(src=source, dst=destination) if version == 4 else IPv6(src=source, dst=destination)
    return bytes(head / transport / Raw(payload))


def from_pod(version: int, place: int, source: str, destination: str, transport: Packet) -> Sent:
    """A frame of a pod's."""
    kind = 0x0800 if version == 4 else 0x86DD
    link = bytes(Ether(dst=fabric.GATEWAY_MAC, src=f"02:6d:66:01:00:{place:02x}", type=kind))
    return Sent("from_workload", f"mfp{place}", link + datagram(version, source, destination, transport))


def from_tunnel(version: int, source: str, destination: str, transport: Packet) -> Sent:
    """A packet of another node's."""
    packet = datagram(version, source, destination, transport, LONG_PAYLOAD)
    return Sent("from_overlay", "mfwg00", packet, 0)


def established(version: int, transport: Transport, kind: str, flows: int) -> Iterator[Case]:
    """The three ways of a packet whose flow is known."""
    alpha, beta, far = ALPHA[version], BETA[version], FAR[version]
    many = flows > ONE

    def name(way: str) -> str:
        return f"{way}, {kind}{f', {flows} flows' if many else ''}"

    def out(flags: str) -> Sent:
        return from_pod(version, 1, alpha, far, transport(flags))

    def back(flags: str) -> Sent:
        return from_tunnel(version, far, alpha, transport(flags))

    def across(flags: str) -> Sent:
        return from_pod(version, 1, alpha, beta, transport(flags))

    across_back = from_pod(version, 2, beta, alpha, transport("SA"))
    yield Case(
        name("pod to remote pod"),
        out("A"),
        flows,
        (out("S"), back("SA"), out("A")),
        at_most(300 if many else 90),
    )
    yield Case(
        name("pod to pod on the node"),
        across("A"),
        flows,
        (across("S"), across_back, across("A")),
        at_most(500 if many else 140),
    )
    yield Case(name("tunnel to pod"), back("A"), flows, (back("S"), out("SA"), back("A")))


def first_packets() -> Iterator[Case]:
    """Policy asked, addresses looked up, a flow made."""
    alpha, beta, far = ALPHA[4], BETA[4], FAR[4]
    for name, sent, verdict in (
        ("pod to remote pod", from_pod(4, 1, alpha, far, udp("")), TC_ACT_REDIRECT),
        ("pod to pod on the node", from_pod(4, 1, alpha, beta, udp("")), TC_ACT_REDIRECT),
        ("tunnel to pod", from_tunnel(4, far, alpha, udp("")), TC_ACT_REDIRECT),
        ("denied", from_pod(4, 2, beta, alpha, udp("")), TC_ACT_SHOT),
    ):
        yield Case(f"first packet, {name}", sent, FIRSTS, first=True, verdict=verdict)


def policed() -> Iterator[Case]:
    """A flow that is known, and one that begins, with few policies and with many."""
    alpha, far = ALPHA[4], FAR[4]
    opens = from_pod(4, 1, alpha, far, udp("")), from_tunnel(4, far, alpha, udp(""))
    for policies in POLICIES:
        known = f"pod to remote pod, IPv4 UDP, of {policies} policies"
        yield Case(known, opens[0], ONE, opens, at_most(90), policies=policies)
        first = f"first packet, pod to remote pod, of {policies} policies"
        yield Case(first, opens[0], FIRSTS, first=True, policies=policies)


def encrypted() -> Iterator[Case]:
    """WireGuard's own packets."""
    link = bytes(Ether(dst=fabric.GATEWAY_MAC, src=fabric.GATEWAY_MAC, type=0x0800))
    frame = link + datagram(4, *UNDERLAY, UDP(sport=WG_PORT, dport=WG_PORT))
    for way in ("to", "from"):
        sent = Sent(f"{way}_uplink", "up0", frame)
        yield Case(f"encrypted, {way} uplink", sent, verdict=TC_ACT_UNSPEC)


def cases() -> Iterator[Case]:
    """Every row."""
    yield from established(4, udp, "IPv4 UDP", ONE)
    yield from established(4, tcp, "IPv4 TCP", ONE)
    yield from established(6, udp, "IPv6 UDP", ONE)
    yield from established(4, udp, "IPv4 UDP", MANY)
    yield from established(6, udp, "IPv6 UDP", MANY)
    yield from first_packets()
    yield from policed()
    yield from encrypted()


class Bench:
    """The datapath in an arena of its own, with the world of the packet tests."""

    def __init__(self, place: Arena, folder: Path) -> None:
        self._place, self._turn = place, compile_extra(TURNTABLE, folder)
        self._datapath = place.load()
        self._world = _world()
        self._own_rules = self._world.rules
        self._ifindex = place.devices(self._world.devices)
        self._tables = fabric.Tables(self._datapath.maps, self._ifindex)

    def measure(self, case: Case) -> Row:
        """One row: medians of rounds, each of them one with the program and one with the empty one."""
        self._world.rules = [*entries_of(case.policies), *self._own_rules]  # the last of a key counts
        self._world.bump(*self._world.generations)  # what is in `recent` holds no more
        self._prepare(case)
        program = self._datapath.programs[case.sent.program]
        spin = Spin(case.sent.packet, self._context(case.sent), case.flows, case.sent.l3)
        net = []
        with Turntable(self._place, self._turn, spin) as turntable:
            for _ in range(ROUNDS + 1):
                if case.first:
                    self._forget_flows()
                busy, empty = turntable.pair(program, FIRSTS if case.first else RUNS)
                net.append(busy - empty)
            if turntable.verdict != case.verdict:
                raise RuntimeError(f"{case.name}: the verdict is {turntable.verdict}, not {case.verdict}")
        return row(case.name, net[1:], "ns", goal=case.goal)

    def _prepare(self, case: Case) -> None:
        """Fresh maps, healthy paths, and the flows that the case wants to find."""
        self._tables.write(self._world)
        self._forget_flows()
        for index, tunnel in enumerate(self._world.nodes[fabric.FAR].tunnels):
            state = tables.path_value(tables.PathState(streak=TRUSTED, ifindex=self._ifindex[tunnel]))
            self._maps("paths").update(tables.number(index), state)
        for sent in case.opens:
            program = self._datapath.programs[sent.program]
            self._place.run(program.test_run, sent.packet, ctx=self._context(sent))
        if case.opens:
            self._multiply(case.flows)

    def _multiply(self, flows: int) -> None:
        """Copy the one flow that was opened, the way that the case's packets go."""
        [(key, value)] = self._maps("flows").items()
        head, tail, swapped = key[:FLOW_PORTS_AT], key[FLOW_PORTS_AT + 4 :], value[FLOW_SWAPPED_AT]
        low = (1 << PORT_BITS) - 1
        pairs = ((PORT + (number & low), PORT + (number >> PORT_BITS)) for number in range(flows))
        self._maps("flows").update_batch(
            (head + struct.pack(">HH", *(pair[::-1] if swapped else pair)) + tail, value) for pair in pairs
        )

    def _forget_flows(self) -> None:
        for name in ("flows", "new_flows"):
            self._maps(name).delete_batch([key for key, _ in self._maps(name).items()])

    def _maps(self, name: str) -> Map:
        return self._datapath.maps[name]

    def _context(self, sent: Sent) -> bytes:
        return SkbContext(ifindex=self._ifindex[sent.device]).pack()


def _world() -> fabric.World:
    world = fabric.standard()
    world.nodes[fabric.FAR].mtu = fabric.POD_MTU
    for block in FAR_BLOCKS:
        world.addresses[block] = fabric.Owner(fabric.ID_FAR, fabric.FAR)
    world.rules.append(fabric.Rule(fabric.ID_BETA, fabric.ID_ALPHA, Direction.INGRESS))
    world.rules.append(fabric.Rule(fabric.ID_ALPHA, fabric.ID_FAR, Direction.INGRESS))
    return world


def run(texts: list[str]) -> None:
    """All rows, or those with one of the texts in their name."""
    build()
    wanted = [case for case in cases() if not texts or any(text in case.name for text in texts)]
    with arena() as place, tempfile.TemporaryDirectory() as folder:
        bench = Bench(place, Path(folder))
        report("datapath", [bench.measure(case) for case in wanted])


if __name__ == "__main__":
    run(sys.argv[1:])
