"""etcd as the rest of meshfabric uses it: keys and values, compare-and-swap, leases.

Owns the requests and what they return. `connection` owns endpoints, tokens and
errors, `watch` following a prefix, `keys` what the keys are called, `registry` what the values mean.

Every method raises TemporaryError (etcd is away: the message lists each
endpoint with its reason) or PermanentError (no permission, wrong password), and
tries each endpoint once, so that a call ends within `timeout_s` times the
number of endpoints. A write whose first try got no answer may happen twice; the
value is the same, only the revision differs.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple, Self

import msgspec

from meshfabric.model.errors import MeshfabricError
from meshfabric.store import etcd_pb2 as pb
from meshfabric.store.connection import Connection, LeaseGone, Method, RevisionGone, Stream
from meshfabric.store.settings import Settings

RANGE = Method("/etcdserverpb.KV/Range", pb.RangeResponse)
PUT = Method("/etcdserverpb.KV/Put", pb.PutResponse)
DELETE_RANGE = Method("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", pb.TxnResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", pb.CompactionResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", pb.WatchResponse)
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantResponse)
LEASE_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeResponse)
# A stream in etcd's description; on the wire a stream of one message each way is a plain call.
LEASE_KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse)
STATUS = Method("/etcdserverpb.Maintenance/Status", pb.StatusResponse)

PAGE_KEYS = 1000
TXN_OPS = 100  # etcd's --max-txn-ops is 128
TXN_BYTES = 1 << 20  # etcd's --max-request-bytes is 1.5 MiB
BEATS_PER_TTL = 3
BEAT_RETRIES_PER_TTL = 10
TRIES_PER_TTL = 2  # one round of all endpoints takes at most half of a lease's time
NO_LEASE = 0
ABSENT = 0  # the mod_revision of a key that does not exist
LATEST = 0


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One key as it was written at `mod_revision`. Keys are bytes, as etcd does not promise UTF-8."""

    key: bytes
    value: bytes
    mod_revision: int


class Page(msgspec.Struct, frozen=True):
    """Some keys of a prefix, in order; every page of one scan is read at the same `revision`."""

    entries: tuple[Entry, ...]
    revision: int
    cluster_id: int


class Reading(NamedTuple):
    """One key (None: absent), and the state of the cluster when it was read."""

    entry: Entry | None
    revision: int
    cluster_id: int


class Status(NamedTuple):
    """A member's cluster id, revision and version ("3.4.23")."""

    cluster_id: int
    revision: int
    version: str


class Lease:
    """A lease that is kept alive until it is revoked, the client closed, or it is lost.

    `id` goes with `Etcd.put`. Beats outlive lost connections; the lease counts
    as lost when etcd says that it is gone, or when no beat was answered for
    `ttl_s` seconds, so that we never believe longer in it than etcd does.
    """

    def __init__(self, connection: Connection, id: int, ttl_s: int, valid_until: float) -> None:
        self.id, self.ttl_s = id, ttl_s
        self._connection = connection
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(valid_until))
        self._keeper.add_done_callback(self._ended)

    async def lost(self) -> str:
        """Wait until the lease is no longer held, and tell why; many may wait."""
        return await asyncio.shield(self._lost)

    @property
    def held(self) -> bool:
        """Whether the lease is (as far as we can know) in force."""
        return not self._lost.done()

    async def revoke(self) -> None:
        """Give the lease up and with it the keys that hang on it; a lease that is gone is no error."""
        self.stop("revoked")
        request = pb.LeaseRevokeRequest(ID=self.id)
        with suppress(LeaseGone):
            await self._connection.ask(LEASE_REVOKE, request, f"lease {self.id:x}")

    def stop(self, why: str) -> None:
        """Stop the beats and leave the lease to run out."""
        if self.held:
            self._lost.set_result(why)
        self._keeper.cancel()

    def _ended(self, keeper: asyncio.Task[str]) -> None:
        if not self.held:
            return
        if keeper.cancelled():
            self._lost.set_result("the event loop ended")
        elif error := keeper.exception():
            self._lost.set_exception(error)
        else:
            self._lost.set_result(keeper.result())

    async def _keep(self, valid_until: float) -> str:
        """Beat until the lease is lost, and tell why it was."""
        pause_s, reason = self.ttl_s / BEATS_PER_TTL, "no beat was sent"
        try:
            async with asyncio.timeout_at(valid_until) as limit:
                while True:
                    await asyncio.sleep(pause_s)
                    sent = asyncio.get_running_loop().time()
                    try:
                        left_s = await self._beat()
                    except MeshfabricError as error:
                        pause_s, reason = self.ttl_s / BEAT_RETRIES_PER_TTL, str(error)
                        continue
                    if left_s <= 0:
                        return "etcd let it run out"
                    limit.reschedule(sent + left_s)
                    pause_s = self.ttl_s / BEATS_PER_TTL
        except TimeoutError:
            return f"not renewed for {self.ttl_s} s: {reason}"

    async def _beat(self) -> int:
        """Seconds that etcd gives the lease from now on, 0 if it has no such lease."""
        each_s = self.ttl_s / TRIES_PER_TTL / len(self._connection.settings.endpoints)
        timeout_s = min(each_s, self._connection.settings.timeout_s)
        request = pb.LeaseKeepAliveRequest(ID=self.id)
        answer = await self._connection.ask(LEASE_KEEP_ALIVE, request, f"lease {self.id:x}", timeout_s)
        return answer.reply.TTL


