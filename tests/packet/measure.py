"""What a packet costs: nanoseconds of each program by test-run, net of the harness.

    .venv/bin/python -m tests.packet.measure [--rounds N] [--only TEXT]

A turntable (turn.bpf.c) gives the program a packet of another flow at every
run, so that the caches meet what they would on the road; what the turntable
costs with an empty program is taken off. Medians of rounds, in brackets the
quartiles. Compare ratios: machines differ, and neighbours are noisy.
"""

import argparse
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from meshfabric.kernel import loader
from meshfabric.kernel.bpf import Program, SkbContext
from meshfabric.model import tables
from meshfabric.model.tables import Direction
from tests.packet import world as fabric
from tests.packet.arena import Arena, arena, build, compile_extra
from tests.packet.frames import V6, address, frame

REPEAT = 65536
ROUNDS = 60
PORT = 1024
FEW, MANY = 1, 65536
FRAME, LINK_HEADER, HEAD = 64, 14, 28
# Taking the link header off again moves the kernel's idea of the network header; a long packet has room
# for that a while. The figures of this case include adding and taking off.
LONG, SHORT_REPEAT = 1200, 64
WG_PORT, UNDERLAY = 51820, ("192.0.2.1", "192.0.2.2")
TRUSTED = 100  # answers in a row
FLOW_PORTS_AT, FLOW_SWAPPED_AT = 32, 32  # in struct flow_key, in struct flow
FAR_POD = "8.0.1.5"  # its first bytes pass for the Ethernet type IPv4, which shrinking a packet wants to see


@dataclass(frozen=True)
class Case:
    """One line of the table; `answer` is the packet that makes the flow an established one."""

    name: str
    program: str
    device: str
    packet: bytes
    flows: int = FEW
    answer: tuple[str, str, bytes] | None = None
    l3: int = LINK_HEADER
    repeat: int = REPEAT

    @property
    def is_v6(self) -> bool:
        """By the first four bits of the IP header."""
        return self.packet[self.l3] >> 4 == V6


def _datagram(source: str, destination: str, port: int = PORT, length: int = FRAME - LINK_HEADER) -> bytes:
    head = IPv6 if ":" in source else IP
    layers = head(src=source, dst=destination) / UDP(sport=PORT, dport=port)
    return bytes(layers / Raw(bytes(length - HEAD)))


def _frame(source: str, destination: str, port: int = PORT) -> bytes:
    return frame(_datagram(source, destination, port))


def _cases() -> Iterator[Case]:
    alpha, beta = "10.77.0.1", "10.77.0.2"
    far_answer = ("from_overlay", "mfwg00", _datagram(FAR_POD, alpha))
    beta_answer = ("from_workload", "mfp2", _frame(beta, alpha))
    alpha_answer = ("from_workload", "mfp1", _frame(alpha, FAR_POD))
    for flows in (FEW, MANY):
        count = f"{flows} flow" if flows == 1 else f"{flows} flows"
        out = _frame(alpha, FAR_POD)
        yield Case(f"pod to remote pod, {count}", "from_workload", "mfp1", out, flows, far_answer)
        across = _frame(alpha, beta)
        yield Case(f"pod to pod on the node, {count}", "from_workload", "mfp1", across, flows, beta_answer)
        back = _datagram(FAR_POD, alpha, length=LONG)
        yield Case(
            f"tunnel to pod, {count}", "from_overlay", "mfwg00", back, flows, alpha_answer, 0, SHORT_REPEAT
        )
    here, there, near = (address(name, V6) for name in ("alpha", "far", "beta"))
    far_answer = ("from_overlay", "mfwg00", _datagram(there, here))
    yield Case(
        "pod to remote pod, IPv6, 1 flow", "from_workload", "mfp1", _frame(here, there), FEW, far_answer
    )
    near_answer = ("from_workload", "mfp2", _frame(near, here))
    yield Case("pod to pod, IPv6, 1 flow", "from_workload", "mfp1", _frame(here, near), FEW, near_answer)
    yield Case("first packets, denied", "from_workload", "mfp2", _frame(beta, alpha), MANY)
    encrypted = _frame(*UNDERLAY, port=WG_PORT)
    yield Case("encrypted, to uplink", "to_uplink", "up0", encrypted)
    yield Case("encrypted, from uplink", "from_uplink", "up0", encrypted)


