"""The plan's `records` table made real: this node's own keys in etcd.

The compiler says what the node tells the others; here it is written, and keys
of ours that the plan does not have are deleted. Keys are named from `state/`
on: `nodes/<node>`, `endpoints/<node>/<address>`.
"""

from collections.abc import Iterable, Sequence

from meshfabric.model.plan import Change, Key, Table, Value
from meshfabric.store.client import Etcd


class Records:
    """A target of the reconcile loop."""

    tables = (Table.RECORDS,)

    def __init__(self, etcd: Etcd, state_prefix: str, node: str) -> None:
        self._etcd, self._prefix, self._node = etcd, state_prefix.encode(), node

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """Our own keys as etcd has them."""
        name = f"nodes/{self._node}"
        own = await self._etcd.get(self._prefix + name.encode())
        found: list[tuple[Key, Value]] = [(name, own.value)] if own else []
        async for page in self._etcd.scan(self._prefix + f"endpoints/{self._node}/".encode()):
            found += [(entry.key.removeprefix(self._prefix).decode(), entry.value) for entry in page.entries]
        return found

    async def apply(self, changes: Sequence[Change]) -> None:
        """Write and delete; raises the client's errors."""
        writes = [(self._key(change), change.value) for change in changes if change.value is not None]
        await self._etcd.put_many(writes)
        for change in changes:
            if change.value is None:
                await self._etcd.delete(self._key(change))

    def _key(self, change: Change) -> bytes:
        return self._prefix + str(change.key).encode()
