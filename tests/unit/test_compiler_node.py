"""What a node makes for itself: workloads, addresses, routes, routing tables and records."""

from ipaddress import ip_network

import msgspec
import pytest
from hypothesis import given, settings

from meshfabric.compiler.paths import path_mtu, workload_mtu
from meshfabric.compiler.step import compile_plan
from meshfabric.model.addresses import format_address, parse_address
from meshfabric.model.labels import make_labels
from meshfabric.model.node import Endpoint, EndpointRecord, Link, NodeRecord, Tunnel, Uplink
from meshfabric.model.plan import FairQueue, Plan, Route, Table
from meshfabric.model.settings import Queue, Settings, UplinkSettings
from meshfabric.model.show import show_key, show_value
from meshfabric.model.tables import (
    ADDRESS_KEY,
    ADDRESS_VALUE,
    FIRST_NODE,
    NOWHERE,
    NUMBER,
    WORKLOAD,
    WORLD,
    Delivery,
    number,
    read_node,
)
from meshfabric.model.world import Event, Kind, World
from tests.oracles import holders, place_of
from tests.strategies import all_settings, full, full_link, full_workload, sequences, world_of
from tests.strategies import settings as configured
from tests.vocabulary import LOCAL

EXAMPLES = 100
RED = UplinkSettings("up0", "eth0", "red", 1, ("192.0.2.254", "2001:db8::fe"))
BLUE = UplinkSettings("up1", "eth1", "blue")


def full_world(*more: Event, uplinks: tuple[UplinkSettings, ...] = (RED, BLUE)) -> tuple[World, Plan]:
    """The world of `strategies.full`, changed a little, and its plan."""
    world = world_of(configured(uplinks), [*full(), *more])
    return world, compile_plan(world)


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_each_address_is_where_its_holder_is(given: Settings, happened: list[Event]) -> None:
    world = world_of(given, happened)
    found = {
        ADDRESS_KEY.unpack(key): ADDRESS_VALUE.unpack(value)
        for key, value in compile_plan(world).addresses.items()
        if ADDRESS_VALUE.unpack(value)[1] not in (NOWHERE, WORLD)
    }
    expected = {
        (128, address): (world.identity(labels), place_of(world, name))
        for address, (name, labels) in holders(world).items()
    }
    assert found == expected


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_each_workload_with_a_device_is_known_both_ways(given: Settings, happened: list[Event]) -> None:
    world = world_of(given, happened)
    plan = compile_plan(world)
    workloads, devices = plan.table(Table.WORKLOADS), plan.table(Table.DEVICES)
    seen = {name: one for name, one in world.workloads.items() if one.device in world.links}
    assert set(workloads) == {number(world.workload_numbers[name]) for name in seen}
    for name, one in seen.items():
        place = number(world.workload_numbers[name])
        ifindex, identity, mtu, way, _, mac, _ = WORKLOAD.unpack(workloads[place])
        assert (ifindex, world.labels[identity]) == (world.links[one.device].index, one.labels)
        assert devices[number(ifindex)] == place
        assert mtu == plan.table(Table.MTUS)[name] >= 1280
        assert way == (Delivery.PEER if one.kind == "pod" else Delivery.EGRESS)
        assert mac.hex(":") == one.mac
    assert len(devices) == len(seen)


def test_what_is_attached_here_comes_before_what_the_store_says() -> None:
    """A workload that has just moved here is still said to be elsewhere; one that left is said to be here."""
    address = full_workload("shop/a").addresses[0]
    elsewhere = Event(Kind.ENDPOINT, address, Endpoint("n3", "shop/a", "pod", make_labels({"app": "old"})))
    world, plan = full_world(elsewhere)
    assert show_address(world, plan, "10.1.1.2") == ("shop/a", {"app": "db"})
    world, plan = full_world(elsewhere, Event(Kind.WORKLOAD, "shop/a"))
    assert show_address(world, plan, "10.1.1.2") == ("n3", {"app": "old"})
    ours = Event(Kind.ENDPOINT, address, Endpoint("n1", "shop/a", "pod", ()))
    world, plan = full_world(ours, Event(Kind.WORKLOAD, "shop/a"))
    assert show_address(world, plan, "10.1.1.2") is None


def show_address(world: World, plan: Plan, text: str) -> tuple[str, dict[str, str]] | None:
    """Holder and labels of an address in the table."""
    value = plan.addresses.get(ADDRESS_KEY.pack(128, parse_address(text)))
    if value is None:
        return None
    identity, place = ADDRESS_VALUE.unpack(value)
    names = dict([*world.workload_numbers.items(), *world.node_numbers.items()])
    return next(str(name) for name, one in names.items() if one == place), dict(world.labels[identity])


