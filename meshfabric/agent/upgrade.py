"""The programs of an earlier build are replaced by ours: what that wrote is brought along, and told.

`kernel.upgrade` says which entries that takes and why no packet is lost; here it is
done at the right moments, around the first attaching and until no earlier program
is left. Without an upgrade this does nothing.
"""

from collections.abc import Callable, Iterable, Sequence

from meshfabric.kernel.lane import Lane
from meshfabric.kernel.loader import Datapath
from meshfabric.kernel.programs import OF_AN_EARLIER_RUN, Programs
from meshfabric.kernel.upgrade import Upgrade
from meshfabric.model.plan import Change, Key, Table, Value

Note = Callable[[str, str], None]


def tell(datapath: Datapath, note: Note) -> None:
    """Name the maps that are of another shape than those that were there."""
    for name, carried in sorted(datapath.migrated.items()):
        note("map migrated", f"{name}: {carried}")
    for name, why in sorted(datapath.rebuilt.items()):
        note("map rebuilt", f"{name}: {why}; it starts empty")


class Replacing:
    """The target of the table `programs`, with what an upgrade has to do before and after."""

    tables = Programs.tables

    def __init__(self, programs: Programs, upgrade: Upgrade, maps: Lane, note: Note) -> None:
        self._programs, self._upgrade = programs, upgrade
        self._maps, self._note = maps, note
        self._missed = 0

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """What is attached."""
        return await self._programs.observe(table)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Attach, replace or detach. Also of a failed attempt some devices may run the new programs."""
        if not self._upgrade.under_way:
            await self._programs.apply(changes)
            return
        await self._maps.run(self._upgrade.refresh)
        try:
            await self._programs.apply(changes)
        finally:
            self._missed += await self._maps.run(self._upgrade.add_missing)
        await self._finish()

    async def _finish(self) -> None:
        found = await self._programs.observe(Table.PROGRAMS)
        if any(value == OF_AN_EARLIER_RUN for _, value in found):
            return  # a device that the plan has not got yet, or no more
        await self._maps.run(self._upgrade.finish)
        self._note("upgrade finished", f"{self._missed} entries came while programs were replaced")
