"""Workloads come, change, go and vanish; what is left of them is nothing."""

import contextlib
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

from meshfabric.api.client import call
from meshfabric.api.messages import Attach, Attached, Detach
from meshfabric.lab import agents, process, workloads
from meshfabric.lab.process import Process
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import ip, shown_by
from meshfabric.model.errors import MeshfabricError, PermanentError
from tests.features import requires
from tests.lab.kernel import devices, numbers, opened_map, pins
from tests.lab.places import SILENCE_S, ping
from tests.lab.scrape import scraped
from tests.lab.store import Store
from tests.lab.streams import Flow, flowing
from tests.lab.whole import address, listing, settle, told, until, wait_ready, wait_whole

pytestmark = requires("capabilities")

NODE, DB = "kube1", "kube2/db"
EMPTY = "ip link set lo up"
PORT_MAC = "02:6d:66:bb:00:01"  # of an interface whose own the bridge took


@contextlib.contextmanager
def pod(lab: Lab, name: str) -> Iterator[Process]:
    """A namespace on the node that the lab's file does not know of."""
    holder = process.spawn(workloads.HOLDER, lab.log("workload", name), into=lab.node(NODE), new=("net",))
    try:
        process.run(holder, ["sh", "-euc", EMPTY])
        yield holder
    finally:
        call(lab.socket(NODE), Detach(name))
        holder.kill()


def attach(lab: Lab, name: str, holder: Process, **labels: str) -> Attached:
    return attach_at(lab, name, f"/proc/{holder.inner_pid}/ns/net", **labels)


def attach_at(lab: Lab, name: str, netns: str, **labels: str) -> Attached:
    return attach_by(lab, Attach(name, "pod", labels, workloads.DEVICE, netns))


def attach_by(lab: Lab, request: Attach) -> Attached:
    return msgspec.convert(call(lab.socket(NODE), request), Attached)


def bridge(holder: Process, attached: Attached) -> None:
    """Put the interface into a bridge that takes all that it had, as KubeVirt does for a machine."""
    process.run(holder, ["ip", "address", "flush", "dev", workloads.DEVICE])
    ip(
        holder,
        [
            "link add br0 type bridge",
            f"link set {workloads.DEVICE} address {PORT_MAC} master br0",
            *(line.replace(workloads.DEVICE, "br0") for line in workloads.guest_lines(attached)),
        ],
    )


def kind_of(lab: Lab, device: str) -> str:
    """What a device of the node is."""
    (row,) = shown_by(lab.node(NODE), ["ip", "-d", "-j", "link", "show", device])
    return str(msgspec.convert(row["linkinfo"], dict[str, Any])["info_kind"])


def inside(holder: Process) -> set[str]:
    """The devices in a namespace."""
    return {str(row["ifname"]) for row in shown_by(holder, ["ip", "-j", "link", "show"])}


def answered(lab: Lab, to: str) -> bool:
    return heard(lab, DB, to)


def heard(lab: Lab, source: str, to: str) -> bool:
    return ping(lab, source, to, answer_s=SILENCE_S) is not None


def plain(attached: Attached) -> list[str]:
    return [each.partition("/")[0] for each in attached.addresses]


def everything(lab: Lab) -> dict[str, object]:
    """All that a node keeps of its workloads."""
    links = pins(lab, NODE) / "links"
    with opened_map(lab, NODE, "devices") as known, opened_map(lab, NODE, "workloads") as places:
        maps = sorted(known.items()), [entry for entry in places.items() if any(entry[1])]
    with opened_map(lab, NODE, "addresses") as addresses:
        count = sum(1 for _ in addresses.items())
    state = lab.node_folder(NODE) / "state" / "workloads.json"
    return {
        "devices": devices(lab, NODE),
        "maps": maps,
        "addresses": count,
        "links": sorted(path.name for path in links.iterdir()),
        "records": sorted(key for key in Store(lab).everything() if f"/endpoints/{NODE}/" in key),
        "file": msgspec.json.decode(state.read_bytes()),
        "policy": scraped(lab, NODE)["meshfabric_plan_entries"]['table="policy"'],
    }


