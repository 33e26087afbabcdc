"""Which flows take which of several paths that are alike (pure).

The datapath has SHARES slots for a node, and a flow's hash leads to one of them. A
path gets slots by its capacity, exactly as many as are due to it, and those whose
hash with the path is the highest (weighted rendezvous hashing: Thaler and Ravishankar,
IEEE/ACM ToN 6(1), 1998; weights as in draft-ietf-bess-weighted-hrw): so when one
comes or goes the others keep what they had, but for the few slots that their share grew or
shrank by.
"""

import math
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

from meshfabric.model.tables import SHARES

HASH_BYTES = 8
HASHES = 1 << 8 * HASH_BYTES


class Member(NamedTuple):
    """A path that takes its share; the slots of its uplinks name it."""

    local: int
    remote: int
    weight: int


@cache
def slots(members: tuple[Member, ...]) -> tuple[int, ...]:
    """Who of the members takes each slot, by its place among them."""
    room = _quotas([member.weight for member in members])
    bids = sorted(
        ((_bid(slot, member), slot, at) for slot in range(SHARES) for at, member in enumerate(members)),
        reverse=True,
    )
    taken: dict[int, int] = {}
    for _, slot, at in bids:
        if slot not in taken and room[at]:
            taken[slot] = at
            room[at] -= 1
    return tuple(taken[slot] for slot in range(SHARES))


def _quotas(weights: Sequence[int]) -> list[int]:
    """How many slots each gets: its part of all, what is left by the largest remainders."""
    total = sum(weights)
    parts = [divmod(SHARES * weight, total) for weight in weights]
    left = SHARES - sum(whole for whole, _ in parts)
    first = sorted(range(len(parts)), key=lambda at: (-parts[at][1], at))[:left]
    return [whole + (at in first) for at, (whole, _) in enumerate(parts)]


def _bid(slot: int, member: Member) -> float:
    """The higher, the rather: a number that depends on slot and path alone, weighed."""
    text = f"{slot} {member.local} {member.remote}".encode()
    number = int.from_bytes(blake2b(text, digest_size=HASH_BYTES).digest(), "big")
    return -member.weight / math.log((number + 0.5) / HASHES)
