"""Before policies are written or deleted: would that cut the fabric's own control traffic?

Asked of the records in etcd, checked as an agent checks them: an operator's machine need not have
an agent, and what counts is what every node will enforce.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from meshfabric.compiler.control import Cut, cuts
from meshfabric.compiler.imagined import Policies, applied
from meshfabric.compiler.parties import People
from meshfabric.compiler.simulation import compare
from meshfabric.model.errors import InputError, PermanentError
from meshfabric.model.node import Endpoint, FabricRecord
from meshfabric.model.policy import Policy
from meshfabric.model.policytext import PolicyText, read_policy
from meshfabric.model.ports import Ports, parse_ports
from meshfabric.model.world import Event, Kind
from meshfabric.observe.changes import format_spans, whose_word
from meshfabric.observe.groups import describe
from meshfabric.store import keys
from meshfabric.store.checks import read_config
from meshfabric.store.client import LATEST, Entry, Etcd
from meshfabric.store.registry import Raw, Registry

REMEDY = "let it through, see docs/policy.md, or say --force if that is meant"


class CutoffError(PermanentError):
    """What was to be written would cut control traffic; nothing was written."""


class Fabric(NamedTuple):
    """What the store has of it that is in force."""

    endpoints: list[Endpoint]
    policies: Policies
    control_ports: tuple[Ports, ...]


async def refuse_cutoff(
    etcd: Etcd, fabric: str, documents: Sequence[PolicyText], deleted: Sequence[str]
) -> None:
    """Raises `CutoffError` if control traffic that passes now would be denied by what is to be written."""
    known, now = await survey(etcd, fabric), datetime.now(UTC)
    before = applied({}, known.policies.values(), (), now)
    after = applied(before, map(read_policy, documents), deleted, now)
    people = People(known.endpoints)
    changes = compare(people, before, after, people.hosts.keys())
    found = list(cuts(people, changes, known.control_ports))
    if found:
        raise _refusal(people, found, after)


async def survey(etcd: Etcd, fabric: str) -> Fabric:
    """Every record below `state/`, and what of it is in force."""
    registry, known = Registry(fabric), dict[tuple[Kind, object], Event]()
    registry.begin_listing()
    control = FabricRecord(()).control_ports
    revision = LATEST
    for prefix in keys.listing_ranges(fabric):
        async for page in etcd.scan(prefix.encode(), revision=revision):
            revision = page.revision
            events = registry.take(Raw(one.key, one.value, one.mod_revision) for one in page.entries)
            known.update(((event.kind, event.key), event) for event in events)
            control = next(map(_control_ports, _configs(fabric, page.entries)), control)
    known.update(((event.kind, event.key), event) for event in registry.end_listing())
    values = [event.value for event in known.values() if event.value is not None]
    endpoints = [value for value in values if isinstance(value, Endpoint)]
    policies = {value.name: value for value in values if isinstance(value, Policy)}
    return Fabric(endpoints, policies, tuple(map(parse_ports, control)))


def _configs(fabric: str, entries: Sequence[Entry]) -> list[bytes]:
    wanted = keys.config_key(fabric).encode()
    return [entry.value for entry in entries if entry.key == wanted]


def _control_ports(config: bytes) -> tuple[str, ...]:
    """Of a record that may be wrong: then agents have none of it, and these are as if it said nothing."""
    try:
        record = msgspec.json.decode(config, type=FabricRecord)
        read_config(record)
    except (msgspec.MsgspecError, InputError):
        record = FabricRecord(())
    return record.control_ports


def _refusal(people: People, found: list[Cut], after: Policies) -> CutoffError:
    """The first of them in words, which names the policy that would deny it."""
    cut, flip = found[0], found[0].change.flip
    ends = " -> ".join(describe(people, group) for group in (cut.senders, cut.receivers))
    word = whose_word(flip.after, flip.direction, after)
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    what = f"it would cut the fabric's own control traffic {ends} on {format_spans(cut.spans)}"
    what += f" ({flip.direction.name.lower()}, {word}){more}"
    return CutoffError(what, place=f"policy {flip.after.policy}", remedy=REMEDY)
