"""Whatever happens in whatever order, nobody gives keys up that another's traffic takes, and all arrive.

Nodes as `compiler.rotation` sees them: each knows the others by what it heard last. A path works
where both ends have keys of its generation and have heard of the other's; a node knows that it works
when it looked while its agent ran.
"""

from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfabric.compiler import rotation
from meshfabric.compiler.rotation import Peer
from meshfabric.model.keyring import FIRST, GENERATIONS, NONE, Keyring, generation_of
from meshfabric.model.node import RotationRecord

NODES = 3
EXAMPLES = 300
GRACE_ROUNDS = 2  # in which everyone hears of everyone and looks: minutes, where looks are seconds
ENOUGH_ROUNDS = 30  # for two rotations, one after the other

Step = tuple[str, int, int]


@dataclass
class Node:
    """What a node has, and what it heard; `proven` are its working paths, by peer and generation."""

    keyring: Keyring = FIRST
    alive: bool = True
    heard: dict[int, Keyring] = field(default_factory=dict)
    proven: set[tuple[int, int]] = field(default_factory=set)
    content: int | None = None
    closed: int = 0

    def takes(self, peer: int) -> int | None:
        """The generation of the tunnel that its datapath takes to a peer."""
        return next(iter(self.may_take(peer)), None)

    def may_take(self, peer: int) -> list[int]:
        """Those that it would take, the next if those before fell silent."""
        preferred = self.keyring.preferred
        usable = set(self.keyring.open) & set(self.heard[peer].open)
        return [one for one in (preferred, 1 - preferred) if one in usable and (peer, one) in self.proven]


class Fabric:
    """Some nodes, and the epoch that is due."""

    def __init__(self, keyrings: list[Keyring]) -> None:
        self.nodes = [Node(keyring) for keyring in keyrings]
        self.due: int | None = None
        self.rounds = 0
        self.patient = True
        self.round()

    def hear(self, here: int, there: int) -> None:
        if here != there and self.nodes[here].alive:
            self.nodes[here].heard[there] = self.nodes[there].keyring

    def works(self, here: int, there: int, generation: int) -> bool:
        near, far = self.nodes[here], self.nodes[there]
        return all(
            generation in keyring.generations
            for keyring in (near.keyring, far.keyring, near.heard.get(there, NONE), far.heard.get(here, NONE))
        )

    def look(self, here: int) -> None:
        node = self.nodes[here]
        if not node.alive or len(node.heard) < len(self.nodes) - 1:
            return
        ways = ((there, generation) for there in node.heard for generation in range(GENERATIONS))
        node.proven = {way for way in ways if self.works(here, *way)}
        others = [self._peer(node, there) for there in sorted(node.heard)]
        after = rotation.turn(node.keyring, self.due, others, leftover=False)
        if after == node.keyring and node.keyring.closing and self.rounds > node.closed:
            after = rotation.without_old(node.keyring)
            self._check_unused(here, 1 - node.keyring.preferred)
        elif after == node.keyring and self._may_give_up(node, others):
            after = rotation.closing(node.keyring)
            node.closed = self.rounds + 1
        if after != node.keyring:
            node.content = None
        node.keyring = after

    def _peer(self, node: Node, there: int) -> Peer:
        preferred = node.keyring.preferred
        needs_old = (there, 1 - preferred) in node.proven and (there, preferred) not in node.proven
        return Peer(str(there), self.nodes[there].alive, node.heard[there], needs_old)

    def _may_give_up(self, node: Node, others: list[Peer]) -> bool:
        mine = node.keyring
        ready = rotation.is_under_way(mine) and mine.taken == mine.preferred and not mine.closing
        if not ready or rotation.holding(mine, others, dead_count=self.patient):
            node.content = None
            return False
        node.content = self.rounds if node.content is None else node.content
        return self.rounds - node.content >= GRACE_ROUNDS

    def _check_unused(self, here: int, generation: int) -> None:
        for there, node in enumerate(self.nodes):
            if there != here and (node.alive or self.patient):
                assert node.takes(here) != generation, f"{there} sends to {here} by what goes"
            if there != here and node.alive:
                assert generation not in node.may_take(here), f"{there} could send to {here} by what goes"

    def round(self) -> None:
        for here, there in permutations(range(len(self.nodes)), 2):
            self.hear(here, there)
        for here in range(len(self.nodes)):
            self.look(here)
        self.rounds += 1

    def do(self, step: Step) -> None:
        what, here, there = step
        match what:
            case "hear":
                self.hear(here, there)
            case "look":
                self.look(here)
            case "round":
                self.round()
            case "due" if self.is_done():
                self.due = (self.due or 0) + 1
            case "kill":
                self.nodes[here].alive = False
            case "revive":
                self.nodes[here].alive = True

    def is_done(self) -> bool:
        """Every living node has keys of one generation only, that of what is due."""
        return all(
            len(node.keyring.generations) == 1
            and (self.due is None or node.keyring.taken == generation_of(self.due))
            for node in self.nodes
            if node.alive
        )


number = st.integers(0, NODES - 1)
words = st.sampled_from(["hear", "look", "hear", "look", "round", "round", "due", "kill", "revive", "revive"])
steps = st.lists(st.tuples(words, number, number), max_size=80)
peaceful = st.lists(st.tuples(st.sampled_from(["hear", "look", "round", "due"]), number, number), max_size=80)


