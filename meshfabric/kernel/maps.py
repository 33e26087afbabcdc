"""The plan's tables that are eBPF maps, and the generations that make flows be judged again."""

import os
from collections.abc import Iterable, Mapping, Sequence

from meshfabric.kernel.bpf import Map, MapType
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.moves import Moves
from meshfabric.model.plan import MAPS, Change, Key, Table, Value
from meshfabric.model.tables import NUMBER, number

GENERATIONS_MASK = 0xFFFFFFFF


class MapTables:
    """A target of the reconcile loop. An array has no absent entries: zeros stand for them."""

    tables = MAPS

    def __init__(self, maps: Mapping[str, Map], lane: Lane) -> None:
        self._maps = {table: maps[table.value] for table in MAPS}
        self._moves = Moves(maps["nodes"], maps["paths"])
        self._lane = lane

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """Every entry, read in chunks while the caller takes them."""
        found = self._maps[table]
        if found.type is not MapType.ARRAY:
            return found.items()
        zero = bytes(found.value_size)
        return ((key, value) for key, value in found.items() if value != zero)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Write in batches."""
        await self._lane.run(self._write_table, changes[0].table, changes)

    def _write_table(self, table: Table, changes: Sequence[Change]) -> None:
        if table is not Table.NODES:
            self._write(self._maps[table], changes)
            return
        for change in changes:  # one by one: what moves with it is out of place until then
            with self._moves.around(change):
                self._write(self._maps[table], [change])

    def _write(self, written: Map, changes: Sequence[Change]) -> None:
        zero = bytes(written.value_size)
        gone = [change.key for change in changes if change.value is None]
        kept = [(change.key, change.value) for change in changes if change.value is not None]
        if written.type is MapType.ARRAY:
            kept += [(key, zero) for key in gone]
            gone = []
        written.update_batch(kept)
        written.delete_batch(gone)


class Generations:
    """Counts up; only the agent writes it."""

    def __init__(self, generations: Map, lane: Lane) -> None:
        self._map, self._lane = generations, lane

    def begin_anew(self) -> None:
        """Count from anywhere: what flows remember of a map that is gone must not come true by chance."""
        anywhere = os.urandom(NUMBER.size * self._map.max_entries)
        counts = (anywhere[at : at + NUMBER.size] for at in range(0, len(anywhere), NUMBER.size))
        self._map.update_batch((number(place), count) for place, count in enumerate(counts))

    async def bump(self, places: set[int]) -> None:
        """Every flow of these places is judged anew at its next packet."""
        await self._lane.run(self._write, places)

    def _write(self, places: set[int]) -> None:
        for place in places:
            key = number(place)
            before = NUMBER.unpack(self._map.lookup(key) or number(0))[0]
            self._map.update(key, number((before + 1) & GENERATIONS_MASK))
