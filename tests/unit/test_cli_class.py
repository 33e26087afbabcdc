"""Classes in files, in words and in a real etcd; what holds for all documents is tested with policies."""

import json
import zlib
from functools import partial
from pathlib import Path

import pytest

from meshfabric.cli.exits import Code
from meshfabric.model.qos import MAX_OWN
from meshfabric.store.keys import Located, RecordKind, alive_key, full_key, report_key
from tests.etcd import Server
from tests.operating import command, documents, run

pytest_plugins = ["tests.etcd"]

VIDEO = """\
name: video
select: "app=video, tier in (gold, silver)"
match:
  - {ports: [tcp/443, udp/5000-5100], dscp: [ef, 3]}
  - dscp: [af41]
priority: 5
dscp: af41
uplink: {guaranteed: 20mbit, max: 80mbit}
workload: {egress: 10mbit, ingress: 1.5gbit}
path: {prefer: fastest, rtt_ms: 50, loss_percent: 1}
tcp: {congestion_control: bbr, initial_window: 20, window_clamp: 65536}
"""
TWO = f"""\
{VIDEO}---
name: default
uplink: {{max: 100mbit}}
"""
WORDS = """\
video is for these packets of workloads with app=video, tier in (gold, silver):
    conversations on tcp/443, udp/5000-5100 with DSCP 3, ef (46)
    DSCP af41 (34)
  priority: 5
  encrypted packets: DSCP af41 (34)
  on each uplink, together: 20mbit guaranteed, at most 80mbit
  each workload: sends at most 10mbit, receives at most 1.5gbit
  path: the one with the shortest round trip of those that are sound, sound up to a round trip of 50 ms, \
sound up to 1 % loss
  tcp: congestion control bbr, begins with 20 segments, windows of at most 65536 bytes

default is for workloads with traffic-class=default, and those that no class selects
  priority: 3
  encrypted packets: DSCP cs0 (0)
  on each uplink, together: at most 100mbit
  each workload: no limit of its own
  path: the cheapest of those that are sound
  tcp: as the system has it
"""

of_class = partial(command, "class")
stored = partial(documents, "classes")


@pytest.fixture
def fabric(request: pytest.FixtureRequest) -> str:
    """A fabric of the test's own in the shared etcd."""
    return f"f{zlib.crc32(request.node.nodeid.encode()):08x}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "classes.yaml"
    path.write_text(TWO)
    return path


def test_check_says_it_in_words(file: Path) -> None:
    result = run("class", "check", file)
    assert (result.exit_code, result.stdout) == (Code.OK, WORDS)
    assert result.stderr == "warning: video: nothing enforces workload, path, tcp yet\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: control", "control is for the fabric's own control traffic\n"),
        ("{name: a, select: ''}", "a is for every workload\n"),
        ("{name: a, match: [{ports: [udp]}]}", "a is for these packets of workloads with traffic-class=a:\n"),
    ],
)
def test_whom_it_is_for(text: str, said: str) -> None:
    assert run("class", "check", "-", stdin=text).stdout.startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TWO.replace("uplink: {max", "uplnk: {max"), ":14: uplnk: unknown key (did you mean 'uplink'?)"),
        (TWO.replace("tcp/443", "tcp/https"), ":4: match[0].ports[0]: 'tcp/https': classes know neither"),
        (TWO.replace("20mbit", "90mbit"), ":8: uplink.guaranteed: guaranteed 90mbit is more than max 80mbit"),
        ("{name: control, select: a}", ":1: select: class control is the fabric's own"),
        ("# nothing\n", "no class in it"),
    ],
)
def test_check_finds_what_is_wrong_and_apply_writes_none_of_it(
    etcd_server: Server, fabric: str, file: Path, text: str, said: str
) -> None:
    file.write_text(text)
    result = run("class", "check", file)
    assert (result.exit_code, result.stdout) == (Code.FOUND, "")
    assert said in result.stderr
    applied = of_class(etcd_server, fabric, "apply", file)
    assert (applied.exit_code, applied.stdout, applied.stderr) == (Code.INPUT, "", result.stderr)
    assert stored(etcd_server, fabric) == {}


