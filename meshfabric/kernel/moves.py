"""What is known of tunnels moves along when they change their positions among a node's paths.

`paths` is by position, and a program that finds another device there than it knew begins
to count anew: for three probes nothing would be known to work, and a packet would take
the first path even if that is dead. So the states are written where their devices will
stand right before `nodes` is, and looked at right after: a probe in between may have
begun anew. What the datapath counted in those microseconds may be lost, a probe at most.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from meshfabric.kernel.bpf import Map
from meshfabric.model.plan import Change
from meshfabric.model.tables import MAX_PATHS, NUMBER, PathState, number, path_value, positions, read_path


class Moves:
    """Around the writing of `nodes`."""

    def __init__(self, nodes: Map, paths: Map) -> None:
        self._nodes, self._paths = nodes, paths

    @contextmanager
    def around(self, change: Change) -> Iterator[None]:
        """The change is written within."""
        moved = list(self._moved(change)) if change.value is not None else []
        for at, state in moved:
            self._write(at, state)
        yield
        for at, state in moved:
            now = self._read(at)
            if now.ifindex != state.ifindex or now.heard < state.heard:
                self._write(at, state)

    def _moved(self, change: Change) -> Iterator[tuple[int, PathState]]:
        """Where each device that changes its position will stand, and what is known of it."""
        assert isinstance(change.key, bytes)
        assert isinstance(change.value, bytes)
        first = NUMBER.unpack(change.key)[0] * MAX_PATHS
        before, after = positions(self._nodes.lookup(change.key) or b""), positions(change.value)
        for device, position in after.items():
            old = before.get(device, position)
            state = self._read(first + old)
            if old != position and state.ifindex == device:
                yield first + position, state

    def _read(self, at: int) -> PathState:
        return read_path(self._paths.lookup(number(at)) or b"")

    def _write(self, at: int, state: PathState) -> None:
        """When there was traffic for the node is a matter of the position, not of the tunnel."""
        self._paths.update(number(at), path_value(state._replace(traffic_ns=self._read(at).traffic_ns)))
