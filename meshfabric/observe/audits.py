"""What policies in audit would have stopped, as rows that people are shown (pure).

Conversations are told one by one; what differs in nothing but the port that asked
is one row, with a count.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

from meshfabric.compiler.policies import is_ruled
from meshfabric.model.addresses import format_address
from meshfabric.model.policy import Mode
from meshfabric.model.ports import MAX_PORT, PROTOCOLS, Ports, format_ports
from meshfabric.model.tables import AuditRecord
from meshfabric.model.world import World

KEPT = 1000
_KNOWN = frozenset(PROTOCOLS.values())


class Seen(NamedTuple):
    """How often, and when first and last, in ISO 8601."""

    times: int
    first: str
    last: str


class Audits:
    """The last `KEPT` kinds of conversation, the latest at the end."""

    def __init__(self) -> None:
        self._seen: OrderedDict[AuditRecord, Seen] = OrderedDict()

    def add(self, record: AuditRecord, now: str) -> bool:
        """Note one; whether it is of a kind that was not known."""
        seen = self._seen.pop(record, None)
        self._seen[record] = seen._replace(times=seen.times + 1, last=now) if seen else Seen(1, now, now)
        if len(self._seen) > KEPT:
            self._seen.popitem(last=False)
        return seen is None

    def rows(self, world: World) -> list[dict[str, Any]]:
        """The latest first."""
        return [_row(world, record, seen) for record, seen in reversed(self._seen.items())]


def describe(world: World, record: AuditRecord) -> str:
    """One line for a journal."""
    row = _row(world, record, Seen(1, "", ""))
    policies = row["policies"] or "none now"
    return f"{row['from']} to {row['to']} on {row['what']}: {row['direction']} by {policies}"


def _row(world: World, record: AuditRecord, seen: Seen) -> dict[str, Any]:
    return {
        "last": seen.last,
        "first": seen.first,
        "count": seen.times,
        "direction": record.direction.name.lower(),
        "from": _who(world, record.source),
        "to": _who(world, record.destination),
        "what": _what(record),
        "policies": ", ".join(_policies(world, record)),
    }


def _who(world: World, address: bytes) -> str:
    endpoint = world.endpoints.get(address)
    name = world.here.get(address) or (endpoint.workload if endpoint else "")
    return f"{name} {format_address(address)}".lstrip()


def _what(record: AuditRecord) -> str:
    if record.protocol not in _KNOWN:
        return f"protocol {record.protocol}"
    return format_ports(Ports(record.protocol, record.port, min(record.port, MAX_PORT)))


def _policies(world: World, record: AuditRecord) -> list[str]:
    """Those in audit that rule the side which would have denied it, as they are now."""
    egress = record.direction.name == "EGRESS"
    labels = world.labels.get(record.source_identity if egress else record.destination_identity)
    names = sorted(world.selection.policies(labels)) if labels is not None else []
    found = ((name, world.policies[name]) for name in names)
    return [name for name, one in found if one.mode is Mode.AUDIT and is_ruled(one, record.direction)]
