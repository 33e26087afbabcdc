"""The answering end of the agent's unix socket.

One JSON object a line. What a request means is the agent's business (`answer`);
here is only how it comes and goes. The socket has mode 0660: its group may ask,
nobody else.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from meshfabric.api.messages import LINE_LIMIT, Reply, Request
from meshfabric.model.errors import MeshfabricError, PermanentError

SOCKET_MODE = 0o660

Answer = Callable[[Request], Awaitable[Any]]
log = logging.getLogger(__name__)
_requests = msgspec.json.Decoder[Request](Request)


@contextlib.asynccontextmanager
async def serving(path: Path, answer: Answer) -> Any:
    """Listen while the context lasts; a socket left by a dead agent is taken over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if await _somebody_listens(path):
        raise PermanentError(
            "another agent answers here", place=str(path), remedy="stop it, or configure another socket"
        )
    path.unlink(missing_ok=True)
    mask = os.umask(0o777 & ~SOCKET_MODE)
    try:
        server = await asyncio.start_unix_server(_conversation(answer), path, limit=LINE_LIMIT)
    finally:
        os.umask(mask)
    try:
        yield server
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _somebody_listens(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


def _conversation(answer: Answer) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):  # gone, or a line over the limit
            while line := await reader.readline():
                writer.write(msgspec.json.encode(await _reply(answer, line)) + b"\n")
                await writer.drain()
        writer.close()

    return converse


async def _reply(answer: Answer, line: bytes) -> Reply:
    try:
        return Reply(await answer(_requests.decode(line)))
    except msgspec.MsgspecError as error:
        return Reply(error=f"cannot read the request: {error}")
    except MeshfabricError as error:
        return Reply(error=str(error), permanent=isinstance(error, PermanentError))
    except Exception as error:  # one bad answer must not take the agent's socket away
        log.exception("no answer")
        return Reply(error=f"the agent failed to answer: {error!r}")
