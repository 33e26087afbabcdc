"""What the datapath is told so that it can probe by itself."""

from hypothesis import given, settings

from meshfabric.compiler.paths import pairs
from meshfabric.compiler.step import compile_plan
from meshfabric.model.addresses import format_address
from meshfabric.model.plan import Attachment, Delay, Table
from meshfabric.model.settings import Settings, UplinkSettings
from meshfabric.model.tables import FIRST_NODE, PROBE_ENDS, loop_value, number
from meshfabric.model.world import Event, Kind, World
from tests.strategies import all_settings, full, full_link, sequences, world_of
from tests.strategies import settings as configured

EXAMPLES = 100
LOOP = ("mftick0", "mftick1")
UPLINKS = (UplinkSettings("up0", "eth0", "red"), UplinkSettings("up1", "eth1", "blue"))


def full_world(*more: Event) -> World:
    return world_of(configured(UPLINKS), [*full(), *more])


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_each_node_with_tunnels_is_probed_from_our_address_to_its(
    given: Settings, happened: list[Event]
) -> None:
    world = world_of(given, happened)
    probes = compile_plan(world).table(Table.PROBES)
    host = world.workloads.get(world.node)
    for node in world.nodes:
        place = world.node_numbers.find(node)
        value = probes.pop(number(place - FIRST_NODE), None) if place else None
        if value is None:
            continue
        assert host is not None
        assert pairs(world, node)
        source, destination = PROBE_ENDS.unpack(value)
        assert source in host.addresses
        assert destination in world.allocations[node].addresses
        assert ("." in format_address(source)) == ("." in format_address(destination))
    assert not probes


def test_every_node_of_a_whole_fabric_is_probed() -> None:
    world = full_world()
    probed = compile_plan(world).table(Table.PROBES)
    reached = [node for node in world.nodes if pairs(world, node)]
    assert len(probed) == len(reached) > 0


def test_a_revoked_node_is_not() -> None:
    node = next(node for node in full_world().nodes if pairs(full_world(), node))
    before = compile_plan(full_world()).table(Table.PROBES)
    after = compile_plan(full_world(Event(Kind.REVOKED, node, True))).table(Table.PROBES)
    assert len(after) == len(before) - 1


def test_the_loop_is_asked_for_first_and_used_when_it_is_there() -> None:
    gone = [Event(Kind.LINK, device) for device in LOOP]
    plan = compile_plan(full_world(*gone))
    assert plan.table(Table.DELAYS) == {LOOP[0]: Delay(LOOP[1], 50)}
    assert plan.table(Table.LOOP) == {}
    assert (LOOP[1], "ingress") not in plan.table(Table.PROGRAMS)
    half = compile_plan(full_world(gone[0]))
    assert half.table(Table.LOOP) == {}
    whole = compile_plan(full_world())
    out, into = (full_link(device).index for device in LOOP)
    assert whole.table(Table.LOOP) == {number(0): loop_value(out, into)}
    assert whole.table(Table.PROGRAMS)[LOOP[1], "ingress"] == Attachment("tick", into)