def test_what_is_exposed_stands_beside_the_prefixes() -> None:
    few = (ip_network("10.1.1.0/24"), ip_network("fd00:1::/64"))
    _, plan = full_world(Event(Kind.EXPOSED, "", few))
    [shown] = [show_value("fabric", value) for _, value in plan.entries(Table.FABRIC)]
    assert shown.endswith(" exposed 10.1.1.0/24 fd00:1::/64")
    _, plan = full_world(Event(Kind.EXPOSED, "", few), Event(Kind.EXPOSED, "", ()))
    [shown] = [show_value("fabric", value) for _, value in plan.entries(Table.FABRIC)]
    assert "exposed" not in shown


def test_uplinks_are_listed_by_slot() -> None:
    _, plan = full_world()
    shown = {show_key("uplinks", k): show_value("uplinks", v) for k, v in plan.entries(Table.UPLINKS)}
    assert shown == {f"slot {slot}": f"ifindex {slot + 1} 192.0.2.7 2001:db8::7" for slot in range(2)}
    assert {key for key in plan.table(Table.PROGRAMS) if key[0].startswith("eth")} == {
        (device, way) for device in ("eth0", "eth1") for way in ("ingress", "egress")
    }


def test_uplinks_that_are_up_want_fq_unless_they_are_to_be_kept_as_they_are() -> None:
    _, plan = full_world()
    assert plan.table(Table.QUEUES) == {"eth0": FairQueue(1), "eth1": FairQueue(2)}
    _, kept = full_world(uplinks=(RED, msgspec.structs.replace(BLUE, qdisc=Queue.KEEP)))
    assert plan.table(Table.QUEUES).keys() - kept.table(Table.QUEUES).keys() == {"eth1"}
    down = msgspec.structs.replace(full_link("eth0"), up=False)
    _, fallen = full_world(Event(Kind.LINK, "eth0", down))
    assert fallen.table(Table.QUEUES).keys() == {"eth1"}


def test_an_uplinks_table_holds_that_uplink_and_ends_unreachable() -> None:
    _, plan = full_world(Event(Kind.LINK, "eth1"))
    routes = {key: value for key, value in plan.table(Table.ROUTES).items() if key[0] != 254}
    assert routes == {
        (19780, "192.0.2.0/24", 0): Route("eth0", mtu=1500),
        (19780, "2001:db8::/64", 0): Route("eth0", mtu=1500),
        (19780, "0.0.0.0/0", 0): Route("eth0", "192.0.2.254", mtu=1500),
        (19780, "::/0", 0): Route("eth0", "2001:db8::fe", mtu=1500),
        (19780, "0.0.0.0/0", 4096): Route(),
        (19780, "::/0", 4096): Route(),
        (19781, "0.0.0.0/0", 4096): Route(),
        (19781, "::/0", 4096): Route(),
    }


@pytest.mark.parametrize(
    ("carried", "mtu"), [(None, 1380), (1408, 1368), (1320, 1280), (1300, 1280), (9000, 1380)]
)
def test_a_path_that_carries_less_than_was_promised_has_an_mtu_of_its_own(
    carried: int | None, mtu: int
) -> None:
    """Less the 40 bytes for IP-in-IP; never below what IPv6 asks for. Nobody else's changes."""
    usual, plan = full_world()
    world, told = full_world(Event(Kind.CARRIED, ("mfwg00", "n2"), carried))
    assert path_mtu(world, "mfwg00", "n2") == path_mtu(world, "mfwg00b", "n2") == mtu, "new keys, same path"
    assert path_mtu(world, "mfwg00", "n3") == path_mtu(usual, "mfwg00", "n2") == workload_mtu(world) == 1380
    at = number(world.node_numbers["n2"] - FIRST_NODE)
    before, after = (read_node(one.table(Table.NODES)[at]) for one in (plan, told))
    first = world.links["mfwg00"].index
    assert after == [(index, mtu if index == first else was) for index, was in before]
    assert {key: value for key, value in told.table(Table.NODES).items() if key != at} == {
        key: value for key, value in plan.table(Table.NODES).items() if key != at
    }


def test_an_uplink_that_is_down_leaves_only_the_wall() -> None:
    down = Link("eth0", 1, "", 1500, False, ("192.0.2.7/24",))
    _, plan = full_world(Event(Kind.LINK, "eth0", down), uplinks=(RED,))
    routes = {key: value for key, value in plan.table(Table.ROUTES).items() if key[0] == 19780}
    assert routes == {(19780, "0.0.0.0/0", 4096): Route(), (19780, "::/0", 4096): Route()}


