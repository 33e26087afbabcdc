"""Attaching and detaching: what the agent is asked, and what is printed of its answer."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshfabric.api.messages import Attach, Attached, Detach, Release
from meshfabric.cli.app import app
from meshfabric.cli.exits import Code
from tests.fakes.agent import Agent, answering

ATTACHED = Attached(
    addresses=["10.88.1.7/32", "fd00:88:1::7/128"],
    routes=["10.88.0.0/16", "fd00:88::/32"],
    gateways=["169.254.1.1", "fe80::6d66"],
    gateway_mac="02:6d:66:00:00:01",
    device="eth0",
    mac="02:6d:66:01:00:05",
    mtu=1380,
)


@pytest.fixture
def agent() -> Iterator[Agent]:
    answers = {Attach: ATTACHED, Detach: None, Release: None}
    with tempfile.TemporaryDirectory() as folder, answering(Path(folder, "agent.sock"), answers) as agent:
        yield agent


def run(agent: Agent, *arguments: str) -> str:
    result = CliRunner(env={"MESHFABRIC_SOCKET": str(agent.socket), "COLUMNS": None}).invoke(app, arguments)
    assert result.exit_code == Code.OK, result.output
    assert result.stderr == ""
    return result.stdout


def test_a_pod(agent: Agent) -> None:
    printed = run(
        agent, "endpoint", "attach", "shop/web-0", "--netns", "/run/netns/web", "--label", "app=web"
    )
    assert agent.asked == [Attach("shop/web-0", "pod", {"app": "web"}, "eth0", "/run/netns/web")]
    assert printed == (
        "addresses  10.88.1.7/32, fd00:88:1::7/128\n"
        "routes     10.88.0.0/16, fd00:88::/32\n"
        "gateways   169.254.1.1, fe80::6d66 at 02:6d:66:00:00:01\n"
        "device     eth0, MAC 02:6d:66:01:00:05, MTU 1380\n"
    )


def test_the_agent_gets_an_absolute_path(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(agent, "endpoint", "attach", "web", "--netns", "ns/web", "--device", "net1")
    assert agent.asked == [Attach("web", "pod", {}, "net1", f"{tmp_path}/ns/web")]


def test_a_virtual_machine(agent: Agent) -> None:
    labels = ("--label", "app=db", "--label", "tier=", "--label", "app=db")
    printed = run(agent, "endpoint", "attach", "db", "--tap", "tap3", *labels, "-o", "json")
    assert agent.asked == [Attach("db", "vm", {"app": "db", "tier": ""}, "tap3")]
    assert printed.splitlines()[:3] == ["{", '  "addresses": [', '    "10.88.1.7/32",']


def test_names_of_ports(agent: Agent) -> None:
    run(agent, "endpoint", "attach", "db", "--tap", "tap3", "--port", "http=tcp/80", "--port", "dns=udp/53")
    assert agent.asked == [Attach("db", "vm", {}, "tap3", ports={"http": "tcp/80", "dns": "udp/53"})]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--port", "http"], "'http' is no port, write http=tcp/8080"),
        (["--port", "http=80"], "unknown protocol in '80'"),
        (["--port", "http=tcp/80", "--port", "http=tcp/81"], "two values for http"),
    ],
)
def test_no_names_of_ports(agent: Agent, given: list[str], said: str) -> None:
    command = ["endpoint", "attach", "db", "--tap", "tap3", "--socket", str(agent.socket), *given]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, command)
    assert result.exit_code != Code.OK
    assert said in result.stderr
    assert agent.asked == []


def test_detaching(agent: Agent) -> None:
    assert run(agent, "endpoint", "detach", "shop/web-0") == "shop/web-0: detached\n"
    assert agent.asked == [Detach("shop/web-0")]


def test_releasing_what_is_held(agent: Agent) -> None:
    assert run(agent, "store", "release") == "released\n"
    assert agent.asked == [Release()]
