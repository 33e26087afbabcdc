"""Going on from a position whose history is still there, or is gone: compacted, restored, replaced."""

import asyncio
from contextlib import aclosing
from functools import partial

from meshfabric.store.client import Etcd, Page
from meshfabric.store.watch import RELIST_SPREAD_S, Back, Lost, Position, Relist, Synced, Update, follow
from tests.etcd import Server, StartEtcd
from tests.replica import PREFIX, Replica, current_revision, insist

pytest_plugins = ["tests.etcd"]


async def _seen(etcd: Etcd, prefix: bytes = PREFIX) -> Replica:
    """A replica that saw two keys, "old" last, and follows no more."""
    await etcd.put(prefix + b"seen", b"1")
    await etcd.put(prefix + b"old", b"1")
    async with Replica(etcd, prefix=prefix) as replica:
        await replica.until_like(etcd)
    return replica


async def _goes_on(seen: Replica, etcd: Etcd) -> Replica:
    """Another replica that went on where this one ended, until it was as etcd."""
    async with Replica(etcd, seen.position, seen.prefix) as later:
        later.keys = dict(seen.keys)
        await later.until_like(etcd)
    return later


async def test_following_goes_on_from_a_stored_position(etcd_server: Server) -> None:
    async with Etcd(etcd_server.settings()) as etcd:
        seen = await _seen(etcd, b"/stored/")
        await etcd.put(b"/stored/b", b"2")
        await etcd.put(b"/stored/a", b"3")
        later = await _goes_on(seen, etcd)
        assert later.reasons() == []
        assert len(later.revisions) == 2


async def test_a_compaction_while_away_means_a_listing(etcd_server: Server) -> None:
    async with Etcd(etcd_server.settings()) as etcd:
        seen = await _seen(etcd, b"/compacted1/")
        await etcd.delete(b"/compacted1/old")
        await etcd.compact(await etcd.put(b"/compacted1/new", b"1"))
        (reason,) = (await _goes_on(seen, etcd)).reasons()
        assert "compacted" in reason


async def test_a_compaction_of_what_a_watch_still_needs_means_a_listing(etcd_server: Server) -> None:
    async with Etcd(etcd_server.settings()) as etcd:
        seen = await _seen(etcd, b"/compacted2/")
        await etcd.delete(b"/compacted2/seen")
        compacted = await etcd.put(b"/compacted2/new", b"1")
        await etcd.compact(compacted)
        later = await _goes_on(seen, etcd)
        assert later.reasons() == [f"etcd was compacted at revision {compacted}"]


async def test_a_compaction_of_what_was_seen_means_nothing(etcd_server: Server) -> None:
    async with Etcd(etcd_server.settings()) as etcd:
        seen = await _seen(etcd, b"/compacted3/")
        await etcd.put(b"/compacted3/new", b"1")
        assert seen.position
        await etcd.compact(seen.position.revision)
        later = await _goes_on(seen, etcd)
        assert later.reasons() == []
        assert len(later.revisions) == 1


async def test_a_restored_backup_is_noticed_by_its_revision_or_its_history(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    server.stop()
    server.back_up()
    server.start()
    async with Etcd(server.settings()) as etcd:
        seen = await _seen(etcd)
    server.stop()
    server.restore()
    server.start()
    async with Etcd(server.settings()) as etcd:
        assert seen.position
        told = f"the revision fell from {seen.position.revision} to {await current_revision(etcd)}"
        assert (await _goes_on(seen, etcd)).reasons() == [told]
        for number in range(10):
            await etcd.put(PREFIX + b"new", b"%d" % number)
        assert (await _goes_on(seen, etcd)).reasons() == ["history is not as we saw it"]
        await etcd.put(PREFIX + b"old", b"the newest key that was seen, at another revision")
        assert (await _goes_on(seen, etcd)).reasons() == ["history is not as we saw it"]


async def test_a_new_cluster_is_noticed_by_its_id_at_once(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    async with Etcd(server.settings()) as etcd, Replica(etcd) as replica:
        await replica.until_it_watches()
        await asyncio.to_thread(server.stop)
        server.forget()
        await asyncio.to_thread(server.start)
        for number in range(9):  # its revision is beyond ours
            await insist(partial(etcd.put, PREFIX + b"other", b"%d" % number))
        await replica.until_like(etcd)
        kinds = [type(batch) for batch in replica.told if not isinstance(batch, Update)]
        assert kinds == [Back, Relist, Page, Synced, Lost, Back, Relist, Page, Synced]
        assert replica.reasons()[1:] == ["another cluster answers"]


async def test_the_wait_before_a_listing_is_the_callers(etcd_server: Server) -> None:
    asked: list[float] = []

    def jitter(limit: float) -> float:
        asked.append(limit)
        return 0.0

    stale = Position(cluster_id=1, revision=1)
    async with Etcd(etcd_server.settings()) as etcd:
        async with aclosing(follow(etcd, PREFIX, stale, jitter=jitter)) as batches:
            assert isinstance(await anext(batches), Back)
        assert asked == [RELIST_SPREAD_S]
