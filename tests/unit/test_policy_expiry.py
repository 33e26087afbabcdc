"""Policies that expire on their way to the world: by a clock that the test turns, once by the real one."""

import asyncio
from datetime import UTC, datetime, timedelta

from meshfabric.agent.expiry import Expiry, wall_clock
from meshfabric.model.policy import Policy
from meshfabric.model.policytext import IngressText, PolicyText, read_policy
from meshfabric.model.world import Event, Kind
from tests.patience import DEADLINE_S

START = datetime(2026, 6, 1, tzinfo=UTC)


class Watched:
    """An expiry with a clock, and what it has fed and noted."""

    def __init__(self) -> None:
        self.now = START
        self.fed: list[Event] = []
        self.noted: list[tuple[str, str]] = []
        self.expiry = Expiry(self.fed.extend, lambda *what: self.noted.append(what), lambda: self.now)

    def at(self, seconds: float) -> list[Event]:
        """What is fed because the clock says so."""
        self.now, self.fed[:] = START + timedelta(seconds=seconds), []
        self.expiry.look()
        return self.fed


def policy(*rules: float | None, whole: float | None = None) -> Policy:
    texts = [IngressText([f"n={number}"], expires=text(at)) for number, at in enumerate(rules)]
    return read_policy(PolicyText("p", "*", texts, expires=text(whole)))


def text(seconds: float | None) -> str | None:
    return None if seconds is None else (START + timedelta(seconds=seconds)).isoformat()


async def test_a_rule_then_the_document() -> None:
    watched = Watched()
    first, left = policy(5, None, whole=9), policy(5, None, whole=9)
    watched.expiry.take([Event(Kind.ALIVE, "n1", True), Event(Kind.POLICY, "p", first)])
    assert watched.fed == [Event(Kind.ALIVE, "n1", True), Event(Kind.POLICY, "p", first)]
    assert watched.at(4.9) == []
    (event,) = watched.at(5)
    assert event.value.rules == left.rules[1:]
    assert watched.at(6) == []
    assert watched.at(9) == [Event(Kind.POLICY, "p", None)]
    assert watched.at(100) == []
    assert watched.noted == [("policy expired", "p"), ("policy expired", "p")]


async def test_a_clock_set_back_puts_it_in_force_again() -> None:
    watched = Watched()
    watched.expiry.take([Event(Kind.POLICY, "p", policy(None, whole=5))])
    assert watched.at(5)[0].value is None
    assert watched.at(4) == [Event(Kind.POLICY, "p", policy(None, whole=5))]
    assert watched.noted[-1] == ("policy in force again", "p")


async def test_so_is_a_rule_of_one_that_is_in_force() -> None:
    watched = Watched()
    watched.expiry.take([Event(Kind.POLICY, "p", policy(5, None))])
    assert len(watched.at(5)[0].value.rules) == 1
    assert watched.at(4) == [Event(Kind.POLICY, "p", policy(5, None))]
    assert watched.noted == [("policy expired", "p"), ("policy in force again", "p")]


async def test_what_had_expired_before_is_never_fed() -> None:
    watched = Watched()
    watched.expiry.take([Event(Kind.POLICY, "p", policy(None, whole=-1))])
    assert watched.fed == [Event(Kind.POLICY, "p", None)]


async def test_what_is_replaced_or_removed_expires_no_more() -> None:
    watched = Watched()
    for value in (policy(None), None):
        watched.expiry.take([Event(Kind.POLICY, "p", policy(None, whole=5))])
        watched.expiry.take([Event(Kind.POLICY, "p", value)])
        assert watched.fed[-1] == Event(Kind.POLICY, "p", value)
        assert watched.at(6) == []
        watched.now = START


async def test_the_timer_rings_by_itself() -> None:
    ended = asyncio.Event()
    fed: list[Event] = []

    def feed(events: list[Event]) -> None:
        fed.extend(events)
        if events[-1].value is None:
            ended.set()

    expiry = Expiry(feed, lambda *what: None)
    at = (wall_clock() + timedelta(seconds=3)).isoformat()
    expiry.take([Event(Kind.POLICY, "p", read_policy(PolicyText("p", "*", [], expires=at)))])
    assert fed[0].value is not None
    await asyncio.wait_for(ended.wait(), DEADLINE_S)
    assert len(fed) == 2
