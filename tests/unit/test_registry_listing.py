"""Listings, losses that are kept back, and floating addresses that move."""

import pytest

from meshfabric.model import labels
from meshfabric.model.qos import MAX_OWN
from meshfabric.model.world import Kind
from meshfabric.store import refusals
from meshfabric.store.guard import ALWAYS_ALLOWED
from meshfabric.store.registry import Raw
from tests.fakes.store_records import Follower, endpoint_value, gone, node_value, raw

CONFIG = raw("config", {"prefixes": ["10.0.0.0/8"]}, 1)
NODES = tuple(raw(f"nodes/n{i}", node_value(f"n{i}", i), 10 + i) for i in range(10))
ALLOCATIONS = tuple(raw(f"allocations/n{i}", {"blocks": [f"10.{i}.0.0/24"]}, 20 + i) for i in range(10))
ENDPOINTS = tuple(
    raw(f"endpoints/n{i}/10.{i}.0.{j}", endpoint_value(), 100) for i in range(10) for j in range(2, 12)
)
ALL = (CONFIG, *ALLOCATIONS, *NODES, *ENDPOINTS)


@pytest.fixture
def node() -> Follower:
    """Ten nodes with ten endpoints each."""
    follower = Follower()
    follower.list(*ALL)
    assert len(follower.world.endpoints) == 100
    assert follower.registry.settled
    return follower


def test_an_equal_listing_changes_nothing(node: Follower) -> None:
    assert node.list(*reversed(ALL)) == []
    assert node.registry.settled


def test_what_is_not_listed_is_gone_at_the_end(node: Follower) -> None:
    node.registry.begin_listing()
    assert node.take(*ALL[:-5]) == []
    assert not node.registry.settled
    events = node.apply(node.registry.end_listing())
    assert [(event.kind, event.value) for event in events] == [(Kind.ENDPOINT, None)] * 5
    assert node.registry.settled


def test_refused_and_marked_keys_end_with_a_listing_too(node: Follower) -> None:
    node.take(
        raw("endpoints/n0/11.0.0.1", endpoint_value()), raw("revoked/n1", {}), raw("nodes/n2/alive", {})
    )
    events = node.list(*ALL)
    assert {(event.kind, event.key) for event in events} == {(Kind.REVOKED, "n1"), (Kind.ALIVE, "n2")}
    assert node.registry.refused == {}


def test_what_is_listed_and_refused_stays_refused(node: Follower) -> None:
    waiting, broken = (
        raw("endpoints/n0/10.99.0.1", endpoint_value()),
        raw("endpoints/n0/10.0.0.99", b"garbage"),
    )
    misnamed = raw("endpoints/n0/10.0.0.099", endpoint_value())
    node.take(waiting, broken, misnamed)
    refused = node.registry.refused
    assert len(refused) == 3
    node.list(*ALL, waiting, broken, misnamed)
    assert node.registry.refused == refused


def test_what_lost_its_right_and_is_not_listed_is_forgotten(node: Follower) -> None:
    others = [record for record in ALL if record not in (*ENDPOINTS[:10], ALLOCATIONS[0])]
    node.list(*others, raw("allocations/n0", {"blocks": ["10.77.0.0/24"]}, 200))
    assert len(node.world.endpoints) == 90
    assert node.registry.refused == {}


def test_a_refused_version_in_a_listing_keeps_the_good_one(node: Follower) -> None:
    assert node.list(*ALL[:-1], raw("endpoints/n9/10.9.0.11", b"garbage")) == []
    assert len(node.world.endpoints) == 100


def test_nothing_is_removed_before_the_first_listing_has_ended() -> None:
    node = Follower()
    node.take(*ALL)
    assert node.take(*(gone(record.key.decode().partition("/state/")[2]) for record in ENDPOINTS[:3])) == []
    assert len(node.world.endpoints) == 100
    assert node.registry.held == ""
    assert node.registry.release() == []
    events = node.list(*(record for record in ALL if record not in ENDPOINTS[:3]))
    assert len(events) == 3
    assert len(node.world.endpoints) == 97


