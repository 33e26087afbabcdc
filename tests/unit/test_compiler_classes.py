"""Classes of workloads: read back from the tables as the datapath does, and by a person."""

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler.classes import classed
from meshfabric.compiler.step import compile_plan, stale_places, step
from meshfabric.model.labels import make_labels, parse_selector
from meshfabric.model.plan import Plan, Table
from meshfabric.model.ports import parse_ports
from meshfabric.model.qos import BUILT_IN, DEFAULT, LAST_PRIORITY, Match, TrafficClass
from meshfabric.model.settings import Settings, UplinkSettings
from meshfabric.model.show import show_key, show_value
from meshfabric.model.tables import (
    ANY_DSCP,
    CLASS_FIXED_BITS,
    CLASS_RULE_KEY,
    NUMBER,
    PROTOCOL_BITS,
    TRAFFIC_CLASS,
    UPLINK,
    WORKLOAD,
    ClassRule,
    class_rule_key,
    class_value,
    number,
)
from meshfabric.model.world import Event, Kind, World
from tests.oracles import meaning
from tests.strategies import KINDS, all_settings, full, sequences, world_of
from tests.strategies import settings as configured
from tests.vocabulary import DSCPS, LOCAL, MEANING, PACKETS

EXAMPLES = 100
SEEN_DSCPS = (*DSCPS, 1)
GOLD, TIN = {"app": "web", "tier": "gold"}, {"tier": "tin"}
CLASS_EVENTS = KINDS[Kind.CLASS] | KINDS[Kind.CLASS] | KINDS[Kind.WORKLOAD] | KINDS[Kind.PACED]


def a_class(name: str, select: str = "*", *matches: Match, priority: int = 3, dscp: int = 0) -> Event:
    """A document."""
    return Event(Kind.CLASS, name, TrafficClass(name, parse_selector(select), matches, priority, dscp))


def about(ports: str = "", dscp: int | None = None) -> Match:
    """Packets of conversations on these ports, or with that DSCP, or both."""
    return Match(tuple(map(parse_ports, ports.split())) if ports else None, None if dscp is None else (dscp,))


def by_a_person(world: World, labels: Mapping[str, str], packet: tuple[int, int], dscp: int) -> str:
    """The class of a packet (protocol and server's port) with a DSCP."""
    documents = [one for one in (BUILT_IN | world.classes).values() if one.name != "control"]
    chosen = [
        one
        for one in documents
        if one.select is not None
        and (
            MEANING[one.select](labels) if one.select in MEANING else labels.get("traffic-class") == one.name
        )
        and (not one.matches or any(fits(match, packet, dscp) for match in one.matches))
    ]
    with_matches = [one for one in chosen if one.matches]
    best = sorted(with_matches or chosen, key=lambda one: (LAST_PRIORITY - one.priority, one.name))
    return best[0].name if best else DEFAULT


def fits(match: Match, packet: tuple[int, int], dscp: int) -> bool:
    """Whether a match is about a packet."""
    on_port = match.ports is None or any(
        packet[0] == one.protocol and one.first <= packet[1] <= one.last for one in match.ports
    )
    return on_port and (match.dscp is None or dscp in match.dscp)


def by_the_tables(world: World, plan: Plan, name: str, packet: tuple[int, int], dscp: int) -> str:
    """The same as the datapath finds it: a longest prefix for the flow, and one for the packet."""
    place = world.workload_numbers[name]
    *_, own, _, rules = WORKLOAD.unpack(plan.table(Table.WORKLOADS)[number(place)])
    table = plan.table(Table.CLASS_RULES)
    found: int | None = longest(table, place, ANY_DSCP, packet) if rules & ClassRule.BY_PORT else None
    found = own if found is None else found
    if rules & ClassRule.BY_DSCP:
        said = longest(table, place, dscp, packet)
        found = found if said is None else said
    names = {world.class_number(one): one for one in (*BUILT_IN, *world.classes)}
    return names[found]


