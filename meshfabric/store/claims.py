"""Who came first: things that only one holder may have, claimed by several (pure).

A thing is an address block, a tunnel's public key or a floating address; the few
numbers of classes are one thing that several have. Every record that is
well-formed claims what it names, whether it is in force or not; a thing belongs
to the earliest claim that is still upheld, and a record is in force only if all
that it names belongs to its writer. So the winner follows from the records
alone, not from the order in which they were read.

"Earliest" is the store's revision at which the record began to name the thing,
as far as this agent has seen: rewriting a record does not give its claims up.
An agent that only now joins knows just the last revision of each record; where
two records contend, it may take the other side until the snapshot or the
operator settles it. Equal revisions (one transaction) go by name.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from meshfabric.model.addresses import ADDRESS_BITS, Address, Prefix, mask_of
from meshfabric.model.node import EndpointRecord

WEAK = 1 << 63
"""The revision of a claim by a last good record that its writer has replaced: it yields to any other."""

Thing = TypeVar("Thing", bound=Hashable)


class Claims(Generic[Thing]):
    """Claims on things that contend when they are equal."""

    def __init__(self) -> None:
        self._claims: dict[Thing, tuple[tuple[int, str], ...]] = {}  # (since, holder)
        self._things: dict[str, tuple[Thing, ...]] = {}

    def claim(
        self, holder: str, things: Iterable[Thing], revision: int, weakly: Iterable[Thing] = ()
    ) -> set[str]:
        """All that a holder claims from now on; returns the rivals whose standing may have changed."""
        old = {thing: self._since(thing, holder) for thing in self._things.get(holder, ())}
        new = dict.fromkeys(weakly, WEAK)
        new |= {thing: min(revision, old.get(thing, revision)) for thing in things}
        changed = [thing for thing in {**old, **new} if old.get(thing) != new.get(thing)]
        rivals = {name for thing in changed for _, name in self.on(thing)}
        for thing in changed:
            self._set(thing, holder, new.get(thing))
        self._things[holder] = tuple(new)
        if not new:
            del self._things[holder]
        return rivals - {holder}

    def first(self, holder: str, thing: Thing) -> str:
        """Whom the thing belongs to, seen by one who claims it: the holder itself or a rival."""
        mine = self._since(thing, holder)
        return min(self.on(thing), default=(mine, holder))[1]

    def among_first(self, holder: str, thing: Thing, several: int) -> bool:
        """Whether a claimant is one of the several whom the thing belongs to."""
        return holder in {name for _, name in sorted(self.on(thing))[:several]}

    def since(self, holder: str) -> int:
        """The earliest revision at which the holder claimed anything that it claims now."""
        return min((self._since(thing, holder) for thing in self._things.get(holder, ())), default=WEAK)

    def on(self, thing: Thing) -> Iterator[tuple[int, str]]:
        """Every claim that contends for the thing: since when, and whose."""
        for other in self._overlapping(thing):
            yield from self._claims[other]

    def _overlapping(self, thing: Thing) -> Iterable[Thing]:
        return (thing,) if thing in self._claims else ()

    def _since(self, thing: Thing, holder: str) -> int:
        return next((since for since, name in self._claims.get(thing, ()) if name == holder), WEAK)

    def _set(self, thing: Thing, holder: str, since: int | None) -> None:
        others = tuple(claim for claim in self._claims.pop(thing, ()) if claim[1] != holder)
        claims = others if since is None else (*others, (since, holder))
        if claims:
            self._claims[thing] = claims


class BlockClaims(Claims[Prefix]):
    """Claims on prefixes, which contend when they overlap: one of the two lies in the other."""

    def __init__(self) -> None:
        super().__init__()
        self._sorted: list[tuple[Address, int]] = []
        self._lengths: Counter[int] = Counter()

    def _overlapping(self, thing: Prefix) -> Iterator[Prefix]:
        """Those that hold it, found by their lengths, then those in it, found by their order."""
        for length in self._lengths:
            outer = shortened(thing, length)
            if length < thing.length and outer in self._claims:
                yield outer
        last = last_address(thing)
        for at in range(bisect_left(self._sorted, (thing.address, thing.length)), len(self._sorted)):
            address, length = self._sorted[at]
            if address > last:
                return
            yield Prefix(length, address)

    def _set(self, thing: Prefix, holder: str, since: int | None) -> None:
        was = thing in self._claims
        super()._set(thing, holder, since)
        if thing in self._claims and not was:
            insort(self._sorted, (thing.address, thing.length))
            self._lengths[thing.length] += 1
        elif was and thing not in self._claims:
            del self._sorted[bisect_left(self._sorted, (thing.address, thing.length))]
            self._lengths[thing.length] -= 1
            self._lengths += Counter()  # forgets lengths that nobody has any more


def shortened(prefix: Prefix, length: int) -> Prefix:
    """The prefix of this length (in 128 bits) that holds the other's first address."""
    shift = ADDRESS_BITS - length
    return Prefix(length, (int.from_bytes(prefix.address, "big") >> shift << shift).to_bytes(16, "big"))


def last_address(prefix: Prefix) -> Address:
    """The highest address of a prefix."""
    host_bits = ~int.from_bytes(mask_of(prefix), "big") & ((1 << ADDRESS_BITS) - 1)
    return (int.from_bytes(prefix.address, "big") | host_bits).to_bytes(16, "big")


class Claim(NamedTuple):
    """A node's word that a floating address is at its place, and since which revision it says so."""

    record: EndpointRecord
    since: int


def renewed(old: Claim | None, record: EndpointRecord, revision: int) -> Claim:
    """The claim after its record was written again.

    It keeps its age unless it is a new one: another epoch, or a hand-over taken
    back (the address may have gone over meanwhile).
    """
    if (
        old is None
        or old.record.epoch != record.epoch
        or old.record.handoff_to not in ("", record.handoff_to)
    ):
        return Claim(record, revision)
    return Claim(record, min(old.since, revision))


def holder_of(claims: Mapping[str, Claim], revoked: Collection[str]) -> str:
    """The node that has a floating address: the earliest claim, or whom it was handed to, and so on.

    A hand-over needs the holder's `handoff_to` and a higher epoch of the one
    named. A revoked node's claim stands only where there is no other: the
    tombstone is the fence that stands in for a dead node's consent.
    """
    upheld = {node: claim for node, claim in claims.items() if node not in revoked} or claims
    node = min(upheld, key=lambda name: (upheld[name].since, name))
    while True:
        target = upheld[node].record.handoff_to
        if target not in upheld or upheld[target].record.epoch <= upheld[node].record.epoch:
            return node
        node = target
