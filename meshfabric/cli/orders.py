"""What an operator orders beside policies: another epoch of keys, a node to be cut off, an uplink drained.

Each is one record in etcd, whose name and shape are the store's business (`store.keys`,
`model.node`); what follows from it is each agent's.
"""

import asyncio
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from meshfabric.cli.operator import Late, living, report_of, until_all
from meshfabric.compiler.rotation import due, is_under_way
from meshfabric.model.errors import InputError, TemporaryError
from meshfabric.model.keyring import Keyring, generation_of
from meshfabric.model.node import NodeRecord, RotationRecord
from meshfabric.store import keys
from meshfabric.store.client import Etcd

ABSENT = 0  # mod_revision of a key that is not there


class Order(NamedTuple):
    """The record that holds now, and the revision of etcd that has it (0: none was ever written)."""

    rotation: RotationRecord
    revision: int


async def read_rotation(etcd: Etcd, fabric: str) -> Order:
    """What is in force; epoch 0 if nobody has ever asked for another."""
    entry = await etcd.get(keys.rotation_key(fabric).encode())
    if entry is None:
        return Order(RotationRecord(), ABSENT)
    try:
        return Order(msgspec.json.decode(entry.value, type=RotationRecord), entry.mod_revision)
    except msgspec.MsgspecError as cause:
        what = f"the record cannot be read: {cause}"
        raise InputError(what, place="rotation", remedy="use a newer meshfabric, or delete it") from cause


async def rotate(etcd: Etcd, fabric: str, now_s: int) -> int:
    """Ask for the next epoch, and return it.

    Raises `TemporaryError` while a rotation is under way: keys of its start would come to life again.
    """
    order = await read_rotation(etcd, fabric)
    epoch = due(order.rotation, now_s) or 0
    late = lagging(await keyrings(etcd, fabric), epoch)
    if late:
        what = f"a rotation is under way: {', '.join(late)}"
        raise TemporaryError(what, place="keys", remedy="wait for its end; meshfabric key list tells more")
    await _write(etcd, fabric, order, RotationRecord(epoch + 1, now_s, order.rotation.every_s))
    return epoch + 1


async def schedule(etcd: Etcd, fabric: str, every_s: int, now_s: int) -> None:
    """Ask for another epoch each time that so many seconds have gone by, from now on; 0: no more."""
    order = await read_rotation(etcd, fabric)
    epoch = due(order.rotation, now_s) or 0
    await _write(etcd, fabric, order, RotationRecord(epoch, now_s, every_s))


async def keyrings(etcd: Etcd, fabric: str) -> dict[str, Keyring]:
    """Of every node that is alive and has told something."""
    found = {}
    for node in await living(etcd, fabric):
        entry = await etcd.get(keys.node_key(fabric, node).encode())
        if entry is not None:
            found[node] = _keyring(entry.value)
    return found


def lagging(found: dict[str, Keyring], epoch: int) -> list[str]:
    """The nodes that have not got the keys of an epoch, or still have others, each with what it has."""
    return [
        f"{node} (keys of epoch {' and '.join(str(one) for one in keyring.epochs if one is not None)})"
        for node, keyring in sorted(found.items())
        if keyring.generations and (is_under_way(keyring) or keyring.taken != generation_of(epoch))
    ]


async def await_epoch(etcd: Etcd, fabric: str, epoch: int, timeout_s: float) -> int:
    """Wait until every node that is alive has keys of the epoch and no others; how many those are."""

    async def look() -> Late:
        found = await keyrings(etcd, fabric)
        return Late(len(found), lagging(found, epoch))

    return await until_all(look, f"come to epoch {epoch}", timeout_s)


async def revoke(etcd: Etcd, fabric: str, node: str) -> int:
    """Write the tombstone of a node; the revision that has it. `InputError` if there is no such node."""
    names = (keys.node_key(fabric, node), keys.allocation_key(fabric, node), keys.grant_key(fabric, node))
    if not any([await etcd.get(name.encode()) for name in names]):
        raise InputError(f"no node {node!r} in fabric {fabric!r}", remedy="meshfabric node list")
    key = keys.revoked_key(fabric, node).encode()
    entry = await etcd.get(key)
    return entry.mod_revision if entry else await etcd.put(key, b"{}")


async def readmit(etcd: Etcd, fabric: str, node: str) -> int:
    """Take the tombstone away; the revision that lacks it, 0 if there was none."""
    key = keys.revoked_key(fabric, node).encode()
    return await etcd.delete(key) if await etcd.get(key) else 0


async def await_revision(etcd: Etcd, fabric: str, revision: int, but: str, timeout_s: float) -> int:
    """Wait until every living node, `but` one, has applied a revision, and count them."""

    async def look() -> Late:
        nodes = [node for node in await living(etcd, fabric) if node != but]
        reports = [await report_of(etcd, fabric, node) for node in nodes]
        late = [node for node, report in zip(nodes, reports, strict=True) if report.revision < revision]
        return Late(len(nodes), late)

    return await until_all(look, f"applied revision {revision}", timeout_s)


async def await_drained(
    etcd: Etcd, fabric: str, node: str, uplinks: Collection[str], timeout_s: float
) -> int:
    """Wait until a node's record says that uplinks are drained and every other living node has applied that.

    Returns how many those are.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout_s
    written = 0

    async def look() -> Late:
        nonlocal written
        entry = await etcd.get(keys.node_key(fabric, node).encode())
        written = entry.mod_revision if entry and _draining(entry.value) >= {*uplinks} else 0
        return Late(1, [] if written else [node])

    await until_all(look, "told the others", timeout_s)
    return await await_revision(etcd, fabric, written, node, max(deadline - clock(), 0))


def _draining(record: bytes) -> set[str]:
    try:
        uplinks = msgspec.json.decode(record, type=NodeRecord).uplinks
    except msgspec.MsgspecError:
        return set()
    return {uplink.name for uplink in uplinks if uplink.draining}


async def _write(etcd: Etcd, fabric: str, order: Order, new: RotationRecord) -> None:
    key = keys.rotation_key(fabric).encode()
    if not await etcd.replace(key, msgspec.json.encode(new), order.revision):
        raise TemporaryError(
            "somebody else changed it meanwhile", place="rotation", remedy="look, and repeat"
        )


def _keyring(record: bytes) -> Keyring:
    try:
        return msgspec.json.decode(record, type=NodeRecord).keyring
    except msgspec.MsgspecError:
        return Keyring()