def demand(lab: Lab, wanted: dict[str, object]) -> None:
    """Until the node keeps this of its workloads, and nothing else."""
    with contextlib.suppress(AssertionError):
        until(lambda: everything(lab) == wanted)
    assert everything(lab) == wanted


def test_detaching_removes_everything(fabric: Lab) -> None:
    before = everything(fabric)
    with pod(fabric, "guest") as holder:
        attached = attach(fabric, "guest", holder, app="new")
        during = everything(fabric)
        assert all(during[what] != before[what] for what in before)
        for to in plain(attached):
            until(partial(answered, fabric, to))
        call(fabric.socket(NODE), Detach("guest"))
        demand(fabric, before)
        assert inside(holder) == {"lo"}
        assert ping(fabric, DB, plain(attached)[0], answer_s=SILENCE_S) is None
        call(fabric.socket(NODE), Detach("guest"))
        demand(fabric, before)  # twice is the same as once


def test_attaching_twice_is_the_same_as_once(fabric: Lab) -> None:
    with pod(fabric, "twice") as holder, flowing(fabric, Flow("kube1/web", DB)) as streams:
        until(streams.all_pass)
        first = attach(fabric, "twice", holder, app="new")
        settle(fabric)
        once = everything(fabric)
        assert attach(fabric, "twice", holder, app="new") == first
        settle(fabric)
        assert everything(fabric) == once
    streams.assert_nothing_lost()


def test_an_interface_may_be_in_a_bridge(fabric: Lab) -> None:
    with pod(fabric, "machine") as holder:
        netns = f"/proc/{holder.inner_pid}/ns/net"
        request = Attach("machine", "pod", {"app": "new"}, workloads.DEVICE, netns, bridged=True)
        attached = attach_by(fabric, request)
        bridge(holder, attached)
        for source in (DB, "kube1/web", NODE, "vm1/guest1"):
            for to in plain(attached):
                until(partial(heard, fabric, source, to))


@requires("netkit")
def test_a_pair_of_an_earlier_kind_stays_and_reaches_the_others(fabric: Lab) -> None:
    """As an agent left it that knew veth alone: new pods beside it get netkit."""
    with pod(fabric, "old") as old, pod(fabric, "new") as new:
        device = attach(fabric, "old", old, app="new").device
        pair = f"link add {device} type veth peer name {workloads.DEVICE} netns {old.pid}"
        ip(fabric.node(NODE), [f"link delete {device}", pair])
        first, second = attach(fabric, "old", old, app="new"), attach(fabric, "new", new, app="new")
        assert (kind_of(fabric, first.device), kind_of(fabric, second.device)) == ("veth", "netkit")
        for source in (DB, "kube1/web"):
            for to in (*plain(first), *plain(second)):
                until(partial(heard, fabric, source, to))
        index = devices(fabric, NODE)[first.device]
        assert attach(fabric, "old", old, app="new") == first
        assert devices(fabric, NODE)[first.device] == index


def test_an_address_is_given_again_as_late_as_possible(fabric: Lab) -> None:
    given: list[str] = []
    for number in range(4):
        with pod(fabric, f"short{number}") as holder:
            given += plain(attach(fabric, f"short{number}", holder))
    assert len(set(given)) == len(given)


def test_a_pod_that_comes_back_in_a_new_namespace_keeps_its_address(fabric: Lab) -> None:
    """As a sandbox that was restarted: the same name, another namespace."""
    with pod(fabric, "again") as first, pod(fabric, "again") as second:
        attached = attach(fabric, "again", first, app="new")
        assert attach(fabric, "again", second, app="new") == attached
        assert (inside(first), inside(second)) == ({"lo"}, {"lo", workloads.DEVICE})
        until(partial(answered, fabric, plain(attached)[0]))


