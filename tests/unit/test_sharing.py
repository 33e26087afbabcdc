"""Who takes which share of the flows to a node."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from meshfabric.compiler.paths import node_entries
from meshfabric.compiler.sharing import Member, slots
from meshfabric.model.settings import Sharing
from meshfabric.model.tables import MAX_PATHS, NODE, SHARES
from tests.fabric import Attachment, fabric

ENDS = list(product(range(4), range(2)))
weights = st.lists(st.integers(1, 100_000), min_size=1, max_size=MAX_PATHS)


def members(given: list[int]) -> tuple[Member, ...]:
    return tuple(Member(*end, weight) for end, weight in zip(ENDS, given, strict=False))


@given(weights)
def test_each_has_as_many_slots_as_are_due_to_it(given: list[int]) -> None:
    found = slots(members(given))
    assert len(found) == SHARES
    for at, weight in enumerate(given):
        assert abs(found.count(at) - SHARES * weight / sum(given)) < 1


@pytest.mark.parametrize("count", range(2, MAX_PATHS + 1))
def test_few_slots_move_when_a_path_goes(count: int) -> None:
    before = slots(members([1] * count))
    for gone in range(count):
        rest = slots(tuple(one for at, one in enumerate(members([1] * count)) if at != gone))
        others = [(old - (old > gone), new) for old, new in zip(before, rest, strict=True) if old != gone]
        assert sum(old != new for old, new in others) <= SHARES // 8, "beside its own"


def test_the_order_of_paths_is_no_matter() -> None:
    given = members([3, 1, 2])
    assert slots(given) == tuple(2 - at for at in slots(given[::-1]))


NEAR = (Attachment("red", ("192.0.2.1/24",)), Attachment("blue", ("198.51.100.1/24",)))
FAR = (Attachment("red", ("192.0.2.2/24",)), Attachment("blue", ("198.51.100.2/24",)))


def shared(near: list[Attachment], far: list[Attachment], wanted: Sharing = Sharing.ON) -> list[int]:
    """The slots of the far node as the near one has them."""
    node, other = fabric([near, far])
    node.world.settings = replace(node.world.settings, sharing=wanted)
    [value] = node_entries(node.world, other.name).values()
    *_, on, share = NODE.unpack(value)
    return list(share) if on else []


def test_nothing_is_shared_unless_it_is_asked_for() -> None:
    assert shared([*NEAR], [*FAR], Sharing.OFF) == []


def test_paths_of_the_same_cost_share() -> None:
    found = shared([*NEAR], [*FAR])
    assert (found.count(0), found.count(1)) == (32, 32)


def test_dearer_paths_do_not() -> None:
    assert shared([NEAR[0], Attachment("blue", ("198.51.100.1/24",), cost=1)], [*FAR]) == []


CAPACITIES = {
    "by the slower end": ((1000, 3000), (9000, 9000), (16, 48)),
    "by the end that is known": ((1000, 0), (0, 3000), (16, 48)),
    "one is unknown": ((1000, 0), (1000, 0), (32, 32)),
}


@pytest.mark.parametrize("name", CAPACITIES)
def test_shares_go_by_capacity(name: str) -> None:
    near, far, slots_of = CAPACITIES[name]
    nets = ("192.0.2", "198.51.100")
    ends = [
        [
            Attachment(segment, (f"{net}.{number}/24",), capacity=capacity)
            for segment, net, capacity in zip(("red", "blue"), nets, capacities, strict=True)
        ]
        for number, capacities in ((1, near), (2, far))
    ]
    found = shared(ends[0], ends[1])
    assert (found.count(0), found.count(1)) == slots_of
