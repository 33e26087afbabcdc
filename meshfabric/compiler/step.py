"""World to plan, twice: the whole of it, and only what an event touches.

`compile_plan` is the oracle: every unit of the world, compiled. `step` applies
one event and compiles the units that `_touched` declares for it; any sequence
of steps must end in the plan that the oracle makes. A unit is the smallest
thing that is compiled at once: one workload, one node, one pair of identities.
"""

from collections.abc import Callable, Iterable, Iterator, Set
from itertools import product
from typing import Any

from meshfabric.compiler.addresses import address_entry, addresses_of_node, prefixes_around
from meshfabric.compiler.classes import class_entries
from meshfabric.compiler.pairs import Pairs, all_pairs, forget_rules, join, rules_for, touched_pairs
from meshfabric.compiler.paths import node_entries, workload_mtu
from meshfabric.compiler.plain import plain_device_entries, plain_end_entries, plain_rule_entries
from meshfabric.compiler.policies import pair_entries, subjects
from meshfabric.compiler.probes import loop_entries, probe_entries
from meshfabric.compiler.records import endpoint_record_entries, node_record_entries
from meshfabric.compiler.relays import relay_entries
from meshfabric.compiler.wireguard import peer_entries, tunnel_entries, uplink_table_entries
from meshfabric.compiler.workloads import (
    fabric_entries,
    host_name,
    route_entries,
    uplink_entries,
    workload_entries,
)
from meshfabric.model.addresses import ADDRESS_BITS, Prefix, host_prefix, prefix_of
from meshfabric.model.names import host_devices, loop_devices
from meshfabric.model.networks import network_labels
from meshfabric.model.node import MAX_SLOTS, Endpoint, Link, Workload
from meshfabric.model.plan import Change, Entries, Plan, Table, Unit
from meshfabric.model.tables import (
    ADDRESS_KEY,
    ADDRESS_VALUE,
    CLASS_RULE_KEY,
    FIRST_NODE,
    NUMBER,
    POLICY_KEY,
    WORLD,
    address_key,
)
from meshfabric.model.world import Event, Kind, World, networks_named

Labelled = Endpoint | Workload


def compile_plan(world: World) -> Plan:
    """The whole plan of a world."""
    plan = Plan()
    _recompile(world, plan, _all_units(world))
    for subject, peers in all_pairs(world, plan).items():
        _repair(world, plan, subject, peers)
    _readdress(world, plan, prefixes_around(world))
    _readdress(world, plan, map(host_prefix, (*world.endpoints, *world.here)))
    return plan


def step(world: World, plan: Plan, event: Event) -> list[Change]:
    """Apply one event to world and plan; returns what changed in the plan."""
    before = world.get(event.kind, event.key)
    numbered, mtu = _numbers(world, event, before), _mtu(world, event)
    units: dict[Unit, None] = dict.fromkeys(_touched(world, event, before))
    pairs = touched_pairs(world, plan, event, before)
    world.apply(event)
    units |= dict.fromkeys(_touched(world, event, before))
    forget_rules(world, plan, event, before)
    join(pairs, touched_pairs(world, plan, event, before))
    join(pairs, _renumbered(world, numbered, _numbers(world, event, before)))
    units |= dict.fromkeys(_sized(world) if _mtu(world, event) != mtu else ())
    changes = _recompile(world, plan, units)
    for subject, peers in pairs.items():
        changes += _repair(world, plan, subject, peers)
    return changes + _readdress(world, plan, _prefixes(world, event, before))


def stale_places(world: World, changes: Iterable[Change]) -> set[int]:
    """The places whose flows were judged by something that changed (map `generations`)."""
    places: set[int] = set()
    identities: set[int] = set()
    for change in changes:
        if change.table is Table.ADDRESSES:
            places |= _places_before(change)
        elif change.table is Table.WORKLOADS:
            places.add(_number(change.key))
        elif change.table is Table.CLASS_RULES:
            assert isinstance(change.key, bytes)
            places.add(CLASS_RULE_KEY.unpack(change.key)[1])
        elif change.table is Table.NODES and change.value is None:
            places.add(FIRST_NODE + _number(change.key))
        elif change.table is Table.POLICY:
            assert isinstance(change.key, bytes)
            identities.add(POLICY_KEY.unpack(change.key)[1])
    return places | _places_of(world, identities)


def _places_before(change: Change) -> set[int]:
    """Where an address was. What now has an entry of its own, or lost it, was or is part of a wider one."""
    places = {ADDRESS_VALUE.unpack(change.old)[1]} if change.old is not None else set()
    narrow = ADDRESS_KEY.unpack(change.key)[0] == ADDRESS_BITS
    outside = change.value is not None and ADDRESS_VALUE.unpack(change.value)[1] == WORLD
    return places if narrow and not outside else places | {WORLD}


def _number(key: object) -> int:
    assert isinstance(key, bytes)
    value: int = NUMBER.unpack(key)[0]
    return value


def _places_of(world: World, identities: set[int]) -> set[int]:
    return {
        world.workload_numbers[name]
        for name, workload in world.workloads.items()
        if identities and world.identity(workload.labels) in identities
    }


