"""The oracle of bpf/lib/qos.h: when packets leave, by the rules and not by the code."""

from dataclasses import dataclass, field
from typing import NamedTuple

PRIORITIES = 8
HORIZON_NS, CONGESTED_NS = 50_000_000, 5_000_000
LEAST_QUEUE, LEAST_UNMARKED = 8, 2
AROUND_A_FRAME = 24
PS_IN_A_BYTE_AT_1_BIT, PS_IN_A_NS = 8 * 10**12, 1000


class Class(NamedTuple):
    """Rates in bit/s, 0: none."""

    priority: int
    dscp: int = 0
    guaranteed: int = 0
    most: int = 0


class Departure(NamedTuple):
    """When, in ns; how long its class and link kept it, and whether that tells of congestion."""

    at: int
    held: int
    congested: bool


def takes(length: int, rate: int) -> int:
    """How many ns so many bytes take at a rate in bit/s, which the tables have in whole ps a byte."""
    ps_a_byte = -(-PS_IN_A_BYTE_AT_1_BIT // rate)
    return -(-length * ps_a_byte // PS_IN_A_NS)


@dataclass
class Clocks:
    """One device; `free` by priority, the others by the class' number."""

    capacity: int
    free: list[int] = field(default_factory=lambda: [0] * PRIORITIES)
    guaranteed: dict[int, int] = field(default_factory=dict)
    most: dict[int, int] = field(default_factory=dict)

    def send(
        self, now: int, number: int, of: Class, length: int, paced: int = 0, frames: int = 1
    ) -> Departure | None:
        """A packet of `length` bytes with link header; None if it is dropped."""
        length += frames * AROUND_A_FRAME
        cost = takes(length, self.capacity)
        slowest = max(cost, takes(length, of.most) if of.most else 0)
        at, counted_for = max(now, self.free[of.priority]), of.priority
        if of.guaranteed:
            entitled = max(now, self.guaranteed.get(number, 0))
            if entitled < at:
                at, counted_for = entitled, PRIORITIES - 1
        if of.most:
            at = max(at, self.most.get(number, 0))
        if at - now > max(HORIZON_NS, LEAST_QUEUE * slowest):
            return None
        paced = max(now, paced)
        at = max(at, paced)
        for priority in range(counted_for + 1):
            self.free[priority] = max(now, self.free[priority]) + cost
        self.guaranteed[number] = at + (takes(length, of.guaranteed) if of.guaranteed else 0)
        self.most[number] = at + (takes(length, of.most) if of.most else 0)
        return Departure(at, at - now, at - paced > max(CONGESTED_NS, LEAST_UNMARKED * slowest))
