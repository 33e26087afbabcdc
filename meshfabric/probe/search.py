"""How large a packet a path carries: path MTU discovery in the packetization layer (RFC 8899). Pure.

    ceiling, as the uplinks promise --- confirmed now and then
        | lost too often: a black hole (RFC 8899, 4.3)
        v
      floor --probes in between, what comes back is in force at once--> found --- confirmed now and then
                                                                          | after RAISE_S
                                                                          +--> the ceiling, and in between

Nothing but probes is believed, so it does not matter whether routers send ICMP, or
whether a tunnel packet arrives in fragments: what arrives, fits. Unlike the RFC's
it begins at the top, for most paths carry what their uplinks do, and the floor is
what IPv6 asks of any link: it is in force even where it does not pass.
`sizer` sends the probes and hears of them.
"""

from dataclasses import dataclass, replace
from math import inf

MAX_PROBES = 3  # of a size in a row, before it is taken to be too large (RFC 8899, 5.1.2)
MAX_DOUBTS = 5  # of the size in force: a lossy path is no black hole
CONFIRM_S = 15.0  # from one probe of the size in force to the next, which is to show a black hole
RAISE_S = 600.0  # until more is tried again (PMTU_RAISE_TIMER, RFC 8899, 5.1.1)
GRAIN = 16  # bytes: WireGuard pads to multiples of it (white paper, 5.4.6)


@dataclass(frozen=True)
class Search:
    """The state of one path. Sizes are whole IP packets inside of the tunnel, in bytes; times in s.

    `fits` is in force, `fails` the least size that did not pass, or beyond the ceiling; the
    next probe is of `size`, at `due_s`.
    """

    floor: int
    ceiling: int
    fits: int
    fails: int
    lost: int = 0
    due_s: float = 0.0
    raise_s: float = inf

    @property
    def size(self) -> int:
        """Of the next probe: the ceiling, the middle of what is not known, or once more what is in force."""
        if self.fits < self.ceiling < self.fails:
            return self.ceiling
        first = self.fits // GRAIN + 1
        unknown = (min(self.fails, self.ceiling) - 1) // GRAIN - first + 1
        return (first + unknown // 2) * GRAIN if unknown > 0 else self.fits

    @property
    def is_over(self) -> bool:
        """Whether all that is left is to confirm what was found."""
        return self.size == self.fits

    def at(self, now_s: float) -> "Search":
        """As it is at this time: after a while the path may carry more."""
        if now_s < self.raise_s:
            return self
        return replace(self, fails=self.ceiling + 1, lost=0, due_s=now_s, raise_s=inf)

    def under(self, ceiling: int) -> "Search":
        """With another ceiling, since an uplink changed: who carried all of the old one is trusted."""
        if ceiling == self.ceiling:
            return self
        if self.fits == self.ceiling:
            return begin(self.floor, ceiling)
        return resume(self.floor, ceiling, self.fits)

    def answered(self, now_s: float) -> "Search":
        """A probe of `size` came back."""
        return replace(self, fits=max(self.fits, self.size), lost=0)._paced(now_s)

    def silent(self, now_s: float) -> "Search":
        """A probe of `size` did not come back, though the path is alive."""
        lost = replace(self, lost=self.lost + 1, due_s=now_s)
        if lost.lost < (MAX_DOUBTS if self.is_over else MAX_PROBES):
            return lost
        fits = self.floor if self.is_over else self.fits
        return replace(lost, fits=fits, fails=max(self.size, fits + 1), lost=0)._paced(now_s)

    def _paced(self, now_s: float) -> "Search":
        if not self.is_over:
            return replace(self, due_s=now_s)
        raise_s = min(self.raise_s, now_s + RAISE_S) if self.fits < self.ceiling else inf
        return replace(self, due_s=now_s + CONFIRM_S, raise_s=raise_s)


def begin(floor: int, ceiling: int) -> Search:
    """Of a path that nothing is known of but its uplinks."""
    return Search(floor, ceiling, ceiling, ceiling + 1)


def resume(floor: int, ceiling: int, fits: int) -> Search:
    """Of a path that carried so much when it was looked at last; more is tried at once."""
    return Search(floor, ceiling, max(min(fits, ceiling), floor), ceiling + 1)
