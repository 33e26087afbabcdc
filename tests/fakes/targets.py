"""A kernel made of dictionaries: what the loop wrote can be read, printed and disturbed."""

from collections.abc import Iterable, Sequence

from meshfabric.model.errors import TemporaryError
from meshfabric.model.plan import Change, Key, Table, Value


class FakeTarget:
    """Holds tables; `broken` ones refuse everything, `log` keeps what was asked in order."""

    def __init__(self, tables: Iterable[Table] = tuple(Table)) -> None:
        self.tables = tuple(tables)
        self.entries: dict[Table, dict[Key, Value]] = {table: {} for table in self.tables}
        self.broken: set[Table] = set()
        self.log: list[Change] = []

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """What is there; the caller may take its time."""
        self._check(table)
        return iter(list(self.entries[table].items()))

    async def apply(self, changes: Sequence[Change]) -> None:
        """One table's changes, as they come."""
        table = changes[0].table
        self._check(table)
        for change in changes:
            assert change.table is table
            self.log.append(change)
            if change.value is None:
                self.entries[table].pop(change.key, None)
            else:
                self.entries[table][change.key] = change.value

    @property
    def in_kernel(self) -> list[Change]:
        """The log without what is told to the store, which others see when they see it."""
        return [change for change in self.log if change.table is not Table.RECORDS]

    def _check(self, table: Table) -> None:
        if table in self.broken:
            raise TemporaryError(f"{table.value} is broken")

    def __str__(self) -> str:
        return "\n".join(
            f"{table.value} {key} {value}"
            for table in self.tables
            for key, value in sorted(self.entries[table].items(), key=str)
        )


class FakeGenerations:
    """Counts what was made stale, and how much had been written by then."""

    def __init__(self, target: FakeTarget) -> None:
        self._target = target
        self.bumps: list[tuple[set[int], int]] = []

    async def bump(self, places: set[int]) -> None:
        """Note the places."""
        self.bumps.append((places, len(self._target.in_kernel)))
