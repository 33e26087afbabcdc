"""The fabric needs etcd only for news: gone, slow, emptied or set back, it costs no packet."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from meshfabric.api.client import call
from meshfabric.api.messages import Release
from meshfabric.lab import agents, build, etcd, workloads
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import ip
from tests.features import requires
from tests.lab.kernel import devices, pins
from tests.lab.places import SILENCE_S, Echo, connects, ping
from tests.lab.policies import everywhere, policy
from tests.lab.store import EARLY, Store, back_up, restore
from tests.lab.streams import Flow, flowing
from tests.lab.whole import address, agent, listing, names, told, until, wait_ready, wait_whole

pytestmark = requires("capabilities")

FLOWS = (
    Flow("two/middle", "three/right", 6),
    Flow("one/left", "two", 4),
    Flow("three", "two/middle", 4),
    Flow("one/left", "two/middle", 6, "tcp"),
)
ONLY_LEFT = [{"from": ["app=left"]}]
MANY = 12  # policies, of which ten may go at once
ABSENT_S = 1.5


def knows(lab: Lab, node: str, name: str) -> bool:
    return any(row["policy"] == name for row in listing(lab, node, "policies"))


def answered(lab: Lab, where: str, to: str) -> bool:
    return ping(lab, where, to, answer_s=SILENCE_S) is not None


@contextmanager
def cut_off(lab: Lab, node: str) -> Iterator[None]:
    """A node's way to etcd swallows everything, as a firewall does; other traffic is not touched."""
    swallowed = [
        f"route add blackhole {each.ip}"
        for uplink in lab.topology.node(node).uplinks
        for each in lab.topology.own_addresses(uplink.segment)
    ]
    ip(lab.node(node), swallowed)
    try:
        yield
    finally:
        ip(lab.node(node), [line.replace("add", "del") for line in swallowed])


def test_etcd_may_go_and_come_back(mixed: Lab) -> None:
    with flowing(mixed, *FLOWS) as streams:
        until(streams.all_pass)
        etcd.stop_etcd(mixed)
        until(lambda: not any(told(mixed, node)["store"]["connected"] for node in names(mixed)))
        assert all(told(mixed, node)["ready"] for node in names(mixed))
        time.sleep(ABSENT_S)
        etcd.start_etcd(mixed)
        took = wait_whole(mixed)
        print(f"all well {took:.1f} s after etcd's start")
    streams.assert_nothing_lost()


def test_what_changed_while_the_agent_was_dead_arrives_when_it_is_back(mixed: Lab) -> None:
    store, right = Store(mixed), address(mixed, "three/right")
    with Echo(mixed, "three/right"):
        agents.kill_agent(mixed, "three")
        store.put("policies/missed", {"name": "missed", "select": "app=right", "ingress": ONLY_LEFT})
        assert connects(mixed, "two/middle", right), "nobody told it yet"
        agents.start_agent(mixed, "three")
        took = until(lambda: not connects(mixed, "two/middle", right, answer_s=SILENCE_S))
        print(f"enforced {took - SILENCE_S:.1f} s after the agent's start")
        agents.kill_agent(mixed, "three")
        store.delete("policies/missed")
        agents.start_agent(mixed, "three")
        until(lambda: connects(mixed, "two/middle", right, answer_s=SILENCE_S))


def test_what_changed_while_a_node_was_cut_off_arrives_though_history_is_gone(mixed: Lab) -> None:
    """etcd compacts under the watch: the node lists everything anew, and what went is gone."""
    store = Store(mixed)
    everywhere(mixed, store.put("policies/old", {"name": "old", "select": "app=right", "ingress": []}))
    with flowing(mixed, *FLOWS[1:]) as streams:
        assert knows(mixed, "three", "old")
        with cut_off(mixed, "three"):
            until(lambda: not told(mixed, "three")["store"]["connected"])
            store.delete("policies/old")
            revision = store.put(
                "policies/new", {"name": "new", "select": "app=left", "ingress": [{"from": ["app=right"]}]}
            )
            store.compact()
            assert knows(mixed, "three", "old")
            assert not knows(mixed, "three", "new")
        everywhere(mixed, revision)
        assert knows(mixed, "three", "new")
        assert not knows(mixed, "three", "old")
        assert "compacted" in str(told(mixed, "three")["events"])
    streams.assert_nothing_lost()


def test_a_node_whose_store_hangs_still_takes_workloads(mixed: Lab) -> None:
    """What is in its kernel does not wait for a store that does not answer."""
    right = mixed.topology.workload("three", "right")
    with Echo(mixed, "three/right"), cut_off(mixed, "three"):
        until(lambda: not told(mixed, "three")["store"]["connected"])
        begun = time.monotonic()
        workloads.attach(mixed, right)
        print(f"attached after {time.monotonic() - begun:.1f} s")
        assert connects(mixed, "two/middle", address(mixed, "three/right"))
        assert told(mixed, "three")["ready"]


def test_a_node_comes_up_from_its_snapshot_while_etcd_is_away(mixed: Lab) -> None:
    """Killed with SIGKILL; its policies are those of the snapshot."""
    right = address(mixed, "three/right")
    with (
        policy(mixed, "kept", "app=right", ingress=ONLY_LEFT),
        Echo(mixed, "two/middle", "three/right"),
    ):
        until(lambda: "policies/kept" in snapshot(mixed, "three"))
        etcd.stop_etcd(mixed)
        with flowing(mixed, *FLOWS[1:3]) as streams:
            until(streams.all_pass)
            agents.kill_agent(mixed, "three")
            agents.start_agent(mixed, "three")
            wait_ready(mixed, "three")
            said = told(mixed, "three")
            assert not said["store"]["connected"]
            assert (said["nodes"]["known"], said["policies"]) == (3, 1)
            assert not connects(mixed, "two/middle", right, answer_s=SILENCE_S), "what the policy denies"
            assert connects(mixed, "one/left", address(mixed, "two/middle"))
        etcd.start_etcd(mixed)
    streams.assert_nothing_lost()