def _all_units(world: World) -> Iterator[Unit]:
    yield from (
        ("fabric",),
        ("routes",),
        ("uplinks",),
        ("tables",),
        ("record",),
        ("loop",),
        ("rules",),
        ("relay",),
        ("classes",),
    )
    yield from _tunnels(world, range(MAX_SLOTS))
    yield from _for_nodes(world.nodes)
    yield from _for_workloads(world)


def _tunnels(world: World, remotes: Iterable[int], locals_: Iterable[int] | None = None) -> Iterator[Unit]:
    near = range(len(world.settings.uplinks)) if locals_ is None else locals_
    return ((what, *slots) for slots in product(near, remotes) for what in ("tunnel", "plain"))


def _for_nodes(names: Iterable[str]) -> Iterator[Unit]:
    return ((what, name) for name in names for what in ("peer", "ends", "node", "probe"))


def _for_workloads(world: World) -> Iterator[Unit]:
    return ((what, name) for name in world.workloads for what in ("workload", "endpoint"))


def _sized(world: World) -> Iterator[Unit]:
    """What follows from the MTU of every workload."""
    yield from _for_workloads(world)
    yield from (("node", name) for name in world.nodes)


def _touched(world: World, event: Event, before: object) -> Iterator[Unit]:
    """The units that depend on what the event is about; asked before and after it."""
    return _TOUCHED[event.kind](world, event, before)


def _nothing(world: World, event: Event, before: object) -> Iterator[Unit]:
    return iter(())


def _by_prefixes(world: World, event: Event, before: object) -> Iterator[Unit]:
    return iter((("fabric",), ("routes",)))


def _by_exposed(world: World, event: Event, before: object) -> Iterator[Unit]:
    return iter((("fabric",),))


def _by_key(world: World, event: Event, before: object) -> Iterator[Unit]:
    return iter((("record",),))


def _by_keyring(world: World, event: Event, before: object) -> Iterator[Unit]:
    yield from (("record",), ("relay",))
    yield from _tunnels(world, range(MAX_SLOTS))
    yield from _for_nodes(world.nodes)


def _by_node(world: World, event: Event, before: object) -> Iterator[Unit]:
    name = str(event.key)
    if name == world.node:
        return
    record = world.nodes.get(name)
    yield from _for_nodes([name])
    if record is not None:
        yield from _tunnels(world, {uplink.slot for uplink in record.uplinks})
    if world.settings.relay_mbit:
        yield from (("record",), ("relay",))
    if any(uplink.relay == name for uplink in world.settings.uplinks):
        yield from _for_nodes(world.nodes)


def _by_heard(world: World, event: Event, before: object) -> Iterator[Unit]:
    yield ("relay",)


def _by_path(world: World, event: Event, before: object) -> Iterator[Unit]:
    assert isinstance(event.key, tuple)
    yield ("node", event.key[1])


def _by_draining(world: World, event: Event, before: object) -> Iterator[Unit]:
    yield from (("record",), ("relay",))
    yield from (("node", name) for name in world.nodes)


def _by_class(world: World, event: Event, before: object) -> Iterator[Unit]:
    yield ("classes",)
    yield from (("workload", name) for name in world.workloads)


def _by_paced(world: World, event: Event, before: object) -> Iterator[Unit]:
    yield ("uplinks",)
    yield from (("workload", name) for name in world.workloads)


def _by_workload(world: World, event: Event, before: object) -> Iterator[Unit]:
    yield from (("workload", event.key), ("endpoint", event.key))
    if event.key == host_name(world):
        yield from (("fabric",), ("routes",), ("loop",))
        yield from (("probe", name) for name in world.nodes)


def _by_link(world: World, event: Event, before: Link | None) -> Iterator[Unit]:
    slots = [slot for slot, uplink in enumerate(world.settings.uplinks) if uplink.device == event.key]
    outer, _ = host_devices(world.settings.datapath.prefix)
    if slots:
        yield from (("uplinks",), ("tables",), ("record",), ("relay",))
        yield from _tunnels(world, range(MAX_SLOTS), slots)
        if _addresses_on(before) != _addresses_on(event.value):
            yield from _for_nodes(world.nodes)
    elif event.key == outer:
        yield ("routes",)
    elif event.key in loop_devices(world.settings.datapath.prefix):
        yield ("loop",)
    elif _is_tunnel(world, str(event.key)) and _moved(before, event.value):
        yield from _tunnels(world, range(MAX_SLOTS))
        yield from ((what, name) for name in world.nodes for what in ("ends", "node"))
    yield from (("workload", name) for name, one in world.workloads.items() if one.device == event.key)


