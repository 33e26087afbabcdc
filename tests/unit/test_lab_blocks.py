"""Cutting address blocks and counting hosts in subnets, against the plain arithmetic of `ipaddress`."""

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.lab import blocks
from meshfabric.model.addresses import Network

_ipv4 = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
_ipv6 = st.builds(
    lambda address, length: IPv6Network((address, length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)
_any = st.one_of(_ipv4, _ipv6)


@given(_any, _any)
def test_overlap_is_that_of_the_standard_library(one: Network, other: Network) -> None:
    same_family = one.version == other.version
    assert blocks.overlap(one, other) == (same_family and one.overlaps(other))


@given(_ipv4, _ipv4)
def test_within_means_every_address(one: IPv4Network, other: IPv4Network) -> None:
    assert blocks.within(one, other) == one.subnet_of(other)


@pytest.mark.parametrize(
    ("prefix", "nodes", "first"),
    [
        ("10.64.0.0/16", 4, "10.64.1.0/24"),
        ("10.64.0.0/16", 300, "10.64.0.128/25"),
        ("10.64.0.0/22", 4, "10.64.0.128/25"),
        ("fd6d:6600::/48", 4, "fd6d:6600:0:1::/64"),
        ("fd6d:6600::/64", 4, "fd6d:6600::1:0/112"),
        ("fd6d:6600::/112", 3, "fd6d:6600::4000/114"),
    ],
)
def test_blocks_have_the_length_that_people_expect(prefix: str, nodes: int, first: str) -> None:
    network = ip_network(prefix)
    assert str(blocks.cut(network, nodes, nodes, [])[0]) == first


@given(
    st.sampled_from(["10.0.0.0/16", "10.0.0.0/20", "fd00::/48", "fd00::/104"]),
    st.integers(1, 20),
    st.lists(st.integers(0, 2**12 - 1), max_size=4),
)
def test_blocks_touch_neither_each_other_nor_what_is_taken(prefix: str, nodes: int, at: list[int]) -> None:
    network = ip_network(prefix)
    grid: list[Network] = list(network.subnets(new_prefix=network.prefixlen + 12))
    taken = [grid[i] for i in at]
    found = blocks.cut(network, nodes, nodes, taken)
    assert len(found) == nodes
    assert blocks.first_overlap([*found, *dict.fromkeys(taken)]) is None
    assert all(blocks.within(block, network) for block in found)
    assert not any(network.network_address in block for block in found)


def test_a_prefix_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/29 is too small for 4 nodes"):
        blocks.cut(ip_network("10.0.0.0/29"), 4, 4, [])


@pytest.mark.parametrize(
    ("subnet", "port", "address"),
    [
        ("172.31.1.0/24", 0, "172.31.1.1/24"),
        ("172.31.1.0/24", 1, "172.31.1.11/24"),
        ("172.31.1.0/29", 1, "172.31.1.2/29"),
        ("fd00:ed::/64", 0, "fd00:ed::1/64"),
        ("fd00:ed::/64", 1, "fd00:ed::11/64"),
    ],
)
def test_ports_are_numbered_from_eleven_where_there_is_room(subnet: str, port: int, address: str) -> None:
    assert str(blocks.host(ip_network(subnet), port)) == address


@given(st.integers(24, 32), st.integers(0, 300))
def test_every_port_of_a_subnet_with_room_has_an_address_of_its_own(length: int, ports: int) -> None:
    subnet = ip_network(f"10.0.0.0/{length}")
    usable = {str(subnet[i]) for i in range(1, subnet.num_addresses - 1)}
    if not blocks.has_room(subnet, ports):
        assert ports + 1 > len(usable)
        return
    given_out = [str(blocks.host(subnet, port).ip) for port in range(ports + 1)]
    assert len(set(given_out)) == ports + 1
    assert set(given_out) <= usable


def test_the_first_overlap_names_the_earlier_one_first() -> None:
    networks = [ip_network(text) for text in ("10.0.0.0/24", "fd00::/64", "10.0.0.128/25")]
    assert blocks.first_overlap(networks) == (0, 2)
    assert blocks.first_overlap(networks[:2]) is None
