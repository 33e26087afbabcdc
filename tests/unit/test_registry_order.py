"""Any order, any bytes: the registry against its slow twin, and against garbage."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshfabric.model import qos
from meshfabric.model.node import RECORD_VERSION
from meshfabric.store import guard
from meshfabric.store.keys import printable
from meshfabric.store.registry import Raw
from tests.fakes.store_records import STATE, Follower, endpoint_value, gone, node_value, public_key, raw, twin

NAMES = ("a", "b", "c")
BLOCKS = ("10.1.0.0/24", "10.1.0.0/25", "10.2.0.0/24", "10.2.0.0/16", "10.9.0.0/28", "fd00:1::/64")
ADDRESSES = (
    "10.1.0.1",
    "10.1.0.7",
    "10.1.0.200",
    "10.2.0.7",
    "10.9.0.7",
    "10.9.0.77",
    "fd00:1::1",
    "fd00:1::7",
)
LABELS: tuple[dict[str, str], ...] = (
    {},
    {"app": "web"},
    {"app": "db", "x": "1"},
    {"meshfabric.io/kind": "host"},
)

names = st.sampled_from(NAMES)
epochs = st.integers(0, 3)
targets = st.sampled_from(("", *NAMES))
labels = st.sampled_from(LABELS)
configs = st.tuples(
    st.just("config"), st.sampled_from([["10.0.0.0/8", "fd00::/16"], ["10.1.0.0/16"], ["192.0.0.0/8"]])
).map(lambda pair: (pair[0], {"prefixes": pair[1]}))
allocations = st.tuples(names, st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3)).map(
    lambda pair: (f"allocations/{pair[0]}", {"blocks": pair[1]})
)
grants = st.builds(
    lambda name, keys, pools: (f"grants/{name}", {"labels": keys, "pools": pools}),
    names,
    st.sampled_from([{}, {"app": ["web"]}, {"app": ["*"]}, {"*": ["*"]}, {"*": ["1"], "app": ["db"]}]),
    st.lists(st.sampled_from(["10.9.0.0/24", "10.2.0.0/24", "11.0.0.0/8"]), max_size=2),
)
nodes = st.builds(
    lambda name, keys, given_labels: (f"nodes/{name}", node_value(name, *keys, labels=given_labels)),
    names,
    st.lists(st.integers(0, 4), max_size=2, unique=True),
    labels,
)
class_names = st.sampled_from(["video", "voice", "games", "bulk"])
said: list[dict[str, Any]] = [
    {},
    {"priority": 5, "dscp": "ef"},
    {"select": "app=web", "uplink": {"guaranteed": "1mbit", "max": "2mbit"}},
    {"match": [{"ports": ["tcp/443"]}]},
    {"dscp": 64},
    {"name": "other"},
]
classes = st.tuples(class_names, st.sampled_from(said)).map(
    lambda pair: (f"classes/{pair[0]}", {"name": pair[0], **pair[1]})
)
marks: st.SearchStrategy[tuple[str, Any]] = st.sampled_from(
    [f"{path}" for name in NAMES for path in (f"revoked/{name}", f"nodes/{name}/alive")]
).map(lambda path: (path, {}))
policies = st.sampled_from(["p", "q"]).flatmap(
    lambda name: st.sampled_from([("p", "app=web"), (name, "x"), (name, "(")]).map(
        lambda pair: (f"policies/{name}", {"name": pair[0], "select": pair[1], "ingress": []})
    )
)
endpoints = st.builds(
    lambda name, address, kind, given_labels, epoch, target: (
        f"endpoints/{name}/{address}",
        endpoint_value(
            name if kind == "host" else "w", kind, labels=given_labels, epoch=epoch, handoff_to=target
        ),
    ),
    names,
    st.sampled_from(ADDRESSES),
    st.sampled_from(["pod", "pod", "vm", "host"]),
    labels,
    epochs,
    targets,
)
documents = policies | classes
records = configs | allocations | grants | nodes | marks | documents | endpoints | endpoints | endpoints
PERMISSIVE = [
    raw("config", {"prefixes": ["10.0.0.0/8", "fd00::/16"]}, 1),
    *(raw(f"grants/{name}", {"labels": {"*": ["*"]}, "pools": ["10.9.0.0/24"]}, 1) for name in NAMES),
    raw("allocations/a", {"blocks": ["10.1.0.0/24", "fd00:1::/64"]}, 1),
    raw("allocations/b", {"blocks": ["10.2.0.0/24"]}, 1),
]
crowded = st.one_of(
    st.tuples(
        names, st.lists(st.sampled_from(["10.9.0.0/28", "10.1.0.0/24", "11.1.0.0/24"]), min_size=1)
    ).map(lambda pair: (f"allocations/{pair[0]}", {"blocks": pair[1]})),
    st.builds(
        lambda name, epoch, target: (
            f"endpoints/{name}/10.9.0.7",
            endpoint_value(epoch=epoch, handoff_to=target),
        ),
        names,
        epochs,
        targets,
    ),
    marks,
)
"""Everybody wants one address."""
stores = st.one_of(
    st.lists(records | crowded, max_size=30, unique_by=lambda pair: pair[0]),
    st.lists(classes, max_size=4, unique_by=lambda pair: pair[0]),
)
"""Of anything, or of classes, which all want one number."""


@pytest.fixture(autouse=True)
def _nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held depends on the way; here the end is looked at. One number of a class is contended for."""
    monkeypatch.setattr(guard, "LARGEST_SHARE", 1)
    monkeypatch.setattr(qos, "MAX_OWN", 1)


