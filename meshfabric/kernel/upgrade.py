"""Maps of another build and their successors, from the load of new programs until the old ones are gone.

    load    copies   all that fits goes into the new map, which takes the pin
            refresh  again, right before the first new program runs
    attach           device after device; old programs still write the old map
            add_missing  what they wrote meanwhile, never over what the new ones wrote
            finish   no old program is left: the old map goes

What may be missing, and why no packet is lost for it: a flow of before `refresh` is
in the new map before any new program looks for it. If it changed since, in the old
map alone, then the new one has it with an older time, generation or answer: the
next packet has it judged again, in the flow's own direction, as after any change of
policy, with the same result. A flow that *begins* between `refresh` and
`add_missing` is in one of the two only. Its later packets in the same direction begin
it again; an answer that arrives at a device with the other program first would be
judged as a beginning, in the wrong direction, and may be dropped (with its reason)
until `add_missing` has been there. That is why it follows at once on attaching; the
time in between is that of one pass over the maps, 1 s for 131,072 flows (`copy`
takes 0.4 s). Senders of such a first packet repeat it, as for any other loss.

Until `finish` the old map stays pinned, as `<name>~old<id>`, so that an agent which
is killed in between leaves nothing behind that its successor does not find. Only
maps that programs write are followed (`BY_DATAPATH`): what agents write has no
writer left, and what was removed meanwhile must not come back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meshfabric.kernel.bpf_map import Map
from meshfabric.kernel.carry import Carried, Carry
from meshfabric.kernel.layout import MapShape, leaves
from meshfabric.kernel.libbpf import shape_of
from meshfabric.kernel.migrate import Plan, Rebuild, plan_map

BY_DATAPATH = "written by the datapath"
COPY = "a copy"
"""Tags of a map's declaration (bpf/include/maps.h): programs write it; nothing is lost if it starts empty."""
OLD = "~old"


@dataclass
class _Predecessor:
    name: str
    map: Map
    plan: Plan
    shape: MapShape  # of the successor
    is_written: bool  # by programs, which go on while they run
    is_new: bool  # its successor is; else programs may use that already


class Upgrade:
    """All predecessors that one load met; nothing is to be done where there were none."""

    def __init__(self, pins: Path) -> None:
        self._pins = pins
        self._met: list[_Predecessor] = []
        self._carries: list[Carry] = []
        self._new: list[Carry] = []  # whose successors no program has used yet

    @property
    def under_way(self) -> bool:
        """Whether old programs may still write what the new ones read."""
        return bool(self._carries)

    def succeed(self, name: str, earlier: Map, shape: MapShape, tags: set[str]) -> str:
        """A map of this `shape` will take the place of `earlier`, which is ours now; "", or why none of its
        entries can be kept.
        """
        self.adopt(name, earlier, shape, tags)
        found = Rebuild("it held but copies") if COPY in tags else plan_map(shape_of(earlier), shape)
        if isinstance(found, Rebuild):
            earlier.close()
            return found.why
        self._met.append(_Predecessor(name, earlier, found, shape, BY_DATAPATH in tags, True))
        return ""

    def adopt(self, name: str, current: Map, shape: MapShape, tags: set[str]) -> None:
        """What is pinned stays in use: only what an interrupted upgrade left beside it is met again."""
        for pin in sorted(self._pins.glob(f"{name}{OLD}*")):
            old = Map.open(pin)
            found = plan_map(shape_of(old), shape)
            if old.id == current.id or isinstance(found, Rebuild) or BY_DATAPATH not in tags:
                old.close()
            else:
                self._met.append(_Predecessor(name, old, found, shape, True, False))

    def copy(self, maps: Mapping[str, Map]) -> dict[str, Carried]:
        """Fill the new maps, which nobody uses yet; what became of the entries, by map."""
        done = {}
        for one in self._met:
            fields = list(leaves(one.shape.value)) if one.shape.value else []
            carry = Carry(one.map, maps[one.name], one.plan, fields)
            if one.is_new:
                done[one.name] = carry.copy()
            if one.is_written:
                self._carries.append(carry)
                self._new += [carry] if one.is_new else []
        return done

    def pin(self) -> None:
        """Name the predecessors that programs write, before others take their names."""
        for one in self._met:
            place = self._pins / f"{one.name}{OLD}{one.map.id}"
            if one.is_written and not place.exists():
                one.map.pin(place)

    def refresh(self) -> None:
        """Copy once more, right before the first new program runs; later calls do nothing."""
        for carry in self._new:
            carry.copy()
        self._new = []

    def add_missing(self) -> int:
        """Bring over what old programs wrote since; how many entries."""
        return sum(carry.add_missing() for carry in self._carries)

    def finish(self) -> None:
        """No old program is left: let go of their maps."""
        for pin in self._pins.glob(f"*{OLD}*"):
            pin.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of all handles; pins keep what is needed."""
        for one in self._met:
            one.map.close()
        self._met, self._carries, self._new = [], [], []
