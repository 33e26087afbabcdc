"""The world and its plan: events in, changes out, until what is equals the plan.

    feed(event) --step--> changes --+--> rounds of the kernel's tables --> bump generations
                                    +--> rounds of our records in the store

`rounds` is the only place that retries. The store may be away, or silent for
seconds: what is in the kernel does not wait for it. Everything is compared at
the start, after an error, and slowly for ever: what somebody else changed is
repaired and counted as drift. Nothing is removed before every source of the
world has synced once.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

from meshfabric.compiler.step import compile_plan, stale_places, step
from meshfabric.model.errors import MeshfabricError
from meshfabric.model.plan import Change, Table
from meshfabric.model.world import Event, World
from meshfabric.reconcile.rounds import Rounds
from meshfabric.reconcile.target import Stale, Target

IN_STORE = frozenset({Table.RECORDS})

log = logging.getLogger(__name__)


class Loop:
    """Owns the world and its plan; everything else feeds it events."""

    def __init__(self, world: World, targets: Sequence[Target], stale: Stale) -> None:
        self.world = world
        self.plan = compile_plan(world)
        self.synced = False  # set through `sync`
        self.events_seen = 0
        self.events_refused = 0
        self.busy_s = 0.0  # spent in `feed`, for the metrics
        self.in_force = False  # the kernel has been as planned, with the node itself in the plan
        self.on_apply: Callable[[], None] = lambda: None  # before anything is applied
        self.on_applied: Callable[[], None] = lambda: None
        self._stale = stale
        owners = {table: target for target in targets for table in target.tables}
        near = {table: owner for table, owner in owners.items() if table not in IN_STORE}
        far = {table: owner for table, owner in owners.items() if table in IN_STORE}
        self._near, _ = self._rounds = [Rounds(self.plan, part, self._make_stale) for part in (near, far)]
        for rounds in self._rounds:
            rounds.before, rounds.ended = lambda: self.on_apply(), self._ended

    @property
    def failing(self) -> dict[Table, str]:
        """Tables that could not be observed or applied, and are tried again, with the reason."""
        return {table: why for rounds in self._rounds for table, why in rounds.failing.items()}

    @property
    def drift_repaired(self) -> int:
        """Entries that somebody else had changed."""
        return sum(rounds.drift_repaired for rounds in self._rounds)

    @property
    def apply_s(self) -> float:
        """Seconds spent on applying changes."""
        return sum(rounds.apply_s for rounds in self._rounds)

    @property
    def changes_applied(self) -> int:
        """Changes that were applied, or tried."""
        return sum(rounds.changes_applied for rounds in self._rounds)

    def feed(self, events: Iterable[Event]) -> None:
        """Take events in; the changes are applied soon, together with others that come meanwhile."""
        begun = perf_counter()
        for event in events:
            self.events_seen += 1
            try:
                changes = step(self.world, self.plan, event)
            except MeshfabricError as error:  # no number is left for it: the world is as it was
                self.events_refused += 1
                log.error("event refused", extra={"key": str(event.key), "error": str(error)})
                continue
            for rounds in self._rounds:
                rounds.take(changes)
        self.busy_s += perf_counter() - begun

    def sync(self) -> None:
        """Every source has told all that it knows: from now on extras are removed."""
        if not self.synced:
            self.synced = True
            self.world.release_unused()
            for rounds in self._rounds:
                rounds.removes = True
            self.check(Table)

    def check(self, tables: Iterable[Table], *, drift: bool = False) -> None:
        """Have these tables observed and repaired; what was found then counts as `drift`."""
        wanted = set(tables)
        for rounds in self._rounds:
            rounds.check(wanted, drift=drift)

    async def settled(self) -> None:
        """Return when nothing is left to do or to retry at once."""
        for rounds in self._rounds:
            await rounds.settled()

    async def run(self) -> None:
        """Apply until cancelled. A table that fails is tried again later and holds nobody up."""
        async with asyncio.TaskGroup() as tasks:
            for rounds in self._rounds:
                tasks.create_task(rounds.run())
                tasks.create_task(self._drift_checks(rounds))

    async def _drift_checks(self, rounds: Rounds) -> None:
        """One after the other, however long each takes: between them others see that all is settled."""
        while True:
            await asyncio.sleep(self.world.settings.drift_check_s)
            rounds.check(Table, drift=True)
            await rounds.settled()

    def _ended(self) -> None:
        """After each round. What is not in force is failing, or was never tried."""
        if self._near.idle and self.world.node in self.world.workloads:
            self.in_force = True
        self.on_applied()

    async def _make_stale(self, changes: list[Change]) -> None:
        places = stale_places(self.world, changes)
        if places:
            await self._stale.bump(places)
