"""The agent's readings under the public names of the metrics; see `observe.metrics`."""

from collections.abc import Callable

from meshfabric.agent.readings import Readings
from meshfabric.agent.sources import StoreSource
from meshfabric.agent.switches import Switches
from meshfabric.model.plan import Table
from meshfabric.observe.metrics import Reading
from meshfabric.reconcile.loop import Loop
from meshfabric.store.registry import Registry


def reader(
    loop: Loop, readings: Readings, source: StoreSource, registry: Registry, switches: Switches
) -> Callable[[], Reading]:
    """What reads everything once a scrape."""

    def read() -> Reading:
        return Reading(
            gauges=_gauges(loop, source, registry),
            counters=_counters(loop, registry),
            reasons={reason.name.lower(): pair for reason, pair in readings.counters().items()},
            map_entries={table.value: sum(1 for _ in loop.plan.entries(table)) for table in Table},
            paths=readings.path_metrics(),
            switches={node: switches.counts.get(node, 0) for node in loop.world.nodes},
        )

    return read


def _gauges(loop: Loop, source: StoreSource, registry: Registry) -> dict[str, tuple[str, float]]:
    revision = source.position.revision if source.position else 0
    keys = loop.world.own_keys
    return {
        "store_connected": ("1 while etcd answers.", source.connected),
        "store_revision": ("Revision of etcd up to which everything was taken in.", revision),
        "records_refused": ("Records of the store that are not in force.", len(registry.refused)),
        "removal_held": ("1 while a mass removal waits for release.", bool(registry.held)),
        "key_epoch": ("Epoch of the tunnel keys that traffic takes.", keys.epochs[keys.taken] or 0),
        "key_rotation": ("1 while there are tunnel keys of two epochs.", len(keys.generations) > 1),
        "uplinks_draining": ("Uplinks that are taken last, on order.", len(loop.world.draining)),
        "tables_failing": ("Tables that could not be applied and are retried.", len(loop.failing)),
        "nodes_known": ("Nodes of the fabric.", len(loop.world.nodes)),
        "nodes_alive": ("Nodes whose agent holds its lease.", len(loop.world.alive)),
        "endpoints": ("Addresses in force.", len(loop.world.endpoints)),
        "workloads": ("Workloads attached to this node.", len(loop.world.workloads)),
    }


def _counters(loop: Loop, registry: Registry) -> dict[str, tuple[str, float]]:
    return {
        "events": ("Events taken in.", loop.events_seen),
        "events_refused": ("Events for which no number was left.", loop.events_refused),
        "event_seconds": ("Time spent on taking events in.", loop.busy_s),
        "apply_seconds": ("Time spent on applying changes.", loop.apply_s),
        "changes": ("Changes applied.", loop.changes_applied),
        "drift_repaired": ("Entries that somebody else had changed.", loop.drift_repaired),
        "record_refusals": ("Refusals of records since the start.", sum(registry.refusals.values())),
    }
