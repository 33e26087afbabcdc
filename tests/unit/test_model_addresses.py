"""Addresses and prefixes against the standard library, which keeps the families apart."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.addresses import (
    MAPPED,
    Network,
    contains,
    family_of,
    format_address,
    format_prefix,
    host_prefix,
    is_ipv4,
    mask_of,
    parse_address,
    parse_network,
    prefix_of,
)
from meshfabric.model.errors import InputError

LEAST_IPV6 = 1 << 64  # above ::/64, so that no example is an IPv4-mapped address

ipv4 = st.ip_addresses(v=4)
ipv6 = st.integers(LEAST_IPV6, (1 << 128) - 1).map(IPv6Address)
addresses = ipv4 | ipv6


def _network(address: IPv4Address | IPv6Address, length: int) -> Network:
    return ip_network((address, length), strict=False)


networks = st.builds(_network, ipv4, st.integers(0, 32)) | st.builds(_network, ipv6, st.integers(64, 128))


@given(addresses)
def test_an_address_is_16_bytes_and_back(address: IPv4Address | IPv6Address) -> None:
    packed = parse_address(str(address))
    assert len(packed) == 16
    assert format_address(packed) == str(address)
    assert is_ipv4(packed) == (address.version == 4)
    assert family_of(str(address)) == address.version
    assert packed.endswith(address.packed)


def test_both_spellings_of_an_ipv4_address_are_one() -> None:
    assert parse_address("::ffff:10.0.0.1") == parse_address("10.0.0.1") == MAPPED + bytes([10, 0, 0, 1])


@given(networks)
def test_a_prefix_is_its_text_and_back(network: Network) -> None:
    prefix = prefix_of(parse_network(str(network)))
    assert format_prefix(prefix) == str(network)
    assert prefix.length - network.prefixlen == (96 if network.version == 4 else 0)
    assert prefix == prefix_of(ip_network(format_prefix(prefix)))


@given(networks, addresses)
def test_containing_agrees_with_the_standard_library(
    network: Network, address: IPv4Address | IPv6Address
) -> None:
    for candidate in (address, network.network_address, network.broadcast_address):
        packed = parse_address(str(candidate))
        assert contains(prefix_of(network), packed) == (candidate in network)
        assert contains(host_prefix(packed), packed)


@given(networks, addresses)
def test_the_mask_compares_as_the_datapath_does(network: Network, address: IPv4Address | IPv6Address) -> None:
    prefix, packed = prefix_of(network), parse_address(str(address))
    masked = bytes(one & other for one, other in zip(packed, mask_of(prefix), strict=True))
    assert (masked == prefix.address) == contains(prefix, packed)
    assert int.from_bytes(mask_of(prefix), "big").bit_count() == prefix.length


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.256", "10.0.0.1/32", "fd00::g", "010.0.0.1", " ::1"])
def test_what_is_no_address_is_said_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_address(text, "lab.yaml:3")
    assert str(error.value) == f"lab.yaml:3: {text!r} is no IP address (write 10.0.0.1 or fd00::1)"


def test_a_scope_is_refused() -> None:
    with pytest.raises(InputError, match=r"^'fe80::1%eth0' is no IP address \(write 10.0.0.1 or fd00::1\)$"):
        parse_address("fe80::1%eth0")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.1/24", "10.0.0.1/24 has host bits set"),
        ("10.0.0.0/33", "'10.0.0.0/33' does not appear to be an IPv4 or IPv6 network"),
        ("a\nb", r"'a\nb' does not appear to be an IPv4 or IPv6 network"),
        ("fe80::%eth0/64", "'fe80::%eth0/64' has a scope"),
    ],
)
def test_what_is_no_prefix_is_said_in_one_line(text: str, why: str) -> None:
    with pytest.raises(InputError) as error:
        parse_network(text, "config: prefixes[0]")
    assert str(error.value) == f"config: prefixes[0]: {text!r} is no prefix: {why} (write 10.0.0.0/24)"


@pytest.mark.parametrize("text", ["::ffff:0:0/96", "::ffff:a00:0/120", "::/0", "::/64"])
def test_an_ipv6_prefix_that_would_hold_ipv4_is_refused(text: str) -> None:
    """In the 128 bits of the tables every IPv4 address lies in `::/0`."""
    assert contains(prefix_of(IPv6Network("::/0")), parse_address("192.0.2.1"))
    with pytest.raises(InputError) as error:
        parse_network(text)
    assert str(error.value) == f"{text!r} holds IPv4-mapped addresses (write 10.0.0.0/24 or fd00::/48)"


def test_every_ipv4_address_lies_in_the_widest_ipv4_prefix_and_no_ipv6_one() -> None:
    everything = prefix_of(IPv4Network("0.0.0.0/0"))
    assert contains(everything, parse_address("255.255.255.255"))
    assert not contains(everything, parse_address(str(ip_address("2001:db8::1"))))
