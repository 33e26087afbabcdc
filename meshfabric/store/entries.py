"""The records that come by the thousand at most: all but endpoints and marks (pure).

Each is judged against the records before it in `ORDER`, and against the claims
of others. `latest` is the newest that is good in itself, `good` the one in
force: the latest if it may be, else the one before for as long as that may be
and nobody else has come to own what it holds.
"""

from collections.abc import Iterator

import msgspec

from meshfabric.model import qos
from meshfabric.model.addresses import Address, Network, host_prefix, parse_address, prefix_of
from meshfabric.model.errors import InputError
from meshfabric.model.node import Allocation, NodeRecord
from meshfabric.store.checks import Fact, span_of, tunnel_keys
from meshfabric.store.claims import BlockClaims, Claims
from meshfabric.store.keys import Located, RecordKind
from meshfabric.store.refusals import Refusals
from meshfabric.store.rights import NO_GRANT, Grant, Rights, Span, check_covered

ORDER = (
    RecordKind.CONFIG,
    RecordKind.ALLOCATION,
    RecordKind.GRANT,
    RecordKind.NODE,
    RecordKind.POLICY,
    RecordKind.CLASS,
    RecordKind.ROTATION,
)
BY_CONFIG = (RecordKind.ALLOCATION, RecordKind.GRANT, RecordKind.NODE)
CLASS_NUMBER = "class number"
"""What every class that is not built in claims; `qos.MAX_OWN` have one."""


class Entry(msgspec.Struct):
    """One key's two records; `good` None: nothing of it is in force."""

    latest: Fact
    good: Fact | None = None


