"""IP addresses and prefixes as the datapath keeps them: 16 bytes, IPv4 mapped.

`::ffff:a.b.c.d` (RFC 4291, 2.5.5.2) gives both families one shape, so that a
table has one key and the compiler one path. Text is for people and records,
`Address` and `Prefix` for everything in between.
"""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from meshfabric.model.errors import InputError

MAPPED = bytes(10) + b"\xff\xff"
MAPPED_BITS = 96
ADDRESS_BITS = 128

Address = bytes  # 16 bytes
Network = IPv4Network | IPv6Network

IPV4_BYTES = 4

_OCTETS = {str(number): number for number in range(256)}
_MAPPED_NETWORK = IPv6Network((MAPPED + bytes(4), MAPPED_BITS))


class Prefix(NamedTuple):
    """`length` counts in the 128 bits: an IPv4 /24 is 120."""

    length: int
    address: Address


def parse_address(text: str, place: str = "") -> Address:
    """`"10.0.0.1"` or `"fd00::1"` to 16 bytes; raises `InputError`."""
    plain = _parse_plain(text)
    if plain:
        return plain
    try:
        parsed = ip_address(_unscoped(text))
    except ValueError as cause:
        raise InputError(
            f"{text!r} is no IP address", place=place, remedy="write 10.0.0.1 or fd00::1"
        ) from cause
    return parsed.packed if parsed.version == 6 else MAPPED + parsed.packed


def _parse_plain(text: str) -> Address | None:
    """IPv4 without `ipaddress`, which takes ten times as long: endpoints come by the ten thousand.

    None for anything else, right or wrong.
    """
    try:
        octets = bytes([_OCTETS[part] for part in text.split(".")])
    except KeyError:
        return None
    return MAPPED + octets if len(octets) == IPV4_BYTES else None


def format_address(address: Address) -> str:
    """The text of 16 bytes, IPv4 in its own form."""
    if address.startswith(MAPPED):
        return ".".join(map(str, address[12:]))
    return str(ip_address(address))


def parse_network(text: str, place: str = "") -> Network:
    """`"10.0.0.0/24"` to a network without host bits; raises `InputError`.

    An IPv6 prefix over IPv4-mapped addresses is refused: in the datapath's tables it would hold IPv4.
    """
    try:
        network = ip_network(_unscoped(text))
    except ValueError as cause:
        raise InputError(
            f"{text!r} is no prefix: {cause}", place=place, remedy="write 10.0.0.0/24"
        ) from cause
    if network.version == 6 and network.overlaps(_MAPPED_NETWORK):
        raise InputError(
            f"{text!r} holds IPv4-mapped addresses", place=place, remedy="write 10.0.0.0/24 or fd00::/48"
        )
    return network


def _unscoped(text: str) -> str:
    if "%" in text:  # RFC 4007, 11: means something on one link only
        raise ValueError(f"{text!r} has a scope")
    return text


def family_of(text: str) -> int:
    """4 or 6 for the text of an address that was checked before, or of a prefix."""
    return 6 if ":" in text else 4


def prefix_of(network: Network) -> Prefix:
    """The table form of a network."""
    packed = network.network_address.packed
    if network.version == 4:
        return Prefix(MAPPED_BITS + network.prefixlen, MAPPED + packed)
    return Prefix(network.prefixlen, packed)


def host_prefix(address: Address) -> Prefix:
    """The prefix that holds just this address."""
    return Prefix(ADDRESS_BITS, address)


def mask_of(prefix: Prefix) -> bytes:
    """The 16-byte mask of a prefix."""
    return (((1 << prefix.length) - 1) << (ADDRESS_BITS - prefix.length)).to_bytes(16, "big")


def contains(prefix: Prefix, address: Address) -> bool:
    """Whether the address lies in the prefix."""
    shift = ADDRESS_BITS - prefix.length
    return int.from_bytes(prefix.address, "big") >> shift == int.from_bytes(address, "big") >> shift


def is_ipv4(address: Address) -> bool:
    """Whether the 16 bytes are a mapped IPv4 address."""
    return address.startswith(MAPPED)


def format_prefix(prefix: Prefix) -> str:
    """The text of a prefix, IPv4 in its own form."""
    length = prefix.length - MAPPED_BITS if is_ipv4(prefix.address) else prefix.length
    return f"{format_address(prefix.address)}/{length}"
