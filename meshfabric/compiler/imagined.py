"""Worlds of no node: everybody's label sets, and policies that are, or that might be."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from meshfabric.compiler.parties import People
from meshfabric.model.addresses import ADDRESS_BITS
from meshfabric.model.labels import matches
from meshfabric.model.node import Endpoint, NodeKind
from meshfabric.model.policy import Policy, in_force
from meshfabric.model.settings import EtcdSettings, Settings
from meshfabric.model.tables import Direction
from meshfabric.model.world import Event, Kind, World

NO_NODE = Settings("", "", NodeKind.METAL, EtcdSettings(()), ())
ADDRESS_BYTES = ADDRESS_BITS // 8

Policies = Mapping[str, Policy]


def applied(
    policies: Policies, documents: Iterable[Policy], deleted: Iterable[str], now: datetime
) -> dict[str, Policy]:
    """The policies in force once these documents were written and those deleted."""
    after = dict(policies)
    for name in deleted:
        after.pop(name, None)
    for document in documents:
        after.pop(document.name, None)
        living = in_force(document, now)
        if living is not None:
            after[document.name] = living
    return after


def imagined(people: People, policies: Policies) -> World:
    """Every label set, under its number, and the policies."""
    world = World(NO_NODE)
    world.pin(((labels, number) for number, labels in people.labels.items()), (), ())
    for number, labels in people.labels.items():
        at = number.to_bytes(ADDRESS_BYTES, "big")
        world.apply(Event(Kind.ENDPOINT, at, Endpoint("", "", "", labels)))
    for name, policy in policies.items():
        world.apply(Event(Kind.POLICY, name, policy))
    return world


def differing(before: Policies, after: Policies) -> list[str]:
    """The names of those that are not the same, sorted."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def selected(people: People, policies: Iterable[Policy], direction: Direction) -> set[int]:
    """The label sets of which a direction is ruled by one of these."""
    name = direction.name.lower()
    selectors = {policy.select for policy in policies if getattr(policy, name) is not None}
    everyone = people.labels.items()
    return {number for number, labels in everyone if any(matches(one, labels) for one in selectors)}


def emptied(table: dict[Any, Any]) -> None:
    """Take everything out, one by one: all at once, no other thread had its turn for some 20 ms."""
    while table:
        table.popitem()
