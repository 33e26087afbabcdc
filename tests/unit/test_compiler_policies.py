"""Compiled policy, looked up as the datapath does, against the documents read as a person would."""

from collections.abc import Sequence
from ipaddress import ip_address
from itertools import pairwise, product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler.cells import (
    BASE_PRECEDENCE,
    LOCAL_HOST_PRECEDENCE,
    PRIORITY_STEP,
    SETTLED_PRECEDENCE,
    port_prefixes,
)
from meshfabric.compiler.policies import (
    ANY_PEER,
    ANY_WORLD,
    ANYONE,
    concerned,
    named,
    pair_entries,
    reach,
    rules_of,
    subjects,
)
from meshfabric.compiler.step import compile_plan
from meshfabric.model.addresses import parse_address
from meshfabric.model.peertext import PeerText
from meshfabric.model.plan import Table
from meshfabric.model.policy import LAST_PRIORITY, Tier
from meshfabric.model.policytext import (
    DefaultText,
    EgressText,
    IngressText,
    PolicyText,
    read_policy,
)
from meshfabric.model.ports import MAX_PORT, Ports
from meshfabric.model.tables import NOWHERE, POLICY_KEY, WORLD, Direction, Verdict, policy_key, policy_value
from meshfabric.model.versions import LANGUAGE
from meshfabric.model.world import Event, Kind, World
from tests.oracles import asks_table, audits, audits_table, enforces, is_outside, lookup, owner
from tests.strategies import all_settings, full, full_workload, policed, world_of
from tests.strategies import settings as configured
from tests.vocabulary import LABEL_SETS, OUTSIDE, PACKETS

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
            about = (world, world.labels[subject], labels, direction, packet)
            assert asks_table(table, subject, peer, direction, packet) == enforces(*about), packet
            assert audits_table(table, subject, peer, direction, packet) == audits(*about), packet


@given(policed_worlds)
@settings(max_examples=150, deadline=None)
def test_so_is_every_verdict_about_an_address_outside(world: World) -> None:
    """What the `addresses` table says of it, and then the `policy` table of that."""
    plan = compile_plan(world)
    held = world.endpoints.keys() | world.here.keys()
    for address in map(ip_address, OUTSIDE):
        assert parse_address(str(address)) not in held
        identity, place = owner(plan.addresses, address) or (0, NOWHERE)
        assert (place == WORLD) == is_outside(world, address), address
        assert place in (WORLD, NOWHERE)
        for subject, direction, packet in product(world.subjects, Direction, PACKETS if place else ()):
            about = (world, world.labels[subject], address, direction, packet)
            entry = (plan.table(Table.POLICY), subject, identity, direction, packet, ANY_WORLD)
            assert asks_table(*entry) == enforces(*about), packet
            assert audits_table(*entry) == audits(*about), packet


@given(policed_worlds)
@settings(max_examples=50, deadline=None)
def test_only_local_subjects_have_entries_and_each_has_a_default(world: World) -> None:
    keys = [POLICY_KEY.unpack(key) for key in compile_plan(world).table(Table.POLICY)]
    locals_ = {world.identity(one.labels) for one in world.workloads.values()}
    assert subjects(world) == locals_ == {subject for _, subject, *_ in keys}
    assert {peer for _, _, peer, *_ in keys} <= {*ANYONE, *world.labels, *world.networks.by_number}
    defaults = {(s, peer, d) for bits, s, peer, d, *_ in keys if bits == 72 and peer in ANYONE}
    assert defaults >= set(product(locals_, ANYONE, Direction))


