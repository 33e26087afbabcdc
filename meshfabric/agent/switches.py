"""Follows which path carries each node's traffic, and tells of every switch.

    datapath --ring buffer `turns`--+
    plan, each time it is in force -+--> Choices --> an event, rows for `path show`, a metric

The datapath decides by itself, for each packet; here it is only followed (`observe.switches`).
What finds the ring full is made good by a look at the states themselves, now and then.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from meshfabric.agent.readings import Readings
from meshfabric.kernel.bpf_map import Map
from meshfabric.kernel.ring import Ring, readable
from meshfabric.model.tables import Grade, read_turn
from meshfabric.observe.rows import PathSeen, Row
from meshfabric.observe.switches import NS_PER_S, Candidate, Choices, Switch, outage_text, switch_row
from meshfabric.reconcile.loop import Loop

READ_EVERY_S = 0.05
LOOK_EVERY_S = 5.0
REST_S = 0.2
LOOKED_AT_PER_S = 200  # nodes: the paths to each are read


class Switches:
    """`aim` whenever the plan may be another; `run` ends when cancelled."""

    def __init__(self, loop: Loop, readings: Readings, turns: Map, note: Callable[[str, str], None]) -> None:
        self._loop, self._world, self._readings, self._turns = loop, loop.world, readings, turns
        self._note = note
        self._ring: Ring | None = None
        self._choices = Choices()
        self._known: set[str] = set()
        self._hint = asyncio.Event()

    @property
    def counts(self) -> dict[str, int]:
        """Switches by node since the start."""
        return self._choices.counts

    def aim(self) -> None:
        """Look soon."""
        self._hint.set()

    def look(self) -> None:
        """Choose anew by the states as they are, after all that was told before."""
        self._take()
        by_node: dict[str, list[Candidate]] = {node: [] for node in self._known}
        for path in self._readings.paths({}):
            by_node.setdefault(path.node, []).append(_candidate(path))
        self._known = set(by_node)
        for node, paths in by_node.items():
            self._tell(self._choices.follow(node, paths, time.monotonic_ns()))

    async def run(self) -> None:
        """Until cancelled. What an earlier agent left unread is old."""
        self._ring = Ring(self._turns)
        try:
            while self._ring.read():
                pass
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(self._ring))
                tasks.create_task(self._look())
        finally:
            self._ring.close()
            self._ring = None

    def rows(self) -> list[Row]:
        """The last switches to each node, the latest first."""
        names = {path.device: self._uplinks(path) for path in self._readings.paths({})}
        kept = (one for kept in self._choices.kept.values() for one in kept)
        found = sorted(kept, key=lambda one: one.number, reverse=True)
        return [switch_row(one, names, _iso(one.at_ns)) for one in found]

    async def _listen(self, ring: Ring) -> None:
        while True:
            await readable(ring.fd)
            self._take()
            await asyncio.sleep(READ_EVERY_S)

    async def _look(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hint.wait(), LOOK_EVERY_S)
            self._hint.clear()
            self.look()
            await asyncio.sleep(max(REST_S, len(self._world.nodes) / LOOKED_AT_PER_S))

    def _take(self) -> None:
        records = self._ring.read() if self._ring else []
        if not records:
            return
        nodes = {number: str(name) for name, number in self._world.node_numbers.items()}
        devices = {link.index: device for device, link in self._world.links.items()}
        for turn in map(read_turn, records):
            node, device = nodes.get(turn.place), devices.get(turn.ifindex)
            if node and device:
                self._tell(self._choices.take(node, device, turn))

    def _tell(self, switch: Switch | None) -> None:
        if switch:
            how = outage_text(switch)
            self._note("path switch", f"{switch.node}: {switch.old} to {switch.new}, {switch.why}, {how}")

    def _uplinks(self, path: PathSeen) -> str:
        far = next(one for one in self._world.nodes[path.node].uplinks if one.slot == path.pair.remote)
        return f"{self._world.settings.uplinks[path.pair.local].name}-{far.name}"


def _candidate(path: PathSeen) -> Candidate:
    grade = path.state.faults if path.answers else Grade.SILENT
    return Candidate(path.device, path.pair, path.generation, grade, path.state.heard_ns)


def _iso(at_ns: int) -> str:
    at_s = time.time() - (time.monotonic_ns() - at_ns) / NS_PER_S
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
