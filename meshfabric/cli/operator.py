"""Documents in and out of etcd, as an operator (`reach` says who that is), and what nodes make of them.

What the keys are called is the business of `store.keys`, the requests that of
`store.client`; the documents of a file are written all in one transaction or not
at all. What may not be written is a `Guard`'s business.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from meshfabric.cli.exits import DeniedError
from meshfabric.cli.reach import Reach
from meshfabric.model.classtext import ClassText
from meshfabric.model.errors import InputError, PermanentError, TemporaryError
from meshfabric.model.node import FabricRecord
from meshfabric.model.plan import Table
from meshfabric.model.policytext import PolicyText
from meshfabric.store import keys
from meshfabric.store.client import TXN_BYTES, TXN_OPS, Entry, Etcd
from meshfabric.store.connection import PERMISSION_DENIED, TokenRefused
from meshfabric.store.settings import Settings

POLL_EVERY_S = 0.2
NO_REPORT = -1
AUTHENTICATION_FAILED = "etcdserver: authentication failed"

T = TypeVar("T")
Text = TypeVar("Text", PolicyText, ClassText)
Guard = Callable[[Etcd, str, Sequence[Text], Sequence[str]], Awaitable[None]]
"""Raises `MeshfabricError` if a fabric may not have these documents, or be without those of these names."""


class Noun(NamedTuple, Generic[Text]):
    """What people write documents of; nodes make `tables` of them."""

    kind: keys.RecordKind
    text: type[Text]
    tables: tuple[Table, ...]

    @property
    def word(self) -> str:
        """One of them, also the name of its commands."""
        return keys.DOCUMENTS[self.kind]


POLICY = Noun(keys.RecordKind.POLICY, PolicyText, (Table.POLICY,))
CLASS = Noun(keys.RecordKind.CLASS, ClassText, (Table.CLASSES, Table.WORKLOADS, Table.CLASS_RULES))


class Applied(NamedTuple):
    """What became of each document (created, changed or unchanged), and the revision that has them all."""

    noun: Noun[Any]
    outcomes: dict[str, str]
    revision: int


class Late(NamedTuple):
    """How many nodes are concerned, and those that are behind, with reasons."""

    known: int
    nodes: list[str]


class Report(msgspec.Struct, frozen=True):
    """What we read of `report/<node>`: how far the node has come, and what it could not take or make.

    `refused` has reasons by the key below `state/`, `failing` by the table.
    """

    revision: int = NO_REPORT
    refused: dict[str, str] = {}
    failing: dict[str, str] = {}

    def lacks(self, applied: Applied) -> str:
        """Why what was applied is not in force on the node; "" if it is."""
        if self.revision < applied.revision:
            return "no report" if self.revision == NO_REPORT else f"at {self.revision}"
        for name in applied.outcomes:
            if why := self.refused.get(f"{applied.noun.kind.value}/{name}"):
                return f"refuses {name}: {why}"
        return next((self.failing[one.value] for one in applied.noun.tables if one.value in self.failing), "")


def run(reach: Reach, work: Callable[[Etcd], Awaitable[T]]) -> T:
    """Do `work` with a client of etcd; raises `DeniedError` where etcd does not let us."""
    settings = Settings(reach.endpoints, reach.ca, reach.cert, reach.key, reach.user, reach.password_file)

    async def connected() -> T:
        async with Etcd(settings) as etcd:
            return await work(etcd)

    try:
        return asyncio.run(connected())
    except PermanentError as error:
        if isinstance(error, TokenRefused) or error.what.startswith(
            (PERMISSION_DENIED, AUTHENTICATION_FAILED)
        ):
            raise DeniedError(error.what, place=error.place, remedy=error.remedy) from error
        raise


async def apply(
    etcd: Etcd, fabric: str, noun: Noun[Text], texts: Sequence[Text], guard: Guard[Text] | None
) -> Applied:
    """Make etcd hold these documents; what it has already is not written again.

    Writes nothing if the guard raises.
    """
    old = await asyncio.gather(*(etcd.read(_key(fabric, noun, text.name)) for text in texts))
    found: list[Entry | None] = [reading.entry for reading in old]
    outcomes = {text.name: _outcome(text, entry) for text, entry in zip(texts, found, strict=True)}
    writes = [
        (_key(fabric, noun, text.name), msgspec.json.encode(text))
        for text in texts
        if outcomes[text.name] != "unchanged"
    ]
    _check_size(writes, noun.kind.value)
    if writes and guard:
        await guard(etcd, fabric, texts, ())
    revision = await etcd.put_many(writes)
    return Applied(noun, outcomes, max([revision, *(entry.mod_revision for entry in found if entry)]))


async def read(etcd: Etcd, fabric: str, noun: Noun[Text], name: str) -> Text:
    """One document as etcd has it; raises `InputError` if there is none or it cannot be read."""
    entry = await etcd.get(_key(fabric, noun, name))
    if entry is None:
        what = f"no {noun.word} {name!r} in fabric {fabric!r}"
        raise InputError(what, remedy=f"meshfabric {noun.word} list")
    try:
        return msgspec.json.decode(entry.value, type=noun.text)
    except msgspec.MsgspecError as cause:
        what = f"the record cannot be read: {cause}"
        raise InputError(
            what, place=f"{noun.word} {name}", remedy="apply it again, or use a newer meshfabric"
        ) from cause


async def config(etcd: Etcd, fabric: str) -> FabricRecord | None:
    """What the fabric is, None if etcd does not say, or says it in another way."""
    entry = await etcd.get(keys.config_key(fabric).encode())
    try:
        return msgspec.json.decode(entry.value, type=FabricRecord) if entry else None
    except msgspec.MsgspecError:
        return None


async def delete(etcd: Etcd, fabric: str, noun: Noun[Text], name: str, guard: Guard[Text] | None) -> bool:
    """Make the document absent; tell whether it was there. Deletes nothing if the guard raises."""
    key = _key(fabric, noun, name)
    there = await etcd.get(key) is not None
    if there and guard:
        await guard(etcd, fabric, (), (name,))
    if there:
        await etcd.delete(key)
    return there


async def wait(etcd: Etcd, fabric: str, applied: Applied, timeout_s: float) -> int:
    """Wait until what was applied is in force on every node that is alive, and count them.

    Raises `TemporaryError` that names the others, with reasons, after `timeout_s`.
    """

    async def look() -> Late:
        nodes = await living(etcd, fabric)
        reports = await asyncio.gather(*(report_of(etcd, fabric, node) for node in nodes))
        why = {node: report.lacks(applied) for node, report in zip(nodes, reports, strict=True)}
        return Late(len(nodes), [f"{node} ({doubt})" for node, doubt in why.items() if doubt])

    return await until_all(look, f"applied revision {applied.revision}", timeout_s)


async def until_all(look: Callable[[], Awaitable[Late]], done: str, timeout_s: float) -> int:
    """Look until no node is late, and count them.

    Raises `TemporaryError` that names those which have not `done` it after `timeout_s`.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout_s
    while (found := await look()).nodes:
        if clock() > deadline:
            what = f"{len(found.nodes)} of {found.known} nodes have not {done} in {timeout_s:g} s"
            what += f": {', '.join(found.nodes)}"
            raise TemporaryError(what, remedy="it is written; meshfabric status on those nodes tells more")
        await asyncio.sleep(POLL_EVERY_S)
    return found.known


