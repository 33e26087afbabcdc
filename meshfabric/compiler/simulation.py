"""What other policies would change: the pairs of workloads whose verdict flips, and by whose word.

`compare` reads the rules of each label set in question twice, with the policies
that are and with those that might be, asks both ends of each pair, and puts
equal answers together: what comes out are some blocks "these to those", and not
a line for each pair.

    rules before --Side--+
    rules after  --Side--+-- Stance --+
                                      +-- differences --> Change
                  the other end's ----+

Most peers are named by no rule of either end: they are asked for once, all
together that are alike (`_Pairs`). It works on values alone, so that it may run
in a thread beside an agent.
"""

from collections.abc import Iterable, Mapping, Set
from itertools import product
from typing import NamedTuple

from meshfabric.compiler.imagined import Policies, differing, emptied, imagined, selected
from meshfabric.compiler.parties import Group, Near, People, group_of, parties
from meshfabric.compiler.policies import Rules, rules_of
from meshfabric.compiler.verdicts import Difference, Flip, Says, Side, Span, differences
from meshfabric.model.errors import InputError
from meshfabric.model.policy import Policy
from meshfabric.model.tables import Direction
from meshfabric.model.world import Event, Kind

MOST_NAMED = 2_000_000
"""Pairs that rules name, before and after; some 150 bytes each."""
MOST_KNOWN = 100_000
"""Differences that are kept to be found again; some 1,000 bytes each."""

What = tuple[Flip, tuple[Span, ...]]
Four = tuple[int, int, int, int]
"""The sender's say before and after, and the receiver's, each as the id of the one object that it is."""


class Change(NamedTuple):
    """What flips between these and those; the senders are the ends that speak first."""

    senders: Group
    receivers: Group
    flip: Flip
    spans: tuple[Span, ...]


class Stance(NamedTuple):
    """One direction of a label set, before and after: the same object where no policy changes it."""

    before: Side
    after: Side

    @property
    def rest(self) -> tuple[Says, Says]:
        """Of those whom no rule names."""
        return self.before.rest, self.after.rest

    @property
    def named(self) -> Set[int]:
        """Whom a rule names, before or after."""
        return self.before.named.keys() | self.after.named.keys()

    def of(self, peer: int, own_host: bool) -> tuple[Says, Says]:
        """Of one peer."""
        if own_host:
            return self.before.of_own_host(peer), self.after.of_own_host(peer)
        return self.before.of(peer), self.after.of(peer)


def compare(
    people: People, before: Policies, after: Policies, senders: Set[int] | None = None
) -> list[Change]:
    """Every verdict that flips between two workloads, with the policies in force before and after.

    In an order that depends on nothing else; a packet from one workload to another is in one change at most.
    `senders`: only what these label sets say first (None: all). Raises `InputError` where it would take
    more memory than somebody who asks may have.
    """
    changed = {name: after.get(name) for name in differing(before, after)}
    if not changed:
        return []
    stances = _Stances(people, before, changed, senders)
    pairs = _Pairs(people, stances)
    found: dict[tuple[Group, What], Group] = {}
    for sender in stances.senders:
        for (near, what), receivers in pairs.of(sender).items():
            at = receivers, what
            found[at] = found.get(at, 0) | group_of(sender, near)
    pairs.let_go()
    stances.let_go()
    return sorted(change for change in _joined(found) if not _is_to_itself(people, change))


def _joined(found: Mapping[tuple[Group, What], Group]) -> list[Change]:
    """Senders by receivers and what, put together for all receivers to whom the same senders say it."""
    merged: dict[tuple[Group, What], Group] = {}
    for (receivers, what), alike in found.items():
        merged[alike, what] = merged.get((alike, what), 0) | receivers
    return [Change(alike, receivers, *what) for (alike, what), receivers in merged.items()]


def _is_to_itself(people: People, change: Change) -> bool:
    """A workload says nothing to itself through the fabric."""
    if change.senders != change.receivers:
        return False
    numbers = [number for number, _ in parties(change.senders)]
    return len(numbers) == 1 and people.is_alone(numbers[0], numbers[0])


