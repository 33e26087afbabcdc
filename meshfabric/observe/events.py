"""Named events: what an operator wants to know happened, last ones kept, all of them logged.

What happens again and again drives out only its own: what happened once stays to be seen.
"""

import logging
from collections import Counter
from datetime import UTC, datetime
from typing import NamedTuple

KEPT = 20

log = logging.getLogger(__name__)


class Noted(NamedTuple):
    """One thing that happened; `time` in ISO 8601."""

    time: str
    name: str
    detail: str


class Events:
    """The journal of one agent."""

    def __init__(self) -> None:
        self.last: list[Noted] = []

    def note(self, name: str, detail: str = "") -> None:
        """Something happened, now."""
        self.last.append(Noted(datetime.now(UTC).isoformat(timespec="milliseconds"), name, detail))
        if len(self.last) > KEPT:
            self._forget_one()
        log.info(name, extra={"event": name, "detail": detail})

    def _forget_one(self) -> None:
        """The oldest of those that there are most of."""
        [(frequent, _)] = Counter(event.name for event in self.last).most_common(1)
        at = next(at for at, event in enumerate(self.last) if event.name == frequent)
        del self.last[at]
