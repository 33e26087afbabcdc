"""Keys, compare-and-swap, transactions and leases, against real etcd servers."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from meshfabric.model.errors import PermanentError, TemporaryError
from meshfabric.store.client import TXN_OPS, Etcd, Lease
from meshfabric.store.connection import LeaseGone, RevisionGone
from tests.etcd import Server, StartEtcd
from tests.patience import DEADLINE_S, PATIENCE

pytest_plugins = ["tests.etcd"]

LEASE_S = int(5 * PATIENCE)  # nobody stands still for so long


@pytest_asyncio.fixture
async def etcd(etcd_server: Server) -> AsyncIterator[Etcd]:
    async with Etcd(etcd_server.settings()) as client:
        yield client


async def _keys(etcd: Etcd, prefix: bytes, page: int) -> tuple[list[bytes], int]:
    """All keys below a prefix, and in how many pages they came."""
    pages = [part async for part in etcd.scan(prefix, page)]
    assert len({part.revision for part in pages}) == 1
    assert all(len(part.entries) <= page for part in pages)
    return [entry.key for part in pages for entry in part.entries], len(pages)


async def test_a_key_is_written_read_and_deleted(etcd: Etcd) -> None:
    assert await etcd.get(b"/one/key") is None
    written = await etcd.put(b"/one/key", b"\x00value\xff")
    entry = await etcd.get(b"/one/key")
    assert entry
    assert (entry.key, entry.value, entry.mod_revision) == (b"/one/key", b"\x00value\xff", written)
    deleted = await etcd.delete(b"/one/key")
    assert deleted == written + 1
    assert await etcd.get(b"/one/key") is None
    assert await etcd.delete(b"/one/key") == deleted
    then = await etcd.read(b"/one/key", written)
    assert then.entry == entry


async def test_scan_reads_exactly_the_prefix_in_pages(etcd: Etcd) -> None:
    wanted = [b"/scan/%04d" % number for number in range(250)]
    await etcd.put_many((key, b"x") for key in [*wanted, b"/scan", b"/scan0", b"/scao/1"])
    assert await _keys(etcd, b"/scan/", page=100) == (wanted, 3)
    assert await _keys(etcd, b"/scan/", page=250) == (wanted, 1)
    assert await _keys(etcd, b"/scan/", page=1000) == (wanted, 1)
    assert await _keys(etcd, b"/scan/none/", page=10) == ([], 1)


async def test_pages_of_a_scan_show_one_moment(etcd: Etcd) -> None:
    before = {b"/moment/%d" % number: b"old" for number in range(9)}
    await etcd.put_many(before.items())
    seen: dict[bytes, bytes] = {}
    async for page in etcd.scan(b"/moment/", page=2):
        seen |= {entry.key: entry.value for entry in page.entries}
        await etcd.put_many([*((key, b"new") for key in before), (b"/moment/99", b"new")])
    assert seen == before


async def test_scan_tells_when_its_revision_was_compacted(etcd: Etcd) -> None:
    await etcd.put_many((b"/gone/%d" % number, b"x") for number in range(4))
    pages = etcd.scan(b"/gone/", page=2)
    first = await anext(pages)
    revision = await etcd.put(b"/gone/later", b"x")
    await etcd.compact(revision)
    await etcd.compact(first.revision)
    with pytest.raises(RevisionGone, match="/gone/"):
        await anext(pages)


async def test_replace_writes_only_what_is_as_expected(etcd: Etcd) -> None:
    key = b"/swap/key"
    assert await etcd.replace(key, b"first", 0)
    first = await etcd.get(key)
    assert first
    assert not await etcd.replace(key, b"again", 0)
    assert not await etcd.replace(key, b"first", 0)
    assert await etcd.replace(key, b"second", first.mod_revision)
    assert not await etcd.replace(key, b"third", first.mod_revision)
    second = await etcd.get(key)
    assert second
    assert second.value == b"second"


async def test_of_many_swaps_one_wins(etcd: Etcd) -> None:
    won = await asyncio.gather(*(etcd.replace(b"/race/key", b"%d" % me, 0) for me in range(20)))
    assert sum(won) == 1
    entry = await etcd.get(b"/race/key")
    assert entry
    assert entry.value == b"%d" % won.index(True)


@pytest.mark.parametrize("count", [0, 1, TXN_OPS, TXN_OPS + 1, 3 * TXN_OPS])
async def test_put_many_writes_all_in_as_few_transactions(etcd: Etcd, count: int) -> None:
    before = (await etcd.status()).revision
    prefix = b"/many/%d/" % count
    revision = await etcd.put_many((prefix + b"%05d" % number, b"x") for number in range(count))
    assert revision == (before + -(-count // TXN_OPS) if count else 0)
    assert len((await _keys(etcd, prefix, page=1000))[0]) == count


async def test_put_many_keeps_below_the_size_of_a_request(etcd: Etcd) -> None:
    await etcd.put_many((b"/big/%02d" % number, b"x" * 400_000) for number in range(8))
    assert len((await _keys(etcd, b"/big/", page=3))[0]) == 8


async def test_put_many_takes_the_last_of_equal_keys(etcd: Etcd) -> None:
    await etcd.put_many([(b"/twice/a", b"1"), (b"/twice/b", b"1"), (b"/twice/a", b"2")])
    entry = await etcd.get(b"/twice/a")
    assert entry
    assert entry.value == b"2"


async def test_status_tells_cluster_revision_and_version(etcd: Etcd, etcd_server: Server) -> None:
    status = await etcd.status()
    assert f"etcd Version: {status.version}" in etcd_server.version()
    assert status.revision == await etcd.put(b"/status/key", b"x") - 1
    assert status.cluster_id == (await etcd.read(b"/status/key")).cluster_id != 0


async def test_what_etcd_refuses_is_permanent_and_names_the_key(etcd: Etcd) -> None:
    with pytest.raises(PermanentError, match=r"/large/key: .*too large"):
        await etcd.put(b"/large/key", b"x" * 2_000_000)


async def test_a_revision_of_the_future_is_gone_not_awaited(etcd: Etcd) -> None:
    with pytest.raises(RevisionGone, match="future"):
        await etcd.read(b"/future", 1 << 40)
    with pytest.raises(RevisionGone, match="future"):
        await etcd.compact(1 << 40)


async def test_a_lease_is_kept_beyond_its_time(etcd: Etcd) -> None:
    lease = await etcd.lease(LEASE_S)
    await etcd.put(b"/lease/kept", b"alive", lease.id)
    until = time.monotonic() + 1.7 * lease.ttl_s
    while time.monotonic() < until:
        assert await etcd.get(b"/lease/kept")
        await asyncio.sleep(0.1)
    assert lease.held
    await lease.revoke()
    assert await etcd.get(b"/lease/kept") is None
    assert await lease.lost() == "revoked"
    assert not lease.held
    await lease.revoke()


async def test_a_lease_ended_by_others_is_reported_lost(etcd: Etcd, etcd_server: Server) -> None:
    lease = await etcd.lease(LEASE_S)
    waiters = [asyncio.create_task(lease.lost()) for _ in range(2)]
    etcd_server.ctl("lease", "revoke", f"{lease.id:x}")
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(*waiters) == ["etcd let it run out"] * 2
    with pytest.raises(LeaseGone, match="/lease/late"):
        await etcd.put(b"/lease/late", b"x", lease.id)


async def test_closing_the_client_ends_its_leases(etcd_server: Server) -> None:
    async with Etcd(etcd_server.settings()) as client:
        lease = await client.lease(30)
    assert "closed" in await lease.lost()
    with pytest.raises(PermanentError, match="closed"):
        await client.get(b"/any")


async def _lost(lease: Lease) -> tuple[str, float]:
    started = time.monotonic()
    async with asyncio.timeout(3 * DEADLINE_S):
        return await lease.lost(), time.monotonic() - started


async def test_a_lease_is_lost_in_time_when_etcd_is_away(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    async with Etcd(server.settings(timeout_s=2 * DEADLINE_S)) as etcd:
        lease = await etcd.lease(1)
        server.freeze()
        why, seconds = await _lost(lease)
        assert server.endpoint in why
        assert seconds < DEADLINE_S, "it waited for its beat's own time limit"


async def test_a_lease_survives_a_restart_of_etcd(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    async with Etcd(server.settings()) as etcd:
        lease = await etcd.lease(LEASE_S)
        await etcd.put(b"/lease/stays", b"x", lease.id)
        server.stop()
        with pytest.raises(TemporaryError):
            await etcd.get(b"/lease/stays")
        server.start()
        until = time.monotonic() + lease.ttl_s + 0.2
        while time.monotonic() < until:
            assert lease.held
            assert await etcd.get(b"/lease/stays")
            await asyncio.sleep(0.1)
