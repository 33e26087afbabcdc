"""What two workloads may say to each other, over all protocols and ports at once, and whose word that is.

    rules of a label set --`Side`--> what its own say is for a peer: `Says`
    the sender's `Says` and the receiver's, before and after --`differences`--> what flips

A `Says` covers everything: for each protocol that policies can name, and for all
others together, the port ranges with the rule that decides. It is read out of
the same keys that `policies` compiles, by the datapath's rule: longest prefix
for the exact peer and for ANY_PEER, then the higher precedence, and on a tie denial.
"""

from collections.abc import Iterable, Iterator, Set
from itertools import pairwise
from typing import NamedTuple

from meshfabric.compiler.cells import EVERYTHING, Decided, Source, Weighed, decide
from meshfabric.compiler.policies import ANY_PEER, Ruled, about_own_host, numbered_at
from meshfabric.model.policy import Action
from meshfabric.model.ports import MAX_PORT, PROTOCOLS, Ports
from meshfabric.model.tables import PORT_BITS, Direction
from meshfabric.model.world import World

OTHERS = 0
"""In place of a protocol: all that no policy can name."""
ASKED = (*sorted(PROTOCOLS.values()), OTHERS)

Span = tuple[int, int, int]
"""Protocol (or `OTHERS`), first and last port."""
ANYTHING: tuple[Span, ...] = tuple((protocol, 0, MAX_PORT) for protocol in ASKED)


class Ruling(NamedTuple):
    """Whether one end has it pass, and whose word that is."""

    allowed: bool
    source: Source


Ranges = tuple[tuple[int, Ruling], ...]
"""The last port of each range with what holds there, ascending up to `MAX_PORT`."""
Says = tuple[Ranges, ...]
"""For each of `ASKED`."""


class Flip(NamedTuple):
    """A verdict that changes: by which end's say it is denied, before or after, and whose word that is."""

    allowed: bool
    direction: Direction
    before: Source
    after: Source


Difference = tuple[tuple[Flip, tuple[Span, ...]], ...]

NO_OBJECTION: Says = (((MAX_PORT, Ruling(True, Source(""))),),) * len(ASKED)
"""Of an end that policies do not rule."""


class Side:
    """One direction of a label set: what it says of each peer. Equal answers are one object (`shared`).

    `rest` is what it says of those whom no rule names, `named` has the others, unless it is its own host.
    `peers`: of whom it is going to be asked (None: of anyone). `anyone`: ANY_PEER or ANY_WORLD, where these
    are.
    """

    def __init__(
        self,
        world: World,
        ruled: Ruled,
        direction: Direction,
        shared: dict[Says, Says],
        peers: Set[int] | None = None,
        anyone: int = ANY_PEER,
    ) -> None:
        self._world, self._ruled, self._direction, self._shared = world, ruled, direction, shared
        self._of_names: dict[tuple[int, Ports], Weighed] = {}
        self._general = ruled.anyone[anyone]
        self._anyone = _Keys(decide(self._general, ()))
        self._known: dict[tuple[int, ...], Says] = {}  # many peers have the same rules
        about: dict[int, list[Weighed]] = {}
        for members, rule in ruled.named:
            for peer in members if peers is None else members & peers:
                about.setdefault(peer, []).append(rule)
        self.rest = self._says(_Keys(()))
        self.named = {peer: self._of(self._numbered(own, peer)) for peer, own in about.items()}

    def of(self, peer: int) -> Says:
        """What it says of a peer that is not its own host."""
        return self.named.get(peer, self.rest)

    def of_own_host(self, peer: int) -> Says:
        """What it says of the host of the node that the workload is on."""
        own = [rule for members, rule in self._ruled.named if peer in members]
        return self._of(self._numbered(own + about_own_host(self._ruled, self._direction), peer))

    def _numbered(self, rules: Iterable[Weighed], peer: int) -> list[Weighed]:
        found = (numbered_at(self._world, rule, peer, self._of_names) for rule in rules)
        return [rule for rule in found if rule is not None]

    def _of(self, own: list[Weighed]) -> Says:
        same = tuple(map(id, own))
        if same not in self._known:
            self._known[same] = self._says(_Keys(decide(own, self._general))) if own else self.rest
        return self._known[same]

    def _says(self, exact: "_Keys") -> Says:
        named = exact.lengths.keys() | self._anyone.lengths.keys()
        plain = _ranges(OTHERS, exact, self._anyone)
        made = tuple(_ranges(one, exact, self._anyone) if one in named else plain for one in ASKED)
        return self._shared.setdefault(made, made)


