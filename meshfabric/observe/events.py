"""Named events: what an operator wants to know happened, last ones kept, all of them logged."""

import logging
from collections import deque
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
        self.last: deque[Noted] = deque(maxlen=KEPT)

    def note(self, name: str, detail: str = "") -> None:
        """Something happened, now."""
        self.last.append(Noted(datetime.now(UTC).isoformat(timespec="milliseconds"), name, detail))
        log.info(name, extra={"event": name, "detail": detail})
