"""Runs one program of the datapath for many packets of many flows, and an empty one beside it.

Owns the turntable program (`turn.bpf.c`), which calls the program under test by
a tail call; `datapath` owns what is measured. Times are the kernel's own
(BPF_PROG_TEST_RUN): ns for one run, mean of a great many.
"""

import time
from pathlib import Path
from statistics import mean
from types import TracebackType
from typing import NamedTuple, Self

from meshfabric.kernel import loader
from meshfabric.kernel.bpf import Program
from meshfabric.model.tables import number
from tests.packet.arena import Arena

TC_ACT_UNSPEC = 0xFFFFFFFF  # -1, as a system call gives it back
LINK_HEADER = 14
MOST_HEAD = 44
GROWING_REPEAT = 64
"""Runs to a call where the packet has no link header: to take off the one that was added moves the
kernel's idea of where the network header is, for which a long packet has room so often."""
HOPS_AT = {4: 8, 6: 7}
PORTS_AT = {4: 20, 6: 40}


class Spin(NamedTuple):
    """A packet, and how it is turned: `l3` is where its IP header is, `flows` a power of two."""

    packet: bytes
    context: bytes
    flows: int
    l3: int = LINK_HEADER

    @property
    def version(self) -> int:
        """Of IP."""
        return self.packet[self.l3] >> 4


class Turntable:
    """One for each spin; use it in `with`. `verdict` is the last run's (TC_ACT_*)."""

    def __init__(self, place: Arena, compiled: Path, spin: Spin) -> None:
        self._place, self._spin = place, spin
        settings = {
            "flows_mask": number(spin.flows - 1),
            "l3": number(spin.l3),
            "length": number(len(spin.packet)),
            "hops_at": number(HOPS_AT[spin.version]),
            "ports_at": number(PORTS_AT[spin.version]),
            "head": spin.packet[:MOST_HEAD],
        }
        pins = place.pins / f"turn{time.monotonic_ns()}"
        self._loaded = place.run(loader.load, [compiled], pins, None, settings)
        self._empty = self._loaded.programs["nothing"]
        self.verdict = TC_ACT_UNSPEC

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded.close()

    def pair(self, program: Program, runs: int) -> tuple[float, float]:
        """Nanoseconds a run, mean of so many: with the program, and with the empty one."""
        empty = self._time(self._empty, runs)
        return self._time(program, runs), empty

    def _time(self, program: Program, runs: int) -> float:
        self._loaded.maps["under_test"].update(number(0), number(program.fd))
        repeat = runs if self._spin.l3 else min(runs, GROWING_REPEAT)
        return self._place.run(self._calls, runs // repeat, repeat)

    def _calls(self, count: int, repeat: int) -> float:
        """In the arena's thread."""
        turn, spin = self._loaded.programs["turn"], self._spin
        runs = [turn.test_run(spin.packet, ctx=spin.context, repeat=repeat) for _ in range(count)]
        self.verdict = runs[-1].retval
        return mean(run.duration_ns for run in runs)
