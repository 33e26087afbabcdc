"""What `policy diff` says is what applying does: to the flows that there are, and to nobody else's."""

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

from meshfabric.cli.exits import Code
from meshfabric.lab import build
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.places import ECHO_PORT, SILENCE_S, Echo, asked, connects, opened
from tests.lab.store import Store
from tests.lab.streams import Flow, flowing
from tests.lab.whole import address, drops, names, until

pytestmark = requires("capabilities")

POLICY = [sys.executable, "-m", "meshfabric", "policy"]
WEB, CLIENT, DB, CACHE = "kube1/web", "kube1/client", "kube2/db", "kube2/cache"
NO_WEB = """\
name: no-web
tier: admin
select: app=db
ingress: [{action: deny, from: [app=web], ports: [tcp]}]
"""
NO_HOSTS = """\
name: no-hosts
select: meshfabric.io/kind=host
ingress: [{ports: [udp]}]
"""


def run(lab: Lab, node: str, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return build.run(lab, node, [*POLICY, *argv], stdin=text)


def simulated(lab: Lab, node: str, *argv: str, text: str = "") -> dict[str, Any]:
    """The answer of a node's agent, something of which changes."""
    done = run(lab, node, "diff", *argv, "-o", "json", text=text)
    assert (done.returncode, done.stderr) == (Code.FOUND, "")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def ports(told: dict[str, Any]) -> set[int]:
    """Those of the ends that spoke first."""
    return {int(flow["source"].rpartition(":")[2]) for flow in told["flows"]}


@pytest.mark.parametrize("family", [4, 6])
def test_the_flow_that_is_named_is_cut_and_no_other(fabric: Lab, family: int) -> None:
    kept = Flow(CLIENT, DB, family, "tcp"), Flow(WEB, DB, family), Flow(WEB, CACHE, family, "tcp")
    with Echo(fabric, DB), opened(fabric, WEB, family, socket.SOCK_STREAM) as link:
        link.connect((address(fabric, DB, family), ECHO_PORT))
        assert asked(link, b"before")
        link.settimeout(SILENCE_S)
        with flowing(fabric, *kept) as streams:
            until(streams.all_pass)
            for node in ("kube1", "kube2"):
                told = simulated(fabric, node, "-", text=NO_WEB)
                (change,) = told["changes"]
                assert (change["ports"], change["before"], change["after"]) == ("tcp", "allowed", "denied")
                assert change["after_by"] == "no-web: deny app=web on tcp"
                assert (change["sender_examples"], change["receiver_examples"]) == (WEB, DB)
                assert link.getsockname()[1] in ports(told)
                assert {(flow["from"], flow["to"]) for flow in told["flows"]} == {(WEB, DB)}
                assert told["flows_total"] == change["flows"] == len(told["flows"]) < told["flows_seen"]
            assert run(fabric, "metal1", "diff", "-", text=NO_WEB).returncode == Code.FOUND
            assert asked(link, b"nothing was applied")
            before = drops(fabric, "kube2", "policy_ingress")
            done = run(fabric, "kube1", "apply", "--wait", "-", text=NO_WEB)
            assert done.returncode == Code.OK, done.stderr
            until(lambda: not asked(link, b"still?") and drops(fabric, "kube2", "policy_ingress") > before)
            undone = simulated(fabric, "kube2", "--delete", "no-web")
            assert [row["after"] for row in undone["changes"]] == ["allowed"]
            assert link.getsockname()[1] in ports(undone)
        streams.assert_nothing_lost()
        again = run(fabric, "kube2", "diff", "-", text=NO_WEB)
        assert (again.returncode, again.stdout, again.stderr) == (Code.OK, "", "no change\n")


def test_hosts_are_cut_off_from_each_other_by_force_only(fabric: Lab) -> None:
    store, far = Store(fabric), address(fabric, "kube2")
    with Echo(fabric, "kube2"):
        refused = run(fabric, "metal1", "apply", "-", text=NO_HOSTS)
        assert (refused.returncode, refused.stdout) == (Code.INPUT, "")
        assert refused.stderr == (
            "meshfabric: policy no-hosts: it would cut the fabric's own control traffic every host -> every"
            " host on icmp, tcp/22, icmpv6 (ingress, no-hosts: no rule)"
            " (let it through, see docs/policy.md, or say --force if that is meant)\n"
        )
        assert store.get("policies/no-hosts") is None
        assert connects(fabric, "kube1", far)
        forced = run(fabric, "metal1", "apply", "--force", "--wait", "-", text=NO_HOSTS)
        assert (forced.returncode, forced.stderr) == (Code.OK, "")
        assert forced.stdout.splitlines()[1].startswith(f"in force on {len(names(fabric))} nodes")
        assert not connects(fabric, "kube1", far, answer_s=SILENCE_S)
        assert run(fabric, "metal1", "delete", "no-hosts").stdout == "no-hosts: deleted\n"
        until(lambda: connects(fabric, "kube1", far))