def test_a_pod_whose_namespace_vanished_disturbs_nobody(fabric: Lab) -> None:
    before = everything(fabric)
    with flowing(fabric, Flow("kube1/web", DB), Flow("kube2", "kube1/client", 6)) as streams:
        until(streams.all_pass)
        with pod(fabric, "fleeting") as holder:
            attached = attach(fabric, "fleeting", holder)
            device = attached.device
            netns = f"/proc/{holder.inner_pid}/ns/net"
            holder.kill()
            until(lambda: device not in devices(fabric, NODE))
            until(
                lambda: (
                    f"{device}-ingress"
                    not in {path.name for path in (pins(fabric, NODE) / "links").iterdir()}
                )
            )
            until(lambda: not told(fabric, NODE)["failing"])
            assert told(fabric, NODE)["ready"]
            assert ping(fabric, DB, plain(attached)[0], answer_s=SILENCE_S) is None
            with pytest.raises(PermanentError, match="no network namespace"):
                attach_at(fabric, "fleeting", netns)
        demand(fabric, before)
    streams.assert_nothing_lost()
    wait_whole(fabric)


def test_a_namespace_that_vanished_while_the_agent_was_dead_is_forgotten(fabric: Lab) -> None:
    before = everything(fabric)
    with pod(fabric, "orphan") as holder:
        attach(fabric, "orphan", holder)
        agents.kill_agent(fabric, NODE)
        holder.kill()
        agents.start_agent(fabric, NODE)
        wait_ready(fabric, NODE)
        demand(fabric, before)
        assert "workload lost" in str(told(fabric, NODE)["events"])


def test_what_a_kill_left_behind_is_swept_away(fabric: Lab) -> None:
    """A pair that was made, or not yet removed, when the agent was killed."""
    before = everything(fabric)
    with pod(fabric, "swept") as holder:
        agents.kill_agent(fabric, NODE)
        pair = f"link add mfp99 type veth peer name {workloads.DEVICE} netns {holder.pid}"
        ip(fabric.node(NODE), [pair, "link set mfp99 up"])
        agents.start_agent(fabric, NODE)
        wait_ready(fabric, NODE)
        until(lambda: inside(holder) == {"lo"})
        demand(fabric, before)


def test_a_kill_in_the_midst_of_attaching_leaves_nothing_half_done(fabric: Lab) -> None:
    """At whatever moment: afterwards the pod is attached whole, by asking again, or not at all."""
    before = everything(fabric)
    for moment_s in ("0.01", "0.03", "0.06", "0.1"):
        with pod(fabric, "torn") as holder:
            agent = fabric.process(agents.ROLE, NODE)
            assert agent is not None
            killer = ["sh", "-c", f"sleep {moment_s}; kill -9 {agent.pid}"]
            with subprocess.Popen(killer), contextlib.suppress(MeshfabricError):
                attach(fabric, "torn", holder, app="new")
            agents.kill_agent(fabric, NODE)
            agents.start_agent(fabric, NODE)
            wait_ready(fabric, NODE)
            attached = attach(fabric, "torn", holder, app="new")
            until(partial(answered, fabric, plain(attached)[0]))
        demand(fabric, before)


def test_what_cannot_be_attached_leaves_nothing(fabric: Lab) -> None:
    before, given = everything(fabric), numbers(fabric, NODE)
    netns = f"/proc/{fabric.workload(NODE, 'web').inner_pid}/ns/net"
    for request, error in (
        (Attach("Bad Name", "pod", {}, "eth0", netns), "no valid workload name"),
        (Attach(NODE, "pod", {}, "eth0", netns), "no valid workload name"),
        (Attach("ghost", "pod", {}, "eth0", "/proc/1/ns/nothing"), "no network namespace"),
        (Attach("ghost", "pod", {}, "eth0"), "attached by netns"),
        (Attach("ghost", "vm", {}, "tap-ghost"), "make the tap first"),
        (Attach("ghost", "vm", {}, "tap-ghost", netns), "attached without netns"),
        (Attach("ghost", "vm", {}, "tap-ghost", bridged=True), "no interface of ours to bridge"),
        (Attach("ghost", "pod", {"no good": "x"}, "eth0", netns), "label"),
        (Attach("ghost", "pod", {}, "a-name-that-is-far-too-long", netns), "name|device|Numerical|long"),
    ):
        with pytest.raises(PermanentError, match=error):
            call(fabric.socket(NODE), request)
        assert everything(fabric) == before, request
    until(lambda: numbers(fabric, NODE) == given)
    assert address(fabric, "kube1/web")
    assert {row["workload"] for row in listing(fabric, NODE, "endpoints") if row["local"]} == {
        NODE,
        "web",
        "client",
    }
