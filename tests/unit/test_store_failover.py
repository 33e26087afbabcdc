"""Endpoints that are dead, hung or mute: what callers see, against real etcd servers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from meshfabric.model.errors import TemporaryError
from meshfabric.store.client import Etcd
from meshfabric.store.settings import CALL_DEADLINE_S, Settings
from tests.etcd import CALL_S, Server, StartEtcd, free_port, own_address
from tests.patience import DEADLINE_S

pytest_plugins = ["tests.etcd"]

MANY = 50
GETS = 10


def _dead() -> str:
    """An endpoint where nobody listens."""
    return f"http://{own_address()}:{free_port(own_address())}"


def _client(*endpoints: str, timeout_s: float = CALL_DEADLINE_S) -> Etcd:
    return Etcd(Settings(endpoints, timeout_s=timeout_s))


def _impatient(*endpoints: str) -> Etcd:
    """A client that does not wait long for hung servers."""
    return Etcd(Settings(endpoints, timeout_s=CALL_S))


class Mute:
    """A TCP proxy before a server that can stop handing answers back: then nobody knows what was done."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._port = free_port(own_address())
        self._tasks: set[asyncio.Task[None]] = set()
        self.mute = False

    @property
    def endpoint(self) -> str:
        return f"http://{own_address()}:{self._port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Mute"]:
        listener = await asyncio.start_server(self._serve, own_address(), self._port)
        async with listener:
            yield self
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection(self._server.address, self._server.client_port)
        try:
            await asyncio.gather(
                self._copy(reader, far_writer, hush=False), self._copy(far_reader, writer, hush=True)
            )
        finally:
            for end in (writer, far_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, hush: bool) -> None:
        while octets := await source.read(65536):
            if not (hush and self.mute):
                sink.write(octets)
        sink.close()


async def test_a_dead_endpoint_is_passed_over(etcd_server: Server) -> None:
    async with _client(_dead(), _dead(), etcd_server.endpoint, timeout_s=2 * DEADLINE_S) as etcd:
        started = time.monotonic()
        assert await etcd.put(b"/dead/key", b"x")
        assert await etcd.get(b"/dead/key")
        assert time.monotonic() - started < DEADLINE_S


async def test_a_hung_endpoint_costs_one_deadline_once(etcd_server: Server, start_etcd: StartEtcd) -> None:
    hung = start_etcd()
    hung.freeze()
    async with _impatient(hung.endpoint, etcd_server.endpoint) as etcd:
        started = time.monotonic()
        assert await etcd.put(b"/hung/key", b"x")
        first = time.monotonic()
        for _ in range(GETS):
            assert await etcd.get(b"/hung/key")
        assert first - started >= CALL_S
        assert time.monotonic() - first < GETS * CALL_S


async def test_calls_in_flight_survive_the_death_of_an_endpoint(
    etcd_server: Server, start_etcd: StartEtcd
) -> None:
    dying = start_etcd()
    async with _client(dying.endpoint, etcd_server.endpoint) as etcd:
        await etcd.get(b"/flight")
        dying.freeze()
        calls = [asyncio.create_task(etcd.put(b"/flight/%d" % me, b"x")) for me in range(MANY)]
        await asyncio.sleep(0)
        dying.stop()
        assert all(await asyncio.gather(*calls))
        assert len([entry async for page in etcd.scan(b"/flight/") for entry in page.entries]) == MANY


async def test_nobody_there_is_one_clear_line() -> None:
    endpoints = (_dead(), f"http://[::1]:{free_port('::1')}")
    async with _client(*endpoints) as etcd:
        for _ in range(2):
            with pytest.raises(TemporaryError) as raised:
                await etcd.get(b"/any")
            line = str(raised.value)
            assert all(f"{endpoint}: Connection refused" in line for endpoint in endpoints)
            assert line.startswith("etcd: no endpoint serves the request: ")
            assert line.endswith("(start etcd or correct etcd.endpoints)")
            assert "\n" not in line


async def test_one_endpoint_that_comes_back_is_found_at_once(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    async with _client(server.endpoint) as etcd:
        await etcd.put(b"/back", b"x")
        server.stop()
        for _ in range(5):
            with pytest.raises(TemporaryError):
                await etcd.get(b"/back")
        server.start()
        assert await etcd.get(b"/back")


async def test_a_swap_without_answer_is_known_to_have_happened(etcd_server: Server) -> None:
    async with Mute(etcd_server).running() as proxy, _impatient(proxy.endpoint, etcd_server.endpoint) as etcd:
        await etcd.get(b"/mute/key")
        proxy.mute = True
        assert await etcd.replace(b"/mute/key", b"mine", 0)
        entry = await etcd.get(b"/mute/key")
        assert entry
        assert entry.value == b"mine"


async def test_a_swap_without_answer_is_no_success_for_others(etcd_server: Server) -> None:
    async with _client(etcd_server.endpoint) as other:
        await other.put(b"/mute/taken", b"theirs")
    async with Mute(etcd_server).running() as proxy, _impatient(proxy.endpoint, etcd_server.endpoint) as etcd:
        await etcd.get(b"/mute/taken")
        proxy.mute = True
        assert not await etcd.replace(b"/mute/taken", b"mine", 0)


async def test_cancelling_a_call_is_no_error_of_etcd(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    async with Etcd(Settings((server.endpoint,))) as etcd:
        await etcd.get(b"/any")
        server.freeze()
        call = asyncio.create_task(etcd.get(b"/any"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_closing_under_a_call_is_an_error_not_a_cancellation(start_etcd: StartEtcd) -> None:
    server = start_etcd()
    etcd = Etcd(Settings((server.endpoint,)))
    await etcd.get(b"/any")
    server.freeze()
    call = asyncio.create_task(etcd.get(b"/any"))
    await asyncio.sleep(0)
    await etcd.close()
    with pytest.raises(TemporaryError, match="closed"):
        await call


async def test_ipv6_endpoint_is_dialled(start_etcd: StartEtcd) -> None:
    server = start_etcd(address="::1")
    async with _client(server.endpoint) as etcd:
        assert await etcd.put(b"/six", b"x")
