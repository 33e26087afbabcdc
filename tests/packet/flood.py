"""Floods: one workload begins flow after flow with another that answers, in the kernel's own test-run.

`crowd` is a world in which beta holds a whole prefix, so that there may be
millions of flows between the two. `flood.bpf.c` numbers them; all questions of a
batch are asked before the first is answered.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from meshfabric.kernel import loader
from meshfabric.kernel.bpf import Program, SkbContext
from meshfabric.model.tables import Direction, number
from tests.packet import world as fabric
from tests.packet.frames import V4, V6, address, frame
from tests.packet.rig import Rig
from tests.packet.world import ALPHA, BETA, ID_ALPHA, ID_BETA, Owner, Rule, World

SOURCE = Path(__file__).with_name("flood.bpf.c")
REDIRECT = 7
ETHERNET = 14
HOPS_AT = {V4: 8, V6: 7}
SOURCE_AT, DESTINATION_AT = {V4: 12, V6: 8}, {V4: 16, V6: 24}
ADDRESS_BYTES = {V4: 4, V6: 16}
HEADER = {V4: 20, V6: 40}
CROWD = {V4: "10.88.0.1", V6: "fd88::1"}
BATCH = 1000
SENDERS = {ALPHA: "mfp1", BETA: "mfp2"}

Asked = Callable[[str, str], bytes]  # source, destination -> an IP packet


def crowd() -> World:
    """The standard world, where beta is a whole prefix and takes whatever alpha says."""
    world = fabric.standard()
    world.addresses |= {"10.88.0.0/16": Owner(ID_BETA, BETA), "fd88::/112": Owner(ID_BETA, BETA)}
    world.rules = [rule for rule in world.rules if rule.subject != ID_BETA]
    world.rules.append(Rule(ID_BETA, ID_ALPHA, Direction.INGRESS))
    return world


class Stream:
    """Packets of one sender, one for each flow; `port` is where in the transport header its number goes."""

    def __init__(self, rig: Rig, compiled: Path, sender: int, packet: bytes, port: int) -> None:
        self._rig, self._frame = rig, frame(packet)
        self._context = SkbContext(ifindex=rig.ifindex[SENDERS[sender]]).pack()
        family = packet[0] >> 4
        end = (DESTINATION_AT if sender == ALPHA else SOURCE_AT)[family] + ADDRESS_BYTES[family]
        settings = {
            "hops_at": number(ETHERNET + HOPS_AT[family]),
            "address_at": number(ETHERNET + end - 2),
            "port_at": number(ETHERNET + HEADER[family] + port),
        }
        pins = rig.arena.pins / f"flood{time.monotonic_ns()}"
        self._loaded = rig.arena.run(loader.load, [compiled], pins, None, settings)
        self._loaded.maps["under_test"].update(number(0), number(rig.programs["from_workload"].fd))
        self._flood: Program = self._loaded.programs["flood"]

    def send(self, count: int) -> None:
        """The packets of the next `count` flows; the last one has to be forwarded."""
        run = self._rig.arena.run(self._flood.test_run, self._frame, ctx=self._context, repeat=count)
        assert run.retval == REDIRECT

    def close(self) -> None:
        """Unload."""
        self._loaded.close()


@contextmanager
def streams(
    rig: Rig, compiled: Path, family: int, asked: tuple[Asked, int], answered: tuple[Asked, int] | None
) -> Iterator[list[Stream]]:
    """What alpha asks beta, and if anything what beta answers; each with the place of the flow's number."""
    ends = address("alpha", family), CROWD[family]
    with ExitStack() as stack:
        made = [Stream(rig, compiled, ALPHA, asked[0](*ends), asked[1])]
        if answered:
            made.append(Stream(rig, compiled, BETA, answered[0](*ends[::-1]), answered[1]))
        for stream in made:
            stack.callback(stream.close)
        yield made


def pour(made: list[Stream], flows: int) -> None:
    """So many flows, batch after batch."""
    for _ in range(flows // BATCH):
        for stream in made:
            stream.send(BATCH)
