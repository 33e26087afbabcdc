"""Who there is in the fabric, by label set: what a comparison of policies is about.

The workloads of a label set are all the same to policy, but for one thing: the
host of their own node. So they come in one *party*, or towards a host in two:
those that are on its node, and the others. A `Group` of parties is a number with
a bit for each, so that a thousand groups of a thousand parties weigh little.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum

from meshfabric.model.addresses import Address
from meshfabric.model.node import Endpoint, Workload
from meshfabric.model.world import FIRST_IDENTITY

HOST = "host"

Holders = Mapping[Address, Endpoint]
"""Whose each address is, of all nodes."""
Name = tuple[str, str]
"""Of a workload: its node's, and its own there."""
Group = int
"""Bit by bit: the parties that are in it."""


class Near(IntEnum):
    """Which workloads of a label set; to tell them apart, the other end has to be a host."""

    ALL = 0
    OWN = 1
    """On the node of that host."""
    OTHER = 2
    """On other nodes."""


def holders_of(node: str, endpoints: Holders, workloads: Iterable[Workload]) -> Holders:
    """All that a node knows: of its own addresses what is attached is right, and not what the store says."""
    found = {address: one for address, one in endpoints.items() if one.node != node}
    for one in workloads:
        found.update(dict.fromkeys(one.addresses, Endpoint(node, one.name, one.kind, one.labels)))
    return found


def group_of(number: int, near: Near = Near.ALL) -> Group:
    """The group of one party."""
    return 1 << (number - FIRST_IDENTITY) * len(Near) + near


def parties(group: Group) -> Iterator[tuple[int, Near]]:
    """Label set and which of its workloads, for each party of a group."""
    digits = f"{group:b}"[::-1]
    at = digits.find("1")
    while at >= 0:
        yield FIRST_IDENTITY + at // len(Near), Near(at % len(Near))
        at = digits.find("1", at + 1)


class People:
    """The workloads by label set and node, and the hosts. Label sets are numbered in their order."""

    def __init__(self, holders: Iterable[Endpoint]) -> None:
        everyone = list(holders)
        self.labels = dict(enumerate(sorted({one.labels for one in everyone}), FIRST_IDENTITY))
        self.numbers = {labels: number for number, labels in self.labels.items()}
        self.hosts: dict[int, set[str]] = {}  # nodes by the label set of their host
        self._names: dict[int, dict[str, set[str]]] = {number: {} for number in self.labels}
        self._here: dict[str, set[int]] = {}
        for one in everyone:
            number = self.numbers[one.labels]
            self._names[number].setdefault(one.node, set()).add(one.workload)
            self._here.setdefault(one.node, set()).add(number)
            if one.kind == HOST:
                self.hosts.setdefault(number, set()).add(one.node)
        self._host_of = {node: number for number, nodes in self.hosts.items() for node in nodes}

    def neighbours(self, number: int) -> set[int]:
        """Those whose own host it is, and the hosts of the nodes where it has workloads."""
        found = {self._host_of[node] for node in self._names[number] if node in self._host_of}
        return found.union(*(self._here[node] for node in self.hosts.get(number, ())))

    def nears(self, number: int, other: int) -> list[Near]:
        """The parties of a label set that there are towards another one."""
        nodes, hosts = self._names[number].keys(), self.hosts.get(other, set())
        if not nodes & hosts or self.is_alone(number, other):
            return [Near.ALL]
        return [Near.OWN, Near.OTHER] if nodes - hosts else [Near.OWN]

    def groups(self, one: Endpoint, other: Endpoint) -> Group:
        """The parties that a workload is in, towards another one."""
        number, facing = self.numbers[one.labels], self.numbers[other.labels]
        is_own = one.node in self.hosts.get(facing, ())
        return group_of(number) | group_of(number, Near.OWN if is_own else Near.OTHER)

    def near_hosts(self, group: Group) -> Group:
        """The parties that have workloads on the nodes of these hosts, without the hosts."""
        hosts = [number for number, _ in parties(group) if number in self.hosts]
        found = set().union(*(self._here[node] for number in hosts for node in self.hosts[number]))
        return sum(group_of(number) | group_of(number, Near.OWN) for number in found - self.hosts.keys())

    def workloads(self, group: Group, others: Group) -> set[Name]:
        """Everyone of a group, if the others are the other end."""
        far = [self.hosts.get(number, set()) for number, _ in parties(others)]
        some, each = set().union(*far), set.intersection(*far)
        found: set[Name] = set()
        for number, near in parties(group):
            for node, names in self._names[number].items():
                if near is Near.ALL or (node in some if near is Near.OWN else node not in each):
                    found |= {(node, name) for name in names}
        return found

    def all_workloads(self, group: Group) -> set[Name]:
        """Everyone of a group, wherever the other end is."""
        found = (self._names[number] for number, _ in parties(group))
        return {(node, name) for by_node in found for node, names in by_node.items() for name in names}

    def is_alone(self, number: int, other: int) -> bool:
        """A workload says nothing to itself: whatever policy says of that, it is nothing of its own."""
        return number == other and sum(map(len, self._names[number].values())) == 1
