"""What the world keeps beside its tables: numbers, and indexes against looking at everything."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshfabric.compiler.step import compile_plan, step
from meshfabric.model.errors import PermanentError
from meshfabric.model.labels import make_labels
from meshfabric.model.node import Endpoint, Link, NodeKind, NodeRecord, Uplink, Workload
from meshfabric.model.policytext import IngressText, PolicyText, read_policy
from meshfabric.model.qos import BUILT_IN, FIRST_OWN_NUMBER, LAST_NUMBER, MAX_OWN, TrafficClass
from meshfabric.model.settings import Settings, UplinkSettings
from meshfabric.model.tables import FIRST_NODE, WORLD
from meshfabric.model.uplinks import FarEnds, addresses_of, own_uplinks, size_of
from meshfabric.model.versions import LANGUAGE
from meshfabric.model.world import FIRST_IDENTITY, Event, Kind, Numbers, World
from tests.strategies import all_settings, sequences, world_of
from tests.strategies import settings as configured
from tests.vocabulary import ADDRESSES, SEGMENTS, SLOTS

FIRST, LAST = 10, 14
KEYS = "abcdefg"


class NumbersMachine(RuleBasedStateMachine):
    """Against a dict, and a list of the free numbers in the order in which they may be given again."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = Numbers(FIRST, LAST)
        self.given: dict[str, int] = {}

    @rule(key=st.sampled_from(KEYS))
    def take(self, key: str) -> None:
        if key in self.given:
            assert self.numbers.take(key) == self.given[key] == self.numbers[key]
        elif len(self.given) <= LAST - FIRST:
            number = self.numbers.take(key)
            assert FIRST <= number <= LAST
            assert number not in self.given.values()
            self.given[key] = number
        else:
            with pytest.raises(PermanentError):
                self.numbers.take(key)

    @rule(key=st.sampled_from(KEYS))
    def release(self, key: str) -> None:
        self.numbers.release(key)
        self.given.pop(key, None)

    @precondition(lambda self: len(self.given) < LAST - FIRST)
    @rule(key=st.sampled_from(KEYS))
    def the_number_given_last_is_not_given_next(self, key: str) -> None:
        if key not in self.given:
            first = self.numbers.take(key)
            self.numbers.release(key)
            assert self.numbers.take(key) != first
            self.numbers.release(key)

    @rule()
    def restart(self) -> None:
        self.numbers = Numbers(FIRST, LAST, list(self.numbers.items()))

    @invariant()
    def same(self) -> None:
        assert dict(self.numbers.items()) == self.given
        assert len(self.numbers) == len(self.given)
        assert [self.numbers.find(key) for key in KEYS] == [self.given.get(key) for key in KEYS]


NumbersMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestNumbers = NumbersMachine.TestCase


def test_numbers_in_a_damaged_file_are_left_out() -> None:
    given = [("a", 12), ("b", 12), ("c", 9), ("d", 15), ("a", 13), ("e", 10)]
    numbers = Numbers(FIRST, LAST, given)
    assert dict(numbers.items()) == {"a": 12, "e": 10}
    assert sorted(numbers.take(key) for key in "bcd") == [11, 13, 14]


def test_no_number_left_is_said_in_one_line() -> None:
    numbers = Numbers(1, 1)
    numbers.take("a")
    with pytest.raises(PermanentError) as error:
        numbers.take("b")
    assert str(error.value) == "b: all 1 numbers are in use (remove something of its kind first)"


def record(name: str) -> Event:
    """A node that says nothing of itself."""
    return Event(Kind.NODE, name, NodeRecord(name, NodeKind.VM))