class _Stances:
    """What each label set says, before and after; `moved` are those that a policy changes, by direction."""

    def __init__(
        self,
        people: People,
        before: Policies,
        changed: Mapping[str, Policy | None],
        senders: Set[int] | None,
    ) -> None:
        self.senders = people.labels.keys() if senders is None else people.labels.keys() & senders
        self._peers = {Direction.EGRESS: None, Direction.INGRESS: senders}
        self._world, self._shared = imagined(people, before), dict[Says, Says]()
        self._known: dict[tuple[int, Direction], Stance] = {}
        self._named = 0
        touched = [one for name, new in changed.items() for one in (before.get(name), new) if one]
        self.moved = {direction: selected(people, touched, direction) for direction in Direction}
        self._old = {number: self._rules(number) for number in set().union(*self.moved.values())}
        for name, new in changed.items():
            self._world.apply(Event(Kind.POLICY, name, new))

    def of(self, number: int, direction: Direction) -> Stance:
        """One direction of a label set."""
        at = number, direction
        if at not in self._known:
            before = after = self._side(self._rules(number), direction)
            if number in self.moved[direction]:
                before = self._side(self._old[number], direction)
            self._known[at] = Stance(before, after)
        return self._known[at]

    def _side(self, rules: Rules, direction: Direction) -> Side:
        side = Side(self._world, rules[direction], direction, self._shared, self._peers[direction])
        self._named += len(side.named)
        if self._named > MOST_NAMED:
            what = f"too much to compare: more than {MOST_NAMED} pairs are named by rules"
            raise InputError(what, remedy="take fewer policies at once, or such as select fewer workloads")
        return side

    def let_go(self) -> None:
        """See `emptied`."""
        emptied(self._known)
        emptied(self._shared)

    def _rules(self, number: int) -> Rules:
        return rules_of(self._world, self._world.labels[number])


class _Pairs:
    """Every pair that policies change, asked of one sender after the other."""

    def __init__(self, people: People, stances: _Stances) -> None:
        self._people, self._stances = people, stances
        moved_out, moved_in = (
            stances.moved[direction] for direction in (Direction.EGRESS, Direction.INGRESS)
        )
        heard = people.labels.keys() if moved_out else moved_in
        self._moved_out, self._moved_in = moved_out, sum(map(group_of, moved_in))
        self._heard = {number: stances.of(number, Direction.INGRESS) for number in heard}
        self._naming: dict[int, set[int]] = {}
        self._alike: dict[
            tuple[int, ...], tuple[tuple[Says, Says], Group]
        ] = {}  # by what they say of the rest
        self._plain: dict[tuple[int, ...], list[tuple[What, Group]]] = {}
        self._known: dict[Four, Difference] = {}
        for number, stance in self._heard.items():
            for peer in stance.named:
                self._naming.setdefault(peer, set()).add(number)
            same = tuple(map(id, stance.rest))
            _, group = self._alike.get(same, (stance.rest, 0))
            self._alike[same] = stance.rest, group | group_of(number)

    def of(self, sender: int) -> dict[tuple[Near, What], Group]:
        """What flips when this label set speaks first: by party and difference, for which receivers."""
        if len(self._known) > MOST_KNOWN:
            emptied(self._known)
        said, hosts = self._stances.of(sender, Direction.EGRESS), self._people.neighbours(sender)
        apart = (said.named | self._naming.get(sender, set()) | hosts) & self._heard.keys()
        asked = ~sum(map(group_of, apart))
        if sender not in self._moved_out:
            asked &= self._moved_in
        groups: dict[tuple[Near, Four], Group] = {}
        for receiver in apart:
            for near, far, four in self._towards(sender, said, receiver, receiver in hosts):
                groups[near, four] = groups.get((near, four), 0) | group_of(receiver, far)
        found = {(Near.ALL, what): group & asked for what, group in self._unnamed(said.rest) if group & asked}
        for (near, four), group in groups.items():
            for what in self._known[four]:
                found[near, what] = found.get((near, what), 0) | group
        return found

    def _towards(
        self, sender: int, said: Stance, receiver: int, is_host: bool
    ) -> Iterable[tuple[Near, Near, Four]]:
        """What flips towards one receiver: apart for those who have the other end for their own host."""
        heard = self._heard[receiver]
        if not is_host:
            return ((Near.ALL, Near.ALL, self._key(said.of(receiver, False), heard.of(sender, False))),)
        nears = product(self._people.nears(sender, receiver), self._people.nears(receiver, sender))
        found = [
            (*pair, self._key(said.of(receiver, pair[0] is Near.OWN), heard.of(sender, pair[1] is Near.OWN)))
            for pair in nears
        ]
        if len({self._known[four] for *_, four in found}) == 1:
            return ((Near.ALL, Near.ALL, found[0][-1]),)
        return found

    def let_go(self) -> None:
        """See `emptied`."""
        emptied(self._heard)
        emptied(self._known)

    def _unnamed(self, out: tuple[Says, Says]) -> list[tuple[What, Group]]:
        """What flips towards those who do not name the sender, if it does not name them."""
        same = tuple(map(id, out))
        if same not in self._plain:
            found: dict[What, Group] = {}
            for rest, group in self._alike.values():
                for what in self._known[self._key(out, rest)]:
                    found[what] = found.get(what, 0) | group
            self._plain[same] = list(found.items())
        return self._plain[same]

    def _key(self, out: tuple[Says, Says], into: tuple[Says, Says]) -> Four:
        """What a pair has in common with all that flip alike."""
        four = id(out[0]), id(out[1]), id(into[0]), id(into[1])
        if four not in self._known:
            self._known[four] = differences((out[0], into[0]), (out[1], into[1]))
        return four
