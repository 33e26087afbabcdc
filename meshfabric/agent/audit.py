"""Hears from the datapath what policies in audit would have stopped, keeps it, and says so now and then.

    datapath --ring buffer--> listen --> rows for `meshfabric policy audit`
                                 \\--> an event, at most one in a while

Nothing waits for us: what finds the ring full is only counted (`audited` among the reasons).
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from meshfabric.kernel.bpf_map import Map
from meshfabric.kernel.ring import Ring, readable
from meshfabric.model.tables import read_audit
from meshfabric.model.world import World
from meshfabric.observe.audits import Audits, describe

READ_EVERY_S = 0.1  # a ring full of records at most, which takes some milliseconds
TELL_EVERY_S = 60.0


class Listener:
    """Reads the ring from the start of `run` to its end; `note` is told of kinds that were not known."""

    def __init__(self, audits: Map, world: World, note: Callable[[str, str], None]) -> None:
        self._map, self._world, self._note = audits, world, note
        self._told_s = float("-inf")
        self.heard = Audits()

    async def run(self) -> None:
        """Until cancelled."""
        ring = Ring(self._map)
        try:
            while True:
                await readable(ring.fd)
                self._take(ring.read())
                await asyncio.sleep(READ_EVERY_S)
        finally:
            ring.close()

    def _take(self, records: list[bytes]) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fresh = [record for record in map(read_audit, records) if self.heard.add(record, now)]
        if fresh and time.monotonic() - self._told_s >= TELL_EVERY_S:
            self._told_s = time.monotonic()
            more = f" (and {len(fresh) - 1} more at once)" if len(fresh) > 1 else ""
            self._note("policy audit", f"would be denied: {describe(self._world, fresh[-1])}{more}")
