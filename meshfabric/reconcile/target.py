"""What the loop asks of each part of the kernel or the store that it keeps as planned."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from meshfabric.model.plan import Change, Key, Table, Value


class Target(Protocol):
    """One or more tables of the plan, made real. Errors are of `model.errors`."""

    @property
    def tables(self) -> tuple[Table, ...]:
        """What it owns."""
        ...

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """What is there now; read in slices, not kept."""
        ...

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make changes of one table so; repeating them changes nothing, removing the absent succeeds."""
        ...


class Stale(Protocol):
    """Makes flows be judged again (map `generations`)."""

    async def bump(self, places: set[int]) -> None:
        """After everything that their verdicts depend on was written."""
        ...
