"""What a node may say: addresses and labels that operators allocated and granted to it (pure).

Also the labels that the fabric itself adds to what a node says, for records out
of the store and for workloads attached here alike.
"""

from collections.abc import Mapping
from typing import NamedTuple

from meshfabric.model.addresses import Address, Network, format_address
from meshfabric.model.errors import InputError
from meshfabric.model.labels import (
    KIND_LABEL,
    NODE_LABEL,
    WORKLOAD_LABEL,
    Labels,
    check_labels,
    is_reserved,
    make_labels,
)
from meshfabric.model.node import EndpointRecord
from meshfabric.model.portnames import port_labels

HOST = "host"
KINDS = ("pod", "vm", HOST)
ANY = "*"
NO_PORTS: Mapping[str, str] = {}

Span = tuple[Address, Address]  # first and last, both included


class Grant(NamedTuple):
    """A checked `GrantRecord`. `spans` are the pools again, to compare addresses with."""

    labels: Mapping[str, frozenset[str]]
    pools: tuple[Network, ...]
    spans: tuple[Span, ...]


NO_GRANT = Grant({}, (), ())


class Rights(NamedTuple):
    """Allocation and grant of one node, as its endpoints are checked against them."""

    node: str
    own: tuple[Address, ...] = ()
    blocks: tuple[Span, ...] = ()
    grant: Grant = NO_GRANT


def endpoint_labels(
    kind: str, node: str, labels: Mapping[str, str], ports: Mapping[str, str] = NO_PORTS
) -> Labels:
    """The identity of a workload: labels as given, with the names of its ports and the fabric's own.

    Only the host's has the names of node and workload in it: with them every
    pod would be an identity of its own. Raises `InputError` for bad labels or
    ports, also for reserved ones among the labels.
    """
    return make_labels(_with_reserved(kind, node, labels, ports))


def check_endpoint_labels(
    kind: str, node: str, labels: Mapping[str, str], ports: Mapping[str, str] = NO_PORTS
) -> None:
    """Whether `endpoint_labels` would do it; keeps nothing."""
    check_labels(_with_reserved(kind, node, labels, ports), "labels")


def _with_reserved(
    kind: str, node: str, labels: Mapping[str, str], ports: Mapping[str, str]
) -> dict[str, str]:
    check_unreserved(labels, "labels")
    more = {**port_labels(ports, "ports"), KIND_LABEL: kind} if ports else {KIND_LABEL: kind}
    if kind == HOST:
        return {**labels, **more, NODE_LABEL: node, WORKLOAD_LABEL: node}
    return {**labels, **more}


def given_labels(labels: Labels) -> dict[str, str]:
    """The labels that `endpoint_labels` was given; `portnames.named_ports` are the ports."""
    return {key: value for key, value in labels if not is_reserved(key)}


def check_given(labels: Mapping[str, str], place: str) -> None:
    """Labels that somebody gave: valid and not reserved, else `InputError`."""
    check_labels(labels, place)
    check_unreserved(labels, place)


def check_unreserved(labels: Mapping[str, str], place: str) -> None:
    """No label of the fabric's own among them, else `InputError`."""
    for key in labels:
        if is_reserved(key):
            raise InputError(f"label {key!r} is the fabric's own", place=place, remedy="leave it out")


def check_covered(grant: Grant, node: str, labels: Mapping[str, str]) -> None:
    """Every label is granted to the node, else `InputError`."""
    anything = grant.labels.get(ANY, frozenset())
    for key, value in labels.items():
        values = grant.labels.get(key, anything)
        if value not in values and ANY not in values and value not in anything and ANY not in anything:
            what = f"label {key}={value} is not granted to node {node}"
            raise InputError(what, remedy=f"add it to grants/{node}")


def is_floating(rights: Rights, address: Address) -> bool:
    """False: in the node's own blocks; True: in a pool granted to it; else `InputError`."""
    if any(first <= address <= last for first, last in rights.blocks):
        return False
    if any(first <= address <= last for first, last in rights.grant.spans):
        return True
    what = f"{format_address(address)} is in no block or pool of node {rights.node}"
    raise InputError(what, remedy=f"see allocations/{rights.node} and grants/{rights.node}")


def check_host(rights: Rights, address: Address, record: EndpointRecord) -> None:
    """The node's own addresses belong to the host, and the host has no others."""
    if (record.kind == HOST) != (address in rights.own):
        what = "is the node's own" if address in rights.own else "is not the node's own"
        remedy = f"the host, and only the host, has the first of each of allocations/{rights.node}"
        raise InputError(f"{format_address(address)} {what} address", remedy=remedy)
    if record.kind == HOST and record.workload != rights.node:
        raise InputError(f"the host of node {rights.node} is called {record.workload!r}")
