"""The datapath's judgement of paths, said again in Python (`bpf/lib/liveness.h`, `quality.h`). Pure.

The packet tests hold the compiled programs against it; the simulation of the chooser drives it.

    asked --> a probe leaves                grade, chosen (meshfabric.probe.health) --> where a packet goes
    heard --> an answer is in: number, time, and what both make of the path
"""

from types import SimpleNamespace
from typing import NamedTuple

from meshfabric.model.tables import ANSWERS_TO_TRUST, Fault, PathState
from meshfabric.probe.health import (
    NS_PER_S,
    PROBES_SEEN,
    is_given_up,
    patience_ns,
)

PEAK_FADES_BY, CAUTION, JITTER_SHARE = 32, 1024, 16
LONGEST_CHANGE_NS = NS_PER_S
ANSWERS_TO_BE_SLOW, LOSSES_OF_A_CUT = 16, 1
FIRST_HOLD_NS, FORGIVEN_NS = NS_PER_S, 60 * NS_PER_S
WORD, HALF = 1 << 32, 1 << 31
ALL_BAD = (1 << PROBES_SEEN) - 1


class Limits(NamedTuple):
    """What the loader sets; as in bpf/include/settings.h. 0: no limit, no hold."""

    interval_ms: int = 50
    losses: int = 7
    rtt_us: int = 300_000
    hold_ns: int = 32 * NS_PER_S


class Hearing(NamedTuple):
    """What an answer says (struct hearing)."""

    asked_ns: int
    heard_ns: int
    out_ns: int
    back_ns: int
    question: int
    answer: int


