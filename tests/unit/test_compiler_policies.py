"""Compiled policy, looked up as the datapath does, against the documents read as a person would."""

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler.policies import (
    ANY_PEER,
    concerned,
    named,
    pair_entries,
    port_prefixes,
    rules_of,
    subjects,
)
from meshfabric.compiler.step import compile_plan
from meshfabric.model.plan import Table
from meshfabric.model.policy import MAX_PORT, EgressText, IngressText, PolicyText, Ports, read_policy
from meshfabric.model.tables import POLICY_KEY, Direction, Verdict, policy_key, policy_value
from meshfabric.model.world import Event, Kind, World
from tests.oracles import asks_table, enforces, lookup
from tests.strategies import (
    LABEL_SETS,
    PACKETS,
    all_settings,
    full,
    full_workload,
    policed,
    world_of,
)
from tests.strategies import settings as configured

STRANGER = 1 << 23
PORT_BITS = 16
WEB, DB, GOLD = LABEL_SETS[1], LABEL_SETS[2], LABEL_SETS[3]

policed_worlds = st.builds(world_of, all_settings(), policed() | policed().map(lambda more: full() + more))


@given(policed_worlds)
@settings(max_examples=150, deadline=None)
def test_every_verdict_is_that_of_the_documents(world: World) -> None:
    table = compile_plan(world).table(Table.POLICY)
    peers = [*world.labels.items(), (ANY_PEER, None), (STRANGER, None)]
    for subject, (peer, labels), direction in product(world.subjects, peers, Direction):
        for packet in PACKETS:
            expected = enforces(world, world.labels[subject], labels, direction, packet)
            assert asks_table(table, subject, peer, direction, packet) == expected, packet


@given(policed_worlds)
@settings(max_examples=50, deadline=None)
def test_only_local_subjects_have_entries_and_each_has_a_default(world: World) -> None:
    keys = [POLICY_KEY.unpack(key) for key in compile_plan(world).table(Table.POLICY)]
    locals_ = {world.identity(one.labels) for one in world.workloads.values()}
    assert subjects(world) == locals_ == {subject for _, subject, *_ in keys}
    assert {peer for _, _, peer, *_ in keys} <= {ANY_PEER, *world.labels}
    defaults = {(s, Direction(d)) for bits, s, peer, d, *_ in keys if (bits, peer) == (72, ANY_PEER)}
    assert defaults >= set(product(locals_, Direction))


@given(policed_worlds)
@settings(max_examples=80, deadline=None)
def test_a_policy_has_a_say_where_it_makes_a_difference(world: World) -> None:
    """What `concerned` and `named` leave out must be the same with and without the policy."""
    for name, policy in world.policies.items():
        without = World(world.settings)
        for kind in (Kind.WORKLOAD, Kind.ENDPOINT, Kind.POLICY):
            for key, value in getattr(world, kind.value).items():
                if (kind, key) != (Kind.POLICY, name):
                    without.apply(Event(kind, key, value))
        for subject, peer in product(world.subjects, [ANY_PEER, *world.labels]):
            if subject not in concerned(world, policy) or peer not in named(world, policy):
                labels = world.labels[subject]
                assert pair_entries(world, rules_of(world, labels), subject, peer) == pair_entries(
                    world, rules_of(without, labels), subject, peer
                )


ports = st.integers(0, MAX_PORT)


@given(ports, ports)
def test_port_prefixes_hold_the_range_and_nothing_else(one: int, other: int) -> None:
    first, last = min(one, other), max(one, other)
    spans = [
        (port, port + (1 << PORT_BITS - bits) - 1) for port, bits in port_prefixes(Ports(6, first, last))
    ]
    assert all(port % (end - port + 1) == 0 for port, end in spans), "each is a prefix"
    assert spans[0][0] == first
    assert spans[-1][1] == last
    assert all(end + 1 == port for (_, end), (port, _) in pairwise(spans))
    assert len(spans) == fewest(first, last)


def fewest(first: int, last: int, low: int = 0, high: int = MAX_PORT) -> int:
    """How many prefixes a range needs at least: halve until a half is all in or all out."""
    if last < low or high < first:
        return 0
    if first <= low and high <= last:
        return 1
    middle = (low + high) // 2
    return fewest(first, last, low, middle) + fewest(first, last, middle + 1, high)


@pytest.mark.parametrize(
    ("ports", "prefixes"),
    [
        (Ports(6, 0, MAX_PORT), [(0, 0)]),
        (Ports(6, 443, 443), [(443, 16)]),
        (Ports(6, 8000, 8100), [(8000, 10), (8064, 11), (8096, 14), (8100, 16)]),
        (Ports(6, 65535, 65535), [(65535, 16)]),
        (Ports(6, 0, 1), [(0, 15)]),
    ],
)
def test_port_prefixes_by_hand(ports: Ports, prefixes: list[tuple[int, int]]) -> None:
    assert list(port_prefixes(ports)) == prefixes