class Entries:
    """Small tables by kind and name, and what they allow a node to say.

    `rights_changed` and `blocks_changed` tell what endpoints are to be looked
    at again; whoever does so resets them.
    """

    def __init__(self, refusals: Refusals) -> None:
        self.revoked: set[str] = set()
        self.rights_changed: set[str] = set()
        self.blocks_changed = False
        self._refusals = refusals
        self._entries: dict[RecordKind, dict[str, Entry]] = {kind: {} for kind in ORDER}
        self._dirty: dict[RecordKind, set[str]] = {kind: set() for kind in ORDER}
        self._before: dict[Located, Fact | None] = {}
        self._unseen: set[Located] = set()
        self._blocks, self._keys, self._numbers = BlockClaims(), Claims[bytes](), Claims[str]()
        self._spans: tuple[Span, ...] = ()  # of the fabric's prefixes
        self._rights: dict[str, Rights] = {}

    def put(self, key: Located, fact: Fact) -> None:
        """A record that is good in itself; what comes of it shows when all is judged."""
        entry = self._entries[key.kind].get(key.name)
        if entry is None:
            entry = self._entries[key.kind][key.name] = Entry(fact)
        elif entry.latest.record == fact.record:
            return
        entry.latest = fact
        self._dirty[key.kind].add(key.name)
        self._claim(key, entry)

    def delete(self, key: Located) -> None:
        """The store has the key no longer."""
        self._refusals.forget(key)
        entry = self._entries[key.kind].pop(key.name, None)
        if entry is None:
            return
        self._before.setdefault(key, entry.good)
        self._claim(key, None)
        self._changed(key)

    def judge(self) -> None:
        """Decide on everything that changed or that depends on what did."""
        for kind in ORDER:
            while self._dirty[kind]:
                names, self._dirty[kind] = self._dirty[kind], set()
                for name in sorted(names & self._entries[kind].keys()):
                    self._judge(Located(kind, name))

    def changes(self) -> Iterator[tuple[Located, Fact | None, Fact | None]]:
        """Key, before and after, for all in force that changed since this was asked last."""
        before, self._before = self._before, {}
        for key, old in before.items():
            new = self._good(key)
            if new is not old:
                yield key, old, new

    def in_force(self, kind: RecordKind) -> set[str]:
        """The names of those in force."""
        return {name for name, entry in self._entries[kind].items() if entry.good is not None}

    def records(self) -> Iterator[tuple[Located, Fact]]:
        """Every record in force, in the order in which they depend on each other."""
        for kind in ORDER:
            for name in list(self._entries[kind]):
                fact = self._good(Located(kind, name))
                if fact is not None:
                    yield Located(kind, name), fact._replace(revision=self._since(kind, name, fact))

    def begin_listing(self) -> None:
        """From here on `seen` marks what the store still has."""
        self._unseen = {Located(kind, name) for kind in ORDER for name in self._entries[kind]}

    def seen(self, key: Located) -> None:
        """The store still has it."""
        self._unseen.discard(key)

    def end_listing(self) -> None:
        """Drop what the store has no longer."""
        for key in self._unseen:
            self.delete(key)
        self._unseen = set()

    def rights(self, node: str) -> Rights:
        """What a node may say, by the allocation and the grant in force."""
        rights = self._rights.get(node)
        if rights is None:
            rights = self._rights[node] = self._make_rights(node)
        return rights

    def block_owner(self, address: Address) -> str:
        """The node that has the address in a block in force, or nothing."""
        for _, node in self._blocks.on(host_prefix(address)):
            if any(first <= address <= last for first, last in self.rights(node).blocks):
                return node
        return ""

    def _judge(self, key: Located) -> None:
        entry = self._entries[key.kind][key.name]
        why = self._against(key, entry.latest)
        if not why:
            self._refusals.admitted(key)
            self._put_in_force(key, entry, entry.latest)
            return
        self._refusals.waits(key, why)
        if entry.good is not None and (entry.good is entry.latest or self._against(key, entry.good)):
            self._put_in_force(key, entry, None)

    def _put_in_force(self, key: Located, entry: Entry, fact: Fact | None) -> None:
        if fact is entry.good:
            return
        self._before.setdefault(key, entry.good)
        entry.good = fact
        self._claim(key, entry)
        self._changed(key)

    def _changed(self, key: Located) -> None:
        """What is in force of a key is another: who depends on it must be judged again."""
        if key.kind is RecordKind.CONFIG:
            self._spans = tuple(map(span_of, self._prefixes()))
            for kind in BY_CONFIG:
                self._dirty[kind] |= self._entries[kind].keys()
        elif key.kind is RecordKind.ALLOCATION:
            self.blocks_changed = True
        elif key.kind is RecordKind.GRANT:
            self._dirty[RecordKind.NODE].add(key.name)
        if key.kind in (RecordKind.ALLOCATION, RecordKind.GRANT):
            self._rights.pop(key.name, None)
            self.rights_changed.add(key.name)

    def _against(self, key: Located, fact: Fact) -> str:
        """What speaks against a record, given the others; nothing if it may be in force."""
        try:
            match key.kind:
                case RecordKind.ALLOCATION:
                    self._check_allocation(key.name, fact.value)
                case RecordKind.GRANT:
                    self._check_inside(fact.value.pools, "pool")
                case RecordKind.NODE:
                    self._check_node(key.name, fact.value)
                case RecordKind.CLASS:
                    self._check_class(key.name)
        except InputError as cause:
            return str(cause)
        return ""

    def _check_allocation(self, node: str, allocation: Allocation) -> None:
        self._check_inside(allocation.blocks, "block")
        for block in allocation.blocks:
            owner = self._blocks.first(node, prefix_of(block))
            if owner != node:
                remedy = f"take it out of allocations/{node} or allocations/{owner}"
                raise InputError(f"{block} overlaps a block of node {owner}, which is older", remedy=remedy)

    def _check_inside(self, networks: tuple[Network, ...], what: str) -> None:
        for network in networks:
            first, last = span_of(network)
            if not any(start <= first and last <= end for start, end in self._spans):
                raise InputError(f"{what} {network} is in no prefix of the fabric", remedy="see config")

    def _check_node(self, name: str, record: NodeRecord) -> None:
        check_covered(self.rights(name).grant, name, record.labels)
        for text in (text for uplink in record.uplinks for text in uplink.addresses):
            address = parse_address(text)
            if any(first <= address <= last for first, last in self._spans):
                what = f"uplink address {text} is in a prefix of the fabric"
                raise InputError(what, remedy="tunnels run between addresses outside of it")
        for thing in tunnel_keys(record):
            owner = self._keys.first(name, thing)
            if owner != name:
                raise InputError(f"a public key is that of node {owner}", remedy=f"make new keys on {name}")

    def _check_class(self, name: str) -> None:
        if name not in qos.BUILT_IN and not self._numbers.among_first(name, CLASS_NUMBER, qos.MAX_OWN):
            what = f"there are {qos.MAX_OWN} classes already beside those built in"
            raise InputError(what, remedy="delete one of them, or this one")

    def _claim(self, key: Located, entry: Entry | None) -> None:
        """Renew what the writer of a record claims; rivals are judged again."""
        claims = self._claims(key.kind)
        if claims is None:
            return
        latest = _things(entry.latest) if entry else []
        weakly = _things(entry.good) if entry and entry.good else []
        revision = entry.latest.revision if entry else 0
        self._dirty[key.kind] |= claims.claim(key.name, latest, revision, weakly)

    def _claims(self, kind: RecordKind) -> Claims[object] | None:
        tables: dict[RecordKind, Claims[object]] = {
            RecordKind.ALLOCATION: self._blocks,  # type: ignore[dict-item]  # things go where they came from
            RecordKind.NODE: self._keys,  # type: ignore[dict-item]  # likewise
            RecordKind.CLASS: self._numbers,  # type: ignore[dict-item]  # likewise
        }
        return tables.get(kind)

    def _since(self, kind: RecordKind, name: str, fact: Fact) -> int:
        claims = self._claims(kind)
        return fact.revision if claims is None else min(fact.revision, claims.since(name))

    def _good(self, key: Located) -> Fact | None:
        entry = self._entries[key.kind].get(key.name)
        return entry.good if entry else None

    def _prefixes(self) -> tuple[Network, ...]:
        fact = self._good(Located(RecordKind.CONFIG))
        return fact.value if fact else ()

    def _make_rights(self, node: str) -> Rights:
        allocation = self._good(Located(RecordKind.ALLOCATION, node))
        granted = self._good(Located(RecordKind.GRANT, node))
        grant: Grant = granted.value if granted else NO_GRANT
        if allocation is None:
            return Rights(node, grant=grant)
        return Rights(node, allocation.value.addresses, tuple(map(span_of, allocation.value.blocks)), grant)


def _things(fact: Fact) -> list[object]:
    if isinstance(fact.value, Allocation):
        return [prefix_of(block) for block in fact.value.blocks]
    if isinstance(fact.value, qos.TrafficClass):
        return [] if fact.value.name in qos.BUILT_IN else [CLASS_NUMBER]
    return list(tunnel_keys(fact.value))
