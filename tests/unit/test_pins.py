"""Numbers and workloads over a restart: back as they were, and nonsense left out with a warning."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshfabric.model.labels import make_labels
from meshfabric.model.node import Endpoint, Workload
from meshfabric.model.qos import TrafficClass
from meshfabric.model.world import Event, Kind, World
from meshfabric.store.pins import (
    AttachedWorkload,
    Pinned,
    load_numbers,
    load_workloads,
    save_numbers,
    save_workloads,
)
from tests.fakes.store_records import settings as node_settings

POD = AttachedWorkload(
    "ns/web-1",
    "pod",
    {"app": "web"},
    ("10.1.0.7", "fd00:1::7"),
    "mfp17",
    "02:6d:66:01:00:11",
    "/run/netns/x",
    "eth0",
    17,
)
GUEST = AttachedWorkload("guest", "vm", {}, ("10.1.0.8",), "tap-guest", "52:54:00:12:34:56")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pins.json"


def _world() -> World:
    return World(node_settings())


def _events() -> list[Event]:
    web, db = make_labels({"app": "web"}), make_labels({"app": "db"})
    return [
        Event(Kind.ENDPOINT, b"\1" * 16, Endpoint("a", "w", "pod", web)),
        Event(Kind.ENDPOINT, b"\2" * 16, Endpoint("b", "w", "pod", db)),
        Event(Kind.CLASS, "video", TrafficClass("video", ())),
        Event(Kind.CLASS, "voice", TrafficClass("voice", ())),
        Event(Kind.WORKLOAD, "here", Workload("here", "pod", db, (), "mfp1", "02:6d:66:01:00:01")),
    ]


def test_numbers_survive_a_restart_in_another_order(path: Path) -> None:
    first, second = _world(), _world()
    for event in _events():
        first.apply(event)
    save_numbers(path, first)
    second.pin(*load_numbers(path))
    for event in reversed(_events()):
        second.apply(event)
    for numbers in ("identities", "node_numbers", "workload_numbers", "class_numbers"):
        kept = dict(getattr(first, numbers).items())
        assert kept
        assert dict(getattr(second, numbers).items()) == kept
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_workloads_come_back(path: Path) -> None:
    save_workloads(path, [POD, GUEST])
    assert load_workloads(path) == [POD, GUEST]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    save_workloads(path, [])
    assert load_workloads(path) == []


def test_no_file_is_no_fault(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_numbers(path) == Pinned([], [], [], [])
    assert load_workloads(path) == []
    assert caplog.records == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"version": "1"}', b'{"version": 2}', b"[" * 9999]
)
def test_a_damaged_file_is_a_warning(path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    path.write_bytes(content)
    assert load_numbers(path) == Pinned([], [], [], [])
    assert load_workloads(path) == []
    assert len(caplog.records) == 2
    assert all(str(path) in record.getMessage() for record in caplog.records)


def test_numbers_that_make_no_sense_are_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = {
        "version": 1,
        "identities": [
            [{"app": "web"}, 256],
            [{"app": "x y"}, 257],
            [{"app": "db"}, 258],
            [{"app": "b"}, 258],
        ],
        "nodes": {"a": 4096, "b": 1, "C": 4097},
        "workloads": {"w": 1, "v": 4096},
        "classes": {"video": 4, "bulk": 3, "x": 16, "y z": 5, "p": 6, "q": 6},
    }
    path.write_text(json.dumps(file))
    pinned = load_numbers(path)
    assert pinned == Pinned([(make_labels({"app": "web"}), 256)], [("a", 4096)], [("w", 1)], [("video", 4)])
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 11 entries make no sense; new numbers are given, and running flows are judged again"
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "A b"},
        {"kind": "container"},
        {"device": ""},
        {"device": "a-device-too-long"},
        {"inner": "a-device-too-long"},
        {"labels": {"a b": "c"}},
        {"addresses": ["10.1.0.300"]},
        {"name": "guest"},
        {"device": "tap-guest"},
        {"addresses": ["10.1.0.8"]},
    ],
)
def test_a_workload_that_makes_no_sense_is_left_out(
    path: Path, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    save_workloads(path, [GUEST, POD])
    file = json.loads(path.read_text())
    file["workloads"][1] |= wrong
    path.write_text(json.dumps(file))
    assert load_workloads(path) == [GUEST]
    assert len(caplog.records) == 1


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_left(path: Path, data: st.DataObject) -> None:
    save_workloads(path, [POD, GUEST])
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content)))
    path.write_bytes(
        content[:at] + data.draw(st.binary(max_size=4)) + content[at + data.draw(st.integers(0, 9)) :]
    )
    assert len(load_workloads(path)) <= 2
    assert load_numbers(path) == Pinned([], [], [], [])