def _numbered(store: list[tuple[str, Any]], revisions: list[int], permissive: bool) -> list[Raw]:
    found = [raw(path, value, revision) for (path, value), revision in zip(store, revisions, strict=False)]
    known = {record.key for record in found}
    return found + [record for record in PERMISSIVE if permissive and record.key not in known]


def _check_twin(node: Follower, store: list[Raw]) -> None:
    wanted = twin(store)
    assert node.tables() == wanted.tables
    assert set(node.registry.refused) == wanted.refused


examples = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(stores, st.lists(st.integers(1, 9), min_size=30, max_size=30), st.booleans(), st.data())
@examples
def test_any_order_ends_in_the_same_world(
    store: list[tuple[str, Any]], revisions: list[int], permissive: bool, data: st.DataObject
) -> None:
    """Record by record, in batches, or as a listing; equal revisions are one transaction."""
    given_records = _numbered(store, revisions, permissive)
    whys = []
    for listed in (False, True):
        node = Follower()
        order = data.draw(st.permutations(given_records))
        cut = data.draw(st.integers(0, len(order)))
        if listed:
            node.registry.begin_listing()
        else:
            node.list()
        node.take(*order[:cut])
        for record in order[cut:]:
            node.take(record)
        if listed:
            node.apply(node.registry.end_listing())
        _check_twin(node, given_records)
        whys.append(node.registry.refused)
    assert whys[0] == whys[1]


@given(st.lists(st.tuples(records | crowded, st.booleans()), max_size=60), st.data())
@examples
def test_any_history_ends_where_a_listing_would(
    steps: list[tuple[tuple[str, Any], bool]], data: st.DataObject
) -> None:
    """Puts and deletions in any batches. Where something is refused, history may have its say."""
    node, store = Follower(), {record.key: record for record in PERMISSIVE}
    node.list(*PERMISSIVE)
    batch = []
    for revision, ((path, value), deleted) in enumerate(steps, 2):
        record = gone(path) if deleted else raw(path, value, revision)
        batch.append(record)
        store[record.key] = record
        if data.draw(st.booleans()):
            node.take(*batch)
            batch = []
    node.take(*batch)
    left = [record for record in store.values() if record.value is not None]
    if not node.registry.refused:
        _check_twin(node, left)
    relisted = Follower()
    relisted.list(*left)
    if not twin(left).refused:
        assert node.tables() == relisted.tables()
        assert node.registry.complete
    unrefused = not node.registry.refused
    assert (node.list(*left) == []) >= unrefused
    assert node.registry.refused.keys() <= {record.key.decode().removeprefix(STATE) for record in left}
    assert all(not table for table in _after_wiping(node).values())


def _after_wiping(node: Follower) -> dict[Any, Any]:
    node.list()
    node.apply(node.registry.release())
    assert node.registry.refused == {}
    assert list(node.registry.records()) == []
    return node.tables()


@given(st.lists(st.tuples(records, st.booleans()), max_size=40))
@examples
def test_a_restart_from_the_snapshot_is_the_same_world(steps: list[tuple[tuple[str, Any], bool]]) -> None:
    node = Follower()
    node.list(*PERMISSIVE)
    for revision, ((path, value), deleted) in enumerate(steps, 2):
        node.take(gone(path) if deleted else raw(path, value, revision))
    again = Follower()
    again.take(*node.registry.records())
    assert again.tables() == node.tables()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(public_key(1)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good record with something else in one place, or cut, or with a few other bytes."""
    _, value = draw(records)
    way = draw(st.integers(0, 3))
    if way == 0:
        return draw(st.binary(max_size=64))
    if way == 1 and value:
        value = value | {draw(st.sampled_from(sorted(value))): draw(json_values)}
    if way == 2:
        value = value | {draw(st.sampled_from(["min_version", "version", "new"])): draw(json_values)}
    text = msgspec.json.encode(value)
    if way == 3:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=3)) + text[at + draw(st.integers(0, 3)) :]
    return text


keys = records.map(lambda pair: (STATE + pair[0]).encode()) | st.binary(max_size=40).map(
    lambda tail: STATE.encode() + tail
)


@given(st.lists(st.tuples(keys, mutated()), max_size=12))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_in_force_or_refused_and_nothing_else(found: list[tuple[bytes, bytes]]) -> None:
    node = Follower()
    node.list(*PERMISSIVE)
    for revision, (key, value) in enumerate(found, 2):
        node.take(Raw(key, value, revision))
        in_force = {record.key: record.value for record in node.registry.records()}
        refused = node.registry.refused
        text = key.decode(errors="backslashreplace")
        assert key in in_force or {printable(text), text.removeprefix(STATE)} & refused.keys()
        assert all(why and why.isprintable() for why in refused.values())
        assert all(name.isprintable() for name in refused)


def test_versions_are_what_is_compared() -> None:
    node = Follower()
    node.list(*PERMISSIVE)
    for version, refused in ((RECORD_VERSION, False), (RECORD_VERSION + 1, True), (0, False)):
        node.take(raw("endpoints/a/10.1.0.7", endpoint_value(min_version=version), 2))
        assert bool(node.registry.refused) == refused
