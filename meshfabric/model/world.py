"""All that a node knows, as values, and the events that change it.

The world has memory, the compiler has none: numbers of identities, nodes and
workloads are given out here, kept over restarts (`Numbers.items`, `World.pin`)
and given again only after everything else was. An event sets or removes one
thing; where it comes from (store, kernel, a request) makes no difference.

Who feeds events sees to it that no two local workloads share an address or a
device (`agent.workloads`), and that records were checked (`store.checks`).
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from meshfabric.model.addresses import Address, Network
from meshfabric.model.errors import PermanentError
from meshfabric.model.keyring import FIRST, Keyring
from meshfabric.model.labels import Labels, forget_labels
from meshfabric.model.networks import Networks, network_labels
from meshfabric.model.node import Allocation, Endpoint, Link, NodeRecord, RotationRecord, Uplink, Workload
from meshfabric.model.policy import Policy, networks_of
from meshfabric.model.qos import FIRST_OWN_NUMBER, LAST_NUMBER, MAX_OWN, NUMBERS, TrafficClass
from meshfabric.model.selection import Selection
from meshfabric.model.settings import Settings
from meshfabric.model.tables import FIRST_NODE, WORLD
from meshfabric.model.uplinks import FarEnds, count, own_uplinks

FIRST_IDENTITY = 256  # below: kept for meanings that are no label set
LAST_IDENTITY = (1 << 24) - 1


class Kind(Enum):
    """What an event is about; the value is the name of the world's table."""

    PREFIXES = "prefixes"  # key "": tuple[Network, ...]
    EXPOSED = "exposed"  # key "": tuple[Network, ...]
    APISERVERS = "apiservers"  # the same: a network for each address
    ALLOCATION = "allocations"  # node name: Allocation
    NODE = "nodes"  # node name: NodeRecord
    ALIVE = "alive"  # node name: True
    REVOKED = "revoked"  # node name: True
    POLICY = "policies"  # policy name: Policy
    CLASS = "classes"  # class name: TrafficClass, of a document
    ENDPOINT = "endpoints"  # Address: Endpoint
    WORKLOAD = "workloads"  # workload name: Workload
    LINK = "links"  # device name: Link
    KEY = "keys"  # tunnel device: public key
    KEYRING = "keyring"  # key "": Keyring, of this node
    ROTATION = "rotation"  # key "": RotationRecord
    DRAINING = "draining"  # name of an uplink of this node: True
    HEARD = "heard"  # tunnel device, node name: (Address, port) that WireGuard hears the node from
    PACED = "paced"  # device of an uplink: True, where each packet leaves when its time has come (fq)
    CARRIED = "carried"  # tunnel device, node name: bytes of the largest packet, where uplinks promise more


class Event(NamedTuple):
    """`value` None: gone."""

    kind: Kind
    key: Hashable
    value: Any = None


class Numbers:
    """Small numbers for keys: pinned while in use, reused as late as possible.

    Of the numbers `given`, those out of range or given twice are not taken over.
    """

    def __init__(self, first: int, last: int, given: Iterable[tuple[Hashable, int]] = ()) -> None:
        self.first, self.last = first, last
        self.changes = 0
        self._by_key: dict[Hashable, int] = {}
        self._used: set[int] = set()
        for key, number in given:
            if first <= number <= last and number not in self._used and key not in self._by_key:
                self._by_key[key] = number
                self._used.add(number)
        self._next = max(self._used, default=first - 1) + 1

    def __getitem__(self, key: Hashable) -> int:
        """The number of a key that has one."""
        return self._by_key[key]

    def take(self, key: Hashable) -> int:
        """The key's number, a new one if it has none; `PermanentError` when all are in use."""
        number = self._by_key.get(key)
        return self._give(key) if number is None else number

    def find(self, key: Hashable) -> int | None:
        """The key's number, if it has one."""
        return self._by_key.get(key)

    def release(self, key: Hashable) -> None:
        """The key needs its number no longer."""
        number = self._by_key.pop(key, None)
        if number is not None:
            self._used.remove(number)
            self.changes += 1

    def items(self) -> Iterator[tuple[Hashable, int]]:
        """Every key with its number."""
        return iter(self._by_key.items())

    def __len__(self) -> int:
        return len(self._by_key)

    def _give(self, key: Hashable) -> int:
        if len(self._used) > self.last - self.first:
            what = f"all {len(self._used)} numbers are in use"
            raise PermanentError(what, place=str(key), remedy="remove something of its kind first")
        while self._next > self.last or self._next in self._used:
            self._next = self.first if self._next >= self.last else self._next + 1
        number, self._next = self._next, self._next + 1
        self._by_key[key] = number
        self._used.add(number)
        self.changes += 1
        return number