def test_a_listing_that_begins_again_forgets_the_first(node: Follower) -> None:
    node.registry.begin_listing()
    node.take(*ALL[:5])
    assert node.list(*ALL) == []


def test_a_right_lost_and_found_within_a_listing_is_no_change(node: Follower) -> None:
    """Blocks swapped while we were away: neither half of it may cut anything."""
    node.registry.begin_listing()
    node.take(raw("allocations/n0", {"blocks": ["10.77.0.0/24"]}, 200))
    node.take(*(record for record in ALL if record != ALLOCATIONS[0]))
    assert len(node.world.endpoints) == 100
    node.take(raw("allocations/n0", {"blocks": ["10.77.0.0/24", "10.0.0.0/24"]}, 201))
    node.apply(node.registry.end_listing())
    assert len(node.world.endpoints) == 100
    assert node.registry.refused == {}


def test_a_wiped_store_is_held(node: Follower) -> None:
    before = node.tables()
    assert node.list() == []
    assert node.tables() == before
    held = node.registry.held
    assert "100 of 100 endpoints, 10 of 10 nodes, 10 of 10 allocations, 1 of 1 config" in held
    assert "meshfabric store release" in held
    assert "\n" not in held
    assert not node.registry.settled
    assert node.list() == []  # and is still, when it is listed again
    assert node.registry.held == held


def test_what_was_held_comes_back_without_an_event(node: Follower) -> None:
    node.list()
    node.take(CONFIG, *ALLOCATIONS, *ENDPOINTS[:50])
    assert "50 of 100 endpoints" in node.registry.held
    assert node.list(*ALL) == []
    assert node.registry.held == ""
    assert node.registry.settled


def test_a_held_loss_is_let_through_by_release(node: Follower) -> None:
    node.list()
    events = node.apply(node.registry.release())
    assert len(events) == 121
    assert [event.kind for event in events[:1]] == [Kind.ENDPOINT]
    assert events[-1].kind is Kind.PREFIXES
    assert not any(node.tables().values())
    assert node.registry.held == ""
    assert node.registry.release() == []


def test_a_batch_of_deletions_counts_as_one_change(node: Follower) -> None:
    doomed = [Raw(record.key, None) for record in ENDPOINTS[:21]]
    assert node.take(*doomed) == []
    assert "21 of 100 endpoints" in node.registry.held
    assert len(node.world.endpoints) == 100
    assert len(node.take(Raw(ENDPOINTS[30].key, None))) == 1  # a small one still goes
    assert len(node.apply(node.registry.release())) == 21


@pytest.mark.parametrize(("number", "held"), [(20, False), (21, True)])
def test_the_limit_is_a_share_and_a_number(node: Follower, number: int, held: bool) -> None:
    node.take(*(Raw(record.key, None) for record in ENDPOINTS[:number]))
    assert bool(node.registry.held) == held
    assert ALWAYS_ALLOWED[Kind.ENDPOINT] == 20


def test_a_large_number_that_is_a_small_share_goes() -> None:
    node = Follower()
    many = [raw(f"endpoints/n0/10.0.{i}.{j}", endpoint_value()) for i in range(2) for j in range(2, 80)]
    node.list(CONFIG, raw("allocations/n0", {"blocks": ["10.0.0.0/16"]}), *many)
    assert len(node.take(*(Raw(record.key, None) for record in many[:31]))) == 31
    assert len(node.take(*(Raw(record.key, None) for record in many[31:56]))) == 25  # of 125: just 20 %
    assert node.take(*(Raw(record.key, None) for record in many[56:77])) == []  # of 100: 21 %


def test_a_mistyped_prefix_takes_nothing_with_it(node: Follower) -> None:
    events = node.take(raw("config", {"prefixes": ["172.16.0.0/12"]}, 300))
    assert [event.kind for event in events] == [Kind.PREFIXES]
    assert "100 of 100 endpoints, 10 of 10 allocations" in node.registry.held
    assert "allocations/n0" in node.registry.refused
    node.take(CONFIG)
    assert node.registry.held == ""
    assert node.registry.refused == {}
    assert len(node.world.endpoints) == 100


