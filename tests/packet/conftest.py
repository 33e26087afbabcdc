"""One arena for all packet tests, one clean scene for each."""

import os
from collections.abc import Iterator

import pytest

from tests.packet.arena import Arena, arena, build
from tests.packet.rig import SIZES, Rig, Scene
from tests.packet.world import standard


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
    with place.load(SIZES) as datapath:
        yield Rig(place, datapath)


@pytest.fixture
def scene(rig: Rig) -> Scene:
    """The standard world, with no flow yet."""
    return Scene(rig, standard())
