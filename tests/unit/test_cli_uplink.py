"""`uplink drain` and `undrain`, `path watch`: an agent that only answers, and a real etcd."""

import json
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from meshfabric.api.messages import Drain, Passing, Undrain
from meshfabric.cli.app import app
from meshfabric.cli.exits import Code
from meshfabric.model.errors import InputError
from meshfabric.store.keys import alive_key, node_key, report_key
from tests.etcd import Server
from tests.fakes.agent import Agent, answering
from tests.fakes.agent_rows import PATHS, SWITCHES
from tests.fakes.store_records import node_value
from tests.patience import until

pytest_plugins = ["tests.etcd"]

LATE = 1_000_000_000  # a revision that no test comes to
QUIET: dict[str, Any] = {"uplink": "up0", "nodes": [{"node": "b", "alive": True, "received": 200, "sent": 0}]}
BUSY: dict[str, Any] = {
    "uplink": "up0",
    "nodes": [
        {"node": "b", "alive": True, "received": 40, "sent": 99},
        {"node": "c", "alive": False, "received": 20480, "sent": 1024},
    ],
}

HEARS_CTRL_C = ("env", "--default-signal=INT")
"""Who runs the tests in the background has it ignored."""


@pytest.fixture
def fabric(request: pytest.FixtureRequest) -> str:
    """A fabric of the test's own in the shared etcd."""
    return f"f{zlib.crc32(request.node.nodeid.encode()):08x}"


@pytest.fixture
def agent(tmp_path: Path, etcd_server: Server, fabric: str) -> Iterator[Agent]:
    """That of node a, which takes the order, and nothing passes."""
    own = {"fabric": fabric, "node": "a", "etcd": [etcd_server.endpoint]}
    answers = {Drain: True, Undrain: True, Passing: QUIET, "fabric": own}
    with answering(tmp_path / "agent.sock", answers) as listening:
        yield listening


def run(agent: Agent, *words: str, of: str = "uplink") -> Result:
    return CliRunner(env={"MESHFABRIC_SOCKET": str(agent.socket)}).invoke(app, [of, *words])


def tell(server: Server, fabric: str, node: str, *, draining: bool = False, revision: int = LATE) -> None:
    """A node that is alive, and how far it says that it has come."""
    value = node_value(node, 1)
    value["uplinks"][0]["draining"] = draining
    server.ctl("put", node_key(fabric, node), json.dumps(value))
    server.ctl("put", alive_key(fabric, node), "{}")
    server.ctl("put", report_key(fabric, node), json.dumps({"revision": revision}))


def test_a_drain_returns_when_all_have_followed(agent: Agent, etcd_server: Server, fabric: str) -> None:
    for node in ("a", "b", "c"):
        tell(etcd_server, fabric, node, draining=node == "a")
    result = run(agent, "drain", "up0")
    assert result.exit_code == Code.OK, result.stderr
    assert result.stdout.splitlines() == [
        "up0: draining",
        "in force on 2 other nodes",
        "up0: nothing but probes passes; it can be taken down",
    ]
    assert Drain(["up0"]) in agent.asked


def test_it_waits_until_our_record_says_so(agent: Agent, etcd_server: Server, fabric: str) -> None:
    tell(etcd_server, fabric, "a")
    result = run(agent, "drain", "up0", "--timeout", "0")
    assert result.exit_code == Code.UNAVAILABLE
    assert "this node drains up0, but whether the others do is not known: 1 of 1 nodes" in result.stderr
    assert "(repeat it; the order stands)" in result.stderr


def test_it_names_those_who_have_not_followed(agent: Agent, etcd_server: Server, fabric: str) -> None:
    tell(etcd_server, fabric, "a", draining=True)
    tell(etcd_server, fabric, "b")
    tell(etcd_server, fabric, "c", revision=1)
    result = run(agent, "drain", "up0", "--timeout", "0")
    assert result.exit_code == Code.UNAVAILABLE
    assert "1 of 2 nodes have not applied revision" in result.stderr
    assert ": c (" in result.stderr


def test_it_names_those_who_still_send(agent: Agent, etcd_server: Server, fabric: str) -> None:
    tell(etcd_server, fabric, "a", draining=True)
    agent.answers = {**agent.answers, Passing: BUSY}
    result = run(agent, "drain", "up0", "--timeout", "0")
    assert result.exit_code == Code.UNAVAILABLE
    still = "c, whose agent is away (20.0 KiB/s in, 1.0 KiB/s out)"
    assert f"uplink up0: traffic still passes: {still} (the order stands" in result.stderr


