"""What a change of policies is said to change, held against the documents read before and after."""

import gc
from collections.abc import Mapping
from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler import simulation
from meshfabric.compiler.control import Cut, cuts
from meshfabric.compiler.imagined import Policies
from meshfabric.compiler.parties import People, holders_of
from meshfabric.compiler.simulation import Change, compare
from meshfabric.compiler.verdicts import OTHERS
from meshfabric.model.errors import InputError
from meshfabric.model.labels import Labels
from meshfabric.model.node import Endpoint
from meshfabric.model.policy import Policy
from meshfabric.model.ports import PROTOCOLS, Ports
from meshfabric.model.tables import Direction
from tests.oracles import says_who
from tests.strategies import full, policies, world_of
from tests.strategies import settings as configured
from tests.vocabulary import LABEL_SETS, PACKETS

NODES = ("n1", "n2", "n3")
ICMP, TCP, GRE, ICMPV6 = 1, 6, 47, 58
STRANGE = (*PACKETS, (GRE, 0))
Pair = tuple[Endpoint, Endpoint]

label_sets = st.sampled_from(LABEL_SETS)
some_policies = st.dictionaries(st.sampled_from("pqrs"), st.deferred(lambda: policies("p")), max_size=3)


@st.composite
def fabrics(draw: st.DrawFn, of_hosts: st.SearchStrategy[Labels] = label_sets) -> list[Endpoint]:
    """Workloads on three nodes, most of them with a host, whose labels may be `of_hosts` beside its own."""
    hosts = draw(st.lists(st.sampled_from(NODES), unique=True))
    found = [Endpoint(node, node, "host", draw(of_hosts | st.just(_host(node)))) for node in hosts]
    several = draw(st.lists(st.tuples(st.sampled_from(NODES), label_sets), max_size=6))
    return found + [Endpoint(node, f"w{at}", "pod", labels) for at, (node, labels) in enumerate(several)]


def _host(node: str) -> Labels:
    """Of a host, and not what `tests.strategies` takes a peer `{node: n2}` for."""
    return (("meshfabric.io/kind", "host"), ("rack", node))


def renamed(given: Mapping[str, Policy]) -> Policies:
    """Each under the name that it is filed by."""
    return {name: msgspec.structs.replace(one, name=name) for name, one in given.items()}


def passes(said: Policies, everyone: list[Endpoint], pair: Pair, packet: tuple[int, int]) -> bool:
    """Both ends have their say, each with the host of its own node in mind."""
    hosts = {one.node: one.labels for one in everyone if one.kind == "host"}
    (first, second), of = pair, said.values()
    out = says_who(of, hosts.get(first.node), first.labels, second.labels, Direction.EGRESS, packet)
    return out and says_who(
        of, hosts.get(second.node), second.labels, first.labels, Direction.INGRESS, packet
    )


def told(people: People, changes: list[Change], pair: Pair, packet: tuple[int, int]) -> list[bool]:
    """What the changes about this packet say that it will be."""
    ends = people.groups(*pair), people.groups(*pair[::-1])
    protocol, port = packet
    protocol = protocol if protocol in PROTOCOLS.values() else OTHERS
    return [
        change.flip.allowed
        for change in changes
        if change.senders & ends[0]
        and change.receivers & ends[1]
        and any(one == protocol and low <= port <= high for one, low, high in change.spans)
    ]


@given(fabrics(), some_policies.map(renamed), some_policies.map(renamed))
@settings(max_examples=200, deadline=None)
def test_exactly_what_the_documents_say_otherwise_is_told(
    everyone: list[Endpoint], before: Policies, after: Policies
) -> None:
    people = People(everyone)
    changes = compare(people, before, after)
    for pair in permutations(everyone, 2):
        for packet in STRANGE:
            was, now = (passes(said, everyone, pair, packet) for said in (before, after))
            assert told(people, changes, pair, packet) == ([now] if was != now else []), (pair, packet)


CONTROL = {*(packet for packet in PACKETS if packet[0] in (ICMP, ICMPV6)), (TCP, 443)}


def is_control(pair: Pair, packet: tuple[int, int]) -> bool:
    """As docs/policy.md has it."""
    first, second = pair
    if first.kind != "host":
        return False
    return packet in CONTROL if second.kind == "host" else first.node == second.node


@given(fabrics(st.nothing()), some_policies.map(renamed), some_policies.map(renamed))
@settings(max_examples=150, deadline=None)
def test_control_traffic_is_cut_just_when_some_of_it_flips(
    everyone: list[Endpoint], before: Policies, after: Policies
) -> None:
    people = People(everyone)
    said_by_hosts = compare(people, before, after, people.hosts.keys())
    found = list(cuts(people, said_by_hosts, [Ports(TCP, 443, 443)]))
    pairs = {
        pair
        for pair in permutations(everyone, 2)
        for packet in STRANGE
        if is_control(pair, packet)
        and passes(before, everyone, pair, packet)
        and not passes(after, everyone, pair, packet)
    }
    named = {pair for pair in permutations(everyone, 2) for cut in found if _is_between(people, cut, pair)}
    assert bool(found) == bool(pairs)
    assert pairs <= named


def _is_between(people: People, cut: Cut, pair: Pair) -> bool:
    return bool(cut.senders & people.groups(*pair) and cut.receivers & people.groups(*pair[::-1]))


def test_what_would_take_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(configured(()), full())
    people = People(holders_of(world.node, world.endpoints, world.workloads.values()).values())
    monkeypatch.setattr(simulation, "MOST_NAMED", 1)
    with pytest.raises(InputError, match=r"^too much to compare: more than 1 pairs .*"):
        compare(people, world.policies, {})
    monkeypatch.setattr(simulation, "MOST_NAMED", 1000)
    monkeypatch.setattr(simulation, "MOST_KNOWN", 0)
    few = compare(people, world.policies, {})
    monkeypatch.undo()
    assert few == compare(people, world.policies, {}) != []


def test_a_comparison_leaves_nothing_to_the_garbage_collector() -> None:
    """The agent has it rest meanwhile, and relies on that."""
    world = world_of(configured(()), full())
    holders = holders_of(world.node, world.endpoints, world.workloads.values())
    gc.collect()
    gc.disable()
    try:
        assert compare(People(holders.values()), world.policies, {})
        assert gc.collect() == 0
    finally:
        gc.enable()
