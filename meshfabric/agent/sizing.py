"""Path MTUs: what `probe.sizer` finds becomes events, and is remembered over restarts.

The memory is the pinned map `nodes`, which has the MTU in force for each path: an
agent that starts finds there what the one before it had found, before anything is
written. It tries for more at once, for it does not know how old that is.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from meshfabric.agent.readings import Readings
from meshfabric.compiler.paths import LEAST_MTU, RESERVED_FOR_IPIP, path_mtu, workload_mtu
from meshfabric.kernel.bpf import Map
from meshfabric.model.tables import FIRST_NODE, number, read_node
from meshfabric.model.world import Event, Kind
from meshfabric.probe.sizer import Path, Sizer
from meshfabric.reconcile.loop import Loop

Note = Callable[[str, str], None]


class Sizing:
    """`restore` comes first, `aim` whenever paths or uplinks may be others; `run` ends when cancelled."""

    def __init__(self, loop: Loop, readings: Readings, nodes: Map, note: Note) -> None:
        self._loop, self._world, self._readings, self._nodes = loop, loop.world, readings, nodes
        self._note = note
        self._sizer = Sizer(LEAST_MTU + RESERVED_FOR_IPIP, readings.look, self._found)

    def restore(self) -> None:
        """Take over what the pinned map says, where that is less than uplinks promise."""
        devices = {link.index: device for device, link in self._world.links.items()}
        for node in sorted(self._world.nodes):
            for index, mtu in self._in_force(node):
                carried = mtu + RESERVED_FOR_IPIP
                if index in devices and mtu and carried < self._ceiling():
                    self._found((devices[index], node), carried)
                    self._sizer.resume((devices[index], node), self._ceiling(), carried)

    def aim(self) -> None:
        """Paths or uplinks may have changed."""
        self._sizer.aim(lambda: (self._ceiling(), self._readings.probe_targets()))

    def run(self) -> Coroutine[Any, Any, None]:
        """Search until cancelled."""
        return self._sizer.run()

    def _ceiling(self) -> int:
        return workload_mtu(self._world) + RESERVED_FOR_IPIP

    def _in_force(self, node: str) -> list[tuple[int, int]]:
        """Devices towards the node, by index, and what fits there."""
        place = self._world.node_numbers.find(node)
        value = self._nodes.lookup(number(place - FIRST_NODE)) if place is not None else None
        return read_node(value) if value else []

    def _found(self, path: Path, carried: int | None) -> None:
        self._loop.feed([Event(Kind.CARRIED, path, carried)])
        device, node = path
        self._note("path mtu", f"{node} by {device}: {path_mtu(self._world, device, node)} bytes")
