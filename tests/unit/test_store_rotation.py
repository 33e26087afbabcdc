"""Records about keys: what the epoch should be, and a node's keyring with the tunnels of both generations."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.keyring import FIRST, MAX_EPOCH, Keyring
from meshfabric.model.node import NodeRecord, RotationRecord
from meshfabric.model.world import Kind
from meshfabric.store import checks, snapshot
from meshfabric.store.keys import Located, RecordKind, Refusal
from tests.fakes.store_records import Follower, gone, node_value, public_key, raw

MONTH_S = 30 * 86_400


@pytest.fixture
def node() -> Follower:
    """A fabric with a node `a` that may say something."""
    follower = Follower()
    follower.list(
        raw("config", {"prefixes": ["10.0.0.0/8"]}),
        raw("allocations/a", {"blocks": ["10.1.0.0/24"]}),
    )
    return follower


def odd(remote: int, key: int, port: int) -> dict[str, Any]:
    """A tunnel's end of generation 1."""
    return {"local": 0, "remote": remote, "public_key": public_key(key), "port": port}


def test_a_rotation_is_told_changed_and_taken_back(node: Follower) -> None:
    node.take(raw("rotation", {"epoch": 3, "since_s": 1000, "every_s": MONTH_S}))
    assert node.world.rotation == {"": RotationRecord(3, 1000, MONTH_S)}
    node.take(raw("rotation", {"epoch": 4}))
    assert node.world.rotation == {"": RotationRecord(4)}
    assert [event.kind for event in node.take(gone("rotation"))] == [Kind.ROTATION]
    assert node.world.rotation == {}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"epoch": -1}, "epoch -1"),
        ({"epoch": MAX_EPOCH + 1}, "epoch"),
        ({"epoch": 1, "since_s": -5}, "since_s -5"),
        ({"epoch": 1, "every_s": 3599}, "every_s 3599"),
        ({"epoch": 1, "every_s": -1}, "every_s -1"),
        ({"epoch": "1"}, "cannot be read"),
        ({"epoch": 1, "min_version": 2}, "newer agent"),
    ],
)
def test_refused_rotations_leave_the_last_one_in_force(node: Follower, value: Any, why: str) -> None:
    node.take(raw("rotation", {"epoch": 3}))
    assert node.take(raw("rotation", value)) == []
    assert why in node.registry.refused["rotation"]
    assert node.world.rotation == {"": RotationRecord(3)}


def test_a_rotation_is_in_the_snapshot(node: Follower, tmp_path: Any) -> None:
    node.take(raw("rotation", {"epoch": 3}))
    snapshot.save(tmp_path / "snapshot.json", node.registry.records())
    later = Follower()
    for page in snapshot.load(tmp_path / "snapshot.json").pages:
        later.take(*page)
    assert later.world.rotation == {"": RotationRecord(3)}


def test_a_node_tells_of_both_generations(node: Follower) -> None:
    keyring = {"epochs": [2, 3], "preferred": 1, "taken": 0}
    node.take(raw("nodes/a", node_value("a", 1, odd_tunnels=[odd(0, 2, 51884)], keyring=keyring)))
    record = node.world.nodes["a"]
    assert record.keyring == Keyring((2, 3), 1, 0)
    assert [len(record.tunnels_of(generation)) for generation in (0, 1)] == [1, 1]


def test_an_older_agents_record_is_of_the_first_epoch(node: Follower) -> None:
    node.take(raw("nodes/a", node_value("a", 1)))
    assert (node.world.nodes["a"].keyring, node.world.nodes["a"].odd_tunnels) == (FIRST, ())


def test_an_older_agent_reads_what_it_knows() -> None:
    """It has tunnels of generation 0 only, and joins no other with them."""

    class Older(msgspec.Struct):
        name: str
        tunnels: list[dict[str, Any]]
        min_version: int = 1

    both = node_value("a", 1, odd_tunnels=[odd(0, 2, 51884)], keyring={"epochs": [2, 3]})
    record = msgspec.convert(both, NodeRecord)
    read = msgspec.json.decode(msgspec.json.encode(record), type=Older)
    assert [tunnel["public_key"] for tunnel in read.tunnels] == [public_key(1)]
    assert read.min_version == 1


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"odd_tunnels": [odd(0, 2, 51884), odd(0, 3, 51885)]}, "odd_tunnels: two have the same"),
        ({"odd_tunnels": [odd(0, 2, 51820)]}, "ports"),
        ({"odd_tunnels": [odd(0, 1, 51884)]}, "keys"),
        ({"odd_tunnels": [odd(8, 2, 51884)]}, "odd_tunnels[0]: remote slot 8"),
        ({"keyring": {"epochs": [1, None]}}, "epoch 1 is of the other generation"),
        ({"keyring": {"epochs": [None, 2]}}, "epoch 2 is of the other generation"),
        ({"keyring": {"epochs": [-2, None]}}, "epoch -2"),
        ({"keyring": {"epochs": [MAX_EPOCH + 1, None]}}, "epoch"),
        ({"keyring": {"epochs": [0, 1, 2]}}, "cannot be read"),
        ({"keyring": {"taken": 2}}, "generation 2"),
        ({"keyring": {"preferred": -1}}, "generation -1"),
        ({"keyring": {"epochs": [None, 1], "taken": 0}}, "no keys of it"),
    ],
)
def test_refused_keyrings(node: Follower, fields: dict[str, Any], why: str) -> None:
    assert node.take(raw("nodes/a", node_value("a", 1, **fields))) == []
    assert why in node.registry.refused["nodes/a"]


def test_a_key_of_either_generation_is_nobody_elses(node: Follower) -> None:
    node.take(raw("allocations/b", {"blocks": ["10.2.0.0/24"]}))
    node.take(raw("nodes/a", node_value("a", 1, odd_tunnels=[odd(0, 2, 51884)]), 5))
    for thief in (node_value("b", 2), node_value("b", 3, odd_tunnels=[odd(0, 1, 51884)])):
        assert node.take(raw("nodes/b", thief, 6)) == []
        assert "that of node a" in node.registry.refused["nodes/b"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
rings = st.fixed_dictionaries(
    {
        "epochs": json_values | st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)),
        "preferred": json_values | st.integers(0, 1),
        "taken": json_values | st.integers(0, 1),
    }
)
fields = st.dictionaries(
    st.sampled_from(["keyring", "odd_tunnels", "epoch", "since_s", "every_s"]), json_values | rings
)


@given(fields, st.sampled_from([RecordKind.NODE, RecordKind.ROTATION]))
def test_whatever_is_there_is_taken_or_refused(more: dict[str, Any], kind: RecordKind) -> None:
    value = node_value("a", 1) | more if kind is RecordKind.NODE else more
    located = Located(kind, "a" if kind is RecordKind.NODE else "")
    found = checks.read_record(located, msgspec.json.encode(value), 1)
    if isinstance(found, Refusal):
        assert found.why.isprintable()
    elif kind is RecordKind.NODE:
        keyring = found.record.keyring
        assert not keyring.generations or keyring.taken in keyring.generations
