"""What a change of policies is said to change, held against the documents read before and after."""

import gc
from collections.abc import Mapping
from itertools import permutations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler.parties import People, holders_of
from meshfabric.compiler.simulation import Change, Policies, compare
from meshfabric.compiler.verdicts import OTHERS
from meshfabric.model.labels import Labels
from meshfabric.model.node import Endpoint
from meshfabric.model.policy import Policy
from meshfabric.model.ports import PROTOCOLS
from meshfabric.model.tables import Direction
from tests.oracles import says_who
from tests.strategies import LABEL_SETS, PACKETS, full, policies, world_of
from tests.strategies import settings as configured

NODES = ("n1", "n2", "n3")
GRE = 47
Pair = tuple[Endpoint, Endpoint]

label_sets = st.sampled_from(LABEL_SETS)
some_policies = st.dictionaries(st.sampled_from("pqrs"), st.deferred(lambda: policies("p")), max_size=3)


@st.composite
def fabrics(draw: st.DrawFn) -> list[Endpoint]:
    """Workloads on three nodes, most of them with a host."""
    hosts = draw(st.lists(st.sampled_from(NODES), unique=True))
    found = [Endpoint(node, node, "host", draw(label_sets | st.just(_host(node)))) for node in hosts]
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
        for packet in (*PACKETS, (GRE, 0)):
            was, now = (passes(said, everyone, pair, packet) for said in (before, after))
            assert told(people, changes, pair, packet) == ([now] if was != now else []), (pair, packet)


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
