"""Uplinks as the world keeps them: this node's own, and a count of those that they may reach.

Tunnels and the MTU depend on the uplinks of every node. Counting those as
records come and go makes a node event cost the same among ten nodes and a
thousand; what is made of it is `compiler.paths`' business.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_interface
from itertools import product
from typing import Any, NamedTuple

from meshfabric.model.addresses import family_of
from meshfabric.model.node import Link, Uplink
from meshfabric.model.settings import Encryption, Settings, UplinkSettings

ENCRYPTED = 0
"""No port for packets without encryption."""


class Size(NamedTuple):
    """What a tunnel's MTU follows from: the uplink's, in bytes, and the family of the larger header."""

    mtu: int
    family: int


class FarEnds:
    """The uplinks of the other nodes, counted by what depends on them."""

    def __init__(self) -> None:
        self._ends: Counter[tuple[int, str, int, int]] = Counter()  # slot, meeting, family, plain port
        self._sizes: Counter[Size] = Counter()

    def replace(self, old: Iterable[Uplink], new: Iterable[Uplink]) -> None:
        """One node's uplinks were `old` and are `new`."""
        for uplinks, times in ((old, -1), (new, 1)):
            for uplink in uplinks:
                count(self._sizes, size_of(uplink), times)
                for family, port in product(addresses_of(uplink), {ENCRYPTED, uplink.plain_port}):
                    count(self._ends, (uplink.slot, uplink.meeting, family, port), times)

    def reachable(self, uplink: Uplink, slot: int, plain_port: int = ENCRYPTED) -> bool:
        """Whether some node's uplink `slot` meets this one and shares an address family with it, and the port
        for packets without encryption if one is given.
        """
        return any(
            (slot, uplink.meeting, family, plain_port) in self._ends for family in addresses_of(uplink)
        )

    def sizes(self) -> Iterable[Size]:
        """Every size that occurs, once."""
        return self._sizes.keys()


def count(counter: Counter[Any], key: Any, times: int) -> int:
    """Add to a count that is kept only while it is not 0; returns what it is now."""
    left = counter[key] + times
    if left:
        counter[key] = left
    else:
        counter.pop(key, None)
    return left


def own_uplinks(settings: Settings, links: Mapping[str, Link], draining: Iterable[str]) -> tuple[Uplink, ...]:
    """This node's uplinks as configured, ordered and observed; one whose device is missing is left out.

    What goes through a relay is drained along with the uplink by which the relay is reached.
    """
    drained = {slot for name in draining for slot in settings.drained_with(name)}
    return tuple(
        Uplink(
            slot,
            wanted.name,
            wanted.segment,
            _one_of_each(link.addresses),
            link.mtu,
            wanted.cost,
            capacity=wanted.capacity,
            draining=slot in drained,
            plain_port=_plain_port(settings, wanted),
            relay=wanted.relay,
        )
        for slot, wanted in enumerate(settings.uplinks)
        if (link := links.get(wanted.device)) is not None
    )


def addresses_of(uplink: Uplink) -> dict[int, str]:
    """An uplink's address by family, 4 or 6."""
    return {family_of(address): address for address in uplink.addresses}


def size_of(uplink: Uplink) -> Size:
    """The size of an uplink; one without addresses counts as IPv6, to be safe."""
    return Size(uplink.mtu, max(addresses_of(uplink), default=6))


def _plain_port(settings: Settings, wanted: UplinkSettings) -> int:
    return settings.datapath.plain_port if wanted.encryption is Encryption.OFF else ENCRYPTED


def _one_of_each(addresses: Iterable[str]) -> tuple[str, ...]:
    by_family: dict[int, str] = {}
    for interface in map(ip_interface, addresses):
        by_family.setdefault(interface.version, str(interface.ip))
    return tuple(by_family[family] for family in sorted(by_family))