class Bench:
    """The datapath in an arena, and a turntable for each case."""

    def __init__(self, place: Arena, folder: Path, rounds: int) -> None:
        self._place, self._rounds = place, rounds
        self._turn = compile_extra("turn", folder)
        self._datapath = place.load()
        self._world = _world()
        self._ifindex = place.devices(self._world.devices)
        self._tables = fabric.Tables(self._datapath.maps, self._ifindex)

    def measure(self, case: Case) -> str:
        """One line of the table."""
        self._prepare(case)
        with self._turntable(case) as turntable:
            empty = statistics.median(self._times(turntable, turntable.programs["nothing"], case))
            busy = sorted(self._times(turntable, self._datapath.programs[case.program], case))
        net = [round(value - empty) for value in busy]
        low, median, high = (net[len(net) * part // 4] for part in (1, 2, 3))
        return f"{case.name:38} {median:5} [{low}-{high}]   (harness {empty:.0f})"

    def _times(self, turntable: loader.Datapath, program: Program, case: Case) -> list[int]:
        turntable.maps["under_test"].update(tables.number(0), tables.number(program.fd))
        turn, context = turntable.programs["turn"], self._context(case.device)
        runs = [
            self._place.run(turn.test_run, case.packet, ctx=context, repeat=case.repeat)
            for _ in range(self._rounds + 1)
        ]
        return [run.duration_ns for run in runs[1:]]

    @contextmanager
    def _turntable(self, case: Case) -> Iterator[loader.Datapath]:
        settings = {
            "flows_mask": tables.number(case.flows - 1),
            "l3": tables.number(case.l3),
            "length": tables.number(len(case.packet)),
            "head": case.packet[case.l3 : case.l3 + HEAD],
            "ttl_at": tables.number(7 if case.is_v6 else 8),
            "ports_at": tables.number(40 if case.is_v6 else 20),
        }
        pins = self._place.pins / f"turn{time.monotonic_ns()}"
        with self._place.run(loader.load, [self._turn], pins, None, settings) as turntable:
            yield turntable

    def _context(self, device: str) -> bytes:
        return SkbContext(ifindex=self._ifindex[device]).pack()

    def _prepare(self, case: Case) -> None:
        """Fresh maps, healthy paths, and the flows that the case wants to find."""
        self._world.bump(*self._world.generations)  # what is in `recent` holds no more
        self._tables.write(self._world)
        for name in ("flows", "new_flows"):
            table = self._datapath.maps[name]
            table.delete_batch(list(table.keys()))
        for index, tunnel in enumerate(self._world.nodes[fabric.FAR].tunnels):
            state = tables.PATH.pack(0, 0, 0, 0, 0, 0, 0, TRUSTED, 0, self._ifindex[tunnel])
            self._datapath.maps["paths"].update(tables.number(index), state)
        if case.answer:
            self._open_flows(case)

    def _open_flows(self, case: Case) -> None:
        """Let two packets make a flow, and copy it to as many as are wanted."""
        assert case.answer
        for program, device, packet in ((case.program, case.device, case.packet), case.answer):
            self._place.run(self._datapath.programs[program].test_run, packet, ctx=self._context(device))
        [(key, value)] = self._datapath.maps["flows"].items()
        head, tail, swapped = key[:FLOW_PORTS_AT], key[FLOW_PORTS_AT + 4 :], value[FLOW_SWAPPED_AT]
        pairs = ((PORT + (number & 0x7FFF), PORT + (number >> 15)) for number in range(case.flows))
        self._datapath.maps["flows"].update_batch(
            (head + struct.pack(">HH", *(pair[::-1] if swapped else pair)) + tail, value) for pair in pairs
        )


def _world() -> fabric.World:
    world = fabric.standard()
    world.addresses["8.0.1.0/24"] = fabric.Owner(fabric.ID_FAR, fabric.FAR)
    world.rules.append(fabric.Rule(fabric.ID_BETA, fabric.ID_ALPHA, Direction.INGRESS))
    world.rules.append(fabric.Rule(fabric.ID_ALPHA, fabric.ID_FAR, Direction.INGRESS))
    return world


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="cases whose name has this text")
    options = parser.parse_args()
    build()
    with arena() as place, tempfile.TemporaryDirectory() as folder:
        bench = Bench(place, Path(folder), options.rounds)
        for case in _cases():
            if options.only in case.name:
                print(bench.measure(case), flush=True)


if __name__ == "__main__":
    main()
