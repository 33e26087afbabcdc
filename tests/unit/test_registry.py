"""The registry, record by record: what comes in force, what is refused and in which words."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import msgspec
import pytest

from meshfabric.model.addresses import parse_address
from meshfabric.model.errors import InputError
from meshfabric.model.labels import KIND_LABEL, NODE_LABEL, WORKLOAD_LABEL, make_labels
from meshfabric.model.node import RECORD_VERSION, Endpoint
from meshfabric.model.portnames import named_ports
from meshfabric.model.qos import MAX_OWN
from meshfabric.model.versions import LANGUAGE
from meshfabric.model.world import Event, Kind
from meshfabric.store import checks, endpoints
from meshfabric.store.registry import Raw, endpoint_labels, given_labels
from tests.fakes.store_records import Follower, endpoint_value, gone, node_value, public_key, raw

CONFIG = raw("config", {"prefixes": ["10.0.0.0/8", "fd00::/16"]}, 1)
ALLOCATION = raw("allocations/a", {"blocks": ["10.1.0.0/24", "fd00:1::/64"]}, 2)
GRANT = raw("grants/a", {"labels": {"app": ["web", "db"], "any": ["*"]}, "pools": ["10.9.0.0/24"]}, 3)
ENDPOINT = raw("endpoints/a/10.1.0.7", endpoint_value("ns/web-1", labels={"app": "web"}), 4)
OPERATORS = (CONFIG, ALLOCATION, GRANT)


@pytest.fixture
def node() -> Follower:
    """A node that has listed what operators wrote about node a."""
    follower = Follower()
    follower.list(*OPERATORS)
    assert follower.registry.refused == {}
    return follower


def refusal(node: Follower, record: Raw) -> str:
    """Why a record is refused, which changes nothing else."""
    before = node.tables()
    assert node.take(record) == []
    assert node.tables() == before
    (why,) = node.registry.refused.values()
    return why


def test_an_endpoint_in_force(node: Follower) -> None:
    labels = make_labels({"app": "web", KIND_LABEL: "pod"})
    endpoint = Endpoint("a", "ns/web-1", "pod", labels)
    assert node.take(ENDPOINT) == [Event(Kind.ENDPOINT, parse_address("10.1.0.7"), endpoint)]
    assert node.registry.put(ENDPOINT.key, ENDPOINT.value or b"", 9) == []
    assert node.apply(node.registry.delete(ENDPOINT.key.decode())) == [
        Event(Kind.ENDPOINT, parse_address("10.1.0.7"))
    ]
    assert node.registry.settled


def test_every_kind_reaches_the_world(node: Follower) -> None:
    node.take(
        raw("nodes/a", node_value("a", 1)),
        raw("nodes/a/alive", b"leased"),
        raw("revoked/b", b"\xff no JSON at all"),
        raw("policies/p", {"name": "p", "select": "app=web", "ingress": []}),
    )
    world = node.world
    assert set(world.nodes) == {"a"}
    assert set(world.alive) == {"a"}
    assert set(world.revoked) == {"b"}
    assert set(world.policies) == {"p"}
    assert world.prefixes[""][0].prefixlen == 8
    assert world.allocations["a"].addresses == (parse_address("10.1.0.1"), parse_address("fd00:1::1"))
    assert node.registry.refused == {}


PARTS = {
    "kube_apiservers": (
        Kind.APISERVERS,
        ["192.0.2.7", "2001:db8::7", "192.0.2.7"],
        ["192.0.2.7", "2001:db8::7"],
    ),
    "exposed": (Kind.EXPOSED, ["10.7.0.0/24", "fd00::9/128"], ["10.7.0.0/24", "fd00::9"]),
}


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_the_config_come_and_go_with_it(node: Follower, part: str) -> None:
    """Empty is what an operator says; gone is what is held."""
    kind, written, meant = PARTS[part]
    config = {"prefixes": ["10.0.0.0/8", "fd00::/16"]}
    named, networks = config | {part: written}, tuple(map(ip_network, meant))
    assert node.take(raw("config", named, 50)) == [Event(kind, "", networks)]
    assert node.take(raw("config", config, 51)) == [Event(kind, "", ())]
    assert node.registry.settled
    node.take(raw("config", named, 52))
    assert node.take(gone("config")) == []
    assert "1 of 1 config" in node.registry.held
    assert node.world.get(kind, "") == networks
    assert {Event(Kind.PREFIXES, ""), Event(kind, "")} <= set(node.registry.release())


def test_the_hosts_endpoint_alone_knows_its_node(node: Follower) -> None:
    node.take(raw("endpoints/a/10.1.0.1", endpoint_value("a", "host", labels={"app": "db"})), ENDPOINT)
    host = node.world.endpoints[parse_address("10.1.0.1")]
    assert dict(host.labels) == {"app": "db", KIND_LABEL: "host", NODE_LABEL: "a", WORKLOAD_LABEL: "a"}
    assert given_labels(host.labels) == {"app": "db"}
    pod = node.world.endpoints[parse_address("10.1.0.7")]
    assert pod.labels is endpoint_labels("pod", "elsewhere", {"app": "web"})
    with pytest.raises(InputError, match="own"):
        endpoint_labels("pod", "a", {NODE_LABEL: "b"})


def test_ports_by_name_need_no_grant_and_are_part_of_who_it_is(node: Follower) -> None:
    ports = {"http": "tcp/8080"}
    node.take(raw("endpoints/a/10.1.0.7", endpoint_value(labels={"app": "web"}) | {"ports": ports}))
    web = node.world.endpoints[parse_address("10.1.0.7")]
    assert web.labels == endpoint_labels("pod", "a", {"app": "web"}, ports)
    assert (given_labels(web.labels), named_ports(web.labels)) == ({"app": "web"}, ports)
    (kept,) = [one for one in node.registry.records() if one.key.endswith(b"10.1.0.7")]
    assert msgspec.json.decode(kept.value or b"")["ports"] == ports


@pytest.mark.parametrize(
    ("path", "fields", "why"),
    [
        ("10.1.0.7", {"labels": {"app": "cache"}}, "app=cache is not granted to node a"),
        ("10.1.0.7", {"labels": {"other": "x"}}, "other=x is not granted"),
        ("10.1.0.7", {"labels": {"any": "b d"}}, "bad label"),
        ("10.1.0.7", {"labels": {"meshfabric.io/node": "a"}}, "not granted"),
        ("10.1.0.7", {"workload": "Web"}, "'Web' is no valid name"),
        ("10.1.0.7", {"kind": "container"}, "one of pod, vm, host"),
        ("10.1.0.7", {"kind": "host"}, "not the node's own address"),
        ("10.1.0.1", {}, "is the node's own address"),
        ("10.1.0.1", {"kind": "host", "workload": "b"}, "host of node a is called 'b'"),
        ("10.1.0.7", {"epoch": -1}, "epoch -1"),
        ("10.1.0.7", {"epoch": 1 << 63}, "epoch"),
        ("10.1.0.7", {"handoff_to": "Ü"}, "handoff_to"),
        ("10.1.0.7", {"labels": {str(i): "x" for i in range(65)}}, "65 labels"),
        ("10.1.0.7", {"min_version": RECORD_VERSION + 1}, "newer agent"),
        ("10.1.0.7", {"labels": {"port.meshfabric.io/http": "tcp.80"}}, "not granted"),
        ("10.1.0.7", {"labels": {}, "ports": {"http": "80"}}, "ports: unknown protocol"),
        ("10.1.0.7", {"labels": {}, "ports": {"HTTP": "tcp/80"}}, "no name of a port"),
        ("10.2.0.7", {}, "in no block or pool of node a"),
        ("11.0.0.1", {}, "in no block or pool"),
    ],
)
def test_refused_endpoints(node: Follower, path: str, fields: dict[str, Any], why: str) -> None:
    assert why in refusal(node, raw(f"endpoints/a/{path}", endpoint_value() | fields))


def test_a_node_without_a_grant_may_use_no_label(node: Follower) -> None:
    node.take(raw("allocations/b", {"blocks": ["10.2.0.0/24"]}))
    assert node.take(raw("endpoints/b/10.2.0.7", endpoint_value()))
    assert "grants/b" in refusal(node, raw("endpoints/b/10.2.0.8", endpoint_value(labels={"app": "web"})))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"{", "cannot be read"),
        (b'{"workload": "w"}', "kind"),
        (b'{"workload": 7, "kind": "pod"}', "workload"),
        (b'{"workload": "\xff", "kind": "pod"}', "cannot be read"),
        (b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "cannot be read"),
        (b'{"workload": "w", "kind": "pod", "epoch": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b'{"workload": {"new": "shape"}, "min_version": 2}', "newer agent"),
        (b" " * (checks.MAX_RECORD_BYTES + 1), "too many"),
    ],
)
def test_unreadable_values(node: Follower, value: bytes, why: str) -> None:
    assert why in refusal(node, raw("endpoints/a/10.1.0.7", value))


def test_unknown_fields_of_a_newer_writer_are_ignored(node: Follower) -> None:
    assert node.take(raw("endpoints/a/10.1.0.7", endpoint_value(colour="blue", version=9)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda value: value | {"name": "b"}, "names node 'b', its key 'a'"),
        (lambda value: value | {"labels": {"app": "cache"}}, "not granted"),
        (lambda value: value | {"labels": {"meshfabric.io/kind": "host"}}, "the fabric's own"),
        (lambda value: value | {"kind": "toaster"}, "kind"),
        (lambda value: value | {"agent": "\x1b[2J"}, "agent"),
        (lambda value: value | {"wireguard": "\x1b[2J"}, "wireguard"),
        (lambda value: value | {"uplinks": value["uplinks"] * 2}, "slots"),
        (lambda value: _uplink(value, slot=8), "slot 8"),
        (lambda value: _uplink(value, mtu=1279), "mtu 1279"),
        (lambda value: _uplink(value, cost=-1), "cost -1"),
        (lambda value: _uplink(value, plain_port=65536), "plain_port 65536"),
        (lambda value: _uplink(value, segment=""), "segment"),
        (lambda value: _uplink(value, relay="Gate"), "node 'Gate'"),
        (lambda value: _uplink(value, relay="gate", plain_port=51948), "no encryption, and a relay"),
        (lambda value: value | {"relayed": {"B": 16384}}, "node 'B'"),
        (lambda value: value | {"relayed": {"b": 0}}, "relayed: port 0"),
        (lambda value: value | {"relayed": {"b": 65521}}, "relayed: port 65521"),
        (lambda value: value | {"relayed": {"b": 16384, "c": 16399}}, "two nodes share a port"),
        (lambda value: value | {"min_version": 3}, "written for a newer agent"),
        (lambda value: _uplink(value, addresses=["192.0.2.1", "192.0.2.2"]), "families"),
        (lambda value: _uplink(value, addresses=["192.0.2.01"]), "no IP address"),
        (lambda value: _uplink(value, addresses=["::ffff:192.0.2.1"]), "no address of an uplink"),
        (lambda value: _uplink(value, addresses=["127.0.0.1"]), "no address of an uplink"),
        (lambda value: _uplink(value, addresses=["10.200.0.1"]), "in a prefix of the fabric"),
        (lambda value: _tunnel(value, public_key="x"), "32 bytes"),
        (lambda value: _tunnel(value, public_key="A" * 43 + "="), "32 bytes"),
        (lambda value: _tunnel(value, public_key=public_key(1)[:-2] + "F="), "32 bytes"),
        (lambda value: _tunnel(value, port=0), "port 0"),
        (lambda value: _tunnel(value, remote=8), "remote slot 8"),
        (lambda value: value | {"tunnels": value["tunnels"] * 2}, "pairs"),
        (lambda value: value | {"tunnels": _second(value, remote=1)}, "ports"),
        (lambda value: value | {"tunnels": _second(value, remote=1, port=9)}, "keys"),
    ],
)
def test_refused_nodes(node: Follower, change: Callable[[dict[str, Any]], dict[str, Any]], why: str) -> None:
    assert why in refusal(node, raw("nodes/a", change(node_value("a", 1))))


def _uplink(value: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return value | {"uplinks": [value["uplinks"][0] | fields]}


def _tunnel(value: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return value | {"tunnels": [value["tunnels"][0] | fields]}


def _second(value: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [value["tunnels"][0], value["tunnels"][0] | fields]


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("config", {"prefixes": []}, "0 prefixes"),
        ("config", {"prefixes": ["10.0.0.0/8", "10.1.0.0/16"]}, "overlap"),
        ("config", {"prefixes": ["10.0.0.1/8"]}, "host bits"),
        ("config", {"prefixes": ["0.0.0.0/0"]}, "cannot be"),
        ("config", {"prefixes": ["ff00::/8"]}, "cannot be"),
        ("config", {"prefixes": ["::/64"]}, "mapped"),
        (
            "config",
            {"prefixes": ["10.0.0.0/8"], "kube_apiservers": ["10.1.2.3"]},
            "in a prefix of the fabric",
        ),
        ("config", {"prefixes": ["10.0.0.0/8"], "kube_apiservers": ["api"]}, "no IP address"),
        ("config", {"prefixes": ["10.0.0.0/8"], "exposed": ["11.0.0.0/24"]}, "is in no prefix of the fabric"),
        ("config", {"prefixes": ["10.0.0.0/8"], "exposed": ["0.0.0.0/0"]}, "is in no prefix of the fabric"),
        ("config", {"prefixes": ["10.0.0.0/8"], "exposed": ["10.1.1.1/24"]}, "is no prefix"),
        ("config", {"prefixes": ["10.0.0.0/8"], "exposed": ["10.1.0.0/16", "10.1.1.0/24"]}, "overlap"),
        (
            "config",
            {"prefixes": ["10.0.0.0/8"], "exposed": [f"10.{i}.0.0/16" for i in range(9)]},
            "9 exposed prefixes (at most 8 are possible)",
        ),
        ("config", {"prefixes": ["10.0.0.0/8"], "kube_apiservers": ["192.0.2.1"] * 65}, "65 kube_apiservers"),
        ("config", {"prefixes": [f"10.{i}.0.0/16" for i in range(9)]}, "9 prefixes"),
        ("allocations/b", {"blocks": []}, "0 blocks"),
        ("allocations/b", {"blocks": ["10.2.0.0/31"]}, "too small"),
        ("allocations/b", {"blocks": ["10.2.0.0/24", "10.2.0.128/25"]}, "overlap"),
        ("allocations/b", {"blocks": ["11.2.0.0/24"]}, "in no prefix"),
        ("allocations/b", {"blocks": ["10.1.0.0/25"]}, "overlaps a block of node a"),
        ("allocations/b", {"blocks": ["10.0.0.0/12"]}, "overlaps a block of node a"),
        ("grants/b", {"pools": ["11.0.0.0/24"]}, "in no prefix"),
        ("grants/b", {"labels": {"meshfabric.io/kind": ["*"]}}, "the fabric's own"),
        ("grants/b", {"labels": {"app": ["a b"]}}, "bad label"),
        ("policies/p", {"name": "q", "select": "a", "ingress": []}, "names policy 'q'"),
        ("policies/p", {"name": "p", "select": "a"}, "needs ingress or egress"),
        ("policies/p", {"name": "p", "select": "a", "ingress": [{"ports": ["tcp/0"]}]}, "ingress[0]"),
        ("policies/p", {"name": "p", "select": "a", "ingress": [], "new": 1}, "new"),
        ("policies/p", {"name": "p", "select": "a", "new": 1, "min_version": LANGUAGE + 1}, "newer agent"),
        ("classes/c", {"name": "d"}, "names class 'd', its key 'c'"),
        ("classes/c", {"name": "c", "select": "a b"}, "select: cannot read selector"),
        ("classes/c", {"name": "c", "uplink": {"max": "1mbps"}}, "uplink.max: cannot read rate '1mbps'"),
        ("classes/c", {"name": "c", "new": 1}, "new"),
        ("classes/c", {"name": "c", "new": 1, "min_version": RECORD_VERSION + 1}, "newer agent"),
    ],
)
def test_refused_words_of_operators(node: Follower, path: str, value: dict[str, Any], why: str) -> None:
    assert why in refusal(node, raw(path, value, 99))


def test_unknown_keys_are_refused_and_forgotten(node: Follower) -> None:
    for key in (b"/elsewhere\x1b", raw("services/web", {}).key, raw("endpoints/a/10.1.0.07", {}).key):
        node.take(Raw(key, b"{}", 1))
    assert list(node.registry.refused) == [
        "/elsewhere?",
        "/meshfabric/v1/f/state/endpoints/a/10.1.0.07",
        "/meshfabric/v1/f/state/services/web",
    ]
    assert node.registry.refusals == {"unknown": 3}
    node.take(Raw(b"/elsewhere\x1b", None))
    assert len(node.registry.refused) == 2
    node.list(*OPERATORS)
    assert node.registry.refused == {}


def test_the_last_good_one_stays_in_force(node: Follower) -> None:
    node.take(ENDPOINT, raw("policies/p", {"name": "p", "select": "app=web", "ingress": []}))
    node.take(raw("classes/video", {"name": "video", "priority": 6}))
    before = node.tables()
    written = ("policies/p", "classes/video", "allocations/a", "config", "grants/a")
    for path in ("endpoints/a/10.1.0.7", *written):
        assert node.take(raw(path, b"garbage", 10)) == []
        assert node.take(raw(path, {"min_version": 7}, 11)) == []
        assert path in node.registry.refused
    node.take(raw("endpoints/a/10.1.0.7", endpoint_value(labels={"app": "cache"}), 12))
    assert node.tables() == before
    assert len(node.registry.refused) == 6
    node.take(ENDPOINT)
    assert len(node.registry.refused) == 5


def test_a_newer_version_that_waits_is_the_one_that_comes(node: Follower) -> None:
    node.take(ENDPOINT, raw("endpoints/a/10.1.0.7", endpoint_value("newer", labels={"app": "cache"}), 5))
    node.take(raw("allocations/a", {"blocks": ["10.3.0.0/24"]}, 6))
    assert node.endpoints() == {}
    node.take(raw("grants/a", {"labels": {"app": ["cache"]}}, 7), ALLOCATION)
    assert node.world.endpoints[parse_address("10.1.0.7")].workload == "newer"
    assert node.registry.refused == {}


def test_a_value_that_came_in_force_does_not_come_again(node: Follower) -> None:
    path = "endpoints/a/10.1.0.7"
    node.take(raw(path, endpoint_value("old", labels={"app": "cache"}), 5), raw(path, b"garbage", 6))
    node.take(raw("grants/a", {"labels": {"app": ["*"]}}, 7))
    assert node.world.endpoints[parse_address("10.1.0.7")].workload == "old"
    assert "cannot be read" in node.registry.refused[path]
    node.take(raw(path, endpoint_value("new"), 8))
    node.take(raw("grants/a", {"labels": {"*": ["*"]}}, 9))
    assert node.world.endpoints[parse_address("10.1.0.7")].workload == "new"


def test_what_is_looked_at_again_is_not_kept_twice(node: Follower) -> None:
    node.take(ENDPOINT)
    node.take(raw("grants/a", {"labels": {"app": ["*"]}}, 7))
    address = parse_address("10.1.0.7")
    assert node.registry._endpoints.in_force[address] is node.world.endpoints[address]


def test_a_good_version_within_a_batch_of_bad_ones_counts(node: Follower) -> None:
    events = node.take(ENDPOINT, raw("endpoints/a/10.1.0.7", endpoint_value(labels={"app": "cache"}), 5))
    assert len(events) == 1
    assert node.endpoints() == {"10.1.0.7": "a"}


def test_deleted_and_put_again_in_one_batch_is_no_change(node: Follower) -> None:
    node.take(ENDPOINT)
    assert node.take(gone("endpoints/a/10.1.0.7"), ENDPOINT) == []
    assert node.take(ENDPOINT, gone("endpoints/a/10.1.0.7"))[-1].value is None


def test_what_waits_comes_in_force_when_its_turn_comes() -> None:
    node = Follower()
    for record in (ENDPOINT, GRANT, ALLOCATION):
        assert node.take(record) == []
        assert "endpoints/a/10.1.0.7" in node.registry.refused
    events = node.take(CONFIG)
    assert [event.kind for event in events] == [Kind.PREFIXES, Kind.ALLOCATION, Kind.ENDPOINT]
    assert node.registry.refused == {}


def test_a_permission_taken_away_takes_its_records_along(node: Follower) -> None:
    node.take(ENDPOINT, raw("nodes/a", node_value("a", 1, labels={"app": "web"})))
    events = node.take(raw("grants/a", {"labels": {"app": ["db"]}}, 20))
    assert {(event.kind, event.value) for event in events} == {(Kind.NODE, None), (Kind.ENDPOINT, None)}
    assert set(node.registry.refused) == {"nodes/a", "endpoints/a/10.1.0.7"}
    events = node.take(GRANT)
    assert {event.kind for event in events} == {Kind.NODE, Kind.ENDPOINT}
    assert node.registry.refused == {}


def test_a_block_that_moves_takes_its_addresses_along(node: Follower) -> None:
    node.take(ENDPOINT)
    node.take(raw("endpoints/b/10.1.0.7", endpoint_value("other"), 30))
    node.take(raw("allocations/b", {"blocks": ["10.1.0.0/24"]}, 31))
    assert node.endpoints() == {"10.1.0.7": "a"}
    assert set(node.registry.refused) == {"allocations/b", "endpoints/b/10.1.0.7"}
    node.take(raw("allocations/a", {"blocks": ["10.3.0.0/24"]}, 32))
    assert node.endpoints() == {"10.1.0.7": "b"}
    assert set(node.registry.refused) == {"endpoints/a/10.1.0.7"}


def test_anothers_public_key_is_refused_whoever_comes_first() -> None:
    honest, thief = raw("nodes/a", node_value("a", 1), 5), raw("nodes/b", node_value("b", 1, 2), 6)
    for order in ((honest, thief), (thief, honest)):
        node = Follower()
        node.list(CONFIG, *order)
        assert set(node.world.nodes) == {"a"}
        assert "that of node a" in node.registry.refused["nodes/b"]
        node.take(raw("nodes/a", node_value("a", 1, agent="2"), 50))  # rewriting gives no key up
        assert set(node.world.nodes) == {"a"}
        node.take(raw("nodes/a", node_value("a", 3), 51))
        assert set(node.world.nodes) == {"a", "b"}


def test_a_last_good_record_yields_what_another_comes_to_own(node: Follower) -> None:
    node.take(raw("nodes/a", node_value("a", 1), 10))
    node.take(raw("nodes/a", node_value("a", 2, labels={"app": "cache"}), 11))
    assert node.world.nodes["a"].tunnels[0].public_key == public_key(1)
    events = node.take(raw("nodes/b", node_value("b", 1), 12))
    assert [(event.key, event.value is None) for event in events] == [("b", False), ("a", True)]


def test_a_node_has_only_so_many_endpoints(node: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_ENDPOINTS_OF_NODE", 2)
    for i in range(2, 5):
        node.take(raw(f"endpoints/a/10.1.0.{i}", endpoint_value()))
    assert node.endpoints() == {"10.1.0.2": "a", "10.1.0.3": "a"}
    assert "which is the most" in node.registry.refused["endpoints/a/10.1.0.4"]
    node.take(raw("endpoints/a/10.1.0.3", endpoint_value("changed")))
    node.take(gone("endpoints/a/10.1.0.2"))
    assert node.endpoints() == {"10.1.0.3": "a", "10.1.0.4": "a"}
    assert node.registry.refused == {}


def test_only_so_many_classes_have_a_number_the_first(node: Follower) -> None:
    own = [raw(f"classes/c{i:02}", {"name": f"c{i:02}"}, 10 + i) for i in range(MAX_OWN)]
    node.take(*own, raw("classes/bulk", {"name": "bulk", "priority": 0}, 40))
    beyond = raw("classes/a", {"name": "a"}, 50)
    assert "there are 12 classes already" in refusal(node, beyond)
    node.take(raw("classes/c00", {"name": "c00", "priority": 6}, 60))
    assert node.world.classes["c00"].priority == 6, "who is written again goes not behind"
    (removed, made) = node.take(gone("classes/c05"))
    assert (removed.key, removed.value, made.key) == ("c05", None, "a"), "else there is no number for it"
    assert node.world.class_number("a") not in map(node.world.class_number, ("c04", "c06", "bulk"))
    assert node.registry.refused == {}


def test_refused_labels_leave_nothing_behind(node: Follower) -> None:
    from meshfabric.model import labels

    known = len(labels._interned)
    for i in range(100):
        node.take(raw("endpoints/a/10.1.0.7", endpoint_value(labels={"app": f"bad-{i}"}), i))
        node.take(raw("endpoints/b/10.9.0.7", endpoint_value(labels={"any": f"bad-{i}"}), i))
    assert len(labels._interned) == known


def test_records_are_what_a_restart_needs(node: Follower) -> None:
    node.take(
        ENDPOINT,
        raw("endpoints/a/10.1.0.1", endpoint_value("a", "host")),
        raw("endpoints/a/10.1.0.9", endpoint_value(epoch=3, handoff_to="b")),
        raw("endpoints/a/10.1.0.8", endpoint_value(epoch=3, handoff_to="b")),
        raw("endpoints/a/10.9.0.8", endpoint_value(epoch=3, handoff_to="b"), 44),
        raw("nodes/a", node_value("a", 1), 7),
        raw("nodes/a/alive", b""),
        raw("revoked/c", b""),
        raw("policies/p", {"name": "p", "select": "app=web", "ingress": []}),
        raw("classes/video", {"name": "video", "dscp": "af41", "uplink": {"max": "2mbit"}}, 9),
    )
    node.take(raw("endpoints/a/10.1.0.9", endpoint_value(epoch=3)))
    assert node.registry.complete
    node.take(raw("nodes/a", node_value("a", 1, agent="2"), 60))
    again = Follower()
    again.take(*node.registry.records())
    assert again.tables() == node.tables()
    records = {record.key: record for record in again.registry.records()}
    assert records == {record.key: record for record in node.registry.records()}
    assert records[raw("nodes/a", {}).key].revision == 7
    assert records[raw("endpoints/a/10.9.0.8", {}).key].revision == 44
    value = msgspec.json.decode(records[raw("endpoints/a/10.1.0.8", {}).key].value or b"")
    assert (value["handoff_to"], value["epoch"], value["labels"]) == ("b", 3, {})
    value = msgspec.json.decode(records[raw("endpoints/a/10.1.0.9", {}).key].value or b"")
    assert value["handoff_to"] == ""
    assert again.apply(again.registry.resume()) == []
    assert again.registry.complete
