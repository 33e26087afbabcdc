"""Writes records into a lab's store: run inside the underlay's namespace, told what by standard input.

`{"endpoint": "http://127.0.0.1:2379", "fabric": "lab", "records": {"config": {...}, ...}}`

A process of its own, because the store's client has threads and namespaces
belong to threads. `etcd` starts it.
"""

import asyncio
import sys
from typing import Any

import msgspec

from meshfabric.model.errors import MeshfabricError
from meshfabric.store.client import Etcd
from meshfabric.store.keys import state_prefix
from meshfabric.store.settings import Settings


class Order(msgspec.Struct):
    """What to write where; `records` are JSON values by their keys below the fabric's `state/`."""

    endpoint: str
    fabric: str
    records: dict[str, Any]


async def write(order: Order) -> None:
    """Put every record, in the given order."""
    state = state_prefix(order.fabric)
    items = [((state + key).encode(), msgspec.json.encode(value)) for key, value in order.records.items()]
    async with Etcd(Settings(endpoints=(order.endpoint,))) as store:
        await store.put_many(items)


if __name__ == "__main__":
    try:
        asyncio.run(write(msgspec.json.decode(sys.stdin.buffer.read(), type=Order)))
    except MeshfabricError as wrong:
        sys.exit(str(wrong))
