"""Some tables of the plan, kept as planned round after round.

    take(changes) --> pending --stages--> targets --> after(changes)
                         ^                   |error
                         +----- compare <----+ after a pause
                                   ^
                                   +-- at the start, when told to, and slowly for ever (drift)

A table that fails is compared, whole, after a pause, and holds up no other.
What comes while tables are compared does not wait for the end of that: it is
applied between one table and the next, and beats what the comparison found.
`loop` owns the plan, and which tables belong together.
"""

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import islice
from time import perf_counter

from meshfabric.model.errors import MeshfabricError
from meshfabric.model.plan import Change, Key, Plan, Table
from meshfabric.model.show import show_key, show_value
from meshfabric.reconcile.delta import Comparison, squash, stages
from meshfabric.reconcile.target import Target

RETRY_FIRST_S = 0.2
RETRY_MOST_S = 15.0
SLICE = 512  # entries compared before others may run: about 2 ms

Pending = dict[tuple[Table, Key], Change]
After = Callable[[list[Change]], Awaitable[None]]

log = logging.getLogger(__name__)


class Rounds:
    """`before` is called before anything is applied, `after` with what was, or was tried; `ended` after
    each round.
    """

    def __init__(self, plan: Plan, targets: Mapping[Table, Target], after: After) -> None:
        self.removes = False  # what is there but not planned
        self.drift_repaired = 0
        self.failing: dict[Table, str] = {}
        self.apply_s = 0.0
        self.changes_applied = 0
        self.before: Callable[[], None] = lambda: None
        self.ended: Callable[[], None] = lambda: None
        self._plan, self._targets, self._after = plan, targets, after
        self._pending: Pending = {}
        self._unsure: set[Table] = set(targets)
        self._pauses: dict[Table, float] = {}
        self._retries: dict[Table, asyncio.TimerHandle] = {}
        self._work = asyncio.Event()
        self._work.set()  # what is there has to be looked at
        self._idle = asyncio.Event()
        self._suspected: set[Table] = set()

    @property
    def idle(self) -> bool:
        """Whether everything was looked at, and nothing is left to do or to retry at once."""
        return self._idle.is_set()

    def take(self, changes: Iterable[Change]) -> None:
        """Apply those that are of our tables soon, together with others that come meanwhile."""
        ours = [change for change in changes if change.table in self._targets]
        if ours:
            squash(self._pending, ours)
            self._wake()

    def check(self, tables: Iterable[Table], *, drift: bool = False) -> None:
        """Have those of our tables compared and repaired; what was found then counts as `drift`."""
        ours = set(tables) & self._targets.keys()
        if drift:
            self._suspected |= ours
        else:
            self._unsure |= ours
        self._wake()

    async def settled(self) -> None:
        """Return when nothing is left to do or to retry at once."""
        await self._idle.wait()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                await self._round()
                for table in self.failing.keys() - self._retries.keys():
                    self._retry_later(table)
        finally:
            for retry in self._retries.values():
                retry.cancel()

    def _wake(self) -> None:
        self._idle.clear()
        self._work.set()

    def _retry_later(self, table: Table) -> None:
        pause = min(2 * self._pauses.get(table, RETRY_FIRST_S / 2), RETRY_MOST_S)
        self._pauses[table] = pause
        self._retries[table] = asyncio.get_running_loop().call_later(pause, self._retry, table)

    def _retry(self, table: Table) -> None:
        del self._retries[table]
        self.check([table])

    async def _round(self) -> None:
        unsure, suspected = self._unsure, self._suspected - self._unsure - self.failing.keys()
        tables = self._suspected | self._unsure
        self._suspected, self._unsure = set(), set()
        found: Pending = {}
        drift: list[Change] = []
        broken: set[Table] = set()
        await self._work_off(found, unsure, broken)
        for table in [table for table in Table if table in tables]:
            differences = await self._compare(table)
            if differences is None:
                broken.add(table)
            else:
                squash(found, differences)
                drift += differences if table in suspected else []
            await self._work_off(found, unsure, broken)
        pending, self._pending = self._pending, {}
        squash(found, pending.values())
        await self._apply(list(found.values()), broken)
        self._count_drift([change for change in drift if change.table not in broken])
        self._mend(tables - broken)  # a change alone does not make up for those that failed earlier
        if not (self._pending or self._unsure or self._suspected):
            self._idle.set()
        self.ended()

    async def _work_off(self, found: Pending, unsure: set[Table], broken: set[Table]) -> None:
        """Apply what is pending, which is newer than what was found; not to tables of which nobody
        knows yet what is there.
        """
        ready = [change for (table, _), change in self._pending.items() if table not in unsure]
        for change in ready:
            del self._pending[change.table, change.key]
            found.pop((change.table, change.key), None)
        await self._apply(ready, broken)

    async def _compare(self, table: Table) -> list[Change] | None:
        comparison = Comparison(table, self._plan.table(table))
        try:
            observed = iter(await self._targets[table].observe(table))
            while batch := list(islice(observed, SLICE)):
                comparison.add(batch)
                await asyncio.sleep(0)
        except MeshfabricError as error:
            self._report(table, error)
            return None
        pending = {key for owner, key in self._pending if owner is table}
        return comparison.changes(remove=self.removes, pending=pending)

    async def _apply(self, changes: list[Change], broken: set[Table]) -> None:
        """In stages; tables that fail join the broken ones, of which nothing is tried."""
        if not changes:
            return
        begun = perf_counter()
        self.before()
        for stage in stages(changes):
            if stage[0].table not in broken and not await self._apply_stage(stage):
                broken.add(stage[0].table)
        await self._after(changes)
        self.apply_s += perf_counter() - begun
        self.changes_applied += len(changes)

    async def _apply_stage(self, stage: list[Change]) -> bool:
        table = stage[0].table
        try:
            await self._targets[table].apply(stage)
        except MeshfabricError as error:
            self._report(table, error)
            return False
        return True

    def _mend(self, tables: set[Table]) -> None:
        for table in tables:
            self.failing.pop(table, None)
            self._pauses.pop(table, None)

    def _count_drift(self, changes: list[Change]) -> None:
        self.drift_repaired += len(changes)
        for change in changes:
            log.warning("drift repaired", extra=_shown(change))

    def _report(self, table: Table, error: MeshfabricError) -> None:
        if self.failing.get(table) != str(error):
            log.error("cannot apply", extra={"table": table.value, "error": str(error)})
        self.failing[table] = str(error)


def _shown(change: Change) -> dict[str, str]:
    """A repaired change for the log; whoever made it may have written what makes no sense."""
    name = change.table.value
    try:
        key, found = show_key(name, change.key), show_value(name, change.old)
    except (ValueError, struct.error):
        key, found = str(change.key), str(change.old)
    return {"table": name, "key": key, "found": found, "wanted": show_value(name, change.value)}
