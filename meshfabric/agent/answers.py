"""What each request on the agent's socket means."""

import time
from typing import Any

from meshfabric import __version__
from meshfabric.agent.draining import Draining
from meshfabric.agent.readings import Readings
from meshfabric.agent.rotation import Rotation
from meshfabric.agent.simulation import Simulation
from meshfabric.agent.sources import StoreSource
from meshfabric.agent.switches import Switches
from meshfabric.agent.workloads import Workloads
from meshfabric.api.messages import (
    Ask,
    Attach,
    Detach,
    Drain,
    Passing,
    Release,
    Request,
    Simulate,
    Undrain,
)
from meshfabric.compiler.paths import workload_mtu
from meshfabric.kernel import features
from meshfabric.kernel.attach import ways
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.tunnels import Tunnels
from meshfabric.model.plan import Table
from meshfabric.observe import rows
from meshfabric.observe.audits import Audits
from meshfabric.observe.events import Events
from meshfabric.observe.switches import explain
from meshfabric.reconcile.loop import Loop
from meshfabric.store.registry import Registry


class Answers:
    """Dispatches; each subject is one small function."""

    def __init__(
        self,
        loop: Loop,
        source: StoreSource,
        registry: Registry,
        workloads: Workloads,
        readings: Readings,
        tunnels: Tunnels,
        rotation: Rotation,
        lane: Lane,
        events: Events,
        audits: Audits,
        simulation: Simulation,
        draining: Draining,
        switches: Switches,
    ) -> None:
        self._loop, self._world, self._source, self._registry = loop, loop.world, source, registry
        self._workloads, self._readings, self._tunnels = workloads, readings, tunnels
        self._rotation, self._simulation = rotation, simulation
        self._lane, self._events, self._heard = lane, events, audits
        self._draining, self._turns = draining, switches
        self._started = time.monotonic()

    async def __call__(self, request: Request) -> Any:
        """The reply's result; raises `MeshfabricError`."""
        match request:
            case Attach():
                return await self._workloads.attach(request)
            case Detach():
                return await self._workloads.detach(request.name)
            case Release():
                self._loop.feed(self._registry.release())
                return None
            case Simulate():
                told = await self._simulation.compare(request)
                return {**told, "connected": self._source.connected}
            case Drain():
                return await self._draining.drain(request.uplinks, force=request.force)
            case Undrain():
                return await self._draining.undrain(request.uplinks)
            case Passing():
                return await self._draining.passing(request.uplink)
            case Ask():
                return await getattr(self, f"_{request.subject}")()

    async def _status(self) -> dict[str, Any]:
        position = self._source.position
        return {
            "fabric": self._world.settings.fabric,
            "node": self._world.node,
            "kind": self._world.settings.kind.value,
            "version": __version__,
            "ready": self._ready(),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "store": {
                "connected": self._source.connected,
                "revision": position.revision if position else 0,
                "detail": self._source.detail,
            },
            "nodes": {"known": len(self._world.nodes), "alive": len(self._world.alive)},
            "endpoints": len(self._world.endpoints),
            "workloads": len(self._world.workloads),
            "policies": len(self._world.policies),
            "wireguard": self._tunnels.backend,
            "attach": ways(self._world.settings.pods),
            "encryption": rows.encryption(self._world),
            "mtu": workload_mtu(self._world),
            "draining": sorted(self._world.draining),
            "keys": self._rotation.told(),
            "refused": [{"key": key, "why": why} for key, why in sorted(self._registry.refused.items())],
            "failing": [{"table": table.value, "why": why} for table, why in self._loop.failing.items()],
            "held": self._registry.held,
            "drift_repaired": self._loop.drift_repaired,
            "events": [event._asdict() for event in self._events.last],
        }

    def _ready(self) -> bool:
        """The node forwards as planned; that etcd is away, and cannot be told, does not matter to that.

        Nor is it ready before all was tried: what an earlier run left may still be in force.
        """
        known = self._world.node in self._world.workloads and self._world.own_keys.generations
        tried = self._loop.in_force and bool(known)
        return tried and self._loop.failing.keys() <= {Table.RECORDS}

    async def _nodes(self) -> list[rows.Row]:
        return rows.node_rows(self._world, self._readings.paths({}))

    async def _endpoints(self) -> list[rows.Row]:
        return rows.endpoint_rows(self._world)

    async def _paths(self) -> list[rows.Row]:
        tunnels = await self._lane.run(self._tunnels.state)
        seen = self._readings.paths(tunnels)
        return rows.path_rows(self._world, seen, explain(seen, time.monotonic_ns()))

    async def _switches(self) -> list[rows.Row]:
        return self._turns.rows()

    async def _uplinks(self) -> list[rows.Row]:
        return self._draining.rows()

    async def _keys(self) -> list[rows.Row]:
        made_s = await self._lane.run(self._tunnels.made_s)
        return rows.key_rows(self._world, made_s, time.time())

    async def _policies(self) -> list[rows.Row]:
        return rows.policy_rows(self._world)

    async def _classes(self) -> list[rows.Row]:
        return rows.class_rows(self._world)

    async def _audits(self) -> list[rows.Row]:
        return self._heard.rows(self._world)

    async def _drops(self) -> list[rows.Row]:
        return rows.drop_rows(self._readings.counters())

    async def _features(self) -> list[rows.Row]:
        found = await self._lane.run(features.probe)
        return [
            {
                "feature": feature.name,
                "present": feature.present,
                "needed": feature.needed,
                "since": feature.since_kernel,
                "detail": feature.detail,
            }
            for feature in found
        ]

    async def _fabric(self) -> dict[str, Any]:
        etcd = self._world.settings.etcd
        return {
            "fabric": self._world.settings.fabric,
            "node": self._world.node,
            "etcd": list(etcd.endpoints),
            "ca": etcd.ca,
            "cert": etcd.cert,
            "key": etcd.key,
            "user": etcd.user,
            "prefixes": [str(network) for network in self._world.prefixes.get("", ())],
        }

    async def _plan(self) -> dict[str, str]:
        return {"text": str(self._loop.plan)}
