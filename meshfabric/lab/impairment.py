"""What a segment does to frames beside carrying them, and when each of them is due (pure).

    lost?  too large?  room left?  due = max(now + delay ± jitter, due of the frame before) + length / rate

This is netem's arithmetic with a rate (Linux, net/sched/sch_netem.c, netem_enqueue),
so that a segment behaves the same whether netem or `wire` does it; `impair` has
both. A crossing is impaired once, where the segment delivers to a node: jitter
is uniform, frames never overtake each other, what finds no room is lost. A black
hole, which a router leaves that drops what is too large and tells nobody (RFC
2923, 2.1), is beyond netem.
"""

from collections.abc import Callable

import msgspec

from meshfabric.model.errors import InputError

MAX_DELAY_MS, MAX_LOSS_PERCENT = 10_000.0, 100.0
MIN_RATE_MBIT, MAX_RATE_MBIT = 0.01, 10_000.0
QUEUE_MS = 100.0
"""How long a frame may wait for the rate, behind others: the depth of the queue, in time."""
LEAST_QUEUE = 32
"""Frames that always find room, however low the rate."""
UNLIMITED_FRAMES_MS = 100
"""Frames in a millisecond that are reckoned with when no rate is set."""
MIN_MTU, MAX_MTU = 1280, 65535
"""Of a black hole: what is smaller passes everywhere (RFC 8200, 5)."""
ETHERNET_HEADER = 14
NS_PER_MS, BITS_PER_MBIT_MS, BITS_PER_BYTE = 1_000_000, 1000, 8


class Impairment(msgspec.Struct, frozen=True):
    """What befalls each crossing; a `rate_mbit` of 0 means as fast as the machine goes.

    Packets of more than `black_hole_mtu` bytes vanish; 0: none does.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    rate_mbit: float = 0.0
    black_hole_mtu: int = 0

    def __str__(self) -> str:
        """In words, "" for none: `10 ms ± 2 ms, 0.5% lost, 100 Mbit/s`."""
        jitter = f" ± {self.jitter_ms:g} ms" if self.jitter_ms else ""
        said = [f"{self.delay_ms:g} ms{jitter}"] if self.delay_ms else []
        said += [f"{self.loss_percent:g}% lost"] if self.loss_percent else []
        said += [f"{self.rate_mbit:g} Mbit/s"] if self.rate_mbit else []
        said += [f"nothing above {self.black_hole_mtu} bytes"] if self.black_hole_mtu else []
        return ", ".join(said)


NONE = Impairment()


def check_impairment(given: Impairment, at: Callable[[str], str]) -> None:
    """Raise `InputError` for the first value that is not possible; `at` tells the place of a key."""
    least_rate = MIN_RATE_MBIT if given.rate_mbit else 0.0
    least_mtu = MIN_MTU if given.black_hole_mtu else 0
    for key, least, most in (
        ("delay_ms", 0.0, MAX_DELAY_MS),
        ("jitter_ms", 0.0, given.delay_ms),
        ("loss_percent", 0.0, MAX_LOSS_PERCENT),
        ("rate_mbit", least_rate, MAX_RATE_MBIT),
        ("black_hole_mtu", least_mtu, MAX_MTU),
    ):
        value = getattr(given, key)
        if not least <= value <= most:
            what = "at most the delay" if key == "jitter_ms" else f"{least:g} to {most:g} are possible"
            raise InputError(f"{key} is {value:g}", place=at(key), remedy=what)


def room(given: Impairment, mtu: int) -> int:
    """How many frames may be under way to one node: those in the delay, and a queue before the rate."""
    spread_ms = given.delay_ms + given.jitter_ms + QUEUE_MS
    frame_bits = (mtu + ETHERNET_HEADER) * BITS_PER_BYTE
    each_ms = given.rate_mbit * BITS_PER_MBIT_MS / frame_bits if given.rate_mbit else UNLIMITED_FRAMES_MS
    return LEAST_QUEUE + int(spread_ms * each_ms)


class Schedule:
    """When frames towards one node are due. Times in ns of any one clock, lengths in bytes with the header.

    `chance` gives numbers from 0 up to 1, each as likely as the others.
    """

    def __init__(self, given: Impairment, mtu: int, chance: Callable[[], float]) -> None:
        self._mtu, self._chance = mtu, chance
        self._last_ns = 0
        self._under_way = 0
        self.change(given)

    def change(self, given: Impairment) -> None:
        """From the next frame on; those under way keep their times, and none overtakes them."""
        self._room = room(given, self._mtu)
        self._loss = given.loss_percent / 100
        self._largest = given.black_hole_mtu + ETHERNET_HEADER if given.black_hole_mtu else 0
        self._delay_ns = given.delay_ms * NS_PER_MS
        self._jitter_ns = given.jitter_ms * NS_PER_MS
        bits_per_ns = given.rate_mbit * BITS_PER_MBIT_MS / NS_PER_MS
        self._ns_per_byte = BITS_PER_BYTE / bits_per_ns if bits_per_ns else 0.0

    def take(self, now_ns: int, length: int) -> int | None:
        """When the frame is to be delivered; None when it is lost."""
        if self._loss and self._chance() < self._loss:
            return None
        if self._largest and length > self._largest:
            return None
        if self._under_way >= self._room:
            return None
        delay_ns = self._delay_ns
        if self._jitter_ns:
            delay_ns += (2 * self._chance() - 1) * self._jitter_ns
        due_ns = max(now_ns + int(delay_ns), self._last_ns) + int(length * self._ns_per_byte)
        self._last_ns = due_ns
        self._under_way += 1
        return due_ns

    def delivered(self) -> None:
        """One that was taken is not under way any more."""
        self._under_way -= 1
