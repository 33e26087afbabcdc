"""The programs under test, beside their oracle.

A `Rig` runs one program on one packet and says what came of it; a `Scene` does
the same with the oracle looking on, and fails when the two disagree.
"""

import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from meshfabric.kernel.bpf import SkbContext
from meshfabric.kernel.loader import Datapath
from meshfabric.model import tables
from meshfabric.model.tables import FIRST_NODE, Reason
from tests.packet.arena import Arena
from tests.packet.oracle import Oracle, Outcome
from tests.packet.world import Tables, World, standard

MARK = 0x6D667061  # fabric_mark
ABOUT_A_DROP = {Reason.TOO_BIG_TOLD, Reason.EXPIRED_TOLD, Reason.ERROR_WITHHELD}
FLOW_TABLES = ("flows", "new_flows", "nat", "new_nat", "fragments")
SEEN_NS_BYTES = 8  # struct flow begins with it
NS_PER_S = 10**9
GENERATIONS_OF_A_TEST = 1000
SIZES = {
    "flows": 4096,
    "new_flows": 4096,
    "nat": 1024,
    "new_nat": 1024,
    "fragments": 1024,
}  # small tables are listed faster


@dataclass(frozen=True)
class Run:
    """What a program did: verdict, packet afterwards, mark, and how often each reason was counted.

    `noted` is the last word of the private ones.
    """

    action: int
    packet: bytes
    mark: int
    counted: dict[Reason, tuple[int, int]]
    noted: int = 0

    @property
    def reason(self) -> Reason | None:
        """What became of the packet; where its sender was told, or might have been, why it was dropped."""
        beside = {*ABOUT_A_DROP, Reason.AUDITED}
        reasons = [reason for reason in self.counted if reason not in beside]
        assert len(reasons) <= 1, self.counted
        return next(iter(reasons), None)

    @property
    def told(self) -> Reason | None:
        """What was said, or not, to the sender of a packet that was dropped."""
        reasons = [reason for reason in self.counted if reason in ABOUT_A_DROP]
        assert len(reasons) <= 1, self.counted
        return next(iter(reasons), None)


