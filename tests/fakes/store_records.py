"""A store in a dict, a node that follows it, and a slow twin of the registry.

The twin looks at all records at once and compares everything with everything:
it says what must be in force, whatever way led there. It knows one version of
each key, so nothing of "the last good one stays".
"""

from base64 import b64encode
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from meshfabric.model import qos
from meshfabric.model.addresses import format_address
from meshfabric.model.errors import InputError
from meshfabric.model.node import Endpoint, NodeKind
from meshfabric.model.settings import EtcdSettings, Settings
from meshfabric.model.world import Event, Kind, World
from meshfabric.store import checks
from meshfabric.store.keys import Located, RecordKind, Refusal, parse_key, path_of
from meshfabric.store.registry import Raw, Registry, endpoint_labels

FABRIC = "f"
STATE = f"/meshfabric/v1/{FABRIC}/state/"
TABLES = (
    Kind.PREFIXES,
    Kind.ALLOCATION,
    Kind.NODE,
    Kind.ALIVE,
    Kind.REVOKED,
    Kind.POLICY,
    Kind.CLASS,
    Kind.ENDPOINT,
)


def settings(node: str = "me") -> Settings:
    """Settings of a node that has nothing of its own."""
    return Settings(FABRIC, node, NodeKind.VM, EtcdSettings(()), (), state_dir=Path("/nowhere"))


def public_key(number: int) -> str:
    """A tunnel's public key, another one for each number."""
    return b64encode(bytes([number + 1]) * checks.KEY_BYTES).decode()


def raw(path: str, value: Any, revision: int = 1) -> Raw:
    """A record by its key below `state/`; bytes as they are, everything else as JSON."""
    return Raw(
        (STATE + path).encode(), value if isinstance(value, bytes) else msgspec.json.encode(value), revision
    )


def gone(path: str) -> Raw:
    """The deletion of a key below `state/`."""
    return Raw((STATE + path).encode(), None)