async def living(etcd: Etcd, fabric: str) -> list[str]:
    """The nodes whose agents hold their leases."""
    found = []
    async for page in etcd.scan(f"{keys.state_prefix(fabric)}{keys.RecordKind.NODE.value}/".encode()):
        for entry in page.entries:
            located = keys.parse_key(fabric, entry.key)
            if isinstance(located, keys.Located) and located.kind is keys.RecordKind.ALIVE:
                found.append(located.name)
    return found


async def report_of(etcd: Etcd, fabric: str, node: str) -> Report:
    """What a node last told of itself."""
    entry = await etcd.get(keys.report_key(fabric, node).encode())
    try:
        return msgspec.json.decode(entry.value, type=Report) if entry else Report()
    except msgspec.MsgspecError:
        return Report()


def _outcome(text: PolicyText | ClassText, entry: Entry | None) -> str:
    if entry is None:
        return "created"
    return "unchanged" if _plain(entry.value) == _plain(msgspec.json.encode(text)) else "changed"


def _plain(record: bytes) -> object:
    try:
        return msgspec.json.decode(record)
    except msgspec.DecodeError:
        return record


def _check_size(writes: Sequence[tuple[bytes, bytes]], what: str) -> None:
    if len(writes) > TXN_OPS or sum(len(record) for _, record in writes) > TXN_BYTES // 2:
        what = f"{len(writes)} {what} to write are too many or too long for one transaction of etcd"
        raise InputError(what, remedy=f"apply at most {TXN_OPS} at once")


def _key(fabric: str, noun: Noun[Text], name: str) -> bytes:
    return keys.full_key(fabric, keys.Located(noun.kind, name)).encode()