_RESIZING = frozenset({Kind.NODE, Kind.ALLOCATION, Kind.REVOKED, Kind.LINK})
_TOUCHED: dict[Kind, Callable[[World, Event, Any], Iterator[Unit]]] = {
    Kind.PREFIXES: _by_prefixes,
    Kind.EXPOSED: _by_exposed,
    Kind.APISERVERS: _nothing,
    Kind.ALLOCATION: _by_node,
    Kind.NODE: _by_node,
    Kind.ALIVE: _nothing,
    Kind.REVOKED: _by_node,
    Kind.POLICY: _nothing,
    Kind.CLASS: _by_class,
    Kind.ENDPOINT: _nothing,
    Kind.WORKLOAD: _by_workload,
    Kind.LINK: _by_link,
    Kind.KEY: _by_key,
    Kind.KEYRING: _by_keyring,
    Kind.ROTATION: _nothing,
    Kind.DRAINING: _by_draining,
    Kind.HEARD: _by_heard,
    Kind.CARRIED: _by_path,
    Kind.PACED: _by_paced,
}


def _addresses_on(link: Link | None) -> tuple[str, ...]:
    return link.addresses if link else ()


def _is_tunnel(world: World, device: str) -> bool:
    prefix = world.settings.datapath.prefix
    return device.startswith((f"{prefix}wg", f"{prefix}pl"))


def _moved(before: Link | None, after: Link | None) -> bool:
    return (before and before.index) != (after and after.index)


def _mtu(world: World, event: Event) -> int:
    """The MTU of every workload, if the event may change it."""
    return workload_mtu(world) if event.kind in _RESIZING else 0


def _numbers(world: World, event: Event, before: object) -> dict[int, None]:
    """The identity numbers in use for the labels of what came or went, and for the networks it names."""
    things = (before, event.value)
    label_sets = [thing.labels for thing in things if isinstance(thing, Labelled)]
    networks = [network_labels(one) for thing in things for one in networks_named(event.kind, thing)]
    found = map(world.identities.find, (*label_sets, *networks))
    in_use = (world.labels.keys(), world.networks.by_number.keys())
    known = (number for number in found if number is not None)
    return dict.fromkeys(number for number in known if any(number in used for used in in_use))


def _renumbered(world: World, before: dict[int, None], after: dict[int, None]) -> Pairs:
    """A label set or network that came into use, or went out of it, is a new peer to every subject."""
    different = before.keys() ^ after.keys()
    return {subject: set(different) for subject in subjects(world)} if different else {}


def _prefixes(world: World, event: Event, before: Any) -> Iterator[Prefix]:
    """Those whose holder depends on an event."""
    if event.kind is Kind.ENDPOINT:
        assert isinstance(event.key, bytes)
        yield host_prefix(event.key)
    elif event.kind is Kind.PREFIXES:
        yield from prefixes_around(world, before or ())
    elif event.kind is Kind.REVOKED:
        yield from map(host_prefix, addresses_of_node(world, str(event.key)))
    for thing in (before, event.value):
        yield from map(prefix_of, networks_named(event.kind, thing))
        if isinstance(thing, Workload):
            yield from map(host_prefix, thing.addresses)


def _recompile(world: World, plan: Plan, units: Iterable[Unit]) -> list[Change]:
    return [
        change for unit in units for change in _replace(plan, unit, _COMPILE[str(unit[0])](world, *unit[1:]))
    ]


def _repair(world: World, plan: Plan, subject: int, peers: Set[int]) -> list[Change]:
    """Compile pairs of one subject; those with what is no identity any more come to nothing."""
    compiled: dict[int, Entries] = {}
    if subject in subjects(world):
        compiled = pair_entries(world, rules_for(world, plan, subject), subject, peers)
    new = ((("policy", subject, peer), compiled.get(peer, {})) for peer in peers)
    return [change for unit, entries in new for change in _replace(plan, unit, entries)]


def _replace(plan: Plan, unit: Unit, new: Entries) -> list[Change]:
    old = plan.units.get(unit, {})
    if new == old:
        return []
    if new:
        plan.units[unit] = new
    else:
        del plan.units[unit]
    gone = [Change(*key, None, value) for key, value in old.items() if key not in new]
    return gone + [Change(*key, value, old.get(key)) for key, value in new.items() if old.get(key) != value]


def _readdress(world: World, plan: Plan, prefixes: Iterable[Prefix]) -> list[Change]:
    """Look prefixes up again. A narrow one comes before the wide one around it, and goes after it: at no
    moment is an address of the fabric taken for one outside.
    """
    made, gone = [], []
    for prefix in sorted(set(prefixes), reverse=True):
        key, value = address_key(prefix), address_entry(world, prefix)
        old = plan.addresses.get(key)
        if value is not None and value != old:
            plan.addresses[key] = value
            made.append(Change(Table.ADDRESSES, key, value, old))
        elif value is None and old is not None:
            del plan.addresses[key]
            gone.append(Change(Table.ADDRESSES, key, None, old))
    return made + gone[::-1]


_COMPILE: dict[str, Callable[..., Entries]] = {
    "fabric": fabric_entries,
    "routes": route_entries,
    "uplinks": uplink_entries,
    "tables": uplink_table_entries,
    "record": node_record_entries,
    "tunnel": tunnel_entries,
    "plain": plain_device_entries,
    "rules": plain_rule_entries,
    "peer": peer_entries,
    "ends": plain_end_entries,
    "node": node_entries,
    "probe": probe_entries,
    "relay": relay_entries,
    "loop": loop_entries,
    "classes": class_entries,
    "workload": workload_entries,
    "endpoint": endpoint_record_entries,
}