class World:
    """Tables by `Kind`, and the indexes that the compiler reads them through."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.prefixes: dict[str, tuple[Network, ...]] = {}
        self.exposed: dict[str, tuple[Network, ...]] = {}
        self.apiservers: dict[str, tuple[Network, ...]] = {}
        self.allocations: dict[str, Allocation] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.alive: dict[str, bool] = {}
        self.revoked: dict[str, bool] = {}
        self.policies: dict[str, Policy] = {}
        self.classes: dict[str, TrafficClass] = {}
        self.endpoints: dict[Address, Endpoint] = {}
        self.workloads: dict[str, Workload] = {}
        self.links: dict[str, Link] = {}
        self.keys: dict[str, str] = {}
        self.keyring: dict[str, Keyring] = {}
        self.rotation: dict[str, RotationRecord] = {}
        self.draining: dict[str, bool] = {}
        self.heard: dict[tuple[str, str], tuple[Address, int]] = {}
        self.paced: dict[str, bool] = {}
        self.carried: dict[tuple[str, str], int] = {}
        self.identities = Numbers(FIRST_IDENTITY, LAST_IDENTITY)
        self.labels: dict[int, Labels] = {}  # identities, the other way round
        self.node_numbers = Numbers(FIRST_NODE, WORLD - 1)
        self.workload_numbers = Numbers(1, FIRST_NODE - 1)
        self.class_numbers = Numbers(FIRST_OWN_NUMBER, LAST_NUMBER)  # but those of the built-in ones
        self.here: dict[Address, str] = {}  # addresses of local workloads
        self.subjects: Counter[int] = Counter()  # identities of local workloads
        self.selection = Selection()  # policies and labels, by each other
        self.uplinks: tuple[Uplink, ...] = ()  # this node's
        self.far_ends = FarEnds()  # uplinks of the others, of members only
        self._label_uses: Counter[Labels] = Counter()
        self._node_uses: Counter[str] = Counter()
        self._uplink_devices = {uplink.device for uplink in settings.uplinks}
        self._tables: dict[Kind, dict[Any, Any]] = {kind: getattr(self, kind.value) for kind in Kind}

    @property
    def node(self) -> str:
        """This node's name."""
        return self.settings.node

    @property
    def own_keys(self) -> Keyring:
        """The generations of this node's tunnel keys."""
        return self.keyring.get("", FIRST)

    @property
    def numbers_given(self) -> tuple[int, ...]:
        """Differs when any number was given or released since."""
        tables = (self.identities, self.node_numbers, self.workload_numbers, self.class_numbers)
        return tuple(numbers.changes for numbers in tables)

    def get(self, kind: Kind, key: Hashable) -> Any:
        """What is known of one thing, or None."""
        return self._tables[kind].get(key)

    @property
    def networks(self) -> Networks:
        """Those outside of the fabric, which policies name."""
        return self.selection.networks

    def apply(self, event: Event) -> Any:
        """Make it so; returns what was known before, or None.

        Raises `PermanentError`, and does nothing, when there is no number left for it.
        """
        old = self.get(event.kind, event.key)
        self._take_numbers(event)
        reached = self._reached(event)
        self._set(event)
        if event.kind is Kind.POLICY:
            self.selection.replace(old, event.value)
        elif event.kind is Kind.APISERVERS:
            self.networks.reach_apiservers(event.value or ())
        self.far_ends.replace(reached, self._reached(event))
        if event.kind is Kind.DRAINING or (event.kind is Kind.LINK and event.key in self._uplink_devices):
            self.uplinks = own_uplinks(self.settings, self.links, self.draining)
        self._count_uses(event, old)
        return old

    def is_member(self, name: str) -> bool:
        """Whether a node is known, has blocks, and was not revoked."""
        return name in self.nodes and name in self.allocations and name not in self.revoked

    def identity(self, labels: Labels) -> int:
        """The number of a label set in use: each was numbered when it came."""
        return self.identities[labels]

    def class_number(self, name: str) -> int:
        """The number of a class, built in or of a document in force, as it crosses the encryption."""
        number = NUMBERS.get(name)
        return self.class_numbers[name] if number is None else number

    def pin(
        self,
        identities: Iterable[tuple[Labels, int]],
        nodes: Iterable[tuple[str, int]],
        workloads: Iterable[tuple[str, int]],
        classes: Iterable[tuple[str, int]] = (),
    ) -> None:
        """Take over the numbers of an earlier run, before the first event."""
        self.identities = Numbers(FIRST_IDENTITY, LAST_IDENTITY, identities)
        self.node_numbers = Numbers(FIRST_NODE, WORLD - 1, nodes)
        self.workload_numbers = Numbers(1, FIRST_NODE - 1, workloads)
        self.class_numbers = Numbers(FIRST_OWN_NUMBER, LAST_NUMBER, classes)

    def release_unused(self) -> None:
        """After every source has synced: numbers of an earlier run that nothing claimed are free."""
        for numbers, used in (
            (self.identities, self._label_uses),
            (self.node_numbers, self._node_uses),
            (self.workload_numbers, {*self.workloads, self.node}),  # the fabric's `self` stays what it was
            (self.class_numbers, self.classes),
        ):
            for key in [key for key, _ in numbers.items() if key not in used]:
                numbers.release(key)

    def _set(self, event: Event) -> None:
        table = self._tables[event.kind]
        if event.value is None:
            table.pop(event.key, None)
        else:
            table[event.key] = event.value

    def _take_numbers(self, event: Event) -> None:
        new = event.value
        if new is None:
            return
        if event.kind is Kind.WORKLOAD:
            self.workload_numbers.take(event.key)
            self.identities.take(new.labels)
        elif event.kind is Kind.ENDPOINT:
            self._take_node(new.node)
            self.identities.take(new.labels)
        elif event.kind is Kind.NODE:
            self._take_node(str(event.key))
        elif event.kind is Kind.CLASS and event.key not in NUMBERS:
            self._take_class(event.key)
        self._take_networks(networks_named(event.kind, new))

    def _take_networks(self, networks: Iterable[Network]) -> None:
        """Numbers for all of them, or for none."""
        new = [labels for labels in map(network_labels, networks) if self.identities.find(labels) is None]
        try:
            for labels in new:
                self.identities.take(labels)
        except PermanentError:
            for labels in new:
                self.identities.release(labels)
            raise

    def _take_node(self, name: str) -> None:
        if name != self.node:
            self.node_numbers.take(name)

    def _take_class(self, name: Hashable) -> None:
        """There are few: one of an earlier run that nobody claimed yet makes room."""
        if self.class_numbers.find(name) is None and len(self.class_numbers) == MAX_OWN:
            unclaimed = (one for one, _ in self.class_numbers.items() if one not in self.classes)
            self.class_numbers.release(next(unclaimed, None))
        self.class_numbers.take(name)

    def _reached(self, event: Event) -> tuple[Uplink, ...]:
        """The uplinks of another node that is a member: it has blocks, and was not revoked."""
        if event.kind not in (Kind.NODE, Kind.REVOKED, Kind.ALLOCATION) or event.key == self.node:
            return ()
        name = str(event.key)
        return self.nodes[name].uplinks if self.is_member(name) else ()

    def _count_uses(self, event: Event, old: Any) -> None:
        for thing, times in ((event.value, 1), (old, -1)):
            if thing is None:
                continue
            if event.kind is Kind.ENDPOINT:
                self._use_node(thing.node, times)
                self._use_labels(thing.labels, times)
            elif event.kind is Kind.NODE:
                self._use_node(str(event.key), times)
            elif event.kind is Kind.WORKLOAD:
                count(self.subjects, self.identity(thing.labels), times)
                self._use_labels(thing.labels, times)
            for network in networks_named(event.kind, thing):
                self._use_network(network, times)
        if event.kind is Kind.WORKLOAD:
            self._place(event.key, event.value, old)
        elif event.kind is Kind.CLASS and event.value is None:
            self.class_numbers.release(event.key)

    def _use_node(self, name: str, times: int) -> None:
        if name != self.node and not count(self._node_uses, name, times):
            self.node_numbers.release(name)

    def _use_labels(self, labels: Labels, times: int) -> None:
        if count(self._label_uses, labels, times):
            if (number := self.identity(labels)) not in self.labels:
                self.labels[number] = labels
                self.selection.add(number, labels)
        else:
            self.selection.remove(self.identity(labels), labels)
            del self.labels[self.identity(labels)]
            self.identities.release(labels)
            forget_labels(labels)

    def _use_network(self, network: Network, times: int) -> None:
        labels = network_labels(network)
        number = self.identity(labels)
        if not count(self._label_uses, labels, times):
            self.networks.remove(number)
            self.identities.release(labels)
            forget_labels(labels)
        elif number not in self.networks.by_number:
            self.networks.add(number, network)

    def _place(self, name: Hashable, new: Workload | None, old: Workload | None) -> None:
        for address in old.addresses if old else ():
            self.here.pop(address, None)
        if new is None:
            self.workload_numbers.release(name)
        else:
            self.here.update((address, new.name) for address in new.addresses)


def networks_named(kind: Kind, thing: Any) -> list[Network]:
    """The networks that a policy names, or that the API servers are; sorted."""
    if thing is None or kind not in (Kind.POLICY, Kind.APISERVERS):
        return []
    return sorted(networks_of(thing) if kind is Kind.POLICY else set(thing), key=str)
