"""What `compiler.simulation` found, as the rows that people and programs are shown. Pure.

The names of the columns are public; see docs/cli.md.
"""

from collections.abc import Iterable, Iterator
from heapq import nsmallest
from typing import Any

from meshfabric.compiler.cells import REST, Source
from meshfabric.compiler.parties import Group, Holders, Name, People
from meshfabric.compiler.simulation import Change, Policies
from meshfabric.compiler.verdicts import ANYTHING, OTHERS, Span
from meshfabric.model.node import Endpoint
from meshfabric.model.policy import format_rule
from meshfabric.model.ports import PROTOCOLS, Ports, format_ports
from meshfabric.model.tables import Direction, FlowSeen
from meshfabric.observe.flows import format_end
from meshfabric.observe.groups import describe

Row = dict[str, Any]

PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
EXAMPLES = 3
MOST_ROWS = 500
MOST_FLOWS = 100
"""Flows that are shown one by one; all are counted."""
VERDICTS = {True: "allowed", False: "denied"}


class Effects:
    """Changes with the flows that they are about, which are counted as they are told of (`take`)."""

    def __init__(self, people: People, holders: Holders, changes: list[Change]) -> None:
        self._people, self._holders, self._changes = people, holders, changes
        self._between: dict[tuple[Group, Group], list[int]] = {}
        self._counts = [0] * len(changes)
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
        first, second = (self._holders.get(address) for address in flow.addresses)
        if first is None or second is None:
            return None
        protocol = flow.protocol if flow.protocol in PROTOCOL_NAMES else OTHERS
        for at in self._changes_between(first, second):
            spans = self._changes[at].spans
            if any(one == protocol and low <= flow.ports[1] <= high for one, low, high in spans):
                return at
        return None

    def _changes_between(self, first: Endpoint, second: Endpoint) -> list[int]:
        sender, receiver = self._people.groups(first, second), self._people.groups(second, first)
        if (sender, receiver) not in self._between:
            about = (bool(one.senders & sender and one.receivers & receiver) for one in self._changes)
            self._between[sender, receiver] = [at for at, is_about in enumerate(about) if is_about]
        return self._between[sender, receiver]

    def _flow_row(self, flow: FlowSeen, change: Change) -> Row:
        first, second = (self._holders[address] for address in flow.addresses)
        return {
            "from": f"{first.node}/{first.workload}",
            "source": format_end(flow, 0),
            "to": f"{second.node}/{second.workload}",
            "destination": format_end(flow, 1),
            "protocol": PROTOCOL_NAMES.get(flow.protocol, str(flow.protocol)),
            "answered": flow.replied,
            "after": VERDICTS[change.flip.allowed],
        }

    def _row(self, change: Change, flows: int, before: Policies, after: Policies) -> Row:
        flip, (senders, receivers) = change.flip, _workloads(self._people, change)
        return {
            "from": describe(self._people, change.senders),
            "to": describe(self._people, change.receivers),
            "ports": format_spans(change.spans),
            "before": VERDICTS[not flip.allowed],
            "after": VERDICTS[flip.allowed],
            "direction": flip.direction.name.lower(),
            "before_by": whose_word(flip.before, flip.direction, before),
            "after_by": whose_word(flip.after, flip.direction, after),
            "senders": len(senders),
            "receivers": len(receivers),
            "flows": flows,
            "sender_examples": _examples(senders),
            "receiver_examples": _examples(receivers),
        }


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


def _urgency(one: tuple[Change, int]) -> tuple[bool, int, Change]:
    change, flows = one
    return change.flip.allowed, -flows, change


def _examples(names: set[Name]) -> str:
    first = [f"{node}/{name}" for node, name in nsmallest(EXAMPLES, names)]
    return ", ".join([*first, *([f"+{len(names) - EXAMPLES}"] if len(names) > EXAMPLES else [])])
