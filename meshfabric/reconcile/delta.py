"""What has to change so that what is becomes what should be, and in which order. Pure.

Order is make before break, with one exception: a permission that was revoked
goes first. Tables are set in the order of `Table` and emptied backwards.
"""

from collections.abc import Container, Iterable, Mapping

from meshfabric.model.plan import Change, Key, Table, Value
from meshfabric.model.tables import POLICY_VALUE, Verdict

TABLES = list(Table)


class Comparison:
    """One table's plan against what is there, told in batches so that others may run between them."""

    def __init__(self, table: Table, wanted: Mapping[Key, Value]) -> None:
        self._table, self._wanted = table, wanted
        self._seen: set[Key] = set()
        self._found: list[Change] = []

    def add(self, observed: Iterable[tuple[Key, Value]]) -> None:
        """Some more of what is there."""
        for key, value in observed:
            self._seen.add(key)
            want = self._wanted.get(key)
            if want != value:
                self._found.append(Change(self._table, key, want, value))

    def changes(self, *, remove: bool, pending: Container[Key] = ()) -> list[Change]:
        """What is missing, different or, with `remove`, too much; `pending` keys are taken care of."""
        missing = [
            Change(self._table, key, value) for key, value in self._wanted.items() if key not in self._seen
        ]
        found = (change for change in self._found if remove or change.value is not None)
        return [change for change in [*found, *missing] if change.key not in pending]


def squash(pending: dict[tuple[Table, Key], Change], changes: Iterable[Change]) -> None:
    """Merge later changes into pending ones: the first `old`, the last `value`."""
    for change in changes:
        earlier = pending.get((change.table, change.key))
        old = earlier.old if earlier else change.old
        pending[change.table, change.key] = Change(change.table, change.key, change.value, old)


def stages(changes: Iterable[Change]) -> list[list[Change]]:
    """The changes as batches of one table each, to be applied one after the other."""
    revoked, made, broken = [], [], []
    for change in changes:
        if revokes(change):
            revoked.append(change)
        elif change.value is not None:
            made.append(change)
        else:
            broken.append(change)
    forwards = [_of(table, made) for table in TABLES]
    backwards = [_of(table, broken) for table in reversed(TABLES)]
    return [
        stage
        for stage in [_of(Table.PEERS, revoked), _of(Table.POLICY, revoked), *forwards, *backwards]
        if stage
    ]


def revokes(change: Change) -> bool:
    """Whether the change takes a permission away: a peer, or what a policy allowed. A denial that goes is
    none, and goes last: those whom it was about may have another identity by then.
    """
    if change.table is Table.PEERS:
        return change.value is None
    if change.table is not Table.POLICY:
        return False
    if change.value is not None:
        return bool(POLICY_VALUE.unpack(change.value)[1] == Verdict.DENY)
    return change.old is None or POLICY_VALUE.unpack(change.old)[1] != Verdict.DENY


def _of(table: Table, changes: list[Change]) -> list[Change]:
    return [change for change in changes if change.table is table]
