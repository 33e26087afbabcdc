"""One arena for all packet tests, one clean scene for each; a node where packets are on the move."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from meshfabric.kernel import attach
from tests.packet import outside
from tests.packet.arena import Arena, arena, build
from tests.packet.node import Node, kinds
from tests.packet.rig import SIZES, Rig, Scene
from tests.packet.world import World, standard


@pytest.fixture(scope="session")
def place() -> Iterator[Arena]:
    """A private place with the datapath's objects up to date."""
    if os.geteuid():
        pytest.fail("packet tests load eBPF programs: run them as root")
    build()
    with arena() as made:
        yield made


@pytest.fixture(scope="session")
def rig(place: Arena) -> Iterator[Rig]:
    """The loaded programs."""
    with place.load(SIZES, outside.SETTINGS) as datapath:
        made = Rig(place, datapath)
        outside.settle(place)
        yield made


@pytest.fixture
def scene(rig: Rig) -> Scene:
    """The standard world, with no flow yet."""
    return Scene(rig, standard())


@pytest.fixture
def abroad(rig: Rig) -> World:
    """The standard world, open to what is outside of it, with no flow yet."""
    made = outside.open_to_world(standard())
    rig.reset(made)
    return made


@pytest.fixture(scope="module", params=kinds())
def built(place: Arena, request: pytest.FixtureRequest) -> Iterator[Node]:
    """One node for all tests of a file, in an arena of its own; `place` has built the programs."""
    with arena() as other, ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(attach, "way", lambda: request.param[-1])
        yield Node(other, stack, request.param)


@pytest.fixture
def node(built: Node) -> Node:
    """As if nothing had been said."""
    built.reset()
    return built
