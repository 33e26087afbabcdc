"""Arithmetic of addresses: blocks cut out of prefixes, hosts counted in subnets (pure)."""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from meshfabric.model.addresses import Network

COMMON_LENGTHS = {4: (24,), 6: (64, 112)}
"""Prefix lengths of a block that people expect, tried in this order."""
LONGEST_LENGTH = {4: 30, 6: 124}
"""A block shorter than this has no room for a node and its workloads."""
FIRST_PORT = {4: 10, 6: 0x10}
"""Ports are counted from here where there is room, so that the first is .11 and ::11."""


def within(inner: Network, outer: Network) -> bool:
    """Whether all of `inner` lies in `outer`; never across families."""
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and int(inner.network_address) >> _host_bits(outer) == int(outer.network_address) >> _host_bits(outer)
    )


def overlap(one: Network, other: Network) -> bool:
    """Whether they share an address (two prefixes do only if one is within the other)."""
    return within(one, other) or within(other, one)


def first_overlap(networks: Sequence[Network]) -> tuple[int, int] | None:
    """The positions of the first two that overlap, the earlier first."""
    for later, network in enumerate(networks):
        for earlier in range(later):
            if overlap(networks[earlier], network):
                return earlier, later
    return None


def first_of_each_family(networks: Sequence[Network]) -> list[tuple[int, Network]]:
    """The first IPv4 and the first IPv6 prefix, with their positions."""
    first: dict[int, tuple[int, Network]] = {}
    for i, network in enumerate(networks):
        first.setdefault(network.version, (i, network))
    return list(first.values())


def cut(prefix: Network, nodes: int, wanted: int, taken: Sequence[Network]) -> list[Network]:
    """The lowest `wanted` equal blocks of `prefix` that touch nothing `taken`.

    Sized so that all `nodes` would have one each; the block with the prefix's
    own number 0 is left out. Raises `ValueError` if there is no room.
    """
    # One more for block 0, and one more for each that is taken and may lie across our grid.
    length = _length(prefix, nodes + len(taken) + 1)
    if length > LONGEST_LENGTH[prefix.version]:
        raise ValueError(f"{prefix} is too small for {nodes} nodes")
    found: list[Network] = []
    for block in _blocks(prefix, length):
        if len(found) == wanted:
            break
        if not any(overlap(block, other) for other in taken):
            found.append(block)
    if len(found) < wanted:
        raise ValueError(f"{prefix} has no room for {wanted} blocks of /{length}")
    return found


def host(subnet: Network, port: int) -> IPv4Interface | IPv6Interface:
    """The address of a port in an underlay subnet, counted from 1; port 0 is the underlay itself."""
    first = FIRST_PORT[subnet.version]
    most = max(_last(subnet) - first, 0)  # ports above this one take the addresses below the first
    offset = first + port if 0 < port <= most else 1 + max(port - most, 0)
    return ip_interface(f"{subnet[offset]}/{subnet.prefixlen}")


def has_room(subnet: Network, ports: int) -> bool:
    """Whether a subnet holds the underlay's own address and one for each port."""
    return 1 + ports <= _last(subnet)


def _last(subnet: Network) -> int:
    """The last usable host number; the one behind it is the broadcast address of IPv4."""
    return subnet.num_addresses - 2


def _length(prefix: Network, blocks: int) -> int:
    needed = prefix.prefixlen + (blocks - 1).bit_length()
    return min((length for length in COMMON_LENGTHS[prefix.version] if length >= needed), default=needed)


def _blocks(prefix: Network, length: int) -> Iterator[Network]:
    blocks = prefix.subnets(new_prefix=length)
    next(blocks)
    yield from blocks


def _host_bits(network: Network) -> int:
    return network.max_prefixlen - network.prefixlen
