"""What the datapath and WireGuard show at this moment, for listings, metrics and the prober."""

import time
from collections.abc import Mapping

from meshfabric.compiler.paths import sharing, ways
from meshfabric.compiler.probes import probe_ends
from meshfabric.kernel.bpf import Map
from meshfabric.kernel.wireguard import DeviceState
from meshfabric.model.plan import Table, TunnelPeer
from meshfabric.model.tables import (
    FIRST_NODE,
    MAX_PATHS,
    PathState,
    Reason,
    TokenState,
    number,
    read_counter,
    read_path,
    read_token,
)
from meshfabric.observe.metrics import PathReading
from meshfabric.observe.rows import PathSeen
from meshfabric.probe.health import Health, carrying, grade, health, hold_left_s, loss_percent
from meshfabric.probe.prober import Target
from meshfabric.probe.sizer import Look
from meshfabric.reconcile.loop import Loop


class Readings:
    """Reads `paths`, `reasons` and `token`; writes nothing."""

    def __init__(self, loop: Loop, maps: Mapping[str, Map]) -> None:
        self._loop, self._world = loop, loop.world
        self._paths, self._reasons, self._token = maps["paths"], maps["reasons"], maps["token"]

    def counters(self) -> dict[Reason, tuple[int, int]]:
        """Packets and bytes by reason."""
        return {reason: read_counter(self._reasons.percpu(number(reason))) for reason in Reason}

    def paths(self, tunnels: dict[str, DeviceState]) -> list[PathSeen]:
        """Every tunnel to every node, by node, the preferred one first."""
        keys = {
            (device, peer.node): key
            for (device, key), peer in self._loop.plan.entries(Table.PEERS)
            if isinstance(peer, TunnelPeer)
        }
        return [seen for node in sorted(self._world.nodes) for seen in self._to(node, tunnels, keys)]

    def _to(
        self, node: str, tunnels: dict[str, DeviceState], keys: dict[tuple[str, str], str]
    ) -> list[PathSeen]:
        there = [way for way in ways(self._world, node) if way.device in self._world.links]
        states = [self._state(node, way.position) for way in there]
        grades = [self._grade(state, way.device) for state, way in zip(states, there, strict=True)]
        taken = carrying(grades, sharing(self._world, there)) if there else []
        seen = []
        for at, (_, name, generation, pair) in enumerate(there):
            device = tunnels.get(name)
            peer = device.peers.get(keys.get((name, node), "")) if device else None
            age = int(time.time() - peer.last_handshake_s) if peer and peer.last_handshake_s else None
            moved = (peer.rx_bytes, peer.tx_bytes) if peer else (0, 0)
            active, found = at in taken, self._health(states[at], name)
            faults = hold_left_s(states[at], time.monotonic_ns()), loss_percent(states[at])
            seen.append(
                PathSeen(node, pair, name, generation, states[at], found, active, age, *moved, *faults)
            )
        return seen

    def path_metrics(self) -> list[PathReading]:
        """The same without WireGuard's part, for metrics."""
        return [
            PathReading(
                seen.node,
                seen.device,
                seen.answers,
                seen.active,
                seen.state.rtt_us,
                seen.state.sent,
                seen.state.heard,
                seen.state.flaps,
                seen.state.lost_out,
                seen.state.lost_back,
                seen.state.jitter_out_ns,
                seen.state.jitter_back_ns,
                seen.state.faults,
                seen.state.falls,
                seen.generation is not None,
            )
            for seen in self.paths({})
        ]

    def probe_targets(self) -> list[Target]:
        """Every tunnel that exists, with our address and the other node's of one family."""
        targets = []
        for node in sorted(self._world.nodes):
            ends = probe_ends(self._world, node)
            there = [way for way in ways(self._world, node) if way.device in self._world.links]
            targets += [Target(way.device, *ends, node, way.position) for way in there if ends]
        return targets

    def look(self, target: Target) -> Look:
        """What the sizer has to know of a path, which may have gone since it was told of it."""
        if target.device not in self._world.links or target.node not in self._world.nodes:
            return Look(up=False)
        state = self._state(target.node, target.at)
        up = self._health(state, target.device).answers
        return Look(up, state.padded, state.next_probe, state.answered)

    def token(self) -> TokenState:
        """What paces the probes."""
        return read_token(self._token.lookup(number(0)) or b"")

    def _state(self, node: str, at: int) -> PathState:
        place = self._world.node_numbers.take(node)
        return read_path(self._paths.lookup(number((place - FIRST_NODE) * MAX_PATHS + at)) or b"")

    def _grade(self, state: PathState, device: str) -> int:
        interval_ms = self._world.settings.probe.interval_ms
        return grade(state, self._world.links[device].index, time.monotonic_ns(), interval_ms)

    def _health(self, state: PathState, device: str) -> Health:
        interval_ms = self._world.settings.probe.interval_ms
        return health(state, self._world.links[device].index, time.monotonic_ns(), interval_ms)
