"""What the agent knows across restarts, in its state folder: numbers and the last good world.

    numbers.json    identities, nodes, workloads and classes by number, as pinned maps hold them
    snapshot.json   the records in force, for a start while etcd is away

An agent may be killed at any time: numbers are written down before anything is applied, so that no
map holds one which the next run may give to somebody else, and the snapshot soon after it changed.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from meshfabric.agent.sources import StoreSource
from meshfabric.model.errors import MeshfabricError
from meshfabric.model.world import Event, World
from meshfabric.store import pins, snapshot
from meshfabric.store.registry import Registry

NUMBERS_FILE = "numbers.json"
SNAPSHOT_FILE = "snapshot.json"
NUMBERS_EVERY_S = 0.2
SNAPSHOT_EVERY_S = 0.25  # what changed since is not known to a start without etcd: a policy taken back, say
SPARING = 20  # writing takes no more than a twentieth of a thread

log = logging.getLogger(__name__)


class Memory:
    """Reads at the start, writes while the agent runs."""

    def __init__(self, world: World, registry: Registry, source: StoreSource) -> None:
        self._world, self._registry, self._source = world, registry, source
        folder = world.settings.state_dir
        self._numbers, self._snapshot = folder / NUMBERS_FILE, folder / SNAPSHOT_FILE
        self._written: tuple[int, ...] = ()
        self._saved: object = None

    def recall(self) -> Iterator[list[Event]]:
        """The world as it was last known, a page of the snapshot at a time."""
        for page in snapshot.load(self._snapshot).pages:
            yield self._registry.take(page)

    async def keep_numbers(self) -> None:
        """Until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(NUMBERS_EVERY_S)
                self.save_numbers()
        finally:
            self.save_numbers()

    async def keep_snapshot(self) -> None:
        """Until cancelled: soon after each change, yet for no more than a small share of the time."""
        while True:
            began = time.monotonic()
            await asyncio.to_thread(self._save_snapshot)
            spent = time.monotonic() - began
            await asyncio.sleep(max(SNAPSHOT_EVERY_S, SPARING * spent))

    def save_numbers(self) -> None:
        """Write them down now, if any was given or released since."""
        given = self._world.numbers_given
        if given != self._written:
            _attempt(lambda: pins.save_numbers(self._numbers, self._world))
            self._written = given

    def _save_snapshot(self) -> None:
        position = self._source.position
        if position != self._saved and self._registry.settled:
            _attempt(lambda: snapshot.save(self._snapshot, self._registry.records()))
            self._saved = position


def _attempt(save: Callable[[], None]) -> None:
    """A full disk must not end the agent; the next change tries again."""
    try:
        save()
    except MeshfabricError as error:
        log.error("cannot save", extra={"error": str(error)})