@given(policed_worlds)
@settings(max_examples=80, deadline=None)
def test_a_policy_has_a_say_where_it_makes_a_difference(world: World) -> None:
    """What `concerned` and `reach` leave out must be the same with and without the policy."""
    for name, policy in world.policies.items():
        without = World(world.settings)
        without.pin(world.identities.items(), (), ())  # type: ignore[arg-type]  # they are label sets
        for kind in (Kind.APISERVERS, Kind.WORKLOAD, Kind.ENDPOINT, Kind.POLICY):
            for key, value in getattr(world, kind.value).items():
                if (kind, key) != (Kind.POLICY, name):
                    without.apply(Event(kind, key, value))
        before, after = without, world
        for subject, labels in ((one, world.labels[one]) for one in world.subjects):
            rules = [rules_of(one, labels) for one in (before, after)]
            reached: set[int] = set()
            if subject in concerned(world, policy):
                reached = reach(before, policy, rules[0]) | reach(after, policy, rules[1])
            others = {*ANYONE, *world.labels, *without.networks.by_number} - reached
            assert pair_entries(before, rules[0], subject, others) == pair_entries(
                after, rules[1], subject, others
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
        new = msgspec.structs.replace(text, min_version=LANGUAGE)
        world.apply(Event(Kind.POLICY, text.name, read_policy(new)))
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
    assert table == {policy_key(subject, *one): allow for one in product(ANYONE, Direction)}


def test_an_empty_list_denies_its_direction_only() -> None:
    subject, table = entries_of(PolicyText("p", "app=web", []))
    ways = ((Direction.INGRESS, Verdict.DENY), (Direction.EGRESS, Verdict.ALLOW))
    assert table == {
        policy_key(subject, anyone, direction): policy_value(0, verdict)
        for anyone, (direction, verdict) in product(ANYONE, ways)
    }


def test_nobody_is_not_anyone() -> None:
    """`from: []` names nobody; a missing `from` names anyone (and a stranger is anyone)."""
    for rule, expected in ((IngressText([]), False), (IngressText(), True), (IngressText(["*"]), False)):
        subject, table = entries_of(PolicyText("p", "app=web", [rule]))
        assert asks_table(table, subject, STRANGER, Direction.INGRESS, (6, 1)) == expected


def test_the_local_host_gets_in_but_not_out() -> None:
    subject, table = entries_of(PolicyText("p", "app=web", [], []), host=True)
    host = next(
        peer for _, s, peer, *_ in map(POLICY_KEY.unpack, table) if s == subject and peer not in ANYONE
    )
    assert asks_table(table, subject, host, Direction.INGRESS, (6, 80))
    assert not asks_table(table, subject, host, Direction.EGRESS, (6, 80))
    assert not asks_table(table, subject, STRANGER, Direction.INGRESS, (6, 80))
    assert lookup(table, subject, host, Direction.INGRESS, (6, 80)) == policy_value(
        LOCAL_HOST_PRECEDENCE, Verdict.ALLOW
    )


def test_rules_of_several_policies_add_up() -> None:
    subject, table = entries_of(
        PolicyText("p", "app=web", [IngressText(None, ["tcp/443"])]),
        PolicyText("q", "app", [IngressText(None, ["udp/53"])], [EgressText(None, ["udp/53"])]),
        PolicyText("r", "app=db", []),
    )
    for packet, expected in (((6, 443), True), ((17, 53), True), ((6, 80), False)):
        assert asks_table(table, subject, STRANGER, Direction.INGRESS, packet) == expected
    assert not asks_table(table, subject, STRANGER, Direction.EGRESS, (6, 443))


def admin(name: str, priority: int, *rules: IngressText) -> PolicyText:
    return PolicyText(name, "app=web", list(rules), min_version=LANGUAGE, tier="admin", priority=priority)


def verdicts(*texts: PolicyText, ports: Sequence[int] = (22, 80, 443)) -> list[str]:
    """What web hears over TCP from db (labels app=db, also its host), and from a stranger, by port."""
    subject, table = entries_of(*texts, host=True)
    db = next(peer for _, s, peer, *_ in map(POLICY_KEY.unpack, table) if s == subject and peer not in ANYONE)
    return [
        "".join("-+"[asks_table(table, subject, peer, Direction.INGRESS, (6, port))] for port in ports)
        for peer in (db, STRANGER)
    ]


CLOSED = PolicyText("closed", "app=web", [])
BASE = PolicyText("base", "*", [IngressText(None, None, "deny")], tier="baseline")
FROM_DB: list[PeerText] = ["app=db"]
OPEN = DefaultText("allow")
NO_HTTP = IngressText(None, ["tcp/80"], "deny")
NOBODY = IngressText(None, None, "deny")
HTTP_FROM_DB = IngressText(FROM_DB, ["tcp/80"], "pass")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], ["+++", "+++"]),
        ([CLOSED], ["+++", "---"]),
        ([PolicyText("p", "*", [IngressText(FROM_DB, ["tcp/80"], "deny"), IngressText()])], ["+-+", "+++"]),
        ([PolicyText("p", "*", [NOBODY, IngressText()])], ["---", "---"]),
        ([BASE], ["+++", "---"]),
        ([BASE, PolicyText("p", "*", default=OPEN)], ["+++", "+++"]),
        ([CLOSED, PolicyText("p", "*", default=OPEN)], ["+++", "---"]),
        ([PolicyText("p", "*", [NO_HTTP], default=OPEN)], ["+-+", "+-+"]),
        ([CLOSED, admin("a", 5, IngressText(None, ["tcp/80"]))], ["+++", "-+-"]),
        ([admin("a", 5, IngressText(FROM_DB)), admin("b", 6, NOBODY)], ["+++", "---"]),
        ([admin("a", 7, IngressText(FROM_DB)), admin("b", 6, NOBODY)], ["---", "---"]),
        ([admin("a", 6, IngressText(FROM_DB)), admin("b", 6, NO_HTTP)], ["+-+", "+-+"]),
        # of 22 to 443 only 80 is passed on; normal has its say on it, the wider denial on the rest
        ([admin("a", 1, HTTP_FROM_DB), admin("b", 2, IngressText(None, ["tcp/1-443"], "deny"))],
         ["-+-", "---"]),
        ([admin("a", 1, IngressText(None, ["tcp/80"], "pass")),
          admin("b", 2, IngressText(FROM_DB, None, "deny")), CLOSED], ["-+-", "---"]),
        ([admin("a", 1, IngressText(None, None, "pass")), CLOSED], ["+++", "---"]),
        ([admin("a", 1, IngressText(None, None, "pass")), BASE], ["+++", "---"]),
        ([admin("a", 1, IngressText(None, None, "pass"), IngressText(None, ["tcp/22"], "deny"),
                IngressText(None, ["tcp/443"])), PolicyText("n", "*", [NO_HTTP, IngressText()])],
         ["--+", "--+"]),
        ([admin("a", 1, IngressText([{"entity": "host"}], ["tcp/22"], "deny"))], ["-++", "+++"]),
        ([admin("a", 1, IngressText([{"entity": "fabric"}], ["tcp/22"], "deny"))], ["-++", "-++"]),
        ([CLOSED, BASE, PolicyText("c", "*", [IngressText()], tier="baseline", priority=0)],
         ["+++", "---"]),
        ([BASE, PolicyText("c", "*", [IngressText(None, ["tcp/80"])], tier="baseline", priority=0)],
         ["+++", "-+-"]),
    ],
)  # fmt: skip
def test_tiers_by_hand(texts: list[PolicyText], expected: list[str]) -> None:
    """The workload's own host (db here) gets through wherever no rule of admin or normal denies it."""
    assert verdicts(*texts) == expected