def test_a_node_that_boots_while_etcd_is_away_forwards_again(mixed: Lab) -> None:
    """All that the kernel held is gone, as after a power cut: pins, links, devices, rules, routes, processes.

    What is on its disk is enough: snapshot, numbers, keys. Its pods are attached anew.
    """
    until(lambda: "endpoints/three" in snapshot(mixed, "three"))
    keys, old = Store(mixed).get("nodes/three"), address(mixed, "three/right")
    etcd.stop_etcd(mixed)
    power_cut(mixed, "three")
    assert ping(mixed, "two", address(mixed, "three"), answer_s=SILENCE_S) is None
    agents.start_agent(mixed, "three")
    wait_ready(mixed, "three")
    for source, sink in (("two/middle", "three"), ("three", "two/middle")):
        to4, to6 = address(mixed, sink), address(mixed, sink, 6)
        until(partial(answered, mixed, source, to4))
        until(partial(answered, mixed, source, to6))
    workloads.attach(mixed, mixed.topology.workload("three", "right"))
    etcd.start_etcd(mixed)
    until(partial(answered, mixed, "two/middle", address(mixed, "three/right")))
    wait_whole(mixed)
    assert Store(mixed).get("nodes/three") == keys, "the same keys and ports: nobody had to learn anything"
    print(f"the pod had {old}, has {address(mixed, 'three/right')}")


def test_a_backup_that_is_restored_takes_nothing_away_until_somebody_says_so(mixed: Lab) -> None:
    """Policies written after the backup are gone from the store, too many at once to be believed."""
    store, right = Store(mixed), address(mixed, "three/right")
    back_up(mixed, "before")
    for number in range(MANY):
        record = {"name": f"p{number}", "select": "app=right", "ingress": ONLY_LEFT}
        revision = store.put(f"policies/p{number}", record)
    everywhere(mixed, revision)
    with Echo(mixed, "three/right"):
        assert not connects(mixed, "two/middle", right, answer_s=SILENCE_S)
        with flowing(mixed, *FLOWS[1:]) as streams:
            restore(mixed, "before")
            until(lambda: all(told(mixed, node)["held"] for node in names(mixed)))
            assert store.revision() < revision
            assert told(mixed, "three")["held"].startswith(f"{MANY} of {MANY} policies went missing")
            assert told(mixed, "three")["store"]["connected"]
            assert not connects(mixed, "two/middle", right, answer_s=SILENCE_S), "still in force"
            before = agent(mixed, "three")
            agents.kill_agent(mixed, "three")
            agents.start_agent(mixed, "three")
            wait_ready(mixed, "three")
            assert agent(mixed, "three") != before
            until(lambda: told(mixed, "three")["held"])
            assert not connects(mixed, "two/middle", right, answer_s=SILENCE_S), "a restart forgets nothing"
            for node in names(mixed):
                call(mixed.socket(node), Release())
            until(lambda: connects(mixed, "two/middle", right, answer_s=SILENCE_S))
        until(lambda: not any(told(mixed, node)["held"] for node in names(mixed)))
    streams.assert_nothing_lost()


def test_an_etcd_that_comes_back_empty_takes_nothing_away(mixed: Lab) -> None:
    """Prefixes, allocations, nodes: all gone. The fabric goes on until an operator writes them again."""
    with flowing(mixed, *FLOWS) as streams:
        restore(mixed, "nothing")
        until(lambda: all(told(mixed, node)["held"] for node in names(mixed)))
        until(lambda: Store(mixed).get("nodes/one") is not None)
        time.sleep(ABSENT_S)
        etcd.put(mixed, etcd.first_records(mixed))
        wait_whole(mixed)
    streams.assert_nothing_lost()


def test_the_backup_from_before_the_first_agent_ran_is_made_up_for_by_the_nodes(mixed: Lab) -> None:
    """What nodes say of themselves they say again."""
    with flowing(mixed, *FLOWS) as streams:
        restore(mixed, EARLY)
        until(lambda: Store(mixed).get("nodes/three") is not None)
        took = wait_whole(mixed)
        print(f"all well {took:.1f} s after the restoration")
    streams.assert_nothing_lost()


def snapshot(lab: Lab, node: str) -> str:
    """The text of a node's snapshot."""
    return (lab.node_folder(node) / "state" / "snapshot.json").read_text()


def power_cut(lab: Lab, node: str) -> None:
    """End the agent and wireguard-go, and remove all that the kernel keeps for us."""
    agents.kill_agent(lab, node)
    script = "kill -9 $(pidof wireguard-go) || true; rm -rf /run/wireguard/*"
    assert build.run(lab, node, ["sh", "-uc", script]).returncode == 0
    for folder in ("links", "maps"):
        for pin in (pins(lab, node) / folder).iterdir():
            pin.unlink()
    for device in devices(lab, node):
        build.run(lab, node, ["ip", "link", "delete", device])  # half of them went with their peers
    flush = "ip route flush proto 109 table all; ip -6 route flush proto 109 table all; "
    flush += "while ip rule del priority 90; do :; done; while ip -6 rule del priority 90; do :; done"
    build.run(lab, node, ["sh", "-uc", flush])
    assert devices(lab, node) == {}
