"""What a change of policies is said to change towards the world, held against the documents."""

import gc
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler import outside
from meshfabric.compiler.imagined import Policies
from meshfabric.compiler.outside import Outside, Surroundings, compare_outside, parents_of
from meshfabric.compiler.parties import People, group_of, holders_of
from meshfabric.compiler.verdicts import OTHERS
from meshfabric.model.addresses import Network, parse_address
from meshfabric.model.errors import InputError
from meshfabric.model.labels import Labels
from meshfabric.model.node import Endpoint
from meshfabric.model.policytext import EgressText, PolicyText, read_policy
from meshfabric.model.ports import PROTOCOLS
from meshfabric.model.tables import Direction
from meshfabric.model.versions import LANGUAGE
from meshfabric.observe.groups import describe_places
from tests.oracles import says_who
from tests.strategies import full, prefixes, world_of
from tests.strategies import settings as configured
from tests.unit.test_simulation import renamed, some_policies
from tests.vocabulary import APISERVERS, LABEL_SETS, OUTSIDE, PACKETS

GRE = 47
STRANGE = (*PACKETS, (GRE, 0))


def told(
    people: People,
    found: Outside,
    labels: Labels,
    address: str,
    direction: Direction,
    packet: tuple[int, int],
) -> list[bool]:
    """What the changes about this packet say that it will be."""
    protocol, port = packet
    protocol = protocol if protocol in PROTOCOLS.values() else OTHERS
    place, group = found.place_of(parse_address(address)), group_of(people.numbers[labels])
    return [
        change.flip.allowed
        for change in found.changes
        if change.workloads & group and place in change.places and change.flip.direction is direction
        if any(one == protocol and low <= port <= high for one, low, high in change.spans)
    ]


@given(
    st.lists(st.sampled_from(LABEL_SETS), min_size=1, max_size=3),
    some_policies.map(renamed),
    some_policies.map(renamed),
    prefixes(),
    st.lists(st.sampled_from(APISERVERS), unique=True),
)
@settings(max_examples=100, deadline=None)
def test_exactly_what_the_documents_say_otherwise_is_told(
    label_sets: list[Labels],
    before: Policies,
    after: Policies,
    fabric: tuple[Network, ...],
    servers: list[str],
) -> None:
    people = People(Endpoint("n1", f"w{at}", "pod", labels) for at, labels in enumerate(label_sets))
    apiservers = tuple(map(ip_network, servers))
    found = compare_outside(people, before, after, Surroundings(apiservers, fabric))
    for text in OUTSIDE:
        address = ip_address(text)
        if any(address in network for network in fabric):
            assert not found.changes or not found.has(parse_address(text))
            continue
        for labels in people.numbers:
            for direction in Direction:
                for packet in STRANGE:
                    was, now = (
                        says_who(said.values(), None, labels, address, direction, packet, apiservers)
                        for said in (before, after)
                    )
                    said = told(people, found, labels, text, direction, packet)
                    assert said == ([now] if was != now else []), (labels, text, direction, packet)


TEXTS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "2001:db8::/32")
NETWORKS = tuple(map(ip_network, TEXTS))
TEN, ONE, DEEP, TWO, SIX = NETWORKS


@pytest.mark.parametrize(
    ("places", "shown"),
    [
        ({None, *NETWORKS}, "the world"),
        ({None, TEN, ONE, TWO, SIX}, "the world but 10.1.2.0/24"),
        ({None}, "the world but 10.0.0.0/8, 2001:db8::/32"),
        ({TEN, DEEP}, "10.0.0.0/8 but 10.1.0.0/16, 10.2.0.0/16 | 10.1.2.0/24"),
        ({ONE, DEEP, SIX}, "10.1.0.0/16 | 2001:db8::/32"),
        ({ONE}, "10.1.0.0/16 but 10.1.2.0/24"),
    ],
)
def test_places_in_words(places: set[Network | None], shown: str) -> None:
    assert describe_places(frozenset(places), parents_of(reversed(NETWORKS))) == shown


def test_many_places_are_counted() -> None:
    apart = [ip_network((number << 24, 8)) for number in range(1, 6)]
    assert describe_places(frozenset(apart), parents_of(apart)) == "5 networks outside"
    assert describe_places(frozenset({None}), parents_of(apart)) == "the world but 5 networks"


def closed(*networks: str) -> Policies:
    """Everyone is cut off from these networks."""
    rule = EgressText([*networks], action="deny")
    return {"p": read_policy(PolicyText("p", "*", egress=[rule], min_version=LANGUAGE, tier="admin"))}


def everyone() -> People:
    world = world_of(configured(()), full())
    return People(holders_of(world.node, world.endpoints, world.workloads.values()).values())


def test_what_would_take_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "MOST_NAMED", 3)
    with pytest.raises(InputError, match=r"^too much to compare: rules name networks outside .*"):
        compare_outside(everyone(), closed(*TEXTS), {}, Surroundings())


def test_a_comparison_leaves_nothing_to_the_garbage_collector() -> None:
    """The agent has it rest meanwhile, and relies on that."""
    people, before = everyone(), closed(*TEXTS)
    gc.collect()
    gc.disable()
    try:
        assert compare_outside(people, before, {}, Surroundings()).changes
        assert gc.collect() == 0
    finally:
        gc.enable()
