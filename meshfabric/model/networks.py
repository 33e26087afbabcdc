"""Networks outside of the fabric: those that policies name, and whom a CIDR covers.

Every CIDR that a policy names is a *network*, each of its exceptions is, and each
of the API servers' addresses. A network has a number like a label set, and an
address outside has the number of the smallest network that holds it:

    addresses    198.51.100.7 --longest prefix--> 198.51.100.0/24 --> 257
    peers        198.51.0.0/16 except 198.51.100.0/24 --covers--> 256, not 257

Networks nest or lie apart, and all that a CIDR's text says is a network too. So
a CIDR covers a network whole or not at all, and that is exact.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from ipaddress import IPV4LENGTH, IPV6LENGTH, ip_network

import msgspec

from meshfabric.model.addresses import (
    MAPPED,
    MAPPED_BITS,
    Address,
    Network,
    Prefix,
    contains,
    is_ipv4,
    parse_network,
    prefix_of,
)
from meshfabric.model.errors import InputError
from meshfabric.model.labels import CIDR_LABEL, Labels
from meshfabric.model.uplinks import count

WORLD_IDENTITY = 2
"""Of addresses outside that are in no network."""
EVERYWHERE = (Prefix(MAPPED_BITS, MAPPED + bytes(4)), Prefix(0, bytes(16)))
"""All of IPv4 and all of IPv6, as the datapath keeps them."""
_MAPPED_NETWORK = ip_network((MAPPED + bytes(4), MAPPED_BITS))


_Span = tuple[int, int, int]
"""Family, first address and length: sorted, what holds another comes before it."""


class Cidr(msgspec.Struct, frozen=True):
    """A peer: the addresses outside of the fabric in a network, less those in its exceptions."""

    network: Network
    exceptions: tuple[Network, ...] = ()

    @property
    def networks(self) -> tuple[Network, ...]:
        """All that it names."""
        return (self.network, *self.exceptions)

    def covers(self, network: Network) -> bool:
        """Whether a network lies in it, and in none of the exceptions."""
        return lies_in(network, self.network) and not any(lies_in(network, one) for one in self.exceptions)


class Networks:
    """Networks in use by number, and the numbers that each CIDR of a policy covers.

    Found without asking everyone: what lies in a network stands together when
    all are sorted, and what it lies in begins as it does, at a length that occurs.
    """

    def __init__(self) -> None:
        self.by_number: dict[int, Network] = {}
        self.by_prefix: dict[Prefix, int] = {}
        self.of_apiservers: set[int] = set()
        self._apiservers: frozenset[Network] = frozenset()
        self._uses: Counter[Cidr] = Counter()  # by policies
        self._members: dict[Cidr, set[int]] = {}
        self._asked: dict[_Span, set[Cidr]] = {}  # those with members, by their network
        self._lengths: Counter[int] = Counter()  # of these
        self._sorted: list[tuple[_Span, int]] = []  # all networks, with their numbers

    def add(self, number: int, network: Network) -> None:
        """A network came into use."""
        self.by_number[number] = network
        self.by_prefix[prefix_of(network)] = number
        insort(self._sorted, (span(network), number))
        if network in self._apiservers:
            self.of_apiservers.add(number)
        for cidr in self._asked_around(network):
            if cidr.covers(network):
                self._members[cidr].add(number)

    def remove(self, number: int) -> None:
        """It went out of use."""
        network = self.by_number.pop(number)
        del self.by_prefix[prefix_of(network)]
        del self._sorted[bisect_left(self._sorted, (span(network), number))]
        self.of_apiservers.discard(number)
        for cidr in self._asked_around(network):
            self._members[cidr].discard(number)

    def use(self, cidr: Cidr, times: int) -> None:
        """A policy names it, once more or (-1) no longer."""
        if not count(self._uses, cidr, times) and self._members.pop(cidr, None) is not None:
            at = span(cidr.network)
            self._asked[at].remove(cidr)
            count(self._lengths, cidr.network.prefixlen, -1)
            if not self._asked[at]:
                del self._asked[at]

    def reach_apiservers(self, networks: Iterable[Network]) -> None:
        """These are the API servers' from now on; in use or not yet."""
        self._apiservers = frozenset(networks)
        self.of_apiservers.clear()
        self.of_apiservers |= {one for one, network in self.by_number.items() if network in self._apiservers}

    def members(self, cidr: Cidr) -> Set[int]:
        """The numbers that a CIDR covers; of a policy's a set that goes on to be right."""
        known = self._members.get(cidr)
        if known is not None:
            return known
        found = {number for number in self._inside(cidr.network) if cidr.covers(self.by_number[number])}
        if cidr in self._uses:
            self._members[cidr] = found
            self._asked.setdefault(span(cidr.network), set()).add(cidr)
            self._lengths[cidr.network.prefixlen] += 1
        return found

    def _inside(self, network: Network) -> Iterator[int]:
        """The numbers of all networks that begin in it."""
        version, first, _ = span(network)
        last = int(network.broadcast_address)
        for at in range(bisect_left(self._sorted, ((version, first, 0), 0)), len(self._sorted)):
            (family, begins, _), number = self._sorted[at]
            if (family, begins) > (version, last):
                return
            yield number

    def _asked_around(self, network: Network) -> Iterator[Cidr]:
        """The CIDRs with members whose network holds this one."""
        for length in self._lengths:
            if length <= network.prefixlen:
                yield from self._asked.get(span(network.supernet(new_prefix=length)), ())


def network_labels(network: Network) -> Labels:
    """What a network is numbered by, among label sets. Values of labels have no colons."""
    return ((CIDR_LABEL, network.exploded.replace(":", "-")),)


def span(network: Network) -> _Span:
    """Sorted by this, what holds another comes before it."""
    return network.version, int(network.network_address), network.prefixlen


def place_in_order(address: Address) -> _Span:
    """Behind the spans of all networks that begin no later than this address."""
    if is_ipv4(address):
        return 4, int.from_bytes(address[len(MAPPED) :]), IPV4LENGTH
    return 6, int.from_bytes(address), IPV6LENGTH


def lies_in(inner: Network, outer: Network) -> bool:
    """Whether all of one is in the other; the families are worlds apart."""
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    shift = outer.max_prefixlen - outer.prefixlen
    return int(inner.network_address) >> shift == int(outer.network_address) >> shift


def holds(network: Network, address: Address) -> bool:
    """Whether an address lies in it; IPv4 is in no network of IPv6."""
    return is_ipv4(address) == (network.version == 4) and contains(prefix_of(network), address)


def parse_cidr(text: str, exceptions: Iterable[str] = (), place: str = "") -> Cidr:
    """A network with what is left out of it; raises `InputError`, also for exceptions that lie elsewhere."""
    network = parse_outside(text, place)
    left_out = tuple(sorted({parse_outside(one, place) for one in exceptions}, key=str))
    for one in left_out:
        if not lies_in(one, network) or one == network:
            raise InputError(f"{one} is no part of {network}", place=place, remedy="take the exception out")
    return Cidr(network, left_out)


def parse_outside(text: str, place: str = "") -> Network:
    """A prefix of any length, `::/0` too: the datapath's tables tell IPv4 from it by a longer one."""
    try:
        network = ip_network(text)
    except ValueError:
        return parse_network(text, place)  # which says what is wrong
    if network.version == 6 and network != _MAPPED_NETWORK and lies_in(_MAPPED_NETWORK, network):
        return network
    return parse_network(text, place)