def test_the_fabrics_config_never_goes_by_itself(node: Follower) -> None:
    assert node.take(gone("config")) == []
    assert "1 of 1 config" in node.registry.held


def classes(*names: str) -> list[Raw]:
    """Their records, from revision 200 on."""
    return [raw(f"classes/{name}", {"name": name}, 200 + i) for i, name in enumerate(names)]


def test_classes_that_are_held_yield_their_numbers_to_others(node: Follower) -> None:
    first, second = [f"c{i}" for i in range(MAX_OWN)], ["x", "y"]
    node.list(*ALL, *classes(*first))
    assert node.list(*ALL) == []
    assert node.registry.held.startswith("12 of 12 classes went missing")
    node.list(*ALL, *classes(*second))
    assert sorted(node.world.classes) == sorted([*first[2:], *second])
    assert node.registry.held.startswith("10 of 12 classes went missing")
    node.apply(node.registry.release())
    assert {node.world.class_number(name) for name in second} <= set(range(4, 16))
    assert sorted(node.world.classes) == second


def test_other_classes_at_once_find_numbers(node: Follower) -> None:
    node.list(*ALL, *classes(*(f"c{i}" for i in range(MAX_OWN))))
    node.list(*ALL, *classes(*(f"d{i}" for i in range(MAX_OWN))))
    assert sorted(node.world.classes) == sorted(f"d{i}" for i in range(MAX_OWN))
    assert (node.registry.held, node.registry.refused) == ("", {})


def test_tombstones_and_leases_are_never_held(node: Follower) -> None:
    everyone = [
        raw(f"{path.format(i)}", {}) for i in range(10) for path in ("revoked/n{}", "nodes/n{}/alive")
    ]
    node.take(*everyone)
    assert len(node.take(*(Raw(record.key, None) for record in everyone))) == 20
    assert node.registry.held == ""


def test_marks_go_even_while_others_are_held(node: Follower) -> None:
    node.take(raw("nodes/n1/alive", {}))
    assert [event.kind for event in node.list()] == [Kind.ALIVE]


BLOCK = raw("allocations/a", {"blocks": ["10.1.0.0/24"]}, 2)


def test_what_could_not_be_kept_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_REFUSED", 3)
    node = Follower()
    found = [raw(f"endpoints/a/10.1.0.{i}", endpoint_value(), i) for i in range(2, 8)]
    node.list(CONFIG, *found)
    assert len(node.registry.refused) == 3
    assert node.registry.refusals["endpoints"] == 6
    assert not node.registry.needs_listing
    node.take(BLOCK)
    assert len(node.world.endpoints) == 3
    assert node.registry.needs_listing
    node.list(CONFIG, BLOCK, *found)
    assert len(node.world.endpoints) == 6
    assert not node.registry.needs_listing


def test_waiting_values_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_WAITING_BYTES", 100)
    node = Follower()
    found = [raw(f"endpoints/a/10.1.0.{i}", endpoint_value("w" * 60), i) for i in range(2, 5)]
    node.list(CONFIG, *found)
    assert len(node.registry.refused) == 3
    node.take(BLOCK)
    assert len(node.world.endpoints) == 1
    assert node.registry.needs_listing


POOL = {"labels": {"any": ["*"]}, "pools": ["10.200.0.0/24"]}
PATH = "endpoints/{}/10.200.0.5"


def _floating(name: str, revision: int, epoch: int = 0, handoff_to: str = "") -> Raw:
    value = endpoint_value(
        "vm", "vm", epoch=epoch, handoff_to=handoff_to, labels={"any": f"{name}-{revision}"}
    )
    return raw(PATH.format(name), value, revision)


@pytest.fixture
def pool(node: Follower) -> Follower:
    """Three of the nodes share a pool."""
    node.take(*(raw(f"grants/n{i}", POOL, 30 + i) for i in range(3)))
    return node


