"""Bad input by the real command line: one clear line with place and remedy; nothing half-done is left."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshfabric.api.client import call
from meshfabric.api.messages import Ask
from meshfabric.cli.exits import Code
from meshfabric.lab import agents, build, tools
from meshfabric.lab.process import enter
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import ip
from tests.features import requires
from tests.lab.kernel import kept
from tests.lab.places import ping
from tests.lab.whole import DEADLINE_S, address, listing, told, until, wait_whole

pytestmark = requires("capabilities")

NODE = "kube1"
MESHFABRIC = [sys.executable, "-m", "meshfabric"]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NOBODY += [
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
    "--",
]  # the checkout may be root's
NOWHERE = "http://172.31.1.250:2379"


class Second:
    """A second agent's configuration on a node: nothing of it meets the first one's, unless told so."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab, self.file, self.socket = lab, folder / "second.yaml", folder / "second.sock"
        self.settings: dict[str, Any] = yaml.safe_load(agents.agent_yaml(lab, NODE))
        self.settings |= {
            "fabric": "second",
            "state_dir": str(folder / "second"),
            "socket": str(self.socket),
            "metrics": "",
            "etcd": {"endpoints": [NOWHERE]},
            "datapath": {"prefix": "se", "port_base": 40000, "mark_base": 0x100, "table_base": 30000},
        }

    def write(self, **changed: Any) -> Path:
        self.file.write_text(yaml.safe_dump(self.settings | changed))
        return self.file

    def fails(self, *, env: str = "", **changed: Any) -> subprocess.CompletedProcess[str]:
        """Run it, which has to end by itself."""
        argv = ["env", *env.split(), *MESHFABRIC, "agent", "--config", str(self.write(**changed))]
        return build.run(self._lab, NODE, argv, timeout_s=DEADLINE_S)


@pytest.fixture
def second(fabric: Lab) -> Iterator[Second]:
    folder = fabric.node_folder(NODE)
    one = Second(fabric, folder)
    yield one
    build.run(fabric, NODE, ["rm", "-rf", "/sys/fs/bpf/second", str(folder / "second"), str(one.file)])


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error; no traceback, and no log beside it that says more."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0].removeprefix("meshfabric: ")


def devices(lab: Lab) -> str:
    return build.run(lab, NODE, ["sh", "-c", "ls /sys/class/net; ls /sys/fs/bpf; ip rule; ip -6 rule"]).stdout


class TestConfiguration:
    """Every mistake has its line."""

    @pytest.mark.parametrize(
        ("edit", "line"),
        [
            (("probe:", "prob:"), r"second.yaml:\d+: prob: unknown key \(did you mean 'probe'\?\)"),
            (("interval_ms: 50", "interval: 50"), r"second.yaml:\d+: probe.interval: unknown key"),
            (("interval_ms: 50", "interval_ms: often"), r"second.yaml:\d+: .*interval_ms"),
            (("kind: kubernetes", "kind: cube"), r"second.yaml:\d+: .*kind"),
            (("fabric: second", "fabric: second\nfabric: third"), r"second.yaml:\d+: .*fabric.*twice|second"),
            (("fabric: second", "fabric: [second"), r"second.yaml:\d+: "),
            (("device: up0", "device: sewg00"), r"second.yaml:\d+: sewg00 is a name of the fabric's own"),
            (("drift_check_s: 1.0", "drift_check_s: 0"), r"second.yaml:\d+: drift_check_s 0.* \(0.1 to"),
            ((NOWHERE, "172.31.1.250"), r"second.yaml:\d+: '172.31.1.250' is no etcd endpoint"),
        ],
    )
    def test_it_is_told_with_its_line(
        self, fabric: Lab, second: Second, edit: tuple[str, str], line: str
    ) -> None:
        text = second.write().read_text()
        assert text.count(edit[0]) >= 1
        second.file.write_text(text.replace(*edit, 1))
        done = build.run(fabric, NODE, [*MESHFABRIC, "agent", "--config", str(second.file)])
        assert re.search(line, said(done))
        assert done.returncode == Code.INPUT

    def test_a_file_that_is_not_there(self, fabric: Lab) -> None:
        done = build.run(fabric, NODE, [*MESHFABRIC, "agent", "--config", "/nowhere/agent.yaml"])
        assert said(done) == "/nowhere/agent.yaml: cannot read it: No such file or directory"
        assert done.returncode == Code.INPUT

    def test_a_file_that_is_no_text(self, fabric: Lab, second: Second) -> None:
        second.file.write_bytes(b"\xff\xfe\x00\x01")
        done = build.run(fabric, NODE, [*MESHFABRIC, "agent", "--config", str(second.file)])
        assert said(done) == f"{second.file}: it is no UTF-8 text (is it the right file?)"
        assert done.returncode == Code.INPUT