def test_every_port_of_a_range_is_found_and_its_neighbours_are_not() -> None:
    text = PolicyText("p", "*", [IngressText(None, ["udp/8000-8100"])])
    table = entries_of(text)
    subject = table[0]
    for port in range(7900, 8200):
        assert asks_table(table[1], subject, STRANGER, Direction.INGRESS, (17, port)) == (
            8000 <= port <= 8100
        )


def entries_of(*texts: PolicyText, host: bool = False) -> tuple[int, dict[bytes, bytes]]:
    """The number and the policy table of one local workload with label app=web."""
    world = World(configured(()))
    for text in texts:
        world.apply(Event(Kind.POLICY, text.name, read_policy(text)))
    names = ["shop/a", "n1"] if host else ["shop/a"]
    for name, labels in zip(names, (WEB, DB), strict=False):
        one = full_workload(name)
        event = Event(Kind.WORKLOAD, name, type(one)(name, one.kind, labels, (), one.device, one.mac))
        world.apply(event)
    table: dict[bytes, bytes] = compile_plan(world).table(Table.POLICY)
    return world.identity(WEB), table


def test_an_unselected_workload_is_open() -> None:
    subject, table = entries_of()
    allow = policy_value(0, Verdict.ALLOW)
    assert table == {policy_key(subject, ANY_PEER, direction): allow for direction in Direction}


def test_an_empty_list_denies_its_direction_only() -> None:
    subject, table = entries_of(PolicyText("p", "app=web", []))
    assert table == {
        policy_key(subject, ANY_PEER, Direction.INGRESS): policy_value(0, Verdict.DENY),
        policy_key(subject, ANY_PEER, Direction.EGRESS): policy_value(0, Verdict.ALLOW),
    }


def test_nobody_is_not_anyone() -> None:
    """`from: []` names nobody; a missing `from` names anyone (and a stranger is anyone)."""
    for rule, expected in ((IngressText([]), False), (IngressText(), True), (IngressText(["*"]), False)):
        subject, table = entries_of(PolicyText("p", "app=web", [rule]))
        assert asks_table(table, subject, STRANGER, Direction.INGRESS, (6, 1)) == expected


def test_the_local_host_gets_in_but_not_out() -> None:
    subject, table = entries_of(PolicyText("p", "app=web", [], []), host=True)
    host = next(peer for _, s, peer, *_ in map(POLICY_KEY.unpack, table) if s == subject and peer)
    assert asks_table(table, subject, host, Direction.INGRESS, (6, 80))
    assert not asks_table(table, subject, host, Direction.EGRESS, (6, 80))
    assert not asks_table(table, subject, STRANGER, Direction.INGRESS, (6, 80))
    assert lookup(table, subject, host, Direction.INGRESS, (6, 80)) == policy_value(1, Verdict.ALLOW)


def test_rules_of_several_policies_add_up() -> None:
    subject, table = entries_of(
        PolicyText("p", "app=web", [IngressText(None, ["tcp/443"])]),
        PolicyText("q", "app", [IngressText(None, ["udp/53"])], [EgressText(None, ["udp/53"])]),
        PolicyText("r", "app=db", []),
    )
    for packet, expected in (((6, 443), True), ((17, 53), True), ((6, 80), False)):
        assert asks_table(table, subject, STRANGER, Direction.INGRESS, packet) == expected
    assert not asks_table(table, subject, STRANGER, Direction.EGRESS, (6, 443))


def test_a_peer_is_chosen_by_its_labels() -> None:
    world = world_of(configured(()), full())
    policy = read_policy(PolicyText("p", "app=web", [IngressText(["app=web, tier=gold", "app=db"])]))
    assert named(world, policy) == {ANY_PEER, world.identity(GOLD), world.identity(DB)}
    assert concerned(world, policy) == {world.identity(WEB), world.identity(GOLD)}


def test_the_datapaths_rule_mimicked() -> None:
    """Longest prefix first, then precedence between peer and ANY_PEER, and a tie denies."""
    exact, anyone = (policy_key(1, peer, Direction.INGRESS, 6, 443, 16) for peer in (2, ANY_PEER))
    wide = policy_key(1, 2, Direction.INGRESS)
    allow, deny = (policy_value(5, verdict) for verdict in (Verdict.ALLOW, Verdict.DENY))

    def asked(table: dict[bytes, bytes]) -> bool:
        return asks_table(table, 1, 2, Direction.INGRESS, (6, 443))

    assert not asked({})
    assert asked({exact: allow, wide: deny})
    assert not asked({exact: deny, wide: allow})
    assert not asked({exact: allow, anyone: deny})
    assert asked({exact: policy_value(6, Verdict.ALLOW), anyone: deny})
    assert not asked({exact: allow, anyone: policy_value(6, Verdict.DENY)})
    assert not asks_table({exact: allow}, 1, 2, Direction.EGRESS, (6, 443))
