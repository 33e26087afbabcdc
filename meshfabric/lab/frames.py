"""Programs that recognise Ethernet frames: classic BPF for a packet socket's filter (pure).

Owns the recognition only; `capture` runs the programs in the kernel and counts.
Each program is a row of blocks; a block falls through to the next one at the
first thing that does not fit and accepts at its end, so that jumps stay short
(they have 8 bits; Linux, Documentation/networking/filter.rst).
"""

from collections.abc import Sequence
from typing import NamedTuple

from meshfabric.model.addresses import Network, parse_network

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
LOAD_WORD_AT_X, LOAD_HALF_AT_X, LOAD_X_IPV4_LENGTH = 0x40, 0x48, 0xB1
AND, JUMP_EQUAL, RETURN = 0x54, 0x15, 0x06

ACCEPT_BYTES = 96
"""How much of an accepted frame is kept, enough for every header that we look at."""
ETHERTYPE_AT, ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 12, 0x0800, 0x86DD
IP_AT = 14
IPV4_FRAGMENT_AT, IPV4_PROTOCOL_AT, IPV4_ADDRESSES_AT = IP_AT + 6, IP_AT + 9, (IP_AT + 12, IP_AT + 16)
IPV6_NEXT_HEADER_AT, IPV6_ADDRESSES_AT, IPV6_PAYLOAD_AT = IP_AT + 6, (IP_AT + 8, IP_AT + 24), IP_AT + 40
IPV4_OFFSET_MASK = 0x1FFF
UDP, UDP_BYTES, UDP_TO_AT = 17, 8, 2
WIREGUARD_DATA = 0x04000000
"""The first four bytes of a data message: its type and three reserved ones (WireGuard, 5.4.6)."""
_WORD_BYTES, _WORD_BITS, _ONES = 4, 32, 0xFFFFFFFF


class Instruction(NamedTuple):
    """`struct sock_filter`: operation, jumps if true and if false, operand."""

    code: int
    if_true: int
    if_false: int
    operand: int


class Match(NamedTuple):
    """Load with `load` from `at`, mask, and require equality with `value`."""

    load: int
    at: int
    value: int
    mask: int = _ONES


def everything() -> list[Instruction]:
    """Accepts every frame."""
    return [Instruction(RETURN, 0, 0, ACCEPT_BYTES)]


def nothing() -> list[Instruction]:
    """Accepts no frame."""
    return [_reject()]


def addresses_in(prefixes: Sequence[str]) -> list[Instruction]:
    """Accepts IPv4 and IPv6 whose outer source or destination lies in one of the prefixes."""
    program: list[Instruction] = []
    for network in map(parse_network, prefixes):
        for at in IPV4_ADDRESSES_AT if network.version == 4 else IPV6_ADDRESSES_AT:
            program += _block([_ethertype(network.version), *_within(network, at)])
    return [*program, _reject()]


def wireguard_data() -> list[Instruction]:
    """Accepts UDP over IPv4 (whole or first fragment) or IPv6 that begins like WireGuard's data messages."""
    in_ipv4 = Match(LOAD_WORD_AT_X, IP_AT + UDP_BYTES, WIREGUARD_DATA)
    in_ipv6 = Match(LOAD_WORD, IPV6_PAYLOAD_AT + UDP_BYTES, WIREGUARD_DATA)
    return [*_udp(in_ipv4, in_ipv6), _reject()]


def udp_to(port: int) -> list[Instruction]:
    """Accepts UDP over IPv4 (whole or first fragment) or IPv6 to that port."""
    in_ipv4 = Match(LOAD_HALF_AT_X, IP_AT + UDP_TO_AT, port)
    in_ipv6 = Match(LOAD_HALF, IPV6_PAYLOAD_AT + UDP_TO_AT, port)
    return [*_udp(in_ipv4, in_ipv6), _reject()]


def _udp(in_ipv4: Match, in_ipv6: Match) -> list[Instruction]:
    """A block for each family: UDP, and what is to be seen in it."""
    ipv4 = [_ethertype(4), Match(LOAD_BYTE, IPV4_PROTOCOL_AT, UDP)]
    ipv4.append(Match(LOAD_HALF, IPV4_FRAGMENT_AT, 0, IPV4_OFFSET_MASK))
    ipv6 = [_ethertype(6), Match(LOAD_BYTE, IPV6_NEXT_HEADER_AT, UDP)]
    return [*_block([*ipv4, in_ipv4]), *_block([*ipv6, in_ipv6])]


def _ethertype(version: int) -> Match:
    return Match(LOAD_HALF, ETHERTYPE_AT, ETHERTYPE_IPV4 if version == 4 else ETHERTYPE_IPV6)


def _within(network: Network, at: int) -> list[Match]:
    """One match for each word of the address that the prefix says something about."""
    words = network.max_prefixlen // _WORD_BITS
    matches = []
    for word in range(words):
        shift = _WORD_BITS * (words - 1 - word)
        mask = int(network.netmask) >> shift & _ONES
        if mask:
            value = int(network.network_address) >> shift & _ONES
            matches.append(Match(LOAD_WORD, at + _WORD_BYTES * word, value, mask))
    return matches


def _block(matches: Sequence[Match]) -> list[Instruction]:
    """Accept if all hold, else go on behind the block."""
    groups = [_code(match) for match in matches]
    left = sum(map(len, groups)) + 1  # with the acceptance at the end
    block: list[Instruction] = []
    for group in groups:
        left -= len(group)
        block += [*group[:-1], group[-1]._replace(if_false=left)]
    return [*block, Instruction(RETURN, 0, 0, ACCEPT_BYTES)]


def _code(match: Match) -> list[Instruction]:
    code = [Instruction(match.load, 0, 0, match.at)]
    if match.load in (LOAD_WORD_AT_X, LOAD_HALF_AT_X):
        code.insert(0, Instruction(LOAD_X_IPV4_LENGTH, 0, 0, IP_AT))
    if match.mask != _ONES:
        code.append(Instruction(AND, 0, 0, match.mask))
    return [*code, Instruction(JUMP_EQUAL, 0, 0, match.value)]


def _reject() -> Instruction:
    return Instruction(RETURN, 0, 0, 0)