class TestTheMachine:
    """What is taken, missing or forbidden is named, with what to do about it."""

    def test_without_root(self, fabric: Lab, second: Second) -> None:
        with tempfile.NamedTemporaryFile("w") as readable:
            readable.write(second.write().read_text())
            readable.flush()
            os.fchmod(readable.fileno(), 0o644)
            argv = [*NOBODY, *MESHFABRIC, "agent", "--config", readable.name]
            done = build.run(fabric, NODE, argv)
        assert re.search(r"capabilities.*root", said(done))
        assert done.returncode == Code.FOUND

    @pytest.mark.parametrize(
        "command", [["status"], ["path", "list"], ["drop", "list"], ["store", "release"]]
    )
    def test_who_may_not_ask_the_agent(self, fabric: Lab, command: list[str]) -> None:
        done = build.run(fabric, NODE, [*NOBODY, *MESHFABRIC, *command])
        assert "permission denied" in said(done)
        assert done.returncode == Code.PERMISSION

    def test_a_lab_without_root(self, fabric: Lab) -> None:
        done = build.run(fabric, NODE, [*NOBODY, *MESHFABRIC, "lab", "up", "--name", "nobodys"])
        assert said(done) == "a lab makes namespaces and devices (run it as root)"

    def test_a_second_agent_of_the_same_node(self, fabric: Lab) -> None:
        before = kept(fabric, NODE)
        file = fabric.node_folder(NODE) / "agent.yaml"
        done = build.run(fabric, NODE, [*MESHFABRIC, "agent", "--config", str(file)])
        state = fabric.node_folder(NODE) / "state"
        assert said(done).startswith(f"state_dir {state}: another agent runs on it (stop it, or")
        assert done.returncode == Code.INPUT
        assert kept(fabric, NODE) == before
        assert told(fabric, NODE)["ready"]

    def test_a_socket_that_another_agent_has(self, fabric: Lab, second: Second) -> None:
        before = devices(fabric)
        done = second.fails(socket=str(fabric.socket(NODE)))
        assert "another agent answers here (stop it, or configure another socket)" in said(done)
        assert told(fabric, NODE)["node"] == NODE
        assert devices(fabric).replace("second\n", "") == before

    def test_a_port_for_metrics_that_is_taken(self, fabric: Lab, second: Second) -> None:
        before = devices(fabric)
        done = second.fails(metrics=agents.METRICS)
        assert said(done).startswith(f"{agents.METRICS}: cannot listen: Address already in use (")
        assert not second.socket.exists()
        assert devices(fabric).replace("second\n", "") == before

    def test_a_state_folder_that_is_a_file(self, fabric: Lab, second: Second) -> None:
        done = second.fails(state_dir="/etc/hostname/state")
        assert said(done) == "state_dir /etc/hostname/state: cannot use it: Not a directory"

    def test_a_bpffs_that_is_none(self, fabric: Lab, second: Second) -> None:
        folder = fabric.node_folder(NODE) / "unmounted"
        done = second.fails(bpffs=str(folder))
        what = "no BPF file system is mounted there"
        assert said(done) == f"bpffs {folder}: {what} (mount -t bpf bpf {folder})"
        assert not folder.exists()

    def test_without_any_wireguard(self, fabric: Lab, second: Second) -> None:
        """The kernel's own is not chosen or not there, and no wireguard-go in PATH either."""
        before = devices(fabric)
        nowhere = "PATH=/usr/bin:/bin MESHFABRIC_WIREGUARD_GO=/nowhere/wireguard-go"
        done = second.fails(env=nowhere, wireguard="userspace")
        assert "wireguard" in said(done).lower()
        assert done.returncode == Code.FOUND
        assert devices(fabric) == before

    def test_without_the_datapaths_objects(self, fabric: Lab, second: Second) -> None:
        done = second.fails(env="MESHFABRIC_BPF=/nowhere")
        assert "/nowhere/workload.bpf.o" in said(done)

    def test_an_uplink_that_is_not_there_is_waited_for(self, fabric: Lab) -> None:
        """Its device is renamed away, as if a driver were late, and back: the fabric is whole again."""
        (port,) = (each for each in fabric.topology.ports("blue") if each.node == NODE)
        ip(fabric.node(NODE), ["link set up1 down", "link set up1 name late1"])
        try:
            until(lambda: "up1" not in uplinks(fabric))
            until(lambda: told(fabric, NODE)["ready"])
            assert ping(fabric, "kube1/web", address(fabric, "kube2/db")) is not None
        finally:
            back = [f"address replace {one} dev up1{' nodad' * (one.version == 6)}" for one in port.addresses]
            ip(fabric.node(NODE), ["link set late1 name up1", "link set up1 up", *back])
        wait_whole(fabric)
        assert "up1" in uplinks(fabric)