def test_what_the_agent_refuses_is_said(agent: Agent) -> None:
    refusal = InputError("it is the only way that works to b", place="uplink up0", remedy="or --force")
    agent.answers = {**agent.answers, Drain: refusal}
    result = run(agent, "drain", "up0")
    assert (result.exit_code, result.stdout) == (Code.INPUT, "")
    assert "uplink up0: it is the only way that works to b (or --force)" in result.stderr


def test_an_order_is_repeated_and_taken_back(agent: Agent, etcd_server: Server, fabric: str) -> None:
    tell(etcd_server, fabric, "a", draining=True)
    assert run(agent, "undrain", "up0").stdout == "up0: in use again\n"
    agent.answers = {**agent.answers, Drain: False, Undrain: False}
    assert run(agent, "undrain", "up0").stdout == "up0: was not drained\n"
    again = run(agent, "drain", "up0", "--force")
    assert again.stdout.startswith("up0: was told to drain before\nin force on 0 other nodes\n")
    assert Drain(["up0"], force=True) in agent.asked


def test_a_node_is_drained_by_all_its_uplinks(agent: Agent, etcd_server: Server, fabric: str) -> None:
    for node in ("a", "b"):
        tell(etcd_server, fabric, node, draining=node == "a")
    agent.answers = {**agent.answers, "uplinks": [{"uplink": "up0"}]}
    result = run(agent, "drain", of="node")
    assert result.stdout.splitlines() == ["this node: draining", "in force on 1 other node"], result.stderr
    assert Drain(["up0"], force=True) in agent.asked
    assert run(agent, "undrain", of="node").stdout == "this node: in use again\n"
    assert Undrain(["up0"]) in agent.asked


@pytest.mark.parametrize("node", ["", "edge-3"])
def test_each_switch_is_a_line_until_ctrl_c(tmp_path: Path, node: str) -> None:
    """What was before is not told, what concerns others neither."""
    newer = [row | {"number": row["number"] + 2} for row in SWITCHES]
    with answering(tmp_path / "agent.sock", {"switches": SWITCHES, "paths": PATHS}) as agent:
        argv = [*HEARS_CTRL_C, sys.executable, "-m", "meshfabric", "path", "watch", *filter(None, [node])]
        argv += ["--socket", str(agent.socket)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            until(lambda: len(agent.asked) > 2)
            agent.answers = {"switches": [*newer, *SWITCHES], "paths": PATHS}
            before = len(agent.asked)
            until(lambda: len(agent.asked) > before + 2)
            process.send_signal(signal.SIGINT)
            said = process.communicate()[0].splitlines()
    assert process.returncode == Code.INTERRUPTED
    lost = "2026-11-21T07:46:12.311Z edge-3: mfwg10 to mfwg00 (up0-up0), no answers, 113.7 ms out"
    back = (
        "2026-11-21T07:46:19.004Z hypervisor-frankfurt-07: mfwg11 (up1-up1) to mfwg00 (up0-up0),"
        " not drained any more, 0 ms out"
    )
    assert said == ([lost] if node else [lost, back])


def test_a_terminal_shows_the_paths_as_they_are(tmp_path: Path) -> None:
    """On a screen of its own, which is left as it was."""
    with answering(tmp_path / "agent.sock", {"switches": SWITCHES, "paths": PATHS}) as agent:
        argv = [*HEARS_CTRL_C, sys.executable, "-m", "meshfabric", "path", "watch"]
        argv += ["--socket", str(agent.socket)]
        command = ["script", "-qefc", " ".join(argv), "/dev/null"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            until(lambda: len(agent.asked) > 4)
            assert process.stdin is not None
            process.stdin.write(b"\x03")
            process.stdin.flush()
            said = process.communicate()[0].decode()
    assert process.returncode == Code.INTERRUPTED
    assert "mfwg11" in said
    assert said.count("\x1b[?1049h") == said.count("\x1b[?1049l") == 1


def test_nobody_of_that_name_is_watched(tmp_path: Path) -> None:
    with answering(tmp_path / "agent.sock", {"switches": [], "paths": PATHS}) as agent:
        result = CliRunner().invoke(app, ["path", "watch", "moon", "--socket", str(agent.socket)])
    assert result.exit_code == Code.INPUT
    assert "no node 'moon' here" in result.stderr
