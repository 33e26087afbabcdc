"""Who is selected by what, found without asking everyone.

    label set --by each of its pairs and keys--> selectors filed there --matches--> those that select it
    selector  --by one term that it requires---> label sets that have it --matches--> those it selects

With 10,000 policies and 5,000 label sets each question looks at some dozens.
A selector that requires nothing (`app!=web`, `*`) is asked about everyone.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Set
from typing import Generic, TypeVar

from meshfabric.model.labels import Labels, Selector, Term, matches
from meshfabric.model.networks import Cidr, Networks
from meshfabric.model.policy import Entity, Policy, Rule, cidrs_of
from meshfabric.model.portnames import split, with_port
from meshfabric.model.ports import Ports
from meshfabric.model.uplinks import count

Thing = TypeVar("Thing", bound=Hashable)
Shelf = tuple[str, str | None]  # key and value, or key and None for any value
OPEN: Shelf = ("", None)  # of selectors that require nothing; no key is empty


class LabelSets:
    """Label sets by number, found by selector."""

    def __init__(self) -> None:
        self._labels: dict[int, Labels] = {}
        self._shelves: dict[Shelf, set[int]] = {}

    def add(self, number: int, labels: Labels) -> None:
        """A label set that is in use from now on."""
        self._labels[number] = labels
        for shelf in _shelves_of(labels):
            self._shelves.setdefault(shelf, set()).add(number)

    def remove(self, number: int) -> None:
        """It is in use no longer."""
        for shelf in _shelves_of(self._labels.pop(number)):
            self._shelves[shelf].remove(number)
            if not self._shelves[shelf]:
                del self._shelves[shelf]

    def find(self, selector: Selector) -> set[int]:
        """The numbers of all label sets that a selector selects."""
        pools = [self._pool(term) for term in selector if _requires(term)]
        if len(selector) == len(pools) == 1:
            return set(pools[0])
        pool = min(pools, key=len) if pools else self._labels.keys()
        return {number for number in pool if matches(selector, self._labels[number])}

    def _pool(self, term: Term) -> Set[int]:
        shelves = _shelves_for(term)
        if len(shelves) == 1:
            return self._shelves.get(shelves[0], frozenset())
        return {number for shelf in shelves for number in self._shelves.get(shelf, ())}


class Selectors(Generic[Thing]):
    """Things by their selector, found by label set."""

    def __init__(self) -> None:
        self._shelves: dict[Shelf, dict[Thing, Selector]] = {}
        self._filed: dict[Thing, tuple[Shelf, ...]] = {}

    def add(self, thing: Thing, selector: Selector) -> None:
        """File a thing that is not filed yet."""
        self._filed[thing] = self._least_crowded(selector)
        for shelf in self._filed[thing]:
            self._shelves.setdefault(shelf, {})[thing] = selector

    def remove(self, thing: Thing) -> None:
        """Take a thing out."""
        for shelf in self._filed.pop(thing):
            del self._shelves[shelf][thing]
            if not self._shelves[shelf]:
                del self._shelves[shelf]

    def find(self, labels: Labels) -> Iterator[Thing]:
        """All things whose selector selects a label set."""
        for shelf in (*_shelves_of(labels), OPEN):
            for thing, selector in self._shelves.get(shelf, {}).items():
                if matches(selector, labels):
                    yield thing

    def _least_crowded(self, selector: Selector) -> tuple[Shelf, ...]:
        choices = [_shelves_for(term) for term in selector if _requires(term)]
        return min(choices, key=self._crowd, default=(OPEN,))

    def _crowd(self, shelves: tuple[Shelf, ...]) -> int:
        return sum(len(self._shelves.get(shelf, ())) for shelf in shelves)


class Selection:
    """The policies that select a label set, and the label sets and networks that their peers are."""

    def __init__(self) -> None:
        self.networks = Networks()
        self._policies = Selectors[str]()
        self._sets = LabelSets()
        self._uses: Counter[Selector] = Counter()  # of peers, by policies
        self._members: dict[Selector, set[int]] = {}
        self._asked = Selectors[Selector]()  # those with members

    def replace(self, old: Policy | None, new: Policy | None) -> None:
        """A policy came, changed or went."""
        if old is not None:
            self._policies.remove(old.name)
        if new is not None:
            self._policies.add(new.name, new.select)
        for policy, times in ((new, 1), (old, -1)):
            for selector in peer_selectors(policy) if policy else ():
                if not count(self._uses, selector, times) and self._members.pop(selector, None) is not None:
                    self._asked.remove(selector)
            for cidr in set(cidrs_of(policy)) if policy else ():
                self.networks.use(cidr, times)

    def add(self, number: int, labels: Labels) -> None:
        """A label set came into use."""
        self._sets.add(number, labels)
        for selector in self._asked.find(labels):
            self._members[selector].add(number)

    def remove(self, number: int, labels: Labels) -> None:
        """It went out of use."""
        self._sets.remove(number)
        for selector in self._asked.find(labels):
            self._members[selector].remove(number)

    def policies(self, labels: Labels) -> Iterator[str]:
        """The names of all policies that select a label set, in no order."""
        return self._policies.find(labels)

    def members(self, peer: Selector | Cidr) -> Set[int]:
        """The numbers that a peer stands for; of a policy's a set that goes on to be right."""
        return self.networks.members(peer) if isinstance(peer, Cidr) else self._selected(peer)

    def _selected(self, selector: Selector) -> Set[int]:
        known = self._members.get(selector)
        if known is not None:
            return known
        found = self._sets.find(selector)
        if selector in self._uses:
            self._members[selector] = found
            self._asked.add(selector, selector)
        return found


def peer_selectors(policy: Policy) -> set[Selector]:
    """Those whom a policy's rules find by their labels, or in the end by a name of their ports."""
    found = {one for rule in policy.ingress or () for one in _selectors(rule)}
    for rule in policy.egress or ():
        numbers, names = split(rule.ports)
        if numbers or numbers is None:
            found.update(_selectors(rule))
        found.update(selector for port in names for selector in holders(rule, port))
    return found


def holders(rule: Rule, port: Ports) -> Iterator[Selector]:
    """Those of the peers of a rule for what goes out who have a port of this name; the own host aside."""
    anyone = rule.peers is None or Entity.FABRIC in rule.peers
    return (with_port(selector, port.name) for selector in (((),) if anyone else _selectors(rule)))


def _selectors(rule: Rule) -> Iterator[Selector]:
    return (peer for peer in rule.peers or () if not isinstance(peer, Entity | Cidr))


def _requires(term: Term) -> bool:
    return term.op in ("in", "exists")


def _shelves_for(term: Term) -> tuple[Shelf, ...]:
    """Where whatever meets a requirement is found: in exactly one of them."""
    if term.op == "exists":
        return ((term.key, None),)
    return tuple((term.key, value) for value in dict.fromkeys(term.values))


def _shelves_of(labels: Labels) -> Iterator[Shelf]:
    for key, value in labels:
        yield key, value
        yield key, None
