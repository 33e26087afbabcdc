"""What the agent keeps telling the store: that it is alive, and how far it has come.

nodes/<node>/alive   on a lease; goes by itself when the agent does
report/<node>        applied revision, refusals, failures: watched by nobody,
                     read by `apply --wait` and by people
"""

import asyncio
import logging
from contextlib import suppress
from typing import Any

import msgspec

from meshfabric.agent.sources import StoreSource
from meshfabric.model.errors import MeshfabricError
from meshfabric.reconcile.loop import Loop
from meshfabric.store.client import Etcd
from meshfabric.store.keys import alive_key, report_key
from meshfabric.store.registry import Registry

LEASE_S = 10
RETRY_S = 2.0
REPORT_AT_MOST_EVERY_S = 0.5
REPORTS_PER_S = 200  # of all nodes together: a thousand that each tell of every change keep etcd busy with it

log = logging.getLogger(__name__)


async def stay_alive(etcd: Etcd, fabric: str, node: str, lease_s: int = LEASE_S) -> None:
    """Hold the lease until cancelled; another one is taken when it was lost."""
    while True:
        with suppress(MeshfabricError):  # the follower shows that etcd is away
            lease = await etcd.lease(lease_s)
            await etcd.put(alive_key(fabric, node).encode(), b"{}", lease.id)
            log.info("lease lost", extra={"reason": await lease.lost()})
        await asyncio.sleep(RETRY_S)


async def keep_reporting(etcd: Etcd, source: StoreSource, registry: Registry, loop: Loop) -> None:
    """After every batch from the store, once it is applied: report, if anything is new.

    At once when all was quiet, so that `apply --wait` does not wait; else the more seldom the more
    nodes there are.
    """
    key = report_key(loop.world.settings.fabric, loop.world.node).encode()
    told: tuple[int, dict[str, Any]] = (0, {})
    while True:
        await source.changed.wait()
        source.changed.clear()
        position = source.position if loop.synced else None  # before that nothing is removed
        await loop.settled()
        report = {
            "revision": position.revision if position else 0,
            "refused": dict(sorted(registry.refused.items())),
            "failing": {table.value: why for table, why in loop.failing.items()},
            "held": registry.held,
        }
        news = source.listings, report  # a store that was set back lacks what it was told
        if source.connected and news != told:
            try:
                await etcd.put(key, msgspec.json.encode(report))
                told = news
            except MeshfabricError:
                source.changed.set()  # tried again after the pause
        await asyncio.sleep(max(REPORT_AT_MOST_EVERY_S, len(loop.world.nodes) / REPORTS_PER_S))
