"""`key rotate` and `schedule`, `node revoke` and `readmit`, against a real etcd."""

import json
import subprocess
import sys
import time
import zlib
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from meshfabric.cli.app import app
from meshfabric.cli.exits import Code
from meshfabric.store.keys import alive_key, allocation_key, node_key, report_key, revoked_key, rotation_key
from tests.etcd import Server
from tests.fakes.store_records import node_value
from tests.patience import DEADLINE_S

pytest_plugins = ["tests.etcd"]

POLL_S = 0.02
LATE = 1_000_000_000  # a revision that no test comes to


@pytest.fixture
def fabric(request: pytest.FixtureRequest) -> str:
    """A fabric of the test's own in the shared etcd."""
    return f"f{zlib.crc32(request.node.nodeid.encode()):08x}"


def run(server: Server, fabric: str, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--etcd", server.endpoint, "--fabric", fabric])


def stored(server: Server, key: str) -> Any:
    """What etcd holds there."""
    found = server.ctl("get", "--print-value-only", key)
    return json.loads(found) if found.strip() else None


def tell(
    server: Server, fabric: str, node: str, keyring: dict[str, Any] | None, *, alive: bool = True
) -> None:
    """A node with this keyring, by default with an agent that knows of none."""
    value = node_value(node, 1) | ({"keyring": keyring} if keyring else {})
    server.ctl("put", node_key(fabric, node), json.dumps(value))
    if alive:
        server.ctl("put", alive_key(fabric, node), "{}")


def test_each_rotation_asks_for_the_next_epoch(etcd_server: Server, fabric: str) -> None:
    before = time.time()
    for epoch in (1, 2):
        result = run(etcd_server, fabric, "key", "rotate")
        assert (result.exit_code, result.stdout) == (Code.OK, f"keys of epoch {epoch} are due\n")
        record = stored(etcd_server, rotation_key(fabric))
        assert (record["epoch"], record["every_s"]) == (epoch, 0)
        assert int(before) <= record["since_s"] <= time.time()


def test_a_rotation_under_way_is_to_end_first(etcd_server: Server, fabric: str) -> None:
    tell(etcd_server, fabric, "a", {"epochs": [0, None]})
    tell(etcd_server, fabric, "b", {"epochs": [0, 1], "preferred": 1})
    tell(etcd_server, fabric, "dead", {"epochs": [0, 1], "preferred": 1}, alive=False)
    result = run(etcd_server, fabric, "key", "rotate")
    assert result.exit_code == Code.UNAVAILABLE
    assert "a rotation is under way: b (keys of epoch 0 and 1) (wait for its end" in result.stderr
    assert stored(etcd_server, rotation_key(fabric)) is None


def test_waiting_names_those_who_have_not_finished(etcd_server: Server, fabric: str) -> None:
    tell(etcd_server, fabric, "a", {"epochs": [0, None]})
    tell(etcd_server, fabric, "old", None)
    result = run(etcd_server, fabric, "key", "rotate", "--wait", "--timeout", "0")
    assert result.exit_code == Code.UNAVAILABLE
    assert "2 of 2 nodes have not come to epoch 1 in 0 s: a (keys of epoch 0), old (" in result.stderr


def test_waiting_ends_with_the_last_one(etcd_server: Server, fabric: str) -> None:
    tell(etcd_server, fabric, "a", {"epochs": [0, None]})
    command = [sys.executable, "-m", "meshfabric", "key", "rotate", "--wait"]
    command += ["--etcd", etcd_server.endpoint, "--fabric", fabric]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + DEADLINE_S
        while stored(etcd_server, rotation_key(fabric)) is None:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(POLL_S)
        tell(etcd_server, fabric, "a", {"epochs": [None, 1], "preferred": 1, "taken": 1})
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == Code.OK
    assert said == "keys of epoch 1 are due\nin force on 1 node\n"


def test_a_schedule_begins_where_the_epoch_is(etcd_server: Server, fabric: str) -> None:
    run(etcd_server, fabric, "key", "rotate")
    result = run(etcd_server, fabric, "key", "schedule", "30d")
    assert (result.exit_code, result.stdout) == (Code.OK, "keys are rotated every 30d\n")
    record = stored(etcd_server, rotation_key(fabric))
    assert (record["epoch"], record["every_s"]) == (1, 30 * 86_400)
    past = record | {"since_s": record["since_s"] - 61 * 86_400}
    etcd_server.ctl("put", rotation_key(fabric), json.dumps(past))
    assert run(etcd_server, fabric, "key", "rotate").stdout == "keys of epoch 4 are due\n"
    assert stored(etcd_server, rotation_key(fabric))["every_s"] == 30 * 86_400
    assert run(etcd_server, fabric, "key", "schedule", "off").exit_code == Code.OK
    assert stored(etcd_server, rotation_key(fabric))["every_s"] == 0


@pytest.mark.parametrize("period", ["", "30", "d", "0d", "0h", "3651d", "1w", "99999999d"])
def test_no_period(etcd_server: Server, fabric: str, period: str) -> None:
    result = run(etcd_server, fabric, "key", "schedule", period)
    assert result.exit_code == Code.INPUT
    assert f"no period {period!r} (1h to 3650d, or off)" in result.stderr


def test_a_record_of_another_kind_is_left_alone(etcd_server: Server, fabric: str) -> None:
    etcd_server.ctl("put", rotation_key(fabric), '{"epoch": "next"}')
    result = run(etcd_server, fabric, "key", "rotate")
    assert result.exit_code == Code.INPUT
    assert "rotation: the record cannot be read" in result.stderr


def test_a_node_is_revoked_and_readmitted(etcd_server: Server, fabric: str) -> None:
    etcd_server.ctl("put", allocation_key(fabric, "a"), '{"blocks": ["10.1.0.0/24"]}')
    for _ in range(2):
        assert run(etcd_server, fabric, "node", "revoke", "a").stdout == "a: revoked\n"
        assert stored(etcd_server, revoked_key(fabric, "a")) == {}
    assert run(etcd_server, fabric, "node", "readmit", "a").stdout == "a: readmitted\n"
    assert stored(etcd_server, revoked_key(fabric, "a")) is None
    assert run(etcd_server, fabric, "node", "readmit", "a").stdout == "a: was not revoked\n"


def test_a_name_that_nobody_has_is_not_revoked(etcd_server: Server, fabric: str) -> None:
    result = run(etcd_server, fabric, "node", "revoke", "kube11")
    assert result.exit_code == Code.INPUT
    assert f"no node 'kube11' in fabric '{fabric}' (meshfabric node list)" in result.stderr
    assert stored(etcd_server, revoked_key(fabric, "kube11")) is None


@pytest.mark.parametrize("verb", ["revoke", "readmit"])
def test_waiting_is_for_the_others(etcd_server: Server, fabric: str, verb: str) -> None:
    for node in ("a", "b", "c"):
        tell(etcd_server, fabric, node, None)
    if verb == "readmit":
        run(etcd_server, fabric, "node", "revoke", "a")
    etcd_server.ctl("put", report_key(fabric, "b"), json.dumps({"revision": LATE}))
    late = run(etcd_server, fabric, "node", verb, "a", "--wait", "--timeout", "0")
    assert late.exit_code == Code.UNAVAILABLE
    assert "1 of 2 nodes have not applied revision" in late.stderr
    etcd_server.ctl("put", report_key(fabric, "c"), json.dumps({"revision": LATE}))
    if verb == "readmit":
        run(etcd_server, fabric, "node", "revoke", "a")
    done = run(etcd_server, fabric, "node", verb, "a", "--wait")
    assert done.stdout.splitlines()[1].startswith("in force on 2 other nodes (revision ")