def uplinks(lab: Lab) -> str:
    """What the others know of the node's uplinks."""
    return next(str(row["uplinks"]) for row in listing(lab, "vm1", "nodes") if row["node"] == NODE)


class TestTheStoreAway:
    """An agent without etcd starts, says so, and ends when told to; a command that needs etcd says so too."""

    def test_an_agent_that_never_reached_etcd(self, fabric: Lab, second: Second) -> None:
        before = devices(fabric)
        argv = enter(fabric.node(NODE), [*MESHFABRIC, "agent", "--config", str(second.write())])
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=tools.environment()) as agent:
            until(second.socket.exists)
            until(lambda: not call(second.socket, Ask("status"))["ready"])
            until(
                lambda: (
                    NOWHERE.removeprefix("http://") in call(second.socket, Ask("status"))["store"]["detail"]
                )
            )
            assert not call(second.socket, Ask("status"))["store"]["connected"]
            build.run(fabric, NODE, ["sh", "-c", f"kill -{signal.SIGTERM} $(pgrep -f second.yaml)"])
            _, errors = agent.communicate(timeout=DEADLINE_S)
        assert agent.returncode == Code.OK
        assert "Traceback" not in errors
        assert not second.socket.exists()
        assert devices(fabric).replace("second\n", "") == before

    def test_a_policy_that_nobody_takes(self, fabric: Lab) -> None:
        text = "name: p\nselect: app=web\ningress: []\n"
        argv = [*MESHFABRIC, "policy", "apply", "--etcd", NOWHERE, "-"]
        done = build.run(fabric, NODE, argv, stdin=text)
        assert NOWHERE.removeprefix("http://") in said(done)
        assert done.returncode == Code.UNAVAILABLE

    def test_a_policy_with_a_mistake(self, fabric: Lab) -> None:
        text = "name: p\nselect: app=web\ningress:\n  - from: [app=db]\n    port: [tcp/1]\n"
        done = build.run(fabric, NODE, [*MESHFABRIC, "policy", "apply", "-"], stdin=text)
        assert re.search(r":5: .*port: unknown key \(did you mean 'ports'\?\)", said(done))
        assert done.returncode == Code.INPUT
        assert told(fabric, NODE)["policies"] == 0