@given(steps)
@settings(max_examples=EXAMPLES, deadline=None)
def test_nobody_loses_what_its_traffic_takes_and_all_arrive(happened: list[Step]) -> None:
    fabric = Fabric([FIRST] * NODES)
    for step in happened:
        fabric.do(step)
    for node in fabric.nodes:
        node.alive = True
    for _ in range(ENOUGH_ROUNDS):
        fabric.round()
    assert fabric.is_done(), [node.keyring for node in fabric.nodes]
    for here, there in permutations(range(NODES), 2):
        assert fabric.nodes[here].takes(there) is not None


@given(peaceful)
@settings(max_examples=EXAMPLES, deadline=None)
def test_with_every_agent_running_each_epoch_brings_new_keys(happened: list[Step]) -> None:
    fabric = Fabric([FIRST] * NODES)
    for step in happened:
        fabric.do(step)
        for here, there in permutations(range(NODES), 2):
            assert fabric.nodes[here].takes(there) is not None
    for _ in range(ENOUGH_ROUNDS):
        fabric.round()
    assert {node.keyring.newest for node in fabric.nodes} == {fabric.due or 0}


@given(steps)
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_dead_hold_nobody_up_for_ever_and_find_back(happened: list[Step]) -> None:
    fabric = Fabric([FIRST] * NODES)
    fabric.patient = False
    for step in happened:
        fabric.do(step)
    for _ in range(ENOUGH_ROUNDS):
        fabric.round()
    assert fabric.is_done()
    for node in fabric.nodes:
        node.alive = True
    for _ in range(ENOUGH_ROUNDS):
        fabric.round()
    assert fabric.is_done(), [node.keyring for node in fabric.nodes]
    for here, there in permutations(range(NODES), 2):
        assert fabric.nodes[here].takes(there) is not None


def test_an_agent_that_knows_of_no_rotation_holds_it_up_and_loses_nothing() -> None:
    fabric = Fabric([FIRST] * NODES)
    fabric.due = 1
    old = fabric.nodes[0]
    for _ in range(ENOUGH_ROUNDS):
        fabric.round()
        old.keyring = FIRST
        assert all(node.takes(0) == 0 for node in fabric.nodes[1:])
    assert all(node.keyring.epochs == (0, 1) for node in fabric.nodes[1:])
    assert all(node.takes(3 - here) == 1 for here, node in enumerate(fabric.nodes) if here)


def test_a_clock_that_is_ahead_by_years_moves_nobody() -> None:
    mine = FIRST
    others = [Peer("b", True, FIRST, False), Peer("c", True, FIRST, False)]
    early = rotation.turn(mine, 505, others, leftover=False)
    assert early == Keyring((0, 505), 1, 0)
    assert rotation.holding(early, others, dead_count=True) == ["b", "c"]
    moved = [Peer(name, True, Keyring((0, 1), 1, 1), False) for name in "bc"]
    assert rotation.blocking(FIRST, [Peer("a", True, early, False)]) == []
    assert rotation.turn(early, 1, moved, leftover=False) == Keyring((0, 505), 1, 1)
    done = rotation.without_old(Keyring((0, 505), 1, 1))
    assert rotation.turn(done, 2, moved[:0], leftover=False) == Keyring((506, 505), 0, 1)


@pytest.mark.parametrize(
    ("wanted", "theirs", "first"),
    {
        (None, (), 0),
        (3, (), 3),
        (None, (Keyring((4, None)), Keyring((4, None))), 4),
        (None, (Keyring((None, 5), 1, 1),), 5),
        (5, (Keyring((4, 5), 1, 1),), 5),
        (5, (Keyring((4, 5), 1, 0), Keyring((4, None))), 4),
        (5, (Keyring((4, None)), Keyring((None, 5), 1, 1)), 5),
        (5, (NONE, Keyring((4, None))), 4),
    },
)  # fmt: skip
def test_a_new_node_begins_with_what_the_others_have(
    wanted: int | None, theirs: tuple[Keyring, ...], first: int
) -> None:
    others = [Peer(str(number), True, keyring, False) for number, keyring in enumerate(theirs)]
    made = rotation.turn(NONE, wanted, others, leftover=False)
    assert (made.generations, made.newest) == ((generation_of(first),), first)
    assert made.preferred == made.taken == generation_of(first)


def test_keys_that_are_not_gone_yet_hold_up_the_next_ones() -> None:
    assert rotation.turn(FIRST, 1, [], leftover=True) == FIRST
    assert rotation.turn(FIRST, 1, [], leftover=False) == Keyring((0, 1), 1, 0)


@pytest.mark.parametrize(
    ("now_s", "epoch"), {(0, 4), (999, 4), (1000, 4), (4599, 4), (4600, 5), (8200, 6), (1000 + 3600 * 90, 94)}
)
def test_the_clock_says_what_is_due(now_s: float, epoch: int) -> None:
    assert rotation.due(RotationRecord(4, 1000, 3600), now_s) == epoch
    assert rotation.due(RotationRecord(4, 1000), now_s) == 4
    assert rotation.due(None, now_s) is None