def test_written_shown_changed_and_deleted(etcd_server: Server, fabric: str, file: Path) -> None:
    created = of_class(etcd_server, fabric, "apply", file)
    assert created.stdout == "video: created\ndefault: created\n"
    assert created.stderr == "warning: video: nothing enforces workload, path, tcp yet\n"
    assert json.loads(stored(etcd_server, fabric)["default"]) == {
        "name": "default",
        "uplink": {"max": "100mbit"},
    }
    shown = of_class(etcd_server, fabric, "show", "video").stdout
    assert shown.startswith("name: video\nselect: app=video, tier in (gold, silver)\nmatch:\n- ports:\n")
    assert of_class(etcd_server, fabric, "apply", "-", stdin=shown).stdout == "video: unchanged\n"
    words = of_class(etcd_server, fabric, "show", "video", "-o", "table").stdout
    assert words == WORDS.partition("\n\n")[0] + "\n"
    file.write_text(TWO.replace("priority: 5", "priority: 6"))
    assert of_class(etcd_server, fabric, "apply", file).stdout == "video: changed\ndefault: unchanged\n"
    assert of_class(etcd_server, fabric, "delete", "default").stdout == "default: deleted\n"
    assert of_class(etcd_server, fabric, "delete", "default").stdout == "default: was not there\n"
    assert list(stored(etcd_server, fabric)) == ["video"]


def test_what_is_not_there_or_not_to_be_read(etcd_server: Server, fabric: str) -> None:
    result = of_class(etcd_server, fabric, "show", "bulk")
    assert result.exit_code == Code.INPUT
    assert f"no class 'bulk' in fabric '{fabric}' (meshfabric class list)" in result.stderr
    etcd_server.ctl("put", full_key(fabric, Located(RecordKind.CLASS, "bulk")), '{"nome": "bulk"}')
    result = of_class(etcd_server, fabric, "show", "bulk")
    assert result.exit_code == Code.INPUT
    assert "class bulk: the record cannot be read: " in result.stderr


def many(first: int, number: int) -> str:
    """So many documents."""
    return "---\n".join(f"name: c{one:02}\n" for one in range(first, first + number))


def test_no_more_classes_than_there_are_numbers(etcd_server: Server, fabric: str) -> None:
    refused = of_class(etcd_server, fabric, "apply", "-", stdin=many(0, MAX_OWN + 1))
    assert (refused.exit_code, refused.stdout, stored(etcd_server, fabric)) == (Code.INPUT, "", {})
    assert of_class(etcd_server, fabric, "apply", "-", stdin=many(0, MAX_OWN)).exit_code == Code.OK
    refused = of_class(etcd_server, fabric, "apply", "-", stdin=f"{many(11, 1)}---\n{many(12, 1)}")
    assert (refused.exit_code, refused.stdout) == (Code.INPUT, "")
    assert refused.stderr == (
        "meshfabric: classes: there would be 13 classes beside those built in, and nodes take 12 "
        f"(meshfabric class delete one of {', '.join(f'c{one:02}' for one in range(MAX_OWN))})\n"
    )
    assert len(stored(etcd_server, fabric)) == MAX_OWN
    built_in = of_class(etcd_server, fabric, "apply", "-", stdin=f"name: bulk\n---\n{many(3, 2)}")
    assert built_in.stdout == "bulk: created\nc03: unchanged\nc04: unchanged\n"
    of_class(etcd_server, fabric, "delete", "c07")
    assert of_class(etcd_server, fabric, "apply", "-", stdin=many(12, 1)).stdout == "c12: created\n"


def test_waiting_lists_who_has_not(etcd_server: Server, fabric: str, file: Path) -> None:
    of_class(etcd_server, fabric, "apply", file)
    reports = {
        "a": '{"revision": 1000000000, "failing": {"policy": "another thing"}}',
        "b": '{"revision": 1000000000, "refused": {"classes/video": "too many", "policies/default": "x"}}',
        "c": '{"revision": 1000000000, "failing": {"workloads": "no memory"}}',
    }
    for node, report in reports.items():
        etcd_server.ctl("put", alive_key(fabric, node), "{}")
        etcd_server.ctl("put", report_key(fabric, node), report)
    result = of_class(etcd_server, fabric, "apply", file, "--wait", "--timeout", "0")
    assert result.exit_code == Code.UNAVAILABLE
    assert "2 of 3 nodes have not applied revision" in result.stderr
    assert ": b (refuses video: too many), c (no memory)" in result.stderr