def test_a_port_in_two_ranges_has_the_stronger_one() -> None:
    """The longest prefix around a port may be of the weaker rule: its key carries the other one's word."""
    subject, table = entries_of(
        PolicyText("p", "*", [IngressText(None, ["tcp/8000-8100"]), IngressText(None, ["tcp/8080"], "deny")]),
        PolicyText("q", "*", [IngressText(None, ["udp/53"])]),
        admin("a", 0, IngressText(None, ["udp/1-1023"], "deny")),
    )
    for packet, expected in (((6, 8079), True), ((6, 8080), False), ((17, 53), False), ((17, 1024), False)):
        assert asks_table(table, subject, STRANGER, Direction.INGRESS, packet) == expected


def test_tiers_have_ranges_of_their_own() -> None:
    def span(tier: Tier) -> tuple[int, int]:
        least = BASE_PRECEDENCE[tier]
        return least, least + PRIORITY_STEP * (LAST_PRIORITY + 1)

    (b, b_end), (n, n_end), (a, a_end) = map(span, (Tier.BASELINE, Tier.NORMAL, Tier.ADMIN))
    assert 0 < b < b_end < LOCAL_HOST_PRECEDENCE < n < n_end < a < a_end < SETTLED_PRECEDENCE < 1 << 32


def test_a_peer_is_chosen_by_its_labels() -> None:
    world = world_of(configured(()), full())
    policy = read_policy(PolicyText("p", "app=web", [IngressText(["app=web, tier=gold", "app=db"])]))
    host = world.identity(world.workloads[world.node].labels)
    assert named(world, policy) == {*ANYONE, host, world.identity(GOLD), world.identity(DB)}
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
