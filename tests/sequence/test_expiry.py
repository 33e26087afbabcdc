"""Policies come, expire and come back, workloads too: at any moment the plan is that of what is in force."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.agent.expiry import Expiry
from meshfabric.compiler.step import compile_plan, step
from meshfabric.model.policy import Policy, Rule
from meshfabric.model.world import Event, Kind
from tests.strategies import full, policed, policies, world_of
from tests.strategies import settings as configured

EXAMPLES = 100
NAMES = ("p", "q", "r")
START = datetime(2026, 6, 1, tzinfo=UTC)
LAST_S = 4

seconds = st.integers(0, LAST_S)
moments = st.none() | seconds.map(lambda after: START + timedelta(seconds=after))


@st.composite
def expiring(draw: st.DrawFn) -> Event:
    """A policy of any tier that ends, or of which rules end, or that stays."""
    policy = draw(st.sampled_from(NAMES).flatmap(policies))

    def dated(rules: tuple[Rule, ...] | None) -> tuple[Rule, ...] | None:
        return rules and tuple(msgspec.structs.replace(rule, expires=draw(moments)) for rule in rules)

    changes = {"ingress": dated(policy.ingress), "egress": dated(policy.egress), "expires": draw(moments)}
    return Event(Kind.POLICY, policy.name, msgspec.structs.replace(policy, **changes))


def left_of(policy: Policy, now: datetime) -> Policy | None:
    """What has not expired, written out."""
    if policy.expires is not None and policy.expires <= now:
        return None
    ingress, egress = (
        rules and tuple(rule for rule in rules if rule.expires is None or rule.expires > now)
        for rules in (policy.ingress, policy.egress)
    )
    return msgspec.structs.replace(policy, ingress=ingress, egress=egress)


@given(st.lists(expiring() | expiring() | policed(2) | seconds, max_size=12))
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_in_force_is_what_the_clock_says(story: list[Event | list[Event] | int]) -> None:
    world = world_of(configured(()), full())
    told = dict(world.policies)
    plan, now = compile_plan(world), START

    def feed(events: list[Event]) -> None:
        for event in events:
            step(world, plan, event)

    async def play() -> None:
        nonlocal now
        expiry = Expiry(feed, lambda *what: None, lambda: now)
        for part in story:
            if isinstance(part, int):
                now = START + timedelta(seconds=part)
                expiry.look()
            else:
                events = part if isinstance(part, list) else [part]
                told.update({str(one.key): one.value for one in events if one.kind is Kind.POLICY})
                expiry.take(events)
            living = {name: left_of(one, now) for name, one in told.items() if one}
            assert world.policies == {name: one for name, one in living.items() if one}
            assert plan == compile_plan(world)

    asyncio.run(play())