def test_networks_too_many_change_nothing() -> None:
    world = World(configured(()))
    world.identities = Numbers(FIRST_IDENTITY, FIRST_IDENTITY + 1)
    rules = [IngressText(["10.0.0.0/8", {"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}])]
    policy = read_policy(PolicyText("p", "*", rules, min_version=LANGUAGE))
    with pytest.raises(PermanentError, match="all 2 numbers are in use"):
        world.apply(Event(Kind.POLICY, "p", policy))
    assert (len(world.identities), world.policies, world.networks.by_number) == (0, {}, {})


def test_a_node_too_many_changes_nothing() -> None:
    world = World(configured(()))
    plan = compile_plan(world)
    for number in range(WORLD - FIRST_NODE):
        world.apply(record(f"node{number}"))
    plan = compile_plan(world)
    endpoint = Endpoint("another", "w", "pod", make_labels({"new": "labels"}))
    for event in (record("another"), Event(Kind.ENDPOINT, ADDRESSES[0], endpoint)):
        with pytest.raises(PermanentError, match=r"^another: all 4095 numbers are in use"):
            step(world, plan, event)
    assert plan == compile_plan(world)
    assert "another" not in world.nodes
    assert not world.endpoints
    assert not world.labels


def test_a_workload_too_many_changes_nothing() -> None:
    world = World(configured(()))
    for number in range(1, FIRST_NODE):
        world.apply(Event(Kind.WORKLOAD, f"w{number}", workload(f"w{number}")))
    with pytest.raises(PermanentError, match=r"^more: all 4095 numbers are in use"):
        world.apply(Event(Kind.WORKLOAD, "more", workload("more")))
    assert len(world.workloads) == len(world.workload_numbers) == FIRST_NODE - 1


def of_class(name: str) -> Event:
    """A document that says nothing more."""
    return Event(Kind.CLASS, name, TrafficClass(name, ()))


def test_classes_have_the_numbers_that_cross_the_encryption() -> None:
    world = World(configured(()))
    assert [world.class_number(name) for name in BUILT_IN] == [0, 1, 2, 3]
    own = [f"c{number}" for number in range(MAX_OWN)]
    for name in ("bulk", *own):
        world.apply(of_class(name))
    assert sorted(map(world.class_number, own)) == list(range(FIRST_OWN_NUMBER, LAST_NUMBER + 1))
    assert world.class_number("bulk") == 3
    with pytest.raises(PermanentError, match=r"^more: all 12 numbers are in use"):
        world.apply(of_class("more"))
    assert "more" not in world.classes
    world.apply(Event(Kind.CLASS, own[3]))
    world.apply(Event(Kind.CLASS, "bulk"))
    world.apply(of_class("more"))
    assert world.class_number("more") == FIRST_OWN_NUMBER + 3


def test_pinned_classes_that_nobody_claims_make_room() -> None:
    world = World(configured(()))
    world.pin([], [], [], [(f"c{number}", FIRST_OWN_NUMBER + number) for number in range(MAX_OWN)])
    world.apply(of_class("c0"))
    world.apply(of_class("new"))
    assert (world.class_number("c0"), world.class_number("new")) == (4, 5)
    assert world.class_numbers.find("c2") == 6
    world.release_unused()
    assert {name for name, _ in world.class_numbers.items()} == {"c0", "new"}


def workload(name: str) -> Workload:
    """One without addresses."""
    return Workload(name, "pod", (), (), "mfp1", "02:6d:66:01:00:01")


def test_nodes_that_come_and_go_do_not_use_up_the_numbers() -> None:
    world = World(configured(()))
    for number in range(2 * (WORLD - FIRST_NODE)):
        name = f"node{number}"
        world.apply(record(name))
        world.apply(Event(Kind.ENDPOINT, ADDRESSES[0], Endpoint(name, "w", "pod", ())))
        world.apply(Event(Kind.NODE, name))
        assert world.node_numbers.find(name) is not None, "an endpoint is still there"
        world.apply(Event(Kind.ENDPOINT, ADDRESSES[0]))
        assert world.node_numbers.find(name) is None
    assert len(world.node_numbers) == 0


@given(all_settings(), sequences())
@settings(max_examples=150, deadline=None)
def test_indexes_are_what_counting_finds(given: Settings, happened: list[Event]) -> None:
    world = world_of(given, happened)
    assert world.subjects == Counter(world.identity(one.labels) for one in world.workloads.values())
    assert world.uplinks == own_uplinks(given, world.links, world.draining)
    assert world.here == {address: name for name, one in world.workloads.items() for address in one.addresses}
    reached = reached_uplinks(world)
    assert set(world.far_ends.sizes()) == set(map(size_of, reached))
    for segment, slot, address in product(SEGMENTS, SLOTS, ("192.0.2.99", "2001:db8::99")):
        near = Uplink(0, "up", segment, (address,), 1500)
        expected = any(
            (far.slot, far.segment, far.relay) == (slot, segment, "")
            and addresses_of(far).keys() & addresses_of(near)
            for far in reached
        )
        assert world.far_ends.reachable(near, slot) == expected


def reached_uplinks(world: World) -> list[Uplink]:
    """Every uplink of another node that has blocks and is not revoked."""
    members = world.allocations.keys() - world.revoked.keys() - {world.node}
    return [uplink for name, one in world.nodes.items() if name in members for uplink in one.uplinks]


@given(all_settings(), sequences())
@settings(max_examples=60, deadline=None)
def test_applying_returns_what_was_known(given: Settings, happened: list[Event]) -> None:
    world = World(given)
    known: dict[object, object] = {}
    for event in happened:
        assert world.apply(event) == known.get((event.kind, event.key))
        known[event.kind, event.key] = event.value
        assert world.get(event.kind, event.key) == event.value


def test_an_uplink_has_one_address_of_each_family_the_first() -> None:
    addresses = ("2001:db8::7/64", "192.0.2.7/24", "192.0.2.8/24", "2001:db8::8/64")
    link = Link("eth0", 1, "", 1500, True, addresses)
    world = world_of(configured_one(), [Event(Kind.LINK, "eth0", link)])
    assert world.uplinks == (
        Uplink(0, "up0", "red", ("192.0.2.7", "2001:db8::7"), 1500, 3),
    )  # fmt: skip


def configured_one() -> Settings:
    """One uplink on eth0 and one whose device is missing."""
    return configured((UplinkSettings("up0", "eth0", "red", 3), UplinkSettings("up1", "eth9", "blue")))


def test_far_ends_without_addresses_count_for_size_only() -> None:
    ends = FarEnds()
    silent = Uplink(0, "up", "red", (), 1400)
    ends.replace((), [silent])
    assert not ends.reachable(Uplink(0, "up", "red", ("192.0.2.1",), 1500), 0)
    assert list(ends.sizes()) == [(1400, 6)]
    ends.replace([silent], ())
    assert list(ends.sizes()) == []
