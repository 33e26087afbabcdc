"""The datapath's flows, those that live: what `bpf/lib/life.h` would still follow. Pure.

An entry stays in its table until something else needs the room, so one has to look at its age.
A connection of which an end has said that it ends is none of the living, either.
"""

from collections.abc import Iterable, Iterator

from meshfabric.model.addresses import Address, format_address, is_ipv4
from meshfabric.model.ports import PROTOCOLS
from meshfabric.model.tables import FlowSeen, read_flow

TCP_TRANSITORY_S = 4 * 60
TCP_ESTABLISHED_S = 24 * 3600
UDP_NEW_S = 2 * 60
UDP_ANSWERED_S = 5 * 60
ICMP_S = 60
NS_PER_S = 1_000_000_000

TCP, ECHOES = PROTOCOLS["tcp"], (PROTOCOLS["icmp"], PROTOCOLS["icmpv6"])


def living(entries: Iterable[tuple[bytes, bytes]], now_ns: int) -> Iterator[FlowSeen]:
    """The flows of a table that packets still go by, at a moment of the monotonic clock."""
    for key, value in entries:
        flow = read_flow(key, value)
        if not flow.closing and _signed(now_ns - flow.seen_ns) <= lifetime_s(flow) * NS_PER_S:
            yield flow


def lifetime_s(flow: FlowSeen) -> int:
    """How long after its last packet a flow ends."""
    if flow.protocol == TCP:
        return TCP_ESTABLISHED_S if flow.replied else TCP_TRANSITORY_S
    if flow.protocol in ECHOES:
        return ICMP_S
    return UDP_ANSWERED_S if flow.replied else UDP_NEW_S


def _signed(difference: int) -> int:
    """Of two moments, as 64 bits have it: the later one may have been read first."""
    return (difference + (1 << 63)) % (1 << 64) - (1 << 63)


def format_end(flow: FlowSeen, end: int) -> str:
    """`10.64.1.5:40000`, `[fd00::5]:40000`; ICMP echoes have no ports."""
    address: Address = flow.addresses[end]
    text = format_address(address)
    if flow.protocol in ECHOES:
        return text
    return f"{text if is_ipv4(address) else f'[{text}]'}:{flow.ports[end]}"
