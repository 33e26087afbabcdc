"""What other policies would change between workloads and the world outside of the fabric.

Only the workload's end is ruled there: nobody outside has policies. The world is compared
by the networks that policies name, before or after, each without the smaller ones in it;
whatever lies in none of them is one more, `ELSEWHERE`.

    10.0.0.0/8 -+- 10.1.0.0/16       a packet is of the smallest network around its far end;
                +- 10.2.0.0/16       `Outside.parents` tells what each network lies in
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from meshfabric.compiler.imagined import Policies, differing, emptied, imagined, selected
from meshfabric.compiler.parties import Group, People, group_of
from meshfabric.compiler.policies import ANY_WORLD, Rules, rules_of
from meshfabric.compiler.verdicts import NO_OBJECTION, Difference, Flip, Says, Side, Span, differences
from meshfabric.model.addresses import Address, Network
from meshfabric.model.errors import InputError
from meshfabric.model.labels import Term
from meshfabric.model.networks import holds, lies_in, place_in_order, span
from meshfabric.model.policy import Policy, Rule, cidrs_of
from meshfabric.model.tables import Direction
from meshfabric.model.world import Event, Kind, World

ELSEWHERE = None
"""In place of a network: all that no policy names."""
MOST_NAMED = 500_000
"""Label sets by networks that rules name, before and after."""
KEEPER = "~"
"""Of a policy that nobody gave: no name has this letter."""
NOBODY = (Term("nobody", "in", ()),)

Place = Network | None
Places = frozenset[Place]
Parents = Mapping[Network, Place]
"""The network that each lies in, of all that there are; what holds another comes before it."""


class Outward(NamedTuple):
    """What flips between these workloads and these places; by `flip.direction`, who speaks first."""

    workloads: Group
    places: Places
    flip: Flip
    spans: tuple[Span, ...]


class Outside(NamedTuple):
    """All that flips, and what the world was told apart by."""

    changes: list[Outward]
    parents: Parents
    fabric: tuple[Network, ...]
    order: tuple[Network, ...] = ()
    """Those of `parents`, by `span`."""

    def has(self, address: Address) -> bool:
        """Whether an address is none of the fabric's."""
        return not any(holds(network, address) for network in self.fabric)

    def place_of(self, address: Address) -> Place:
        """The smallest network that an address outside lies in."""
        at = bisect_right(self.order, place_in_order(address), key=span)
        place = self.order[at - 1] if at else ELSEWHERE
        while place is not ELSEWHERE and not holds(place, address):
            place = self.parents[place]  # what begins before the address and ends before it, too
        return place


NOTHING = Outside([], {}, ())


class Surroundings(NamedTuple):
    """Whose addresses some are: the API servers', and the fabric's own, which are not outside."""

    apiservers: tuple[Network, ...] = ()
    fabric: tuple[Network, ...] = ()


def compare_outside(people: People, before: Policies, after: Policies, around: Surroundings) -> Outside:
    """Every verdict that flips towards or from outside; `InputError` where there are too many to look at."""
    changed = differing(before, after)
    touched = [one for said in (before, after) for name in changed if (one := said.get(name))]
    if not touched:
        return NOTHING
    world = imagined(people, before)
    world.apply(Event(Kind.APISERVERS, "", around.apiservers))
    world.apply(Event(Kind.POLICY, KEEPER, _keeper(touched)))
    moved = {direction: selected(people, touched, direction) for direction in Direction}
    old = {number: rules_of(world, world.labels[number]) for number in set().union(*moved.values())}
    for name in changed:
        world.apply(Event(Kind.POLICY, name, after.get(name)))
    views = _Views(world, around.fabric)
    for direction in Direction:
        for number in sorted(moved[direction]):
            views.look(number, direction, old[number])
    parents = parents_of(views.networks())
    return Outside(views.found(), parents, around.fabric, tuple(parents))


def parents_of(networks: Iterable[Network]) -> Parents:
    """What each of them lies in."""
    found: dict[Network, Place] = {}
    around: list[Network] = []
    for network in sorted(networks, key=span):
        while around and not lies_in(network, around[-1]):
            around.pop()
        found[network] = around[-1] if around else ELSEWHERE
        around.append(network)
    return found


def _keeper(policies: Iterable[Policy]) -> Policy:
    """It keeps every network in use whose policy goes, and has no say."""
    peers = tuple(sorted({cidr for policy in policies for cidr in cidrs_of(policy)}, key=str))
    return Policy(KEEPER, NOBODY, ingress=(Rule(peers, None),), egress=None)


class _Views:
    """What label sets say of the world, looked at one by one."""

    def __init__(self, world: World, fabric: Iterable[Network]) -> None:
        self._world = world
        self._outside: Set[int] = {
            number
            for number, network in world.networks.by_number.items()
            if not any(lies_in(network, own) for own in fabric)
        }
        self._shared: dict[Says, Says] = {}
        self._known: dict[tuple[int, int, Direction], Difference] = {}
        self._named = 0
        self._found: dict[tuple[Flip, tuple[Span, ...]], dict[int, set[Place]]] = {}

    def look(self, number: int, direction: Direction, before: Rules) -> None:
        """One label set, with the rules it had; those that it has are the world's."""
        after = rules_of(self._world, self._world.labels[number])
        old, new = (
            Side(self._world, rules[direction], direction, self._shared, self._outside, ANY_WORLD)
            for rules in (before, after)
        )
        named = old.named.keys() | new.named.keys()
        self._count(len(named))
        self._note(number, direction, old.rest, new.rest, {ELSEWHERE, *self._places(self._outside - named)})
        for one in named:
            self._note(number, direction, old.of(one), new.of(one), self._places((one,)))

    def networks(self) -> set[Network]:
        """All that are told apart."""
        return {self._world.networks.by_number[number] for number in self._outside}

    def found(self) -> list[Outward]:
        """All that flips: workloads for which it is the same, together."""
        joined: dict[tuple[Places, Flip, tuple[Span, ...]], Group] = {}
        for what, by_number in self._found.items():
            for number, places in by_number.items():
                at = frozenset(places), *what
                joined[at] = joined.get(at, 0) | group_of(number)
        emptied(self._known)
        emptied(self._shared)
        return sorted((Outward(group, *at) for at, group in joined.items()), key=_order)

    def _places(self, numbers: Iterable[int]) -> set[Place]:
        return {self._world.networks.by_number[number] for number in numbers}

    def _note(self, number: int, direction: Direction, old: Says, new: Says, places: set[Place]) -> None:
        for what in self._difference(old, new, direction):
            self._found.setdefault(what, {}).setdefault(number, set()).update(places)

    def _difference(self, old: Says, new: Says, direction: Direction) -> Difference:
        at = id(old), id(new), direction
        if at not in self._known:
            ends = ((old, NO_OBJECTION), (new, NO_OBJECTION))
            if direction is Direction.INGRESS:
                ends = ((NO_OBJECTION, old), (NO_OBJECTION, new))
            self._known[at] = differences(*ends)
        return self._known[at]

    def _count(self, more: int) -> None:
        self._named += more
        if self._named > MOST_NAMED:
            what = f"too much to compare: rules name networks outside more than {MOST_NAMED} times"
            raise InputError(what, remedy="take fewer policies at once, or such as select fewer workloads")


def _order(one: Outward) -> tuple[Group, Flip, tuple[Span, ...], list[str]]:
    return one.workloads, one.flip, one.spans, sorted(map(str, one.places))
