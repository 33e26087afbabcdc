"""The last good world on disk: what was saved comes back, and damage costs a warning and nothing more."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshfabric.model.errors import TemporaryError
from meshfabric.store import snapshot
from meshfabric.store.registry import Raw
from meshfabric.store.snapshot import load, save
from meshfabric.store.watch import Position
from tests.fakes.store_records import Follower, endpoint_value, node_value, raw

POSITION = Position((1 << 64) - 1, 77, b"/meshfabric/v1/f/state/nodes/a\xff", 70)
RECORDS = [
    raw("config", {"prefixes": ["10.0.0.0/8"]}, 1),
    raw("allocations/a", {"blocks": ["10.1.0.0/16"]}, 2),
    raw("nodes/a", node_value("a", 1), 3),
    *(raw(f"endpoints/a/10.1.{i // 250}.{2 + i % 250}", endpoint_value(f"w{i}"), 0) for i in range(2500)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.json"


def records_of(path: Path) -> list[Raw]:
    return [record for page in load(path).pages for record in page]


def test_what_was_saved_comes_back(path: Path) -> None:
    save(path, RECORDS, POSITION)
    found = load(path)
    pages = list(found.pages)
    assert found.position == POSITION
    assert [record for page in pages for record in page] == RECORDS
    assert max(map(len, pages)) == snapshot.PAGE_RECORDS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_a_world_survives_the_way(path: Path) -> None:
    node, again = Follower(), Follower()
    node.list(*RECORDS)
    save(path, node.registry.records())
    found = load(path)
    assert found.position is None
    for page in found.pages:
        again.take(*page)
    assert again.tables() == node.tables()
    assert len(again.world.endpoints) == 2500


def test_no_snapshot_is_no_fault(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert records_of(path) == []
    assert caplog.records == []


def test_an_empty_one_is_one(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(path, [], POSITION)
    assert load(path).position == POSITION
    assert records_of(path) == []
    assert caplog.records == []


def _warning(path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """What is said when nothing can be read; a second reading says the same."""
    caplog.clear()
    assert load(path).position is None
    assert records_of(path) == []
    first, second = [record.getMessage() for record in caplog.records]
    assert first == second
    assert first.startswith(str(path))
    assert "\n" not in first
    return first


@pytest.mark.parametrize("keep", [0, 1, 40, 1000, -1, -40, -70, -71, -300])
def test_a_truncated_one_is_ignored(path: Path, caplog: pytest.LogCaptureFixture, keep: int) -> None:
    save(path, RECORDS[:20], POSITION)
    path.write_bytes(path.read_bytes()[:keep])
    assert "ignored" in _warning(path, caplog)


def test_lines_may_not_be_missing_doubled_or_moved(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(path, RECORDS[:5])
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in (lines[:2] + lines[3:], lines[:3] + lines[2:], [*lines[:2], lines[3], lines[2], *lines[4:]]):
        path.write_bytes(b"".join(wrong))
        assert "does not add up" in _warning(path, caplog)
    path.write_bytes(b"".join([*lines, lines[-1]]))
    assert "damaged" in _warning(path, caplog)


def test_another_version_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(path, [])
    lines = path.read_bytes().splitlines(keepends=True)
    head = json.loads(lines[0])
    path.write_bytes(json.dumps(head | {"version": 2}).encode() + b"\n" + lines[1])
    assert "version 2, not 1" in _warning(path, caplog)


def test_an_endless_line_is_not_read_whole(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"x" * (snapshot.MAX_LINE_BYTES + 1))
    assert "too long" in _warning(path, caplog)


def test_a_folder_in_its_place_is_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir()
    assert "cannot be read" in _warning(path, caplog)


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_is_noticed(path: Path, caplog: pytest.LogCaptureFixture, data: st.DataObject) -> None:
    save(path, RECORDS[:4], POSITION)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    caplog.clear()
    found = records_of(path)
    # Within the end's own line, another spelling of the same is no damage.
    assert found in ([], RECORDS[:4])
    assert bool(found) != bool(caplog.records)


def test_a_failed_writing_leaves_the_old_one(path: Path) -> None:
    save(path, RECORDS[:3])

    def failing() -> object:
        yield RECORDS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(TemporaryError, match=r"snapshot.json: cannot be written: No space left"):
        save(path, failing())  # type: ignore[arg-type]  # an iterator that fails is what is tested
    assert records_of(path) == RECORDS[:3]
    assert os.listdir(path.parent) == [path.name]


def test_a_link_left_in_the_way_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.with_name("snapshot.json.new").symlink_to(victim)
    with pytest.raises(TemporaryError):
        save(path, RECORDS[:3])
    assert victim.read_text() == "precious"
    save(path, RECORDS[:3])
    assert records_of(path) == RECORDS[:3]