def test_the_host_enters_the_fabric_from_its_own_address_or_not_at_all() -> None:
    world, plan = full_world()
    main = {key[1:]: value for key, value in plan.table(Table.ROUTES).items() if key[0] == 254}
    assert main == {
        ("10.1.0.0/16", 0): Route("mfhost0", "169.254.1.1", "10.1.1.1"),
        ("fd00::/16", 0): Route("mfhost0", "fe80::6d66", "fd00:1::1"),
        ("169.254.1.1/32", 0): Route("mfhost0"),
        ("10.1.0.0/16", 4096): Route(),
        ("fd00::/16", 4096): Route(),
    }
    assert set(plan.table(Table.HOST_ADDRESSES)) == {("mfhost0", "10.1.1.1/32"), ("mfhost0", "fd00:1::1/128")}
    walled = {key: value for key, value in main.items() if not value.device}
    for gone in (Event(Kind.WORKLOAD, "n1"), Event(Kind.LINK, "mfhost0")):
        _, plan = full_world(gone)
        left = {key[1:]: value for key, value in plan.table(Table.ROUTES).items() if key[0] == 254}
        assert left == walled
    assert world.node == "n1"


def test_the_fabric_names_its_prefixes_and_the_host() -> None:
    world, plan = full_world()
    (value,) = plan.table(Table.FABRIC).values()
    place = world.workload_numbers["n1"]
    assert show_value("fabric", value) == f"self {place} prefixes 10.1.0.0/16 fd00::/16"
    _, plan = full_world(Event(Kind.WORKLOAD, "n1"))
    (value,) = plan.table(Table.FABRIC).values()
    assert show_value("fabric", value) == "self 0 prefixes 10.1.0.0/16 fd00::/16"
    _, plan = full_world(Event(Kind.PREFIXES, ""))
    assert plan.table(Table.FABRIC) == {}


def test_a_node_says_what_it_sees() -> None:
    _, plan = full_world(Event(Kind.KEY, "mfwg11"))
    record = msgspec.json.decode(plan.table(Table.RECORDS)["nodes/n1"], type=NodeRecord)
    addresses = ("192.0.2.7", "2001:db8::7")
    assert record.uplinks == (
        Uplink(0, "up0", "red", addresses, 1500, 1),
        Uplink(1, "up1", "blue", addresses, 1500, 0),
    )
    assert record.tunnels == (
        Tunnel(0, 0, "mfwg00-x=", 51820),
        Tunnel(0, 1, "mfwg01-x=", 51821),
        Tunnel(1, 0, "mfwg10-x=", 51828),
    )


@given(all_settings(), sequences())
@settings(max_examples=EXAMPLES, deadline=None)
def test_each_local_address_has_a_record(given: Settings, happened: list[Event]) -> None:
    world = world_of(given, happened)
    records = compile_plan(world).table(Table.RECORDS)
    assert set(records) - {"nodes/n1"} == {
        f"endpoints/n1/{format_address(address)}" for address in world.here
    }
    for address, name in world.here.items():
        record = msgspec.json.decode(
            records[f"endpoints/n1/{format_address(address)}"], type=EndpointRecord, strict=True
        )
        assert (record.workload, record.kind) == (name, LOCAL[name][0])
        said = {**record.labels}
        said |= {f"port.meshfabric.io/{port}": text.replace("/", ".") for port, text in record.ports.items()}
        labels = world.workloads[name].labels
        assert said == {key: value for key, value in labels if not key.startswith("meshfabric.io/")}


def test_the_fabrics_own_labels_are_not_written() -> None:
    """Readers add them by what they can check: kind and node (`store.rights`)."""
    one = full_workload("shop/a")
    labels = make_labels({"app": "web", "meshfabric.io/kind": "pod"})
    event = Event(Kind.WORKLOAD, one.name, msgspec.structs.replace(one, labels=labels))
    _, plan = full_world(event)
    record = msgspec.json.decode(plan.table(Table.RECORDS)["endpoints/n1/10.1.1.2"], type=EndpointRecord)
    assert record.labels == {"app": "web"}


@pytest.mark.parametrize("device", ["eth0", "mfwg00", "mfp2", "mfhost1"])
def test_a_device_made_anew_is_found_under_its_new_index(device: str) -> None:
    anew = Event(Kind.LINK, device, msgspec.structs.replace(full_link(device), index=77))
    _, plan = full_world(anew)
    programs = {key: value.ifindex for key, value in plan.table(Table.PROGRAMS).items() if key[0] == device}
    assert programs == {(device, "ingress"): 77, (device, "egress"): 77}
    indexes = {NUMBER.unpack(key)[0] for key in plan.table(Table.DEVICES)}
    assert (77 in indexes) == (device in ("mfp2", "mfhost1"))
