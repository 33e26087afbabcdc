"""An agent that only answers: the real socket server, with what a test says it shall tell."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meshfabric.api.messages import Ask, Request
from meshfabric.api.server import serving
from meshfabric.model.errors import MeshfabricError

STARTING_S = 10.0


class Agent:
    """`answers` by the subject of an `Ask`, or by the type of another request; an error is raised."""

    def __init__(self, socket: Path, answers: Mapping[Any, Any]) -> None:
        self.socket, self.answers = socket, answers
        self.asked: list[Request] = []

    async def answer(self, request: Request) -> Any:
        """What the test wants to be told."""
        self.asked.append(request)
        told = self.answers[request.subject if isinstance(request, Ask) else type(request)]
        if isinstance(told, MeshfabricError):
            raise told
        return told


@contextlib.contextmanager
def answering(path: Path, answers: Mapping[Any, Any]) -> Iterator[Agent]:
    """Listen at `path` in a thread while the context lasts."""
    agent, loop, ready = Agent(path, answers), asyncio.new_event_loop(), threading.Event()
    ended = asyncio.Event()

    async def listen() -> None:
        async with serving(path, agent.answer):
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[listen()])
    thread.start()
    try:
        assert ready.wait(STARTING_S)
        yield agent
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(STARTING_S)
        loop.close()