def _at(node: Follower) -> str:
    return node.endpoints().get("10.200.0.5", "")


def test_an_address_moves_with_its_holders_consent(pool: Follower) -> None:
    pool.take(_floating("n0", 1))
    assert pool.take(_floating("n1", 2, epoch=1)) == []
    assert "does not hand it to n1" in pool.registry.refused[PATH.format("n1")]
    (event,) = pool.take(_floating("n0", 3, handoff_to="n1"))
    assert event.value.node == "n1"
    assert "handed over to node n1" in pool.registry.refused[PATH.format("n0")]
    assert pool.take(gone(PATH.format("n0"))) == []
    assert pool.registry.refused == {}


def test_an_address_is_not_taken_back_without_consent(pool: Follower) -> None:
    pool.take(_floating("n0", 1, handoff_to="n1"), _floating("n1", 2, epoch=1))
    pool.take(_floating("n0", 3))
    assert _at(pool) == "n1"
    pool.take(_floating("n0", 4, epoch=5))
    assert _at(pool) == "n1"
    pool.take(_floating("n1", 5, epoch=1, handoff_to="n0"))
    assert _at(pool) == "n0"


def test_a_dead_nodes_address_goes_over_by_its_tombstone(pool: Follower) -> None:
    pool.take(_floating("n0", 1), _floating("n1", 2, epoch=1))
    assert _at(pool) == "n0"
    pool.take(raw("revoked/n0", {}))
    assert _at(pool) == "n1"
    pool.take(gone("revoked/n0"))
    assert _at(pool) == "n0"


def test_a_pool_taken_away_takes_the_claim_away(pool: Follower) -> None:
    pool.take(_floating("n0", 1), _floating("n1", 2))
    pool.take(raw("grants/n0", {}, 40))
    assert _at(pool) == "n1"
    assert "no block or pool" in pool.registry.refused[PATH.format("n0")]
    pool.take(raw("grants/n0", POOL, 41))
    assert _at(pool) == "n0"  # the older claim


def test_a_block_comes_before_a_pool(pool: Follower) -> None:
    pool.take(_floating("n0", 1), raw(PATH.format("n3"), endpoint_value("own"), 2))
    pool.take(raw("allocations/n3", {"blocks": ["10.3.0.0/24", "10.200.0.0/25"]}, 50))
    assert _at(pool) == "n3"
    assert "in a block of node n3" in pool.registry.refused[PATH.format("n0")]
    pool.take(raw("allocations/n3", {"blocks": ["10.3.0.0/24"]}, 51))
    assert _at(pool) == "n0"
    pool.take(_floating("n1", 52), _floating("n2", 53))
    pool.take(raw("allocations/n1", {"blocks": ["10.1.0.0/24", "10.200.0.0/25"]}, 54))
    assert _at(pool) == "n1"
    assert PATH.format("n1") not in pool.registry.refused


def test_a_block_that_is_not_in_force_stops_nobody(pool: Follower) -> None:
    pool.take(raw("allocations/n3", {"blocks": ["10.3.0.0/24", "10.200.0.0/25", "11.0.0.0/24"]}, 50))
    assert "in no prefix" in pool.registry.refused["allocations/n3"]
    pool.take(_floating("n0", 51))
    assert _at(pool) == "n0"


def test_a_lost_claim_leaves_no_labels_behind(pool: Follower) -> None:
    pool.take(_floating("n0", 1))
    known = len(labels._interned)
    pool.take(*(_floating("n1", revision) for revision in range(2, 50)))
    assert len(labels._interned) == known


def test_claims_not_listed_are_gone(pool: Follower) -> None:
    grants = [raw(f"grants/n{i}", POOL, 30 + i) for i in range(3)]
    pool.take(_floating("n0", 1), _floating("n1", 2))
    assert _at(pool) == "n0"
    pool.list(*ALL, *grants, _floating("n1", 2))
    assert _at(pool) == "n1"
    assert pool.registry.refused == {}
    pool.list(*ALL, *grants)
    assert _at(pool) == ""
