"""The endpoints in force, by address (pure).

    record --rights--> in an own block ----------------> in force
                  \\-> in a pool -> claim -> earliest? --/
                   \\-> neither: waits (store.refusals)

There may be fifty thousand: what is in force is kept once, as the world's own
`Endpoint`, without the record it came from. `store.entries` knows what a node
may say, `store.claims` who has a floating address.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

import msgspec

from meshfabric.model.addresses import Address, format_address
from meshfabric.model.errors import InputError
from meshfabric.model.node import Endpoint, EndpointRecord
from meshfabric.model.portnames import named_ports
from meshfabric.store.checks import read_record
from meshfabric.store.claims import Claim, holder_of, renewed
from meshfabric.store.keys import Located, RecordKind, Refusal
from meshfabric.store.refusals import Refusals
from meshfabric.store.rights import (
    KINDS,
    Rights,
    check_covered,
    check_endpoint_labels,
    check_host,
    endpoint_labels,
    given_labels,
    is_floating,
)

MAX_ENDPOINTS_OF_NODE = 8192
"""Two addresses for each of the 4,095 workloads that a node has numbers for, and for itself."""

_KINDS = {kind: kind for kind in KINDS}  # one object for each text


class Law(Protocol):
    """What endpoints are checked against."""

    @property
    def revoked(self) -> Collection[str]:
        """Nodes that are cut off."""

    def rights(self, node: str) -> Rights:
        """What a node may say."""

    def block_owner(self, address: Address) -> str:
        """The node in whose blocks the address is, or nothing."""


class _Note(NamedTuple):
    """What a record says beyond its `Endpoint`, where that is out of the ordinary."""

    handoff_to: str
    min_version: int


_ORDINARY = _Note("", 1)


class Endpoints:
    """Addresses in force and claims on floating ones; `dirty` names nodes whose rights changed."""

    def __init__(self, law: Law, refusals: Refusals) -> None:
        self.in_force: dict[Address, Endpoint] = {}
        self.dirty: set[str] = set()
        self._law, self._refusals = law, refusals
        self._floating: dict[Address, dict[str, Claim]] = {}
        self._notes: dict[Address, _Note] = {}
        self._counts: Counter[str] = Counter()
        self._before: dict[Address, Endpoint | None] = {}
        self._unseen: set[Address] = set()  # in own blocks: the address tells the key
        self._unseen_keys: set[Located] = set()

    def put(self, key: Located, record: EndpointRecord, value: bytes, revision: int) -> None:
        """A record that is good in itself comes in force, or waits as `value`."""
        try:
            self._admit(key, record, revision)
        except InputError as cause:
            self._refusals.waits(key, str(cause), value, revision)
        else:
            self._refusals.admitted(key)

    def delete(self, key: Located) -> None:
        """The store has the key no longer."""
        self._refusals.forget(key)
        if self._counts[key.name] >= MAX_ENDPOINTS_OF_NODE:
            self.dirty.add(key.name)  # another one may have waited for the room
        self._drop(key)

    def recheck(self, blocks_changed: bool) -> None:
        """Look again at everything that the nodes in `dirty` wrote, and at every floating address.

        All is taken out before any is put back: what may no longer be must not
        stand in the way of what now may.
        """
        nodes, self.dirty = self.dirty, set()
        if not nodes and not blocks_changed:
            return
        keys = [*self._own(nodes), *self._claimed(None if blocks_changed else nodes)]
        for key, claim in [(key, self._drop(key)) for key in keys]:
            if claim is not None:
                self._readmit(key, claim)
        for key, value, revision in self._refusals.waiting_values():
            concerned = key.name in nodes or (blocks_changed and self._has_pools(key.name))
            if concerned and key.kind is RecordKind.ENDPOINT:
                self._retry(key, value, revision)

    def recheck_revoked(self, node: str) -> None:
        """A node was cut off, or let in again: its floating addresses may go over."""
        for address in [address for address, claims in self._floating.items() if node in claims]:
            self._resolve(address)

    def changes(self) -> Iterator[tuple[Address, Endpoint | None, Endpoint | None]]:
        """Address, before and after, for all that changed since this was asked last."""
        before, self._before = self._before, {}
        for address, old in before.items():
            new = self.in_force.get(address)
            if new != old:
                yield address, old, new
            elif old is not None:
                self.in_force[address] = old  # the world holds this very object

    def records(self) -> Iterator[tuple[Located, EndpointRecord, int]]:
        """Every record in force and every claim; revisions where they matter. It may all change meanwhile."""
        for address in list(self.in_force):
            endpoint = self.in_force.get(address)
            if endpoint is not None and address not in self._floating:
                yield Located(RecordKind.ENDPOINT, endpoint.node, address), self._record(address, endpoint), 0
        for key in list(self._claimed(None)):
            claim = self._floating.get(key.address, {}).get(key.name)
            if claim is not None:
                yield key, claim.record, claim.since

    def begin_listing(self) -> None:
        """From here on `seen` marks what the store still has."""
        self._unseen = self.in_force.keys() - self._floating.keys()
        self._unseen_keys = set(self._claimed(None))

    def seen(self, key: Located) -> None:
        """The store still has it."""
        endpoint = self.in_force.get(key.address)
        if endpoint is not None and endpoint.node == key.name:
            self._unseen.discard(key.address)
        self._unseen_keys.discard(key)

    def end_listing(self) -> None:
        """Drop what the store has no longer."""
        gone = [Located(RecordKind.ENDPOINT, self.in_force[one].node, one) for one in self._unseen]
        for key in [*gone, *self._unseen_keys]:
            self.delete(key)
        self._unseen, self._unseen_keys = set(), set()

    def _admit(self, key: Located, record: EndpointRecord, revision: int) -> None:
        rights = self._law.rights(key.name)
        floating = is_floating(rights, key.address)
        check_host(rights, key.address, record)
        check_covered(rights.grant, key.name, record.labels)
        if not self._has(key) and self._counts[key.name] >= MAX_ENDPOINTS_OF_NODE:
            raise InputError(f"node {key.name} has {MAX_ENDPOINTS_OF_NODE} endpoints, which is the most")
        if floating:
            self._claim(key, record, revision)
        else:
            self._occupy(key, rights.node, record)

    def _occupy(self, key: Located, node: str, record: EndpointRecord) -> None:
        endpoint = _endpoint(node, record)
        old = self._touch(key.address)
        self._counts[node] += old is None
        if endpoint != old:
            self.in_force[key.address] = endpoint
        note = _Note(record.handoff_to, record.min_version)
        self._notes.pop(key.address, None)
        if note != _ORDINARY:
            self._notes[key.address] = note

    def _claim(self, key: Located, record: EndpointRecord, revision: int) -> None:
        owner = self._law.block_owner(key.address)
        if owner:
            raise InputError(f"{format_address(key.address)} is in a block of node {owner}")
        check_endpoint_labels(record.kind, key.name, record.labels, record.ports)
        claims = self._floating.setdefault(key.address, {})
        self._counts[key.name] += key.name not in claims
        claims[key.name] = renewed(claims.get(key.name), record, revision)
        self._resolve(key.address)

    def _resolve(self, address: Address) -> None:
        """Who of those that claim a floating address has it."""
        old = self._touch(address)
        claims = self._floating[address]
        if not claims:
            del self._floating[address]
            self.in_force.pop(address, None)
            return
        holder = holder_of(claims, self._law.revoked)
        endpoint = _endpoint(self._law.rights(holder).node, claims[holder].record)
        if endpoint != old:
            self.in_force[address] = endpoint
        for node, claim in claims.items():
            why = "" if node == holder else f"node {holder} has the address and does not hand it to {node}"
            if why and claim.record.handoff_to == holder:
                why = f"handed over to node {holder}: to be deleted"
            self._refusals.contested(Located(RecordKind.ENDPOINT, node, address), why)

    def _drop(self, key: Located) -> Claim | None:
        """Take a key out of force; returns what it said, or None if it was not in force."""
        if not self._has(key):
            return None
        self._counts[key.name] -= 1
        claims = self._floating.get(key.address)
        if claims is not None:
            claim = claims.pop(key.name)
            self._refusals.contested(key, "")
            self._resolve(key.address)
            return claim
        claim = Claim(self._record(key.address, self.in_force[key.address]), 0)
        self._touch(key.address)
        del self.in_force[key.address]
        self._notes.pop(key.address, None)
        if key.address in self._unseen:  # it may come back as another's
            self._unseen.discard(key.address)
            self._unseen_keys.add(key)
        return claim

    def _readmit(self, key: Located, claim: Claim) -> None:
        try:
            self._admit(key, claim.record, claim.since)
        except InputError as cause:
            if not self._refusals.has_waiting(key):
                self._refusals.waits(key, str(cause), msgspec.json.encode(claim.record), claim.since)

    def _retry(self, key: Located, value: bytes, revision: int) -> None:
        fact = read_record(key, value, revision)
        if not isinstance(fact, Refusal):
            self.put(key, fact.record, value, revision)

    def _has(self, key: Located) -> bool:
        claims = self._floating.get(key.address)
        if claims is not None:
            return key.name in claims
        endpoint = self.in_force.get(key.address)
        return endpoint is not None and endpoint.node == key.name

    def _has_pools(self, node: str) -> bool:
        return bool(self._law.rights(node).grant.pools)

    def _own(self, nodes: Collection[str]) -> Iterator[Located]:
        """Keys of these nodes that are in force and not floating."""
        for address, endpoint in self.in_force.items() if nodes else ():
            if endpoint.node in nodes and address not in self._floating:
                yield Located(RecordKind.ENDPOINT, endpoint.node, address)

    def _claimed(self, nodes: Collection[str] | None) -> Iterator[Located]:
        """Keys of these nodes, or of all, that claim a floating address."""
        for address, claims in list(self._floating.items()):
            for node in list(claims):
                if nodes is None or node in nodes:
                    yield Located(RecordKind.ENDPOINT, node, address)

    def _record(self, address: Address, endpoint: Endpoint) -> EndpointRecord:
        """The record that an endpoint in an own block came from."""
        note = self._notes.get(address, _ORDINARY)
        return EndpointRecord(
            endpoint.workload,
            endpoint.kind,
            given_labels(endpoint.labels),
            endpoint.epoch,
            note.handoff_to,
            min_version=note.min_version,
            ports=named_ports(endpoint.labels),
        )

    def _touch(self, address: Address) -> Endpoint | None:
        old = self.in_force.get(address)
        self._before.setdefault(address, old)
        return old


def _endpoint(node: str, record: EndpointRecord) -> Endpoint:
    labels = endpoint_labels(record.kind, node, record.labels, record.ports)
    return Endpoint(node, record.workload, _KINDS[record.kind], labels, record.epoch)
