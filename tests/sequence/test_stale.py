"""A flow keeps its verdict only while nothing changed that it was made from.

The datapath judges a flow once and again when one of its two places is stale.
So after any event: where the naive verdict between two addresses changed, one
of their places must be stale; where an address has another holder or other
labels, the place that held it must be.
"""

from ipaddress import ip_address
from itertools import product
from typing import NamedTuple

import pytest
from hypothesis import given, settings

from meshfabric.compiler.step import compile_plan, stale_places, step
from meshfabric.model.addresses import parse_address
from meshfabric.model.labels import Labels
from meshfabric.model.node import Endpoint
from meshfabric.model.plan import Change, Key, Table
from meshfabric.model.settings import Settings
from meshfabric.model.tables import WORLD, Direction
from meshfabric.model.world import Event, Kind, World
from meshfabric.reconcile.delta import squash
from tests.oracles import Whom, enforces, holders, is_outside, place_of
from tests.strategies import all_settings, full, full_workload, policed, sequences, world_of
from tests.strategies import settings as configured
from tests.vocabulary import ADDRESSES, LABEL_SETS, LOCAL, OUTSIDE, PACKETS, SELF

EXAMPLES = 100


class Holder(NamedTuple):
    """Who has an address, or which one outside it is; `local` if its policies are enforced here."""

    name: str
    place: int
    labels: Whom

    @property
    def local(self) -> bool:
        return self.name.startswith("local ")


Verdicts = dict[tuple[bytes, bytes], tuple[bool, ...]]


def look(world: World) -> tuple[dict[bytes, Holder], Verdicts]:
    """Who holds what, and everything that is allowed between a local address and any other."""
    held: dict[bytes, Holder] = {}
    for address, (name, labels) in holders(world).items():
        place = place_of(world, name)
        assert place is not None
        held[address] = Holder(name, place, labels)
    for text in OUTSIDE:
        if is_outside(world, ip_address(text)):
            held[parse_address(text)] = Holder("world", WORLD, ip_address(text))
    cache: dict[tuple[Labels, Whom], tuple[bool, ...]] = {}
    verdicts = {
        (near, far): _verdicts(world, subject, held[far].labels, cache)
        for near, far in product(held, held)
        if held[near].local and isinstance(subject := held[near].labels, tuple)
    }
    return held, verdicts


def _verdicts(
    world: World, subject: Labels, peer: Whom, cache: dict[tuple[Labels, Whom], tuple[bool, ...]]
) -> tuple[bool, ...]:
    if (subject, peer) not in cache:
        cache[subject, peer] = tuple(
            enforces(world, subject, peer, direction, packet)
            for direction, packet in product(Direction, PACKETS)
        )
    return cache[subject, peer]


def check(
    before: tuple[dict[bytes, Holder], Verdicts], after: tuple[dict[bytes, Holder], Verdicts], stale: set[int]
) -> None:
    """What has to be stale after going from one to the other."""
    held, verdicts = before
    held_now, verdicts_now = after
    for address, holder in held.items():
        assert held_now.get(address) == holder or holder.place in stale, address
    for (near, far), verdict in verdicts.items():
        if verdicts_now.get((near, far)) != verdict:
            assert {held[near].place, held[far].place} & stale, (near, far)


@given(all_settings(), policed() | policed().map(lambda more: full() + more))
@settings(max_examples=EXAMPLES, deadline=None)
def test_after_each_event(given: Settings, happened: list[Event]) -> None:
    world = World(given)
    plan = compile_plan(world)
    before = look(world)
    for event in happened:
        stale = stale_places(world, step(world, plan, event))
        after = look(world)
        check(before, after, stale)
        before = after


@given(all_settings(), sequences(), policed(6))
@settings(max_examples=EXAMPLES, deadline=None)
def test_after_several_events_at_once(given: Settings, happened: list[Event], batch: list[Event]) -> None:
    world = world_of(given, happened)
    plan = compile_plan(world)
    before = look(world)
    pending: dict[tuple[Table, Key], Change] = {}
    for event in batch:
        squash(pending, step(world, plan, event))
    check(before, look(world), stale_places(world, pending.values()))


def stale_after(*events: Event) -> set[str]:
    """The names whose places are stale after the last of these events in the full world."""
    world = world_of(configured(()), [*full(), *events[:-1]])
    names = {number: str(name) for name, number in world.workload_numbers.items()}
    names |= {number: str(name) for name, number in world.node_numbers.items()}
    return {names[place] for place in stale_places(world, step(world, compile_plan(world), events[-1]))}


OURS, THEIRS = ADDRESSES[0], ADDRESSES[3]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Event(Kind.ENDPOINT, parse_address("10.1.4.4"), Endpoint("n4", "w", "pod", LABEL_SETS[1])), set()),
        (Event(Kind.ENDPOINT, OURS, Endpoint("n3", "w", "pod", LABEL_SETS[1])), set()),
        (Event(Kind.ENDPOINT, THEIRS, Endpoint("n2", "w", "pod", LABEL_SETS[1])), {"n4"}),
        (Event(Kind.ENDPOINT, THEIRS), {"n4"}),
        (Event(Kind.NODE, "n2"), set()),  # it had no path, and no address that a flow could have
        (Event(Kind.REVOKED, "n2", True), set()),  # its peers are gone, and with them all that it says
        (Event(Kind.ALIVE, "n2", True), set()),
        (Event(Kind.WORKLOAD, "guest"), {"guest"}),
        (Event(Kind.LINK, "mfp2"), {"shop/a"}),
        (Event(Kind.POLICY, "p"), {SELF, "shop/b"}),
        (Event(Kind.POLICY, "q"), set(LOCAL)),
    ],
)
def test_no_more_than_what_changed(event: Event, expected: set[str]) -> None:
    assert stale_after(event) == expected


def test_a_workload_that_moves_away_makes_its_own_place_stale() -> None:
    gone = Event(Kind.WORKLOAD, "shop/a")
    address = full_workload("shop/a").addresses[0]
    assert stale_after(Event(Kind.ENDPOINT, address, Endpoint("n3", "shop/a", "pod", ())), gone) == {"shop/a"}
