"""Policies that would cut the fabric's own control traffic are not written, unless that is forced."""

import json
import zlib
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from meshfabric.cli.app import app
from meshfabric.cli.exits import Code
from meshfabric.store.keys import state_prefix
from tests.etcd import Server

pytest_plugins = ["tests.etcd"]

NODES = {"n1": "10.9.1", "n2": "10.9.2"}
NO_SSH = (
    "name: no-ssh\ntier: admin\nselect: meshfabric.io/kind=host\ningress: [{action: deny, ports: [tcp/22]}]\n"
)
HOSTS_IN = """\
---
name: hosts-in
tier: admin
priority: 0
select: "*"
ingress: [{from: ["meshfabric.io/kind=host"]}]
"""


@pytest.fixture
def fabric(request: pytest.FixtureRequest) -> str:
    """A fabric of the test's own in the shared etcd."""
    return f"c{zlib.crc32(request.node.nodeid.encode()):08x}"


@pytest.fixture
def populated(etcd_server: Server, fabric: str) -> Server:
    """Two nodes, each with its host, a web server and a database."""
    put(etcd_server, fabric, "config", {"prefixes": ["10.9.0.0/16"]})
    for node, block in NODES.items():
        put(etcd_server, fabric, f"allocations/{node}", {"blocks": [f"{block}.0/24"]})
        put(etcd_server, fabric, f"grants/{node}", {"labels": {"app": ["*"]}})
        put(etcd_server, fabric, f"endpoints/{node}/{block}.1", {"workload": node, "kind": "host"})
        for host, name in enumerate(("web", "db"), 2):
            record = {"workload": name, "kind": "pod", "labels": {"app": name}}
            put(etcd_server, fabric, f"endpoints/{node}/{block}.{host}", record)
    return etcd_server


def put(server: Server, fabric: str, key: str, record: dict[str, Any]) -> None:
    server.ctl("put", state_prefix(fabric) + key, json.dumps(record))


def policy(server: Server, fabric: str, verb: str, *arguments: str, text: str = "") -> Result:
    options = ["--etcd", server.endpoint, "--fabric", fabric]
    return CliRunner(env={"COLUMNS": None}).invoke(app, ["policy", verb, *arguments, *options], input=text)


def stored(server: Server, fabric: str) -> list[str]:
    prefix = f"{state_prefix(fabric)}policies/"
    found = server.ctl("get", "--prefix", "--keys-only", prefix).split()
    return [key.removeprefix(prefix) for key in found]


CUTTING = {
    "the control port": (
        NO_SSH,
        "every host -> every host on tcp/22 (ingress, no-ssh: deny anyone on tcp/22)",
    ),
    "all that hosts say": (
        "name: mute\nselect: meshfabric.io/node=n1\negress: []\n",
        "host n1 -> host n2 on icmp, tcp/22, icmpv6 (egress, mute: no rule), and 1 more",
    ),
    "ICMP alone": (
        "name: deaf\nselect: meshfabric.io/node=n2\ningress: [{ports: [tcp, udp, sctp]}]\n",
        "host n1 -> host n2 on icmp, icmpv6 (ingress, deaf: no rule)",
    ),
    "health checks": (
        "name: closed\ntier: admin\nselect: app=db\ningress: [{action: deny, ports: [tcp/8080]}]\n",
        "every host -> app=db on that node on tcp/8080 (ingress, closed: deny anyone on tcp/8080)",
    ),
}


@pytest.mark.parametrize("what", CUTTING)
def test_what_cuts_is_refused_in_one_line_and_done_by_force(
    populated: Server, fabric: str, what: str
) -> None:
    text, said = CUTTING[what]
    name = text.split()[1]
    refused = policy(populated, fabric, "apply", "-", text=text)
    assert (refused.exit_code, refused.stdout) == (Code.INPUT, "")
    assert refused.stderr.startswith(
        f"meshfabric: policy {name}: it would cut the fabric's own control traffic"
    )
    assert said in refused.stderr
    assert refused.stderr.endswith("(let it through, see docs/policy.md, or say --force if that is meant)\n")
    assert refused.stderr.count("\n") == 1
    assert stored(populated, fabric) == []
    assert policy(populated, fabric, "apply", "--force", "-", text=text).stdout == f"{name}: created\n"
    again = policy(populated, fabric, "apply", "-", text=text)
    assert (again.exit_code, again.stdout) == (Code.OK, f"{name}: unchanged\n")


@pytest.mark.parametrize(
    "text",
    [
        "name: shop\nselect: app=db\ningress: [{from: [app=web]}]\n",
        "name: shop\nselect: app\ningress: []\negress: []\n",
        "name: hosts\nselect: meshfabric.io/kind=host\ningress: [{ports: [icmp, icmpv6, tcp/22]}]\n",
        "name: apart\ntier: admin\nselect: app=db\ningress: [{action: deny, from: [app=web]}]\n",
        NO_SSH + HOSTS_IN,
        NO_SSH.replace("tcp/22", "tcp/23"),
        NO_SSH.replace("deny,", "deny, expires: 2001-01-01T00:00:00Z,"),
    ],
)
def test_what_does_not_cut_is_written(populated: Server, fabric: str, text: str) -> None:
    done = policy(populated, fabric, "apply", "-", text=text)
    assert (done.exit_code, done.stdout.count(": created\n")) == (Code.OK, text.count("name: "))


def test_to_delete_what_let_hosts_in_is_refused(populated: Server, fabric: str) -> None:
    assert policy(populated, fabric, "apply", "-", text=NO_SSH + HOSTS_IN).exit_code == Code.OK
    refused = policy(populated, fabric, "delete", "hosts-in")
    assert refused.exit_code == Code.INPUT
    assert (
        "policy no-ssh: it would cut the fabric's own control traffic every host -> every host"
        in refused.stderr
    )
    assert sorted(stored(populated, fabric)) == ["hosts-in", "no-ssh"]
    assert policy(populated, fabric, "delete", "--force", "hosts-in").stdout == "hosts-in: deleted\n"
    assert policy(populated, fabric, "delete", "no-ssh").stdout == "no-ssh: deleted\n"


def test_what_was_cut_before_is_cut_by_nobody(populated: Server, fabric: str) -> None:
    assert policy(populated, fabric, "apply", "--force", "-", text=NO_SSH).exit_code == Code.OK
    wider = NO_SSH.replace("tcp/22", "tcp/22-23")
    assert policy(populated, fabric, "apply", "-", text=wider).stdout == "no-ssh: changed\n"


def test_operators_say_which_ports_are_for_control(populated: Server, fabric: str) -> None:
    config = {"prefixes": ["10.9.0.0/16"], "control_ports": ["tcp/2379-2380"]}
    put(populated, fabric, "config", config)
    assert policy(populated, fabric, "apply", "-", text=NO_SSH).exit_code == Code.OK
    text = NO_SSH.replace("no-ssh", "no-etcd").replace("tcp/22", "tcp/2000-2379")
    refused = policy(populated, fabric, "apply", "-", text=text)
    assert "every host -> every host on tcp/2379 (ingress, no-etcd" in refused.stderr


def test_a_config_that_nobody_can_read_changes_nothing(populated: Server, fabric: str) -> None:
    put(populated, fabric, "config", {"prefixes": ["10.9.0.0/16"], "control_ports": ["ssh"]})
    assert policy(populated, fabric, "apply", "-", text=NO_SSH).exit_code == Code.OK, (
        "no endpoint is in force"
    )
