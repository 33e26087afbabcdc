"""What a change of policies would cut of the fabric's own control traffic; docs/policy.md tells what that is.

Between the hosts of nodes: ICMP and the control ports, by which operators and their tools reach
a node whose network is in trouble. From a host to the workloads of its own node: everything, as
health checks are. Only what passes now can be cut.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from meshfabric.compiler.parties import Group, People, group_of
from meshfabric.compiler.simulation import Change
from meshfabric.compiler.verdicts import Span
from meshfabric.model.ports import ICMP_TYPES, PROTOCOLS, Ports

ECHOES = tuple(Ports(PROTOCOLS[name]) for name in sorted(ICMP_TYPES))


class Cut(NamedTuple):
    """Control traffic that a change denies."""

    change: Change
    senders: Group
    receivers: Group
    spans: tuple[Span, ...]


def cuts(people: People, changes: Iterable[Change], control_ports: Iterable[Ports]) -> Iterator[Cut]:
    """All that these changes cut, in their order."""
    hosts = sum(map(group_of, people.hosts))
    control = (*ECHOES, *control_ports)
    for change in changes:
        senders = change.senders & hosts
        if change.flip.allowed or not senders:
            continue
        spans = tuple(_common(change.spans, control))
        ends = _apart(senders, change.receivers & hosts)
        if spans and all(ends):
            yield Cut(change, *ends, spans)
        own = change.receivers & people.near_hosts(senders)
        if own:
            yield Cut(change, senders, own, change.spans)


def _apart(senders: Group, receivers: Group) -> tuple[Group, Group]:
    """Without the one that is alone at its end, at the other end: a host says nothing to itself."""
    if _is_one(receivers):
        return senders & ~receivers, receivers
    return senders, receivers & ~senders if _is_one(senders) else receivers


def _is_one(group: Group) -> bool:
    return group & group - 1 == 0


def _common(spans: Iterable[Span], ports: Iterable[Ports]) -> Iterator[Span]:
    """What of the spans is in one of these ranges of ports."""
    wanted = list(ports)
    for protocol, first, last in spans:
        for one in wanted:
            low, high = max(first, one.first), min(last, one.last)
            if one.protocol == protocol and low <= high:
                yield protocol, low, high