class Etcd:
    """A client of one etcd cluster; belongs to the event loop in which it is first used."""

    def __init__(self, settings: Settings) -> None:
        """Check settings and read the files they name; raises InputError. Nothing is dialled yet."""
        self.settings = settings
        self._connection = Connection(settings)
        self._leases: list[Lease] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all calls and streams; leases are left to run out (an agent that restarts takes new ones)."""
        for lease in self._leases:
            lease.stop("the etcd client was closed")
        await self._connection.close()

    async def get(self, key: bytes) -> Entry | None:
        """The key as it is now, None if absent; a linearizable read."""
        return (await self.read(key)).entry

    async def read(self, key: bytes, revision: int = LATEST) -> Reading:
        """The key as it was at `revision`; raises RevisionGone where that is compacted or in the future."""
        reply = await self._range(pb.RangeRequest(key=key, revision=revision))
        entry = _entry(reply.kvs[0]) if reply.kvs else None
        return Reading(entry, reply.header.revision, reply.header.cluster_id)

    async def scan(
        self, prefix: bytes, page: int = PAGE_KEYS, revision: int = LATEST
    ) -> AsyncGenerator[Page, None]:
        """All keys that begin with `prefix`, in pages of `page` keys; one empty page if there are none.

        As they were at `revision`, all of them. Raises RevisionGone if etcd was compacted
        or replaced meanwhile: what was read is then useless.
        """
        request = pb.RangeRequest(key=prefix, range_end=prefix_end(prefix), limit=page, revision=revision)
        cluster_id = 0
        while True:
            reply = await self._range(request)
            if cluster_id and reply.header.cluster_id != cluster_id:
                raise RevisionGone("another cluster answers", place=_place(prefix), remedy="list again")
            cluster_id, request.revision = reply.header.cluster_id, request.revision or reply.header.revision
            yield Page(tuple(_entry(kv) for kv in reply.kvs), request.revision, cluster_id)
            if not reply.more:
                return
            request.key = reply.kvs[-1].key + b"\0"

    async def put(self, key: bytes, value: bytes, lease: int = NO_LEASE) -> int:
        """Write the key and return the revision; raises LeaseGone if the lease (its `id`) is."""
        request = pb.PutRequest(key=key, value=value, lease=lease)
        return (await self._connection.ask(PUT, request, _place(key))).reply.header.revision

    async def delete(self, key: bytes) -> int:
        """Make the key absent, which is no error if it is; returns the cluster's revision after it."""
        request = pb.DeleteRangeRequest(key=key)
        return (await self._connection.ask(DELETE_RANGE, request, _place(key))).reply.header.revision

    async def replace(self, key: bytes, value: bytes, expected_mod_revision: int) -> bool:
        """Write the key if it is still at `expected_mod_revision` (0: absent); tell whether it was.

        If a first endpoint gave no answer, the write may have happened there: then
        finding our own value counts as success.
        """
        guard = pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=expected_mod_revision)
        write = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))
        look = pb.RequestOp(request_range=pb.RangeRequest(key=key))
        request = pb.TxnRequest(compare=[guard], success=[write], failure=[look])
        reply, in_doubt = await self._connection.ask(TXN, request, _place(key))
        if reply.succeeded or not in_doubt:
            return reply.succeeded
        found = reply.responses[0].response_range.kvs
        return any(kv.value == value for kv in found)

    async def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> int:
        """Write keys in transactions of at most 100; each is atomic, all together are not.

        Returns the last revision, 0 if there was nothing to write.
        """
        revision = 0
        for writes in _transactions(items):
            puts = [pb.PutRequest(key=key, value=value) for key, value in writes.items()]
            request = pb.TxnRequest(success=[pb.RequestOp(request_put=put) for put in puts])
            answer = await self._connection.ask(TXN, request, f"{_place(puts[0].key)} and following")
            revision = answer.reply.header.revision
        return revision

    async def lease(self, ttl_s: int) -> Lease:
        """Take a lease of `ttl_s` seconds (etcd may give more) and keep it alive in the background."""
        asked = asyncio.get_running_loop().time()
        answer = await self._connection.ask(LEASE_GRANT, pb.LeaseGrantRequest(TTL=ttl_s), "new lease")
        granted = answer.reply
        lease = Lease(self._connection, granted.ID, granted.TTL, asked + granted.TTL)
        self._leases = [*(other for other in self._leases if other.held), lease]
        return lease

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`; that it is forgotten already is no error."""
        try:
            await self._connection.ask(COMPACT, pb.CompactionRequest(revision=revision), "compaction")
        except RevisionGone as error:
            if "has been compacted" not in error.what:
                raise

    async def status(self) -> Status:
        """What the first member that answers says of itself."""
        reply = (await self._connection.ask(STATUS, pb.StatusRequest(), "status")).reply
        return Status(reply.header.cluster_id, reply.header.revision, reply.version)

    async def open_watch(self) -> Stream[pb.WatchResponse]:
        """A watch stream on which nothing is asked yet; for `watch.follow`."""
        return await self._connection.stream(WATCH)

    def forget_token(self) -> None:
        """A watch was refused: the next call authenticates again."""
        self._connection.forget_token()

    async def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        return (await self._connection.ask(RANGE, request, _place(request.key))).reply


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`, in etcd's way: "\\0" for no end."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def _entry(kv: pb.KeyValue) -> Entry:
    return Entry(kv.key, kv.value, kv.mod_revision)


def _place(key: bytes) -> str:
    return "etcd key " + key.decode(errors="backslashreplace")


def _transactions(items: Iterable[tuple[bytes, bytes]]) -> Iterator[dict[bytes, bytes]]:
    """Cut into what etcd takes at once; of a key that comes twice in one the last value counts."""
    writes: dict[bytes, bytes] = {}
    size = 0
    for key, value in items:
        if writes and (len(writes) >= TXN_OPS or size + len(key) + len(value) > TXN_BYTES):
            yield writes
            writes, size = {}, 0
        writes[key] = value
        size += len(key) + len(value)
    if writes:
        yield writes
