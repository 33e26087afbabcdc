"""The program `tick` on its own: a test lets the token pass, reads what left, and sets what there is."""

import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass

from meshfabric.kernel import links
from meshfabric.kernel.bpf import SkbContext
from meshfabric.kernel.holding import TOKEN_BYTES
from meshfabric.model import tables
from meshfabric.model.addresses import parse_address
from meshfabric.model.tables import MAX_PATHS, PathState, Reason, TokenState
from tests.packet.arena import Arena
from tests.packet.frames import V4, V6
from tests.packet.node import IFF_TUN, TUNNELS, Queue

INTERVAL_NS, IDLE_NS = 50_000_000, 1_000_000_000
OWN = {V4: "10.77.0.9", V6: "fd77::9"}
NODES = tables.WORLD - tables.FIRST_NODE
WORD = struct.Struct("=Q")
NODES_PER_WORD = 64
MINE = 77
BLANK = bytes(12) + b"\x08\0" + bytes(TOKEN_BYTES - 14)


@dataclass(frozen=True)
class Passed:
    """What a round made of the packet: verdict, bytes, mark, when it is to leave, and how many segments."""

    action: int
    packet: bytes
    mark: int
    tstamp: int
    segments: int


class Clock:
    """A loaded `tick` with two tunnels, whose far ends the test reads, and a loop that is no real one."""

    def __init__(self, place: Arena, stack: ExitStack) -> None:
        self.place = place
        datapath = stack.enter_context(place.load({"recent": 262144, "flows": 1024, "new_flows": 1024}))
        self.program, self.maps = datapath.programs["tick"], datapath.maps
        self.queues = [place.run(Queue, name, IFF_TUN) for name in TUNNELS]
        for name in TUNNELS:  # or the kernel's own router solicitations leave by them
            place.run(links.ensure_sysctls, name, links.FABRIC_SYSCTLS)
        self.ifindex = place.devices([*TUNNELS, "mftick0", "mftick1"])
        ends = self.ifindex["mftick0"], self.ifindex["mftick1"]
        self.maps["loop"].update(tables.number(0), tables.loop_value(*ends))
        self.fabric()

    def fabric(self, *families: int, tunnels: int = 2) -> None:
        """So many nodes, each probed by this family over all tunnels; nothing was said yet."""
        words = -(-NODES // NODES_PER_WORD)
        for name, many in (
            ("nodes", NODES),
            ("probes", NODES),
            ("paths", NODES * MAX_PATHS),
            ("active", words),
        ):
            zero = bytes(self.maps[name].value_size)
            self.maps[name].update_batch((tables.number(i), zero) for i in range(many))
        paths = [(self.ifindex[name], 0) for name in TUNNELS[:tunnels]]
        for i, family in enumerate(families):
            ends = map(parse_address, (OWN[family], far(i, family)))
            self.maps["nodes"].update(tables.number(i), tables.node_value(paths))
            self.maps["probes"].update(tables.number(i), tables.probe_value(*ends))
        self.set()
        for queue in self.queues:
            while not queue.is_empty():
                queue.read()

    def set(self, **fields: int) -> None:
        """A token of our generation that is due, no turn to idle nodes being; but for what is given."""
        now = time.monotonic_ns()
        due = now - INTERVAL_NS
        state = TokenState(due, 0, now, 0, 0, 0, MINE, 0, 0, 0, NODES, 0)._replace(**fields)
        self.maps["token"].update(tables.number(0), tables.TOKEN.pack(*state))

    @property
    def state(self) -> TokenState:
        return tables.read_token(self.maps["token"].lookup(tables.number(0)) or b"")

    def speak_to(self, *nodes: int, ago_ns: int = 0) -> None:
        """There was traffic for these nodes."""
        words: dict[int, int] = {}
        for node in nodes:
            word, bit = divmod(node, NODES_PER_WORD)
            before = WORD.unpack(self.maps["active"].lookup(tables.number(word)) or b"")[0]
            words[word] = words.get(word, before) | 1 << bit
            state = self.path(node)._replace(traffic_ns=time.monotonic_ns() - ago_ns)
            self.maps["paths"].update(tables.number(node * MAX_PATHS), tables.path_value(state))
        self.maps["active"].update_batch((tables.number(at), WORD.pack(bits)) for at, bits in words.items())

    def is_active(self, node: int) -> bool:
        word, bit = divmod(node, NODES_PER_WORD)
        return bool(WORD.unpack(self.maps["active"].lookup(tables.number(word)) or b"")[0] >> bit & 1)

    def path(self, node: int, index: int = 0) -> PathState:
        return tables.read_path(self.maps["paths"].lookup(tables.number(node * MAX_PATHS + index)) or b"")

    def tick(
        self, packet: bytes = BLANK, mark: int = MINE, device: str = "mftick1", segment: int = 0
    ) -> Passed:
        """A packet comes in by the loop's second device; `segment` makes it a GSO packet."""
        context = SkbContext(
            ifindex=self.ifindex[device], mark=mark, gso_size=segment, gso_segs=2 if segment else 0
        )
        done = self.place.run(self.program.test_run, packet, ctx=context.pack())
        after = SkbContext.unpack(done.ctx_out)
        return Passed(done.retval, done.data_out, after.mark, after.tstamp, after.gso_segs)

    def dropped(self) -> int:
        """Packets that were none of the fabric's."""
        value = self.maps["reasons"].percpu(tables.number(Reason.NOT_FROM_FABRIC))
        return tables.read_counter(value)[0]

    def sent(self, tunnel: int) -> list[bytes]:
        """What left by a tunnel since the last time."""
        queue, found = self.queues[tunnel], []
        while not queue.is_empty():
            found.append(queue.read())
        return found


def far(node: int, family: int) -> str:
    """A node's own address."""
    return f"10.{78 + (node >> 8)}.{node & 255}.1" if family == V4 else f"fd77:0:0:{node + 1:x}::1"