class Rig:
    """The loaded datapath in an arena, with the devices of the standard world."""

    def __init__(self, arena: Arena, datapath: Datapath) -> None:
        self.arena, self.programs, self.maps = arena, datapath.programs, datapath.maps
        self.ifindex = arena.devices([*standard().devices, "stray0"])
        self.tables = Tables(self.maps, self.ifindex)
        self._epoch = 0

    def reset(self, world: World) -> None:
        """Fill the maps, and forget all that the programs noted.

        Generations that were never seen make the copies of busy flows worthless,
        which are too many to delete for every test.
        """
        self._epoch += GENERATIONS_OF_A_TEST
        for place in world.generations:
            world.generations[place] += self._epoch
        self.tables.write(world)
        self.maps["complaints"].update_batch((tables.number(place), bytes(8)) for place in world.workloads)
        self.maps["shares"].update_batch((tables.number(place), bytes(4)) for place in world.workloads)
        for name in FLOW_TABLES:
            self.maps[name].delete_batch(list(self.maps[name].keys()))
        for place in world.nodes:
            for index in range(tables.MAX_PATHS):
                self.set_path(place, index, bytes(tables.PATH.size))

    def forget_recent(self) -> None:
        """The copies of busy flows, all of them."""
        recent = self.maps["recent"]
        size = recent.max_entries * recent.value_size
        with mmap.mmap(recent.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
            memory[:] = bytes(size)

    def run(
        self,
        program: str,
        packet: bytes,
        device: str,
        mark: int = 0,
        segment: int = 0,
        told: int = 0,
        place: int = 0,
    ) -> Run:
        """Run the program on the packet as if it passed `device`; `segment` makes it a GSO packet.

        `told` and `place` are the length and the receiver's node that the program before, which set `mark`,
        let this one know.
        """
        context = SkbContext(
            ifindex=self.ifindex[device],
            mark=mark,
            cb=told.to_bytes(4, sys.byteorder) + place.to_bytes(4, sys.byteorder) + bytes(12),
            gso_size=segment,
            gso_segs=2 if segment else 0,
        )
        before = self._counters()
        done = self.arena.run(self.programs[program].test_run, packet, ctx=context.pack())
        counted = {
            reason: (now[0] - then[0], now[1] - then[1])
            for (reason, now), then in zip(self._counters().items(), before.values(), strict=True)
            if now != then
        }
        after = SkbContext.unpack(done.ctx_out)
        noted = int.from_bytes(after.cb[-4:], sys.byteorder)
        return Run(done.retval, done.data_out, after.mark, counted, noted)

    def path(self, place: int, index: int) -> tables.PathState:
        """The state of a node's path."""
        value = self.maps["paths"].lookup(_path_key(place, index))
        assert value is not None
        return tables.read_path(value)

    def set_path(self, place: int, index: int, state: bytes) -> None:
        """Overwrite the state of a node's path."""
        self.maps["paths"].update(_path_key(place, index), state)

    @contextmanager
    def overwritten(self, table: str, key: bytes, value: bytes) -> Iterator[None]:
        """Something in a map that no world has, for a while."""
        before = self.maps[table].lookup(key)
        assert before is not None
        self.maps[table].update(key, value)
        try:
            yield
        finally:
            self.maps[table].update(key, before)

    def age_flows(self, seconds: float) -> None:
        """Let every flow have been silent for so long."""
        for name in ("flows", "new_flows"):
            table = self.maps[name]
            for key, value in list(table.items()):
                seen_ns = int.from_bytes(value[:SEEN_NS_BYTES], "little") - int(seconds * NS_PER_S)
                table.update(key, (seen_ns % 2**64).to_bytes(SEEN_NS_BYTES, "little") + value[SEEN_NS_BYTES:])
        self.forget_recent()

    def flow_count(self) -> tuple[int, int]:
        """How many flows are new, and how many answered."""
        return len(list(self.maps["new_flows"].keys())), len(list(self.maps["flows"].keys()))

    def shares(self) -> dict[int, int]:
        """How many established flows are counted to whom, by place."""
        counted = ((int.from_bytes(key, "little"), value) for key, value in self.maps["shares"].items())
        return {place: int.from_bytes(value, "little", signed=True) for place, value in counted if any(value)}

    def _counters(self) -> dict[Reason, tuple[int, int]]:
        reasons = self.maps["reasons"]
        return {
            Reason(number): tables.read_counter(reasons.split(value))
            for key, value in reasons.items()
            if (number := tables.NUMBER.unpack(key)[0]) in set(Reason)
        }


def _path_key(place: int, index: int) -> bytes:
    return tables.number((place - FIRST_NODE) * tables.MAX_PATHS + index)


@dataclass
class Scene:
    """A rig and an oracle in the same world."""

    rig: Rig
    world: World
    oracle: Oracle = field(init=False)

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.world)
        self.rig.reset(self.world)

    def change(self, edit: Callable[[World], None], *bumped: int) -> None:
        """Change the world as the agent does: the entries first, the generations of `bumped` last."""
        edit(self.world)
        self.rig.tables.write(self.world)
        self.world.bump(*bumped)
        self.rig.tables.write(self.world)

    def age(self, seconds: float) -> None:
        """Nobody spoke for so long."""
        self.rig.age_flows(seconds)
        self.oracle.age(seconds)

    def from_workload(self, device: str, data: bytes, segment: int = 0) -> Reason | None:
        """A frame from the workload behind `device`; gives the reason that both agree on."""
        wanted = self.oracle.from_workload(device, data, segment)
        program = "from_netkit" if self.world.is_netkit(device) else "from_workload"
        return self._compare(self.rig.run(program, data, device, segment=segment), wanted, data)

    def from_overlay(self, device: str, data: bytes, segment: int = 0) -> Reason | None:
        """A packet out of a tunnel."""
        wanted = self.oracle.from_overlay(data, segment)
        return self._compare(self.rig.run("from_overlay", data, device, segment=segment), wanted, data)

    def _compare(self, run: Run, wanted: Outcome, data: bytes) -> Reason | None:
        told = f"packet {data.hex()}: {run.counted}, the oracle says {wanted}"
        assert run.reason == (wanted.dropped or wanted.reason), told
        assert run.told == (wanted.reason if wanted.dropped else None), told
        assert run.action == wanted.action, told
        assert run.mark == (MARK if wanted.marked else 0), told
        if wanted.packet is not None:
            assert run.packet == wanted.packet, f"{run.packet.hex()} instead of {wanted.packet.hex()}"
        if wanted.dropped is not None:
            assert run.counted[wanted.dropped] == (1, len(data)), told
        if wanted.reason is not None:
            assert run.counted[wanted.reason] == (1, len(run.packet)), told
        return run.reason
