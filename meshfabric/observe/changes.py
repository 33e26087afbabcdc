"""What `compiler.simulation` found, as the rows that people and programs are shown. Pure.

The names of the columns are public; see docs/cli.md.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from heapq import nsmallest
from typing import Any, NamedTuple

from meshfabric.compiler.cells import REST, Source
from meshfabric.compiler.imagined import Policies
from meshfabric.compiler.outside import NOTHING, Outside, Outward
from meshfabric.compiler.parties import Holders, Name, People, group_of
from meshfabric.compiler.simulation import Change
from meshfabric.compiler.verdicts import ANYTHING, OTHERS, Span
from meshfabric.model.addresses import Address
from meshfabric.model.node import Endpoint
from meshfabric.model.policy import format_rule
from meshfabric.model.ports import PROTOCOLS, Ports, format_ports
from meshfabric.model.tables import Direction, FlowSeen
from meshfabric.observe.flows import format_end
from meshfabric.observe.groups import WORLD, describe, describe_places

Row = dict[str, Any]

PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
EXAMPLES = 3
MOST_ROWS = 500
MOST_FLOWS = 100
"""Flows that are shown one by one; all are counted."""
VERDICTS = {True: "allowed", False: "denied"}


class End(NamedTuple):
    """Of a change: in words, how many workloads (None: they are none), and some of them."""

    text: str
    workloads: int | None
    examples: str


class Effects:
    """Changes with the flows that they are about, which are counted as they are told of (`take`)."""

    def __init__(
        self, people: People, holders: Holders, changes: list[Change], outside: Outside = NOTHING
    ) -> None:
        self._people, self._holders, self._outside = people, holders, outside
        self._changes: list[Change | Outward] = [*changes, *outside.changes]
        self._about: dict[Hashable, list[int]] = {}
        self._counts = [0] * len(self._changes)
        self._seen, self._shown = 0, list[Row]()
        self._told: set[FlowSeen] = set()

    def take(self, flows: Iterable[FlowSeen]) -> None:
        """Look at some more of the flows that there are now."""
        for flow in flows:
            self._seen += 1
            at = self._change_of(flow)
            if at is not None and flow not in self._told:  # a table that is written meanwhile may tell twice
                self._told.add(flow)
                self._counts[at] += 1
                if len(self._shown) < MOST_FLOWS:
                    self._shown.append(self._flow_row(flow, self._changes[at]))

    def rows(self, before: Policies, after: Policies) -> dict[str, Any]:
        """All of it; what is cut, and what is cut now, stands first."""
        counted = sorted(zip(self._changes, self._counts, strict=True), key=_urgency)
        return {
            "changes": [self._row(*one, before, after) for one in counted[:MOST_ROWS]],
            "changes_total": len(counted),
            "flows": self._shown,
            "flows_total": sum(self._counts),
            "flows_seen": self._seen,
        }

    def _change_of(self, flow: FlowSeen) -> int | None:
        protocol = flow.protocol if flow.protocol in PROTOCOL_NAMES else OTHERS
        for at in self._changes_about(flow):
            spans = self._changes[at].spans
            if any(one == protocol and low <= flow.ports[1] <= high for one, low, high in spans):
                return at
        return None

    def _changes_about(self, flow: FlowSeen) -> list[int]:
        first, second = (self._holders.get(address) for address in flow.addresses)
        if first is not None and second is not None:
            return self._changes_between(first, second)
        if first is not None and self._outside.has(flow.addresses[1]):
            return self._changes_outside(first, Direction.EGRESS, flow.addresses[1])
        if second is not None and self._outside.has(flow.addresses[0]):
            return self._changes_outside(second, Direction.INGRESS, flow.addresses[0])
        return []

    def _changes_between(self, first: Endpoint, second: Endpoint) -> list[int]:
        sender, receiver = self._people.groups(first, second), self._people.groups(second, first)

        def is_about(one: Change | Outward) -> bool:
            return isinstance(one, Change) and bool(one.senders & sender and one.receivers & receiver)

        return self._remembered((sender, receiver), is_about)

    def _changes_outside(self, workload: Endpoint, direction: Direction, address: Address) -> list[int]:
        group, place = group_of(self._people.numbers[workload.labels]), self._outside.place_of(address)

        def is_about(one: Change | Outward) -> bool:
            if not isinstance(one, Outward) or one.flip.direction is not direction:
                return False
            return bool(one.workloads & group) and place in one.places

        return self._remembered((group, direction, place), is_about)

    def _remembered(self, key: Hashable, is_about: Callable[[Change | Outward], bool]) -> list[int]:
        if key not in self._about:
            self._about[key] = [at for at, one in enumerate(self._changes) if is_about(one)]
        return self._about[key]

    def _flow_row(self, flow: FlowSeen, change: Change | Outward) -> Row:
        first, second = (self._holders.get(address) for address in flow.addresses)
        return {
            "from": _name(first),
            "source": format_end(flow, 0),
            "to": _name(second),
            "destination": format_end(flow, 1),
            "protocol": PROTOCOL_NAMES.get(flow.protocol, str(flow.protocol)),
            "answered": flow.replied,
            "after": VERDICTS[change.flip.allowed],
        }

    def _row(self, change: Change | Outward, flows: int, before: Policies, after: Policies) -> Row:
        flip = change.flip
        sender, receiver = self._ends(change) if isinstance(change, Change) else self._ends_outside(change)
        return {
            "from": sender.text,
            "to": receiver.text,
            "ports": format_spans(change.spans),
            "before": VERDICTS[not flip.allowed],
            "after": VERDICTS[flip.allowed],
            "direction": flip.direction.name.lower(),
            "before_by": whose_word(flip.before, flip.direction, before),
            "after_by": whose_word(flip.after, flip.direction, after),
            "senders": sender.workloads,
            "receivers": receiver.workloads,
            "flows": flows,
            "sender_examples": sender.examples,
            "receiver_examples": receiver.examples,
        }

    def _ends(self, change: Change) -> tuple[End, End]:
        senders, receivers = _workloads(self._people, change)
        return (
            End(describe(self._people, change.senders), len(senders), _examples(senders)),
            End(describe(self._people, change.receivers), len(receivers), _examples(receivers)),
        )

    def _ends_outside(self, change: Outward) -> tuple[End, End]:
        names = self._people.all_workloads(change.workloads)
        inner = End(describe(self._people, change.workloads), len(names), _examples(names))
        outer = End(describe_places(change.places, self._outside.parents), None, "")
        return (outer, inner) if change.flip.direction is Direction.INGRESS else (inner, outer)


def _name(holder: Endpoint | None) -> str:
    return f"{holder.node}/{holder.workload}" if holder else WORLD


def _workloads(people: People, change: Change) -> tuple[set[Name], set[Name]]:
    """Of both ends; who is alone at one end is not meant at the other."""
    senders = people.workloads(change.senders, change.receivers)
    receivers = people.workloads(change.receivers, change.senders)
    if len(receivers) == 1:
        return senders - receivers, receivers
    return senders, receivers - senders if len(senders) == 1 else receivers


def whose_word(source: Source, direction: Direction, policies: Policies) -> str:
    """`no-guests: deny kind=guest on anything`, `closed: no rule`, `no policy`."""
    policy = policies.get(source.policy)
    if policy is None:
        return source.policy or "no policy"
    if source.rule == REST:
        return f"{source.policy}: no rule"
    rules = policy.ingress if direction is Direction.INGRESS else policy.egress
    assert rules is not None
    rule = rules[source.rule]
    return f"{source.policy}: {rule.action.value} {format_rule(rule)}"


def format_spans(spans: tuple[Span, ...]) -> str:
    """`tcp/443, udp`, `anything`, `anything but tcp/5432`."""
    rest = tuple(_rest_of(spans))
    if len(rest) >= len(spans):
        return ", ".join(map(_format_span, spans))
    return f"anything but {', '.join(map(_format_span, rest))}" if rest else "anything"


def _rest_of(spans: tuple[Span, ...]) -> Iterator[Span]:
    for protocol, least, most in ANYTHING:
        for _, first, last in (span for span in spans if span[0] == protocol):
            if least < first:
                yield protocol, least, first - 1
            least = last + 1
        if least <= most:
            yield protocol, least, most


def _format_span(span: Span) -> str:
    return "other protocols" if span[0] == OTHERS else format_ports(Ports(*span))


def _urgency(one: tuple[Change | Outward, int]) -> tuple[bool, int]:
    change, flows = one
    return change.flip.allowed, -flows


def _examples(names: set[Name]) -> str:
    first = [f"{node}/{name}" for node, name in nsmallest(EXAMPLES, names)]
    return ", ".join([*first, *([f"+{len(names) - EXAMPLES}"] if len(names) > EXAMPLES else [])])
