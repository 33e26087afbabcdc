"""What is read of paths that are, and of those that were a moment ago."""

from types import SimpleNamespace
from typing import Any

import pytest

from meshfabric.agent.readings import Readings
from meshfabric.model.addresses import parse_address
from meshfabric.model.node import Link
from meshfabric.model.settings import Settings
from meshfabric.model.world import Event, Kind
from meshfabric.probe.prober import Target
from meshfabric.probe.sizer import Look
from tests.strategies import world_of


class NoMap:
    """Nothing is to be asked of it."""

    def lookup(self, key: bytes) -> bytes:
        raise AssertionError(f"asked for {key!r}")


@pytest.mark.parametrize("gone", ["device", "node"])
def test_a_path_that_went_meanwhile_is_not_up(base: Settings, gone: str) -> None:
    world = world_of(base, [])
    if gone == "node":
        world.apply(Event(Kind.LINK, "mfwg00", Link("mfwg00", 7, "", 1420, up=True)))
    loop: Any = SimpleNamespace(world=world)
    maps: Any = dict.fromkeys(("paths", "reasons", "token"), NoMap())
    target = Target("mfwg00", parse_address("10.64.1.1"), parse_address("10.64.2.1"), "n2", 0)
    assert Readings(loop, maps).look(target) == Look(up=False)
    assert world.node_numbers.find("n2") is None, "no number was given for asking"