def longest(table: Mapping[bytes, bytes], place: int, dscp: int, packet: tuple[int, int]) -> int | None:
    """What the longest prefix says."""
    wanted = class_rule_key(place, dscp, *packet, 16)
    best = (-1, 0)
    for key, value in table.items():
        bits = CLASS_RULE_KEY.unpack(key)[0]
        if first_bits(key, bits) == first_bits(wanted, bits):
            best = max(best, (bits, NUMBER.unpack(value)[0]))
    return best[1] if best[0] >= 0 else None


def first_bits(key: bytes, bits: int) -> int:
    """Of what follows the length."""
    return int.from_bytes(key[4:], "big") >> 8 * (len(key) - 4) - bits


@given(all_settings(), st.lists(CLASS_EVENTS, max_size=12))
@settings(max_examples=EXAMPLES, deadline=None)
def test_every_packet_has_the_class_that_a_person_finds(given: Settings, happened: list[Event]) -> None:
    world = world_of(given, [*full(), *happened])
    plan = compile_plan(world)
    for name, packet, dscp in product(world.workloads, (*PACKETS, (132, 444)), SEEN_DSCPS):
        labels = dict(world.workloads[name].labels)
        wanted = by_a_person(world, labels, packet, dscp)
        assert by_the_tables(world, plan, name, packet, dscp) == wanted, (name, packet, dscp)


@given(all_settings(), st.lists(CLASS_EVENTS, max_size=12))
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_flows_remember_is_stale_when_it_changes(given: Settings, happened: list[Event]) -> None:
    world = world_of(given, full())
    plan = compile_plan(world)
    for event in happened:
        before = {name: remembered(world, plan, name) for name in world.workloads}
        places = {name: world.workload_numbers[name] for name in world.workloads}
        stale = stale_places(world, step(world, plan, event))
        for name in before.keys() & world.workloads.keys():
            assert remembered(world, plan, name) == before[name] or places[name] in stale, name


def remembered(world: World, plan: Plan, name: str) -> list[str]:
    """The class of each conversation of a workload, as far as ports tell."""
    return [by_the_tables(world, plan, name, packet, ANY_DSCP) for packet in PACKETS]


@given(all_settings(), sequences(), st.lists(CLASS_EVENTS, max_size=8))
@settings(max_examples=EXAMPLES, deadline=None)
def test_classes_that_are_gone_leave_nothing_behind(
    given: Settings, happened: list[Event], more: list[Event]
) -> None:
    world = world_of(given, [event for event in happened if event.kind is not Kind.CLASS])
    plan = compile_plan(world)
    before = meaning(world, plan)
    classes = [event for event in more if event.kind is Kind.CLASS]
    for event in [*classes, *(event._replace(value=None) for event in classes)]:
        step(world, plan, event)
    assert meaning(world, plan) == before


def full_of(*events: Event) -> World:
    """The full world and something more, with an uplink of 100 Mbit/s."""
    uplinks = (UplinkSettings("up0", "eth0", capacity=100), UplinkSettings("up1", "eth1"))
    return world_of(configured(uplinks), [*full(), *events])


@pytest.mark.parametrize(
    ("labels", "events", "expected"),
    [
        (TIN, [], "default"),
        ({"traffic-class": "bulk"}, [], "bulk"),
        ({"traffic-class": "control"}, [], "default"),
        (GOLD, [a_class("video", "app=web")], "video"),
        (GOLD, [a_class("video", "app=web"), a_class("gold", "tier", priority=4)], "gold"),
        (GOLD, [a_class("video", "app=web"), a_class("gold", "tier")], "gold"),
        (TIN, [a_class("bulk", "tier")], "bulk"),
        ({"traffic-class": "bulk"}, [a_class("bulk", "tier")], "default"),
        (GOLD, [a_class("video", "*", about("tcp/443"))], "default"),
    ],
    ids=str,
)
def test_a_workloads_own_class(labels: dict[str, str], events: list[Event], expected: str) -> None:
    world = full_of(*events)
    assert classed(world, 1, make_labels(labels)).number == world.class_number(expected)


def test_nothing_is_said_of_workloads_without_classes() -> None:
    plan = compile_plan(full_of())
    assert not plan.table(Table.CLASS_RULES)
    assert {WORKLOAD.unpack(value)[4::2] for value in plan.table(Table.WORKLOADS).values()} == {(0, 0)}
    assert len(plan.table(Table.CLASSES)) == len(BUILT_IN)


