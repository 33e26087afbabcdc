"""Whatever somebody writes into the store: every node refuses and shows it, and no packet is lost."""

import contextlib
import json
import re
import signal
from collections.abc import Mapping, Sequence

from meshfabric.lab import agents, etcd
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.policies import everywhere
from tests.lab.scrape import scraped
from tests.lab.store import Store
from tests.lab.streams import Flow, flowing
from tests.lab.whole import address, listing, names, told, until, wait_whole

pytestmark = requires("capabilities")

FLOWS = (
    Flow("kube1/web", "kube2/db"),
    Flow("kube2", "vm1/guest1", 6),
    Flow("metal1", "kube2/cache"),
    Flow("kube1/web", "kube2/db", 6, "tcp"),
)
DEEP = b"[" * 20_000
NEWER = {"name": "newer", "select": "app=web", "ingress": [], "min_version": 99, "mode": ["unheard", "of"]}


def node_record(lab: Lab, node: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(Store(lab).get(f"nodes/{node}") or b"{}")
    return found


def refused(lab: Lab, node: str) -> dict[str, str]:
    """Reasons by key below `state/`."""
    state = f"/meshfabric/v1/{lab.topology.fabric}/state/"
    return {row["key"].removeprefix(state): row["why"] for row in told(lab, node)["refused"]}


def differing(lab: Lab, wanted: Mapping[str, str], node: str) -> dict[str, str | None]:
    """What a node refuses that is not wanted, or for another reason; None for what it does not refuse."""
    found = refused(lab, node)
    return {
        key: found.get(key)
        for key in found.keys() | wanted.keys()
        if key not in found or key not in wanted or not re.search(wanted[key], found[key])
    }


def wait_refused(lab: Lab, wanted: Mapping[str, str], nodes: Sequence[str]) -> None:
    """Until these nodes refuse these keys for these reasons, and nothing else."""
    with contextlib.suppress(AssertionError):
        until(lambda: not any(differing(lab, wanted, node) for node in nodes))
    assert {node: differing(lab, wanted, node) for node in nodes} == {node: {} for node in nodes}


def test_what_strangers_write_is_refused_by_name_and_counted(fabric: Lab) -> None:
    twin = {**node_record(fabric, "kube2"), "name": "twin"}
    records: dict[str, tuple[object, str]] = {
        "policies/cut": (b'{"name": "cut", "sel', "cannot be read"),
        "policies/deep": (DEEP, "cannot be read"),
        "policies/vast": (b" " * 70_000, "70000 bytes are too many"),
        "policies/other": ({"name": "else", "select": "app=web", "ingress": []}, "names policy 'else'"),
        "policies/newer": (NEWER, "written for a newer agent.*upgrade this one"),
        "policies/port": ({"name": "port", "select": "", "ingress": [{"ports": ["tcp/0"]}]}, "out of range"),
        "classes/pace": ({"name": "pace", "uplink": {"max": "1mbps"}}, "uplink.max: cannot read rate"),
        "allocations/thief": ({"blocks": ["10.64.4.0/25"]}, "overlaps a block of node kube2"),
        "allocations/alien": ({"blocks": ["192.0.2.0/24"]}, "in no prefix of the fabric"),
        "nodes/twin": (twin, "a public key is that of node kube2"),
        "nodes/liar": ({**twin, "tunnels": []}, "names node 'twin'"),
        "endpoints/nobody/10.64.4.2": (
            {"workload": "db", "kind": "pod"},
            "in no block or pool of node nobody",
        ),
        "endpoints/nobody/10.64.4.02": ({"workload": "db", "kind": "pod"}, "ends in no IP address"),
        "weird/thing": ({}, "no such key"),
    }
    store = Store(fabric)
    before = scraped(fabric, "metal1")["meshfabric_record_refusals_total"]
    with flowing(fabric, *FLOWS) as streams:
        until(streams.all_pass)
        for key, (value, _) in records.items():
            store.put(key, value)
        wanted = {key: why for key, (_, why) in records.items()}
        wait_refused(fabric, wanted, names(fabric))
        after = scraped(fabric, "metal1")
        assert after["meshfabric_records_refused"][""] == len(records)
        assert after["meshfabric_record_refusals_total"][""] - before[""] == len(records)
        for key in records:
            store.delete(key)
        wait_whole(fabric)
    streams.assert_nothing_lost()


def test_the_last_good_record_stays_in_force(fabric: Lab) -> None:
    """Even of a node that cannot write its own again, since its agent hangs."""
    store, db = Store(fabric), address(fabric, "kube2/db")
    records: dict[str, tuple[object, str]] = {
        "config": ({"prefixes": "all"}, "cannot be read"),
        "allocations/kube2": ({"blocks": ["10.64.3.0/24"]}, "overlaps a block of node kube1"),
        "nodes/kube2": (b"\xff\xfe\x00garbage", "cannot be read"),
        f"endpoints/kube2/{db}": ({"workload": "db", "kind": "submarine"}, "unknown kind 'submarine'"),
    }
    agents.kill_agent(fabric, "kube2", signal.SIGSTOP)
    with flowing(fabric, *FLOWS) as streams:
        until(streams.all_pass)
        for key, (value, _) in records.items():
            store.put(key, value)
        wanted = {key: why for key, (_, why) in records.items()}
        wait_refused(fabric, wanted, ("vm1", "metal1", "kube1"))
        (row,) = (row for row in listing(fabric, "vm1", "endpoints") if row["address"] == db)
        assert (row["workload"], row["node"], row["kind"]) == ("db", "kube2", "pod")
        agents.kill_agent(fabric, "kube2", signal.SIGCONT)
        until(lambda: refused(fabric, "vm1").keys() == {"config", "allocations/kube2"})
        etcd.put(fabric, etcd.first_records(fabric))
        wait_whole(fabric)
    streams.assert_nothing_lost()


def test_a_node_that_claims_what_is_anothers_gets_nothing(fabric: Lab) -> None:
    """kube1 was broken into, and its agent stopped: it writes what its certificate lets it write."""
    store, db = Store(fabric), address(fabric, "kube2/db")
    record = {**node_record(fabric, "kube1"), "tunnels": node_record(fabric, "kube2")["tunnels"]}
    agents.kill_agent(fabric, "kube1", signal.SIGSTOP)
    with flowing(fabric, *FLOWS) as streams:
        until(streams.all_pass)
        store.put(f"endpoints/kube1/{db}", {"workload": "db", "kind": "pod", "labels": {"app": "db"}})
        store.put("endpoints/kube1/10.64.4.77", {"workload": "ghost", "kind": "pod", "labels": {}})
        store.put("nodes/kube1", record)
        wanted = {
            f"endpoints/kube1/{db}": "in no block or pool of node kube1",
            "endpoints/kube1/10.64.4.77": "in no block or pool of node kube1",
            "nodes/kube1": "a public key is that of node kube2",
        }
        wait_refused(fabric, wanted, ("vm1", "metal1", "kube2"))
        agents.kill_agent(fabric, "kube1", signal.SIGCONT)
        wait_whole(fabric)
        assert store.get(f"endpoints/kube1/{db}") is None, "the real kube1 takes back what it never said"
    streams.assert_nothing_lost()


def test_a_node_that_nobody_allocated_changes_nothing_for_the_others(fabric: Lab) -> None:
    """A record alone makes no member: no tunnel is made to it, and no MTU is lowered for it."""
    store, before = Store(fabric), told(fabric, "metal1")["mtu"]
    uplink = {
        "slot": 0,
        "name": "up0",
        "segment": "red",
        "addresses": ["172.31.1.99"],
        "mtu": 1280,
        "cost": 0,
    }
    record = {"name": "stray", "kind": "metal", "uplinks": [uplink], "tunnels": []}
    everywhere(fabric, store.put("nodes/stray", record))
    assert told(fabric, "metal1")["nodes"]["known"] == len(names(fabric)) + 1
    assert told(fabric, "metal1")["mtu"] == before
    store.delete("nodes/stray")
    wait_whole(fabric)
