"""Questions of `policy diff` on the agent's socket: whatever is asked is answered or refused."""

import asyncio
import json
import socket
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.agent.simulation import Simulation
from meshfabric.api.client import call
from meshfabric.api.messages import Request, Simulate
from meshfabric.api.server import serving
from meshfabric.model.errors import PermanentError
from meshfabric.model.policytext import IngressText, PolicyText
from meshfabric.model.world import World
from tests.strategies import full, policy_texts, world_of
from tests.strategies import settings as configured

FAILED = "the agent failed to answer"

texts = st.text(max_size=12) | st.sampled_from(["p", "*", "app=web", "admin", "deny", "tcp/80", "", "\0"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from([field.encode_name for field in msgspec.structs.fields(PolicyText)])
rules = st.dictionaries(st.sampled_from(["from", "to", "ports", "action", "expires"]), values, max_size=3)
documents = st.builds(
    lambda some, more, several: {"name": "p", "select": "*", "ingress": several, **some, **more},
    st.dictionaries(fields, values, max_size=3),
    st.dictionaries(texts, values, max_size=1),
    st.lists(rules, max_size=2),
)
valid = policy_texts().map(msgspec.to_builtins)
questions = st.fixed_dictionaries(
    {"type": st.just("simulate")},
    optional={
        "policies": st.lists(documents | valid, max_size=3) | values,
        "delete": st.lists(texts, max_size=3) | values,
    },
)


def known() -> World:
    return world_of(configured(()), full())


async def replied(world: World, question: object) -> dict[str, Any]:
    """What stands in the reply's line."""
    simulation = Simulation(world, ())

    async def answer(request: Request) -> Any:
        assert isinstance(request, Simulate)
        return await simulation.compare(request)

    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder, "s"), answer):
            line = await asyncio.to_thread(exchanged, Path(folder, "s"), json.dumps(question).encode())
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, asyncio.sleep(0))
    told: dict[str, Any] = json.loads(line)
    return told


def exchanged(path: Path, line: bytes) -> bytes:
    """A question and its answer, as bytes."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(path))
        link.sendall(line + b"\n")
        with link.makefile("rb") as answer:
            return answer.readline()


@given(questions)
@settings(deadline=None)
def test_whatever_is_asked_is_answered_or_refused(question: object) -> None:
    world = known()
    before = world.policies.copy()
    told = asyncio.run(replied(world, question))
    assert not told.get("error", "").startswith(FAILED)
    assert told.get("error") or told["result"]["changes_total"] >= len(told["result"]["changes"])
    assert world.policies == before


@given(st.lists(policy_texts(), max_size=2, unique_by=lambda one: one.name))
@settings(max_examples=30, deadline=None)
def test_what_a_document_may_say_is_answered(several: list[PolicyText]) -> None:
    told = asyncio.run(replied(known(), msgspec.to_builtins(Simulate(several))))
    assert "error" not in told


async def test_two_questions_take_turns() -> None:
    closed = Simulate([PolicyText("closed", "*", [IngressText(action="deny")], tier="admin")])
    simulation = Simulation(known(), ())
    both = await asyncio.gather(simulation.compare(closed), simulation.compare(closed))
    assert both[0] == both[1]
    assert both[0]["changes"]


async def test_the_kind_of_an_error_is_kept(tmp_path: Path) -> None:
    async def answer(request: Request) -> Any:
        assert isinstance(request, Simulate)
        return await Simulation(known(), ()).compare(request)

    async with serving(tmp_path / "s", answer):
        bad = Simulate([PolicyText("p", "*", [IngressText(None, ["tcp/0"])])])
        with pytest.raises(PermanentError, match=r"^policy p: ingress\[0\]: .*tcp/0"):
            await asyncio.to_thread(call, tmp_path / "s", bad)
