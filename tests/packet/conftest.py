"""One arena for all packet tests, one clean scene for each; a node where packets are on the move."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshfabric.kernel import attach, loader
from meshfabric.kernel.bpf import SkbContext
from tests.packet import outside
from tests.packet.arena import Arena, arena, build, compile_extra
from tests.packet.choice import Chosen
from tests.packet.node import Node, kinds
from tests.packet.rig import SIZES, Rig, Scene
from tests.packet.world import World, standard

SHARED = {"flows_shared": b"\1"}
CHOOSE = Path(__file__).with_name("choose.bpf.c")


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
    with place.load(SIZES, outside.SETTINGS | SHARED) as datapath:
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


@pytest.fixture(scope="module")
def chosen(place: Arena, rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chosen]:
    """The tunnel to the node at a place, by choose.bpf.c, which looks at the rig's own maps."""
    built = compile_extra(CHOOSE, tmp_path_factory.mktemp("choose"))
    with place.run(loader.load, [built], place.pins) as extra:
        assert "paths" in extra.adopted

        def choose(node: int, flow: bytes = b"") -> str | None:
            context, packet = SkbContext(mark=node).pack(), flow.ljust(64, b"\0")
            index = place.run(extra.programs["chosen"].test_run, packet, ctx=context).retval
            return next((name for name, one in rig.ifindex.items() if one == index), None)

        yield choose
