"""Addresses for workloads out of a node's blocks (pure).

An address that was given back is given again as late as possible: caches and
flows elsewhere may still mean the workload that had it.
"""

from collections.abc import Collection, Iterator, Sequence

from meshfabric.model.addresses import Address, Network, parse_address, prefix_of
from meshfabric.model.errors import PermanentError
from meshfabric.store.claims import last_address

SMALLEST_WITH_ENDS = 4
"""A block of fewer addresses has neither network nor broadcast address (RFC 3021)."""

Range = tuple[int, int]  # first and last address as 128-bit numbers, both included


def choose(blocks: Sequence[Network], taken: Collection[Address], last: Address | None) -> Address:
    """The lowest free address after `last`, going round through the blocks of one family.

    Never the first address of a block, the broadcast address of IPv4, or the
    node's own, which is the second of the first block. Raises `PermanentError`
    when all are taken.
    """
    ranges = list(_usable(blocks))
    start = _after(ranges, last)
    for number in _round(ranges, start):
        address = number.to_bytes(16, "big")
        if address not in taken:
            return address
    shown = ", ".join(map(str, blocks)) or "no block"
    remedy = "detach something, or ask an operator for another block"
    raise PermanentError(f"no address is free in {shown}", place="addresses", remedy=remedy)


def _usable(blocks: Sequence[Network]) -> Iterator[Range]:
    for i, block in enumerate(blocks):
        prefix = prefix_of(block)
        first = int.from_bytes(prefix.address, "big")
        last = int.from_bytes(last_address(prefix), "big")
        if block.num_addresses >= SMALLEST_WITH_ENDS:
            first += 1
            last -= block.version == 4
        if i == 0:
            first = max(first, int.from_bytes(parse_address(str(block[0])), "big") + 2)
        if first <= last:
            yield first, last


def _after(ranges: Sequence[Range], last: Address | None) -> tuple[int, int]:
    """The place to begin: a range, and a number in it or just beyond it."""
    number = int.from_bytes(last, "big") if last is not None else -1
    for i, (first, final) in enumerate(ranges):
        if first <= number <= final:
            return i, number + 1
    return 0, ranges[0][0] if ranges else 0


def _round(ranges: Sequence[Range], start: tuple[int, int]) -> Iterator[int]:
    """Every usable number once, from the start to the end and on from the beginning."""
    if not ranges:
        return
    at, number = start
    yield from range(number, ranges[at][1] + 1)
    for first, last in ranges[at + 1 :]:
        yield from range(first, last + 1)
    for first, last in ranges[:at]:
        yield from range(first, last + 1)
    yield from range(ranges[at][0], number)
