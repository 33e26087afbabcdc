"""Finds out how large a packet each path carries, by probes with padding (`search` says of which size).

Once in TURN_S, RFC 8899's PROBE_TIMER, each path that is due gets a probe. The
datapath notes the number of the last one that came back (`struct path`, `padded`);
one that is not back is lost when a plain probe that left after it is. While none is,
nothing is known: the path may be slow, or about to be given up. A lost one says
nothing of the path's life: plain probes do (`prober`).
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from meshfabric.probe.packet import probe
from meshfabric.probe.prober import Target, ether_type
from meshfabric.probe.search import Search, begin, resume

TURN_S = 1.0
DOWN_S = 5.0  # until a path that was not up is looked at again
SEQUENCES = 1 << 32
PATHS_AT_ONCE = 100  # before others have their turn: less than a ms, also when a probe is due on each

Path = tuple[str, str]  # tunnel device, node
Aim = Callable[[], tuple[int, Iterable[Target]]]  # the size that uplinks promise, in bytes, and every path


class Link(Protocol):
    """What sends a packet through a device: a packet socket."""

    def sendto(self, packet: bytes, address: tuple[str, int], /) -> int:
        """To a device, as a packet of this Ethernet type; raises OSError."""


class Look(NamedTuple):
    """What the datapath knows of a path: whether it is up, and the number of the last padded probe that came
    back. Of plain ones the number that the next will have, and the one after that of the last that came back.
    """

    up: bool
    padded: int = 0
    next_plain: int = 0
    answered: int = 0


class Ask(NamedTuple):
    """A probe that is out, and the number of the plain one that left next."""

    number: int
    next_plain: int

    def is_void(self, seen: Look) -> bool:
        """Whether the path went, or began to count anew."""
        return not seen.up or not _reached(seen.next_plain, self.next_plain)

    def was_overtaken(self, seen: Look) -> bool:
        """Whether a plain probe that left later came back."""
        return _reached(seen.answered, self.next_plain + 1)


def _reached(number: int, other: int) -> bool:
    """Whether a number is not before another (RFC 1982)."""
    return (number - other) % SEQUENCES < SEQUENCES // 2


@dataclass
class _Sized:
    search: Search
    asked: Ask | None = None
    look_s: float = 0.0  # not before that


class Sizer:
    """`look` tells of a path; `found(path, bytes)` hears when another size is in force, None: the ceiling.

    Sizes are whole IP packets inside of the tunnel; the floor is in force whatever becomes of it.
    """

    def __init__(
        self, floor: int, look: Callable[[Target], Look], found: Callable[[Path, int | None], None]
    ) -> None:
        self._floor, self._look, self._found = floor, look, found
        self._aim: Aim | None = None
        self._ceiling, self._targets = floor, dict[Path, Target]()
        self._sized: dict[Path, _Sized] = {}
        self._sequence = time.time_ns() % SEQUENCES  # not one that an earlier run's probe came back with
        self.failures = 0

    def aim(self, at: Aim) -> None:
        """There may be other paths, or uplinks may promise another size: `at` tells, at the next turn."""
        self._aim = at

    def resume(self, path: Path, ceiling: int, fits: int) -> None:
        """What an earlier run has found."""
        self._sized[path] = _Sized(resume(self._floor, ceiling, fits))

    async def run(self) -> None:
        """Until cancelled."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as link:
            while True:
                for _ in self.turn(link, time.monotonic()):
                    await asyncio.sleep(0)
                await asyncio.sleep(TURN_S)

    def turn(self, link: Link, now_s: float) -> Iterator[None]:
        """Judge the probes of the turn before, and send those that are due; pauses after some paths."""
        self._take_aim()
        for done, (path, target) in enumerate(self._targets.items()):
            if done % PATHS_AT_ONCE == PATHS_AT_ONCE - 1:
                yield
            one = self._sized[path]
            before = one.search
            if now_s >= one.look_s and (one.asked or now_s >= min(before.due_s, before.raise_s)):
                self._take_turn(one, target, link, now_s)
            self._tell(path, before, one.search)

    def _take_aim(self) -> None:
        """Begin where there is a path, end where there is none any more."""
        if self._aim is None:
            return
        (ceiling, targets), self._aim = self._aim(), None
        before, self._targets = self._targets, {one.path: one for one in targets if ceiling > self._floor}
        for path in before.keys() - self._targets.keys():
            self._tell(path, self._sized.pop(path).search, None)
        for path in self._targets:
            one = self._sized.setdefault(path, _Sized(begin(self._floor, ceiling)))
            was, one.search = one.search, one.search.under(ceiling)
            one.asked = one.asked if was == one.search else None  # what is out is of another size
            self._tell(path, was, one.search)

    def _take_turn(self, one: _Sized, target: Target, link: Link, now_s: float) -> None:
        seen = self._look(target)
        one.look_s = now_s if seen.up else now_s + DOWN_S
        if one.asked and seen.padded == one.asked.number:
            one.search = one.search.answered(now_s)
        elif one.asked and not one.asked.is_void(seen):
            if not one.asked.was_overtaken(seen):
                return
            one.search = one.search.silent(now_s)
        one.asked, one.search = None, one.search.at(now_s)
        if seen.up and now_s >= one.search.due_s:
            self._ask(one, target, link, seen.next_plain)

    def _ask(self, one: _Sized, target: Target, link: Link, next_plain: int) -> None:
        self._sequence = (self._sequence + 1) % SEQUENCES
        source, destination = target.source, target.destination
        packet = probe(source, destination, self._sequence, time.time_ns(), one.search.size)
        try:
            link.sendto(packet, (target.device, ether_type(source)))
        except OSError:  # the device went away, or its MTU is about to be raised
            self.failures += 1
        else:
            one.asked = Ask(self._sequence, next_plain)

    def _tell(self, path: Path, before: Search, after: Search | None) -> None:
        now = _restriction(after)
        if now != _restriction(before):
            self._found(path, now)


def _restriction(search: Search | None) -> int | None:
    return None if search is None or search.fits == search.ceiling else search.fits
