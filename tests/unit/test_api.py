"""The agent's socket: requests and replies, errors with their kind, and a socket that outlived its agent."""

import asyncio
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.api.client import call
from meshfabric.api.messages import Ask, Attach, Request
from meshfabric.api.server import serving
from meshfabric.model.errors import PermanentError, TemporaryError

ATTACH = Attach("web", "pod", {"app": "web"}, "eth0", "/proc/1/ns/net")


async def answer(request: Request) -> Any:
    """Says what it was asked; three names ask for errors."""
    if isinstance(request, Attach) and request.name == "bad":
        raise PermanentError("no such thing", place="here", remedy="do that")
    if isinstance(request, Attach) and request.name == "later":
        raise TemporaryError("not yet")
    if isinstance(request, Attach) and request.name == "bug":
        raise ZeroDivisionError
    return request


async def asked(path: Path, *requests: Request) -> list[Any]:
    """The replies to requests of a client in another thread."""
    async with serving(path, answer):
        return [await asyncio.to_thread(call, path, request, 5.0) for request in requests]


async def test_a_request_comes_as_it_was_sent(tmp_path: Path) -> None:
    first, second = await asked(tmp_path / "s", ATTACH, Ask("status"))
    assert first["labels"] == {"app": "web"}
    assert second == {"type": "ask", "subject": "status"}


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("bad", PermanentError, r"^here: no such thing \(do that\)$"),
        ("later", TemporaryError, r"^not yet$"),
        ("bug", PermanentError, "ZeroDivisionError"),
    ],
)
async def test_an_error_keeps_its_kind_and_words(
    tmp_path: Path, name: str, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        await asked(tmp_path / "s", Attach(name, "pod", {}, "eth0"))


async def test_the_socket_is_for_its_group_only_and_goes_with_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path, answer):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


async def test_a_dead_agents_socket_is_taken_over_and_a_living_ones_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serving(path, answer):
        with pytest.raises(PermanentError, match="another agent answers here"):
            async with serving(path, answer):
                pass
        assert await asyncio.to_thread(call, path, Ask("nodes")) == {"type": "ask", "subject": "nodes"}


def test_no_agent_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match="the agent does not answer: no such socket") as caught:
        call(tmp_path / "s", Ask("status"))
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_get_a_reply_or_a_closed_connection(data: bytes) -> None:
    async def play(folder: Path) -> None:
        path = folder / "s"
        async with serving(path, answer):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(data.replace(b"\n", b" ") + b"\n")
            await writer.drain()
            line = await reader.readline()
            writer.close()
            assert line.endswith(b"}\n")
            assert await asyncio.to_thread(call, path, Ask("nodes"))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))