def differences(before: tuple[Says, Says], after: tuple[Says, Says]) -> Difference:
    """What flips between two ends, of which each time the sender's say stands first."""
    found: dict[Flip, list[Span]] = {}
    for protocol, *parts in zip(ASKED, *before, *after, strict=True):
        if parts[:2] == parts[2:]:
            continue
        for first, last, rulings in _overlaid(parts):
            flip = _flip(*rulings)
            if flip is not None:
                _extend(found.setdefault(flip, []), (protocol, first, last))
    return tuple((flip, tuple(spans)) for flip, spans in found.items())


def _flip(out_before: Ruling, in_before: Ruling, out_after: Ruling, in_after: Ruling) -> Flip | None:
    was = out_before.allowed and in_before.allowed
    now = out_after.allowed and in_after.allowed
    if was == now:
        return None
    denied_out = not (out_after if was else out_before).allowed  # the sender's say comes first
    if denied_out:
        return Flip(now, Direction.EGRESS, out_before.source, out_after.source)
    return Flip(now, Direction.INGRESS, in_before.source, in_after.source)


def _extend(spans: list[Span], span: Span) -> None:
    """Add a span, as part of the last one where it follows that."""
    if spans and spans[-1][0] == span[0] and spans[-1][2] + 1 == span[1]:
        span = (span[0], spans.pop()[1], span[2])
    spans.append(span)


def _overlaid(parts: list[Ranges]) -> Iterator[tuple[int, int, list[Ruling]]]:
    """First port, last port and what each part says, for the ranges in which none of them changes."""
    at, first = [0] * len(parts), 0
    while first <= MAX_PORT:
        here = [part[index] for part, index in zip(parts, at, strict=True)]
        last = min(end for end, _ in here)
        yield first, last, [ruling for _, ruling in here]
        at = [index + (end == last) for index, (end, _) in zip(at, here, strict=True)]
        first = last + 1


class _Keys:
    """The keys of a pair; `lengths` are those of the port prefixes of a protocol, the longest first."""

    def __init__(self, decided: Iterable[Decided]) -> None:
        self._found = {one.block: one for one in decided}
        self.starts: dict[int, set[int]] = {}
        lengths: dict[int, set[int]] = {}
        for protocol, port, bits in self._found.keys() - {EVERYTHING}:
            self.starts.setdefault(protocol, set()).update((port, port + (1 << PORT_BITS - bits)))
            lengths.setdefault(protocol, set()).add(bits)
        self.lengths = {protocol: sorted(some, reverse=True) for protocol, some in lengths.items()}

    def longest(self, protocol: int, port: int) -> Decided | None:
        """What a look-up finds."""
        for bits in self.lengths.get(protocol, ()):
            found = self._found.get((protocol, port >> PORT_BITS - bits << PORT_BITS - bits, bits))
            if found is not None:
                return found
        return self._found.get(EVERYTHING)


def _ranges(protocol: int, exact: _Keys, anyone: _Keys) -> Ranges:
    edges = {0, MAX_PORT + 1, *exact.starts.get(protocol, ()), *anyone.starts.get(protocol, ())}
    found: list[tuple[int, Ruling]] = []
    for start, end in pairwise(sorted(edges)):
        ruling = _stronger(exact.longest(protocol, start), anyone.longest(protocol, start))
        if found and found[-1][1] == ruling:
            found.pop()
        found.append((end - 1, ruling))
    return tuple(found)


def _stronger(exact: Decided | None, anyone: Decided | None) -> Ruling:
    """As the datapath chooses; of ANY_PEER there is always something."""
    assert anyone is not None
    best = anyone
    if exact is not None and _weight(exact) > _weight(anyone):
        best = exact
    return Ruling(best.rule.action is not Action.DENY, best.rule.source)


def _weight(one: Decided) -> tuple[int, bool]:
    return one.precedence, one.rule.action is Action.DENY
