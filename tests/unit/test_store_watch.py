"""Following a prefix while etcd restarts, dies, hangs or refuses us, on real servers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial

import pytest

from meshfabric.model.errors import PermanentError
from meshfabric.store.client import Etcd, Page
from meshfabric.store.settings import Settings
from meshfabric.store.watch import Back, Lost, Position, Relist, Synced, Update, follow
from tests.etcd import CALL_S, Server, StartEtcd
from tests.patience import DEADLINE_S, PATIENCE
from tests.replica import PREFIX, Replica, current_revision, insist, no_jitter

pytest_plugins = ["tests.etcd"]

KEEPALIVE_NOTICES_S = 5.0 + 2.0  # the options of store.connection
LEASE_S = int(5 * PATIENCE)  # nobody stands still for so long


def _impatient(*servers: Server) -> Settings:
    return Settings(tuple(server.endpoint for server in servers), timeout_s=CALL_S)


async def _write(etcd: Etcd, count: int) -> None:
    for number in range(count):
        await insist(partial(etcd.put, PREFIX + b"%d" % (number % 7), b"%d" % number))


@asynccontextmanager
async def _writing(etcd: Etcd, count: int) -> AsyncIterator[asyncio.Task[None]]:
    """Keys being written meanwhile."""
    task = asyncio.create_task(_write(etcd, count))
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_listing_then_every_change_in_order(etcd_server: Server) -> None:
    prefix = b"/order/"
    async with Etcd(etcd_server.settings()) as etcd, Replica(etcd, prefix=prefix) as replica:
        await etcd.put_many((prefix + b"%05d" % number, b"old") for number in range(2500))
        await replica.until_like(etcd)
        first = await etcd.put(prefix + b"00000", b"new")
        await etcd.delete(prefix + b"00001")
        await etcd.put(b"/order0", b"not below the prefix")
        await etcd.put_many([(prefix + b"a", b"1"), (prefix + b"b", b"2")])
        await replica.until_like(etcd)
        assert [type(batch) for batch in replica.told[:6]] == [Back, Relist, Page, Page, Page, Synced]
        assert replica.revisions == [first, first + 1, first + 3, first + 3]


async def test_an_empty_prefix_is_synced_at_once(etcd_server: Server) -> None:
    async with Etcd(etcd_server.settings()) as etcd, Replica(etcd, prefix=b"/empty/") as replica:
        await replica.until(lambda: replica.count(Synced) == 1)
        assert replica.keys == {}
        await etcd.put(b"/empty/no more", b"x")
        await replica.until_like(etcd)


async def test_a_lease_that_ran_out_is_a_removal(etcd_server: Server) -> None:
    async with Etcd(etcd_server.settings()) as etcd, Replica(etcd, prefix=b"/leased/") as replica:
        lease = await etcd.lease(LEASE_S)
        await etcd.put(b"/leased/alive", b"", lease.id)
        await replica.until_like(etcd)
        assert replica.keys
        lease.stop("the node died")
        await replica.until(lambda: not replica.keys)


async def test_a_long_catch_up_comes_in_parts_that_split_no_transaction(etcd_server: Server) -> None:
    prefix, count = b"/long/", 4000
    async with Etcd(etcd_server.settings()) as etcd:
        status = await etcd.status()
        since = Position(status.cluster_id, status.revision)
        await etcd.put_many((prefix + b"%05d" % number, b"x" * 1500) for number in range(count))
        async with Replica(etcd, since, prefix) as replica:
            await replica.until_like(etcd)
        updates = [batch for batch in replica.told if isinstance(batch, Update)]
        ends = [update.position.revision for update in updates]
        assert len(replica.revisions) == count
        assert len(updates) > 1
        assert ends == sorted(set(ends))


async def test_restarts_of_etcd_lose_and_double_nothing(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    async with (
        Etcd(server.settings()) as etcd,
        Etcd(server.settings()) as writer,
        Replica(etcd) as replica,
        _writing(writer, 300) as writing,
    ):
        for _ in range(2):
            await replica.until_it_watches()
            await asyncio.to_thread(server.stop)
            await replica.until(lambda: isinstance(replica.told[-1], Lost))
            await asyncio.to_thread(server.start)
            await replica.until(lambda: isinstance(replica.told[-1], Back))
        await writing
        await replica.until_like(etcd)
        assert replica.revisions == list(range(replica.listed_at + 1, await current_revision(etcd) + 1))
        assert replica.reasons() == ["first listing"]
        assert replica.count(Lost) >= 2


async def test_the_death_of_a_member_loses_and_doubles_nothing(etcd_cluster: list[Server]) -> None:
    async with (
        Etcd(_impatient(*etcd_cluster)) as etcd,
        Etcd(_impatient(*etcd_cluster[1:])) as writer,
        Replica(etcd) as replica,
        _writing(writer, 200) as writing,
    ):
        await replica.until(lambda: len(replica.revisions) > 10)
        await asyncio.to_thread(etcd_cluster[0].stop)
        await writing
        await replica.until_like(etcd)
        assert replica.revisions == list(range(replica.listed_at + 1, await current_revision(etcd) + 1))
        assert replica.reasons() == ["first listing"]


async def test_a_hung_member_is_noticed_and_left(etcd_cluster: list[Server]) -> None:
    async with (
        Etcd(_impatient(*etcd_cluster)) as etcd,
        Etcd(_impatient(*etcd_cluster[1:])) as writer,
        Replica(etcd) as replica,
    ):
        await replica.until_it_watches()
        etcd_cluster[0].freeze()
        await insist(lambda: writer.put(PREFIX + b"0", b"after"))
        await replica.until_like(writer)
        assert etcd_cluster[0].endpoint in next(b.reason for b in replica.told if isinstance(b, Lost))
        assert replica.reasons() == ["first listing"]


async def test_keepalive_notices_a_hung_server_under_a_silent_watch(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    patient = Settings((server.endpoint,), timeout_s=2 * DEADLINE_S)
    async with Etcd(patient) as etcd, Replica(etcd) as replica:
        await replica.until_it_watches()
        server.freeze()
        started = time.monotonic()
        await replica.until(lambda: replica.count(Lost) == 1)
        assert time.monotonic() - started < KEEPALIVE_NOTICES_S + DEADLINE_S / 2


async def test_a_silent_watch_on_a_healthy_server_stays(start_etcd: StartEtcd) -> None:
    # With this timeout a watch is given up after 6 s without a sign of life.
    server = start_etcd("--experimental-watch-progress-notify-interval=8s")
    async with (
        Etcd(server.settings(timeout_s=1.0)) as etcd,
        Etcd(server.settings()) as writer,
        Replica(etcd) as replica,
    ):
        await replica.until(lambda: replica.count(Synced) == 1)
        for number in range(20):
            await writer.put(b"/elsewhere", b"%d" % number)
        revision = await current_revision(writer)
        await replica.until(lambda: replica.count(Update) == 1)
        assert replica.position
        assert replica.position.revision == revision
        assert replica.revisions == []
        await writer.put(PREFIX + b"a", b"x")
        await replica.until_like(writer)
        assert replica.count(Lost) == 0


# --- etcd away, and no permission


def _node(server: Server) -> Settings:
    """Settings of the user that may only /mine/."""
    server.enable_auth()
    password = server.folder / "password"
    password.write_text("right")
    return server.settings(CALL_S, user="node", password_file=str(password))


async def test_away_at_the_start_is_told_once_then_overcome(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    server.stop()
    async with Etcd(server.settings()) as etcd, Replica(etcd) as replica:
        await replica.until(lambda: replica.count(Lost) == 1)
        await asyncio.to_thread(server.start)
        await replica.until(lambda: replica.count(Synced) == 1)
        assert [type(batch) for batch in replica.told] == [Lost, Back, Relist, Page, Synced]
        assert server.endpoint in str(replica.told[0])


async def test_a_prefix_without_permission_is_permanent(start_etcd: StartEtcd) -> None:
    async with Etcd(_node(start_etcd())) as etcd:
        async with aclosing(follow(etcd, b"/theirs/", jitter=no_jitter)) as batches:
            with pytest.raises(PermanentError, match=r"/theirs/: .*permission denied"):
                await anext(batches)
        ours = await etcd.put(b"/mine/key", b"x")
        wide = Position((await etcd.status()).cluster_id, ours, b"/mine/key", ours)
        async with aclosing(follow(etcd, b"/", wide, jitter=no_jitter)) as batches:
            with pytest.raises(PermanentError, match=r"etcd prefix /: .*permission denied"):
                await anext(batches)


async def test_a_follower_outlives_its_token(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    async with Etcd(_node(server)) as etcd, Replica(etcd, prefix=b"/mine/") as replica:
        await replica.until_it_watches()
        await asyncio.to_thread(server.stop)
        server.forget()
        await asyncio.to_thread(server.start)
        server.enable_auth()
        await replica.until(lambda: replica.count(Synced) == 2)
        assert replica.keys == {}


async def test_closing_the_client_ends_a_follower_with_an_error(etcd_server: Server) -> None:
    etcd = Etcd(etcd_server.settings())
    async with Replica(etcd, prefix=b"/closing/") as replica:
        await replica.until_it_watches()
        waiting = asyncio.create_task(replica.until(lambda: False))
        await asyncio.sleep(0)
        await etcd.close()
        with pytest.raises(PermanentError, match="closed"):
            await waiting


async def test_cancelling_a_follower_cancels_it(etcd_server: Server) -> None:
    async with Etcd(etcd_server.settings()) as etcd, Replica(etcd, prefix=b"/cancel/") as replica:
        await replica.until_it_watches()
        waiting = asyncio.create_task(replica.until(lambda: False))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