class Path(SimpleNamespace):
    """A `PathState` that may be changed."""

    unanswered_ns: int
    sent_ns: int
    sent: int
    heard: int
    leniency: int
    rtt_peak_us: int
    streak: int
    faults: int
    ifindex: int
    answered: int
    heard_ns: int
    lost_out: int
    lost_back: int
    heard_question: int
    heard_answer: int
    caution: int
    flaps: int
    missing: int
    late: int
    held_until_ns: int
    hold_ns: int
    falls: int
    rtt_us: int

    def __init__(self, state: PathState | None = None) -> None:
        super().__init__(**(state or PathState())._asdict())

    @property
    def state(self) -> PathState:
        """As the datapath would have it."""
        return PathState(**vars(self))

    def asked(self, ifindex: int, now_ns: int) -> int:
        """A probe leaves; its sequence number."""
        if self.ifindex != ifindex:
            fresh = PathState(ifindex=ifindex, traffic_ns=self.traffic_ns)
            vars(self).update(fresh._asdict())
        self.sent_ns = now_ns
        self.unanswered_ns = self.unanswered_ns or now_ns
        self.sent += 1
        return int(self.sent - 1) % WORD

    def heard_answer_to(self, ifindex: int, h: Hearing, limits: Limits) -> bool:
        """An answer arrived; False if we never asked that."""
        if self.ifindex != ifindex or h.asked_ns > self.sent_ns:
            return False
        unanswered_ns, given_up = self.unanswered_ns, is_given_up(self.state, h.heard_ns, limits.interval_ms)
        if signed(self.sent - h.question) > 0:
            self._count(h, given_up)
        if given_up:
            self._come_back(h, limits)
        self.streak = min(self.streak + 1, WORD - 1)
        self.heard += 1
        since_ns, self.heard_ns = (h.heard_ns - self.heard_ns) % (1 << 64), h.heard_ns
        rtt_us = (h.heard_ns - h.asked_ns) // 1000
        self._time(h, rtt_us)
        if h.asked_ns >= self.sent_ns:
            self.unanswered_ns = 0
        elif unanswered_ns:
            self.unanswered_ns = max(unanswered_ns, h.asked_ns + limits.interval_ms * 1_000_000)
        self._judge(h.heard_ns, rtt_us, since_ns, limits)
        return True

    def _count(self, h: Hearing, given_up: bool) -> None:
        probes, answers = signed(h.question - self.heard_question), signed(h.answer - self.heard_answer)
        if self.heard and probes <= 0:
            return self._overtaken(h, probes, answers)
        if self.heard:
            counted = min(probes, LOSSES_OF_A_CUT + 1) if given_up else probes
            self.missing = (self.missing << counted | (1 << counted) - 2) & ALL_BAD
            if 0 < answers <= probes:
                self.lost_out = (self.lost_out + probes - answers) % WORD
                self.lost_back = (self.lost_back + answers - 1) % WORD
        self.heard_question, self.heard_answer = h.question, h.answer
        self.answered = (h.question + 1) % WORD
        return None

    def _overtaken(self, h: Hearing, probes: int, answers: int) -> None:
        self.missing &= ~(1 << -probes)
        if probes and answers > 0:
            self.lost_out -= self.lost_out > 0
            self.heard_answer = h.answer
        elif probes and answers < 0:
            self.lost_back -= self.lost_back > 0

    def _come_back(self, h: Hearing, limits: Limits) -> None:
        if h.heard_ns - h.asked_ns > patience_ns(self.state, limits.interval_ms):
            self.caution = CAUTION
        trusted = self.streak >= ANSWERS_TO_TRUST
        if trusted or self.faults & Fault.HELD:
            self._fall(h.heard_ns, limits)
        self.flaps += trusted
        self.streak = 0

    def _fall(self, now_ns: int, limits: Limits) -> None:
        if not self.faults & Fault.HELD:
            again = self.hold_ns and now_ns - self.held_until_ns <= FORGIVEN_NS
            self.hold_ns = 2 * self.hold_ns if again else FIRST_HOLD_NS
        self.hold_ns = min(self.hold_ns, limits.hold_ns)
        self.held_until_ns = now_ns + self.hold_ns
        self.faults |= Fault.HELD
        self.falls += 1

    def _time(self, h: Hearing, rtt_us: int) -> None:
        faded = self.rtt_peak_us - (0 if self.caution else self.rtt_peak_us // PEAK_FADES_BY)
        self.caution -= self.caution > 0
        self.rtt_us, self.rtt_peak_us = rtt_us, max(rtt_us, faded)
        for way, transit_ns in (("out", h.out_ns), ("back", h.back_ns)):
            last_ns, jitter_ns = getattr(self, f"transit_{way}_ns"), getattr(self, f"jitter_{way}_ns")
            change_ns = abs(transit_ns - last_ns)
            if last_ns and change_ns < LONGEST_CHANGE_NS:
                setattr(self, f"jitter_{way}_ns", jitter_ns + (change_ns - jitter_ns) // JITTER_SHARE)
            setattr(self, f"transit_{way}_ns", transit_ns)

    def _judge(self, now_ns: int, rtt_us: int, since_ns: int, limits: Limits) -> None:
        lossy, slow = self.faults & Fault.LOSSY, self.faults & Fault.SLOW
        limit_us = limits.rtt_us - limits.rtt_us // 4 if slow else limits.rtt_us
        late = bool(limits.rtt_us and rtt_us > limit_us)
        if not late or since_ns >= limits.interval_ms * 1_000_000 // 2:
            self.late = (self.late << 1 | late) & ALL_BAD
        losses = self.missing.bit_count()
        loses = limits.losses and (losses > limits.losses // 4 if lossy else losses >= limits.losses)
        newest = (1 << ANSWERS_TO_BE_SLOW) - 1
        lags = self.late if slow else self.late & newest == newest
        self.faults = bool(loses) * Fault.LOSSY | bool(lags) * Fault.SLOW | self.faults & Fault.HELD
        self.leniency = losses // 3 if loses else 0
        if slow and not lags:
            self.caution, self.rtt_peak_us = 0, rtt_us
        if lags and not slow:
            self.late = ALL_BAD
        if (loses and not lossy) or (lags and not slow):
            self._fall(now_ns, limits)
        if self.faults & Fault.HELD and now_ns >= self.held_until_ns:
            self.faults &= ~Fault.HELD


def signed(number: int) -> int:
    """Of 32 bits, as the datapath subtracts."""
    return (number + HALF) % WORD - HALF