def test_the_rules_of_a_workload_are_few() -> None:
    """What a wider one says already is not said again."""
    world = full_of(
        a_class("video", "app=web, tier=gold", about("tcp/443 tcp/8000-8007")),
        a_class("voice", "app=web, tier=gold", about(dscp=46), about("udp", 8), priority=5),
    )
    plan = compile_plan(world)
    place = next(world.workload_numbers[name] for name in LOCAL if gold(world, name))
    shown = [
        f"{show_key('class_rules', key)} {show_value('class_rules', value)}"
        for key, value in plan.entries(Table.CLASS_RULES)
    ]
    assert sorted(shown) == [
        f"place {place} dscp 46 anything class 5",
        f"place {place} dscp 8 anything class 0",
        f"place {place} dscp 8 tcp/443 class 4",
        f"place {place} dscp 8 tcp/8000-8007 class 4",
        f"place {place} dscp 8 udp class 5",
        f"place {place} tcp/443 class 4",
        f"place {place} tcp/8000-8007 class 4",
    ]
    [value] = [value for key, value in plan.entries(Table.WORKLOADS) if key == number(place)]
    assert show_value("workloads", value).endswith(", by port, by dscp")


def gold(world: World, name: str) -> bool:
    """Whether it is the one of gold."""
    return dict(world.workloads[name].labels).get("tier") == "gold"


def test_classes_are_told_to_the_uplinks() -> None:
    document = TrafficClass("video", (), (), 5, 34, 20_000_000, 80_000_000)
    plan = compile_plan(full_of(Event(Kind.CLASS, "video", document)))
    shown = [
        f"{show_key('classes', key)}: {show_value('classes', value)}"
        for key, value in plan.entries(Table.CLASSES)
    ]
    assert shown == [
        "class 0: priority 3 dscp 0",
        "class 1: priority 7 dscp 48",
        "class 2: priority 5 dscp 34",
        "class 3: priority 1 dscp 8",
        "class 4: priority 5 dscp 34, guaranteed 400000 ps a byte, most 100000 ps a byte",
    ]


def test_an_uplink_is_scheduled_where_packets_wait_for_their_time() -> None:
    """And then the default class is told to it, too."""
    for events, pace, rules in (
        ([], 0, ClassRule(0)),
        ([Event(Kind.PACED, "eth1", True)], 0, ClassRule(0)),
        ([Event(Kind.PACED, "eth0", True)], 80_000, ClassRule.TELLS_DEFAULT),
        ([a_class("default", "app=nobody", dscp=1)], 0, ClassRule.TELLS_DEFAULT),
    ):
        plan = compile_plan(full_of(*events))
        assert UPLINK.unpack(plan.table(Table.UPLINKS)[number(0)])[1] == pace
        assert {WORKLOAD.unpack(value)[6] for value in plan.table(Table.WORKLOADS).values()} == {rules}


def test_uplinks_by_one_device_go_by_its_clocks() -> None:
    """Those through relays have its capacity, whatever is written beside them."""
    uplinks = (
        UplinkSettings("over", "eth0", relay="n2", capacity=7),
        UplinkSettings("straight", "eth0", capacity=100),
    )
    plan = compile_plan(world_of(configured(uplinks), [*full(), Event(Kind.PACED, "eth0", True)]))
    found = [UPLINK.unpack(plan.table(Table.UPLINKS)[number(slot)])[1:3] for slot in (0, 1)]
    assert found == [(80_000, 1), (80_000, 1)]


def test_how_rules_and_rates_are_packed() -> None:
    assert CLASS_RULE_KEY.unpack(class_rule_key(7, 46, 6, 443, 16)) == (64, 7, 46, 6, b"\x01\xbb")
    assert CLASS_RULE_KEY.unpack(class_rule_key(7, 46, 6))[0] == CLASS_FIXED_BITS + PROTOCOL_BITS
    assert CLASS_RULE_KEY.unpack(class_rule_key(7))[0] == CLASS_FIXED_BITS
    assert TRAFFIC_CLASS.unpack(class_value(5, 46, 30_000, 10**12)) == (266_666_667, 8, 5, 46, True)
    assert any(class_value(0, 0)), "zeros are what an array has where there is nothing"
