"""How the lab speaks to agents and what it tells a guest, with a scripted agent in the real one's place."""

import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from meshfabric.api.messages import Ask, Attach, Attached, Reply, Request
from meshfabric.lab import agents, build, process, state, status, workloads
from meshfabric.lab.state import Lab
from meshfabric.model.errors import PermanentError, TemporaryError
from meshfabric.model.settings import Settings
from meshfabric.model.yamltext import parse
from tests.features import requires
from tests.lab.small import fresh_name, raised, said
from tests.patience import DEADLINE_S, until

pytestmark = requires("capabilities")

ATTACHED = Attached(
    addresses=["10.64.1.9/32", "fd6d:6600:0:1::9/128"],
    routes=["10.64.0.0/16", "fd6d:6600::/48"],
    gateways=["169.254.1.1", "fe80::6d66"],
    gateway_mac="02:6d:66:00:00:01",
    device="tap-guest",
    mac="02:6d:66:01:00:09",
    mtu=1380,
)


class ScriptedAgent(socketserver.ThreadingUnixStreamServer):
    """Answers as an agent would and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.ready = True
        self.heard: list[Request] = []
        super().__init__(path, _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: Request) -> Reply:
        """What an agent says."""
        self.heard.append(request)
        if isinstance(request, Ask):
            return Reply({"ready": self.ready})
        if isinstance(request, Attach) and request.labels.get("app") == "refused":
            return Reply(error="the label app=refused is not granted")
        return Reply(msgspec.to_builtins(ATTACHED))


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        agent: Any = self.server
        request: Any = msgspec.json.decode(self.rfile.readline(), type=Request)
        self.wfile.write(msgspec.json.encode(agent.answer(request)) + b"\n")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with raised(fresh_name()) as one:
        yield one


@pytest.fixture
def agent(lab: Lab) -> Iterator[ScriptedAgent]:
    path = lab.socket("pear")
    scripted = ScriptedAgent(str(path))
    yield scripted
    scripted.shutdown()
    scripted.server_close()
    path.unlink()


def test_the_guest_is_set_up_as_the_agent_says(lab: Lab, agent: ScriptedAgent) -> None:
    guest = lab.topology.workload("pear", "guest")
    assert workloads.attach(lab, guest) == ATTACHED
    assert agent.heard == [Attach("guest", "vm", {}, "tap-guest")]
    link = said(lab, "pear/guest", "ip link show eth0")
    assert "mtu 1380" in link
    assert "link/ether 02:6d:66:01:00:09" in link
    assert said(lab, "pear/guest", "ip -4 route").startswith("10.64.0.0/16 via 169.254.1.1 dev eth0 onlink")
    assert "fd6d:6600::/48 via fe80::6d66 dev eth0" in said(lab, "pear/guest", "ip -6 route")
    assert "fd6d:6600:0:1::9/128" in said(lab, "pear/guest", "ip -6 address show dev eth0 -tentative")
    assert said(lab, "pear/guest", "ip neighbour show nud permanent") == ""
    assert status.addresses(lab, "pear/guest") == ["10.64.1.9", "fd6d:6600:0:1::9"]
    workloads.attach(lab, guest)
    workloads.detach(lab, guest)
    assert status.addresses(lab, "pear/guest") == []


def test_a_pod_is_named_by_its_namespace_as_the_node_sees_it(lab: Lab, agent: ScriptedAgent) -> None:
    workloads.attach(lab, lab.topology.workload("pear", "pod"))
    (request,) = agent.heard
    assert isinstance(request, Attach)
    assert (request.name, request.kind, request.device) == ("pod", "pod", "eth0")
    assert said(lab, "pear", f"readlink {request.netns}") == said(
        lab, "pear/pod", "readlink /proc/self/ns/net"
    )
    assert said(lab, "pear", f"readlink {request.netns}") != said(lab, "pear", "readlink /proc/self/ns/net")


def test_what_the_agent_refuses_is_an_error(lab: Lab, agent: ScriptedAgent) -> None:
    pod = msgspec.structs.replace(lab.topology.workload("pear", "pod"), labels={"app": "refused"})
    with pytest.raises(PermanentError, match="the label app=refused is not granted"):
        workloads.attach(lab, pod)


def test_readiness_is_what_the_agent_says(lab: Lab, agent: ScriptedAgent) -> None:
    holder = process.spawn(["sleep", "infinity"], lab.log("agent", "pear"), into=lab.node("pear"))
    lab.remember(agents.ROLE, "pear", holder)
    try:
        assert agents.wait_ready(lab, "pear") == {"ready": True}
        agent.ready = False
        with pytest.raises(TemporaryError, match=r"the agent of pear is not ready after 0 s: it says"):
            agents.wait_ready(lab, "pear", timeout_s=0.1)
        until(lambda: _shown_agent(lab, "pear") == "starting")
        agents.kill_agent(lab, "pear", signal.SIGSTOP)
        assert holder.alive
        agents.kill_agent(lab, "pear")
        assert not holder.alive
        with pytest.raises(PermanentError, match="the agent of pear ended: "):
            agents.wait_ready(lab, "pear")
        agents.kill_agent(lab, "pear")
        assert _shown_agent(lab, "pear") == _shown_agent(lab, "plum") == "dead"
    finally:
        holder.kill()


def test_the_agents_file_is_one_that_it_reads(lab: Lab) -> None:
    text = agents.agent_yaml(lab, "plum")
    raw: dict[str, Any] = parse(text, "agent.yaml", dict)
    settings = msgspec.convert(raw, Settings, dec_hook=lambda kind, value: kind(value))
    assert settings.etcd.endpoints == ("http://172.31.1.1:2379", "http://[fd00:b1::1]:2379")
    assert [(up.name, up.device, up.segment) for up in settings.uplinks] == [
        ("up0", "up0", "red"),
        ("up1", "up1", "blue"),
    ]
    assert settings.socket == lab.socket("plum")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_command_that_is_stopped_half_way_leaves_nothing(number: int) -> None:
    name = fresh_name()
    argv = [sys.executable, "-m", "meshfabric", "lab", "up", "--name", name]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True) as command:
        assert command.stderr is not None
        try:
            for line in command.stderr:
                if "node metal1" in line:
                    break
            found = state.find(name)
            command.send_signal(number)
            command.stderr.read()
            code = command.wait(DEADLINE_S)
        finally:
            ended = build.down(name)
    assert found is not None
    assert not found.init.alive
    assert not state.folder_of(name).exists()
    # Only SIGKILL leaves something to be ended by `down`.
    assert (code, ended) == ((-9, True) if number == signal.SIGKILL else (130, False))


def _shown_agent(lab: Lab, node: str) -> str:
    (row,) = (row for row in status.overview(lab)["nodes"] if row["node"] == node)
    return str(row["agent"])
