"""Policies on their way to the world: without what has expired, and again when more of them does.

    registry --take(events)--> without what has expired --feed--> world
                  |                                         ^
                  +------ a timer for the next expiry ------+

The world has no clock and the compiler is pure, so time enters here, as events
like any other. The registry and the snapshot keep the whole record; if the
clock is set back, what had expired is in force again.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from meshfabric.model.policy import Policy, expiries, in_force
from meshfabric.model.world import Event, Kind

LOOK_AGAIN_S = 30.0  # somebody may set the clock, and a timer does not count while a machine sleeps


def wall_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


class Expiry:
    """Keeps the policies of which something expires, and a timer while there are any.

    `note` is told what expired, by the name of the event and the policy.
    """

    def __init__(
        self,
        feed: Callable[[list[Event]], None],
        note: Callable[[str, str], None],
        clock: Callable[[], datetime] = wall_clock,
    ) -> None:
        self._feed, self._note, self._clock = feed, note, clock
        self._whole: dict[str, Policy] = {}
        self._fed: dict[str, Policy | None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def take(self, events: Iterable[Event]) -> None:
        """Feed events of any kind, policies without what has expired."""
        events, now = list(events), self._clock()
        self._feed([self._living(event, now) if event.kind is Kind.POLICY else event for event in events])
        if any(event.kind is Kind.POLICY for event in events):
            self._aim(now)

    def look(self) -> None:
        """Feed what has changed by the clock alone."""
        now, events = self._clock(), []
        for name, whole in self._whole.items():
            left, before = in_force(whole, now), self._fed[name]
            if left != before:
                self._note("policy expired" if _size(left) < _size(before) else "policy in force again", name)
                self._fed[name] = left
                events.append(Event(Kind.POLICY, name, left))
        if events:
            self._feed(events)
        self._aim(now)

    def _living(self, event: Event, now: datetime) -> Event:
        name, policy = str(event.key), event.value
        if policy is None or next(expiries(policy), None) is None:
            self._whole.pop(name, None)
            self._fed.pop(name, None)
            return event
        self._whole[name], self._fed[name] = policy, in_force(policy, now)
        return event._replace(value=self._fed[name])

    def _aim(self, now: datetime) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._whole:
            return
        later = ((at - now).total_seconds() for policy in self._whole.values() for at in expiries(policy))
        delay = min([LOOK_AGAIN_S, *(seconds for seconds in later if seconds > 0)])
        self._timer = asyncio.get_running_loop().call_later(delay, self.look)


def _size(policy: Policy | None) -> int:
    """What expires makes it less, what is in force again more."""
    return 0 if policy is None else 1 + len(policy.rules)