def node_value(name: str, *keys: int, labels: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    """A node's record with one uplink, and a tunnel for each numbered public key."""
    tunnels = [
        {"local": 0, "remote": i, "public_key": public_key(key), "port": 51820 + i}
        for i, key in enumerate(keys)
    ]
    uplink = {"slot": 0, "name": "up0", "segment": "red", "addresses": ["192.0.2.1"], "mtu": 1500}
    return {
        "name": name,
        "kind": "vm",
        "labels": labels or {},
        "uplinks": [uplink],
        "tunnels": tunnels,
    } | fields


def endpoint_value(workload: str = "w", kind: str = "pod", **fields: Any) -> dict[str, Any]:
    """An endpoint's record."""
    return {"workload": workload, "kind": kind} | fields


class Follower:
    """A registry and the world that its events make; every event must change something."""

    def __init__(self, node: str = "me") -> None:
        self.registry = Registry(FABRIC)
        self.world = World(settings(node))

    def apply(self, events: Iterable[Event]) -> list[Event]:
        """Into the world; returns the events."""
        listed = list(events)
        for event in listed:
            old = self.world.apply(event)
            assert old != event.value, event
        return listed

    def take(self, *batch: Raw) -> list[Event]:
        """One batch."""
        return self.apply(self.registry.take(batch))

    def list(self, *records: Raw) -> list[Event]:
        """A whole listing, a page for each record."""
        self.registry.begin_listing()
        events = [event for record in records for event in self.take(record)]
        return events + self.apply(self.registry.end_listing())

    def tables(self) -> dict[Kind, dict[Any, Any]]:
        """What the world has from the store."""
        return {kind: dict(getattr(self.world, kind.value)) for kind in TABLES}

    def endpoints(self) -> dict[str, str]:
        """Address to node, as text."""
        return {format_address(address): one.node for address, one in sorted(self.world.endpoints.items())}


class Twin(NamedTuple):
    """What is in force and which keys are not, by the slow way."""

    tables: dict[Kind, dict[Any, Any]]
    refused: set[str]


def twin(records: Iterable[Raw]) -> Twin:
    """Judge each record against all others."""
    facts, refused = _facts(records)
    slow = _Slow(facts)
    tables = slow.tables()
    return Twin(tables, refused | slow.refused)


def _facts(records: Iterable[Raw]) -> tuple[dict[Located, checks.Fact], set[str]]:
    facts: dict[Located, checks.Fact] = {}
    refused = set()
    for record in records:
        key = parse_key(FABRIC, record.key)
        if isinstance(key, Refusal):
            refused.add(record.key.decode())
            continue
        if key.kind in (RecordKind.ALIVE, RecordKind.REVOKED):
            facts[key] = checks.Fact(None, True, record.revision)
            continue
        fact = checks.read_record(key, record.value or b"", record.revision)
        if isinstance(fact, Refusal):
            refused.add(path_of(key))
        else:
            facts[key] = fact
    return facts, refused


class _Slow:
    def __init__(self, facts: dict[Located, checks.Fact]) -> None:
        self._facts = facts
        self.refused: set[str] = set()
        config = facts.get(Located(RecordKind.CONFIG))
        self._prefixes = config.value if config else ()
        self._allocations = self._of(RecordKind.ALLOCATION, self._allocation_fits)
        self._grants = self._of(RecordKind.GRANT, lambda _, fact: all(map(self._inside, fact.value.pools)))
        self._nodes = self._of(RecordKind.NODE, self._node_fits)

    def tables(self) -> dict[Kind, dict[Any, Any]]:
        return {
            Kind.PREFIXES: {"": self._prefixes} if self._prefixes else {},
            Kind.ALLOCATION: self._allocations,
            Kind.NODE: self._nodes,
            Kind.ALIVE: self._of(RecordKind.ALIVE, lambda *_: True),
            Kind.REVOKED: self._of(RecordKind.REVOKED, lambda *_: True),
            Kind.POLICY: self._of(RecordKind.POLICY, lambda *_: True),
            Kind.CLASS: self._of(RecordKind.CLASS, self._class_fits),
            Kind.ENDPOINT: self._endpoints(),
        }

    def _of(self, kind: RecordKind, fits: Any) -> dict[str, Any]:
        found = {}
        for key, fact in self._facts.items():
            if key.kind is kind and fits(key, fact):
                found[key.name] = fact.value
            elif key.kind is kind:
                self.refused.add(path_of(key))
        return found

    def _rivals(self, key: Located) -> list[tuple[int, str, checks.Fact]]:
        return [
            (fact.revision, other.name, fact)
            for other, fact in self._facts.items()
            if other.kind is key.kind and other.name != key.name
        ]

    def _inside(self, network: Any) -> bool:
        return any(
            network.version == prefix.version and network.subnet_of(prefix) for prefix in self._prefixes
        )

    def _allocation_fits(self, key: Located, fact: checks.Fact) -> bool:
        for revision, name, other in self._rivals(key):
            overlap = any(
                one.version == two.version and one.overlaps(two)
                for one in fact.value.blocks
                for two in other.value.blocks
            )
            if overlap and (revision, name) < (fact.revision, key.name):
                return False
        return all(map(self._inside, fact.value.blocks))

    def _node_fits(self, key: Located, fact: checks.Fact) -> bool:
        keys = set(checks.tunnel_keys(fact.value))
        for revision, name, other in self._rivals(key):
            if keys & set(checks.tunnel_keys(other.value)) and (revision, name) < (fact.revision, key.name):
                return False
        addresses = [text for uplink in fact.value.uplinks for text in uplink.addresses]
        return self._granted(key.name, fact.value.labels) and not any(map(self._in_fabric, addresses))

    def _class_fits(self, key: Located, fact: checks.Fact) -> bool:
        """Few have a number beside those built in: the first that came."""
        own = [one for one in self._rivals(key) if one[1] not in qos.BUILT_IN]
        before = [name for at, name, _ in own if (at, name) < (fact.revision, key.name)]
        return key.name in qos.BUILT_IN or len(before) < qos.MAX_OWN

    def _in_fabric(self, text: str) -> bool:
        return any(_holds(prefix, text) for prefix in self._prefixes)

    def _granted(self, node: str, labels: dict[str, str]) -> bool:
        grant = self._grants.get(node)
        allowed = grant.labels if grant else {}
        return all(
            {value, "*"} & (allowed.get(key, frozenset()) | allowed.get("*", frozenset()))
            for key, value in labels.items()
        )

    def _endpoints(self) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        claims: dict[bytes, dict[str, checks.Fact]] = {}
        for key, fact in self._facts.items():
            if key.kind is not RecordKind.ENDPOINT:
                continue
            place = self._place(key, fact.record)
            if place == "own":
                found[key.address] = _endpoint(key.name, fact.record)
            elif place == "pool":
                claims.setdefault(key.address, {})[key.name] = fact
            else:
                self.refused.add(path_of(key))
        for address, claimants in claims.items():
            holder = self._holder(claimants)
            found[address] = _endpoint(holder, claimants[holder].record)
            losers = claimants.keys() - {holder}
            self.refused |= {path_of(Located(RecordKind.ENDPOINT, name, address)) for name in losers}
        return found

    def _place(self, key: Located, record: Any) -> str:
        text = format_address(key.address)
        own = self._allocations.get(key.name)
        is_own = own is not None and key.address in own.addresses
        if (record.kind == "host") != is_own or (is_own and record.workload != key.name):
            return ""
        if not self._granted(key.name, record.labels) or not _labels_fit(key.name, record):
            return ""
        if own and any(_holds(block, text) for block in own.blocks):
            return "own"
        grant = self._grants.get(key.name)
        taken = any(_holds(block, text) for one in self._allocations.values() for block in one.blocks)
        pooled = grant is not None and any(_holds(pool, text) for pool in grant.pools)
        return "pool" if pooled and not taken else ""

    def _holder(self, claims: dict[str, checks.Fact]) -> str:
        """Follow the hand-overs from the earliest claim."""
        revoked = {key.name for key in self._facts if key.kind is RecordKind.REVOKED}
        upheld = {name: fact for name, fact in claims.items() if name not in revoked} or claims
        _, node = min((fact.revision, name) for name, fact in upheld.items())
        for _ in claims:
            record = upheld[node].record
            target = upheld.get(record.handoff_to)
            if target and target.record.epoch > record.epoch:
                node = record.handoff_to
        return node


def _holds(network: Any, text: str) -> bool:
    return ip_address(text) in network


def _labels_fit(node: str, record: Any) -> bool:
    try:
        _endpoint(node, record)
    except InputError:
        return False
    return True


def _endpoint(node: str, record: Any) -> Any:
    labels = endpoint_labels(record.kind, node, record.labels)
    return Endpoint(node, record.workload, record.kind, labels, record.epoch)
