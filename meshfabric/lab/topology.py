"""What a lab consists of: the file that describes it, checked and completed.

Owns the reading of a lab's YAML file and its checks (every error has
`file:line` and a remedy). `records` has the shapes, `blocks` cuts addresses,
`build` raises what is described here.

    segment red ──┬─────────┬─────────┐        an Ethernet bridge with subnets
                 up0       up0       up0       uplinks, at most 8 a node
                 vm1      kube1     kube2      nodes, each with blocks of fabric addresses
                guest1     web       db        workloads: pods, and guests behind a tap

What the file leaves out is filled in: address blocks, uplink MTUs, underlay
addresses. The same text makes the same lab.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources

from msgspec.structs import replace

from meshfabric.config import AWAY_S, GRACE_S
from meshfabric.lab import blocks
from meshfabric.lab.impairment import check_impairment
from meshfabric.lab.records import TAP_PREFIX, Node, Segment, Topology, Uplink
from meshfabric.model.addresses import parse_network
from meshfabric.model.errors import InputError
from meshfabric.model.labels import check_labels
from meshfabric.model.names import IFNAMSIZ, check_name
from meshfabric.model.node import MAX_SLOTS, AllocationRecord, FabricRecord
from meshfabric.model.portnames import port_labels
from meshfabric.model.yamltext import Key, Located, locate, suggest
from meshfabric.store.checks import read_allocation, read_config

MAX_NODE_NAME = 32
"""So that the path of an agent's socket stays below the 108 bytes of `sun_path` (unix(7))."""
MIN_MTU, MAX_MTU = 1400, 65535
"""Least underlay MTU in bytes: IPv6 needs 1280 inside, WireGuard and IP-in-IP take up to 120."""
UNDERLAY = "underlay"
"""Not a node's name: `exec underlay` means the namespace that holds the segments."""

_TAKEN_PREFIXES = ("mf", TAP_PREFIX)
"""Beginnings of device names that the agent and the lab make in a node."""


def default_text() -> str:
    """The file that a lab without a file is raised from: four nodes, two segments, five workloads."""
    return resources.files("meshfabric.lab").joinpath("default.yaml").read_text("utf-8")


def read(text: str, name: str) -> Topology:
    """The lab that `text` describes, checked and completed; `name` is the file's name in errors.

    Raises `InputError` with `file:line` at the first thing that is wrong.
    """
    file = locate(text, name, Topology)
    _check_prefixes(file)
    _check_segments(file)
    _check_nodes(file)
    _check_workloads(file)
    _check_numbers(file)
    complete = _with_blocks(_with_mtus(file.value), file)
    _check_records(file, complete)
    return complete


def _check_prefixes(file: Located[Topology]) -> None:
    if not file.value.prefixes:
        raise file.error("no prefixes", "prefixes", remedy="give the fabric one, like 10.64.0.0/16")
    _check_networks(file, [(text, ("prefixes", i)) for i, text in enumerate(file.value.prefixes)])


def _check_segments(file: Located[Topology]) -> None:
    segments = file.value.segments
    _check_names(file, "segment", [(each.name, ("segments", i)) for i, each in enumerate(segments)])
    networks: list[tuple[str, tuple[Key, ...]]] = []
    for i, segment in enumerate(segments):
        _check_device(file, segment.name, "segments", i, "name")
        if not segment.subnets:
            raise file.error(
                f"segment {segment.name} has no subnet", "segments", i, remedy="give ipv4 or ipv6"
            )
        _check_mtu(file, segment.mtu, MAX_MTU, "segments", i, "mtu")
        check_impairment(segment.impairment, partial(file.at, "segments", i))
        networks += _subnets(file, segment, i)
    prefixes = [(text, ("prefixes", i)) for i, text in enumerate(file.value.prefixes)]
    _check_networks(file, [*prefixes, *networks])
    for i, segment in enumerate(segments):
        _check_room(file, segment, i)


def _subnets(file: Located[Topology], segment: Segment, i: int) -> Iterator[tuple[str, tuple[Key, ...]]]:
    for key, text, version in (("ipv4", segment.ipv4, 4), ("ipv6", segment.ipv6, 6)):
        if not text:
            continue
        place = ("segments", i, key)
        if parse_network(text, file.at(*place)).version != version:
            raise file.error(f"{text} is no {key} subnet", *place, remedy="use the key of its own family")
        yield text, place


def _check_room(file: Located[Topology], segment: Segment, i: int) -> None:
    ports = sum(up.segment == segment.name for node in file.value.nodes for up in node.uplinks)
    for key, text in (("ipv4", segment.ipv4), ("ipv6", segment.ipv6)):
        if text and not blocks.has_room(parse_network(text), ports):
            what = f"{text} is too small for etcd and {ports} ports"
            raise file.error(what, "segments", i, key, remedy="give the segment a larger subnet")


def _check_nodes(file: Located[Topology]) -> None:
    nodes = file.value.nodes
    if not nodes:
        raise file.error("no nodes", "nodes", remedy="a lab needs one at least")
    _check_names(file, "node", [(each.name, ("nodes", i)) for i, each in enumerate(nodes)])
    blocks_of_all: list[tuple[str, tuple[Key, ...]]] = []
    for i, node in enumerate(nodes):
        _check_node(file, node, i)
        blocks_of_all += [(text, ("nodes", i, "blocks", j)) for j, text in enumerate(node.blocks)]
    _check_networks(file, blocks_of_all)
    prefixes = [parse_network(text) for text in file.value.prefixes]
    for text, place in blocks_of_all:
        if not any(blocks.within(parse_network(text), prefix) for prefix in prefixes):
            raise file.error(
                f"block {text} is outside the fabric's prefixes", *place, remedy="see `prefixes`"
            )


def _check_node(file: Located[Topology], node: Node, i: int) -> None:
    if node.name == UNDERLAY:
        raise file.error(
            f"{UNDERLAY!r} is no node's name", "nodes", i, "name", remedy="it names the segments"
        )
    if len(node.name) > MAX_NODE_NAME:
        what = f"the name {node.name} has {len(node.name)} characters"
        raise file.error(what, "nodes", i, "name", remedy=f"at most {MAX_NODE_NAME}")
    slots = len(node.uplinks) * (1 + len(node.through))
    if not 1 <= slots <= MAX_SLOTS:
        what = f"node {node.name} has {slots} uplinks"
        raise file.error(what, "nodes", i, "uplinks", remedy=f"1 to {MAX_SLOTS} are possible")
    relays = [other.name for other in file.value.nodes if other.relay_mbit and other is not node]
    for j, relay in enumerate(node.through):
        if relay not in relays:
            raise file.error(
                f"{relay!r} is no relay", "nodes", i, "through", j, remedy=suggest(relay, relays)
            )
    check_labels(node.labels, file.at("nodes", i, "labels"))
    places: list[tuple[str, tuple[Key, ...]]] = [
        (uplink.name, ("nodes", i, "uplinks", j)) for j, uplink in enumerate(node.uplinks)
    ]
    _check_names(file, "uplink", places)
    for j, uplink in enumerate(node.uplinks):
        _check_uplink(file, uplink, i, j)


def _check_uplink(file: Located[Topology], uplink: Uplink, i: int, j: int) -> None:
    place = ("nodes", i, "uplinks", j)
    _check_device(file, uplink.name, *place, "name")
    if uplink.name == "lo" or uplink.name.startswith(_TAKEN_PREFIXES):
        remedy = f"not lo, and nothing that begins with {' or '.join(_TAKEN_PREFIXES)}"
        raise file.error(
            f"the uplink's name {uplink.name} is taken by the fabric", *place, "name", remedy=remedy
        )
    segments = {segment.name: segment for segment in file.value.segments}
    if uplink.segment not in segments:
        remedy = suggest(uplink.segment, sorted(segments))
        raise file.error(f"unknown segment {uplink.segment!r}", *place, "segment", remedy=remedy)
    if uplink.mtu:
        _check_mtu(file, uplink.mtu, segments[uplink.segment].mtu, *place, "mtu")


def _check_workloads(file: Located[Topology]) -> None:
    workloads = file.value.workloads
    _check_names(file, "workload", [(each.name, ("workloads", i)) for i, each in enumerate(workloads)])
    nodes = sorted(node.name for node in file.value.nodes)
    for i, workload in enumerate(workloads):
        if workload.node not in nodes:
            remedy = suggest(workload.node, nodes)
            raise file.error(f"unknown node {workload.node!r}", "workloads", i, "node", remedy=remedy)
        if workload.kind == "vm":
            _check_device(file, workload.tap, "workloads", i, "name")
        check_labels(workload.labels, file.at("workloads", i, "labels"))
        port_labels(workload.ports, file.at("workloads", i, "ports"))


def _check_numbers(file: Located[Topology]) -> None:
    check_name(file.value.fabric, "the fabric's name", file.at("fabric"))
    etcd, probe = file.value.etcd, file.value.probe
    for value, least, most, place in (
        (etcd.port, 1, 65535, ("etcd", "port")),
        (etcd.heartbeat_ms, 10, 10_000, ("etcd", "heartbeat_ms")),
        (etcd.election_ms, 5 * etcd.heartbeat_ms, 50_000, ("etcd", "election_ms")),
        (probe.interval_ms, 1, 10_000, ("probe", "interval_ms")),
        (probe.loss_percent, 0, 100, ("probe", "loss_percent")),
        (probe.rtt_ms, 0, 10_000, ("probe", "rtt_ms")),
        (probe.hold_s, 0, 3600, ("probe", "hold_s")),
        (file.value.rotation.grace_s, *GRACE_S, ("rotation", "grace_s")),
        (file.value.rotation.away_s, *AWAY_S, ("rotation", "away_s")),
        (file.value.drift_check_s, 0.1, 86_400.0, ("drift_check_s",)),
    ):
        if not least <= value <= most:
            raise file.error(f"{place[-1]} is {value}", *place, remedy=f"{least} to {most} are possible")


def _check_records(file: Located[Topology], complete: Topology) -> None:
    """Everything that the agents would refuse as a record is refused here, where it has a line."""
    records: list[tuple[Callable[[], object], tuple[Key, ...]]] = [
        (partial(read_config, FabricRecord(complete.prefixes)), ("prefixes",))
    ]
    for i, node in enumerate(complete.nodes):
        records.append((partial(read_allocation, AllocationRecord(node.blocks)), ("nodes", i, "blocks")))
    for check, place in records:
        try:
            check()
        except InputError as cause:
            raise file.error(cause.what, *place, remedy=cause.remedy) from cause


def _check_names(file: Located[Topology], what: str, named: list[tuple[str, tuple[Key, ...]]]) -> None:
    first: dict[str, tuple[Key, ...]] = {}
    for name, place in named:
        check_name(name, f"{what} name", file.at(*place, "name"))
        if name in first:
            remedy = f"first at {file.at(*first[name], 'name')}"
            raise file.error(f"a second {what} {name!r}", *place, "name", remedy=remedy)
        first[name] = place


def _check_device(file: Located[Topology], device: str, *place: Key) -> None:
    if len(device) > IFNAMSIZ:
        what = f"{device} is too long for an interface: {len(device)} characters"
        raise file.error(what, *place, remedy=f"shorten it by {len(device) - IFNAMSIZ}")


def _check_mtu(file: Located[Topology], mtu: int, most: int, *place: Key) -> None:
    if not MIN_MTU <= mtu <= most:
        remedy = f"{MIN_MTU} to {most} are possible here"
        raise file.error(f"an MTU of {mtu} bytes", *place, remedy=remedy)


def _check_networks(file: Located[Topology], given: list[tuple[str, tuple[Key, ...]]]) -> None:
    """No two of the prefixes overlap; each is a prefix at all."""
    parsed = [(parse_network(text, file.at(*place)), place) for text, place in given]
    found = blocks.first_overlap([network for network, _ in parsed])
    if found:
        (one, other) = found
        remedy = f"that one is at {file.at(*parsed[one][1])}"
        what = f"{given[other][0]} overlaps {given[one][0]}"
        raise file.error(what, *parsed[other][1], remedy=remedy)


def _with_mtus(topology: Topology) -> Topology:
    def complete(uplink: Uplink) -> Uplink:
        return replace(uplink, mtu=uplink.mtu or topology.segment(uplink.segment).mtu)

    nodes = (replace(node, uplinks=tuple(map(complete, node.uplinks))) for node in topology.nodes)
    return replace(topology, nodes=tuple(nodes))


def _with_blocks(topology: Topology, file: Located[Topology]) -> Topology:
    taken = [parse_network(text) for node in topology.nodes for text in node.blocks]
    bare = [node.name for node in topology.nodes if not node.blocks]
    cut: dict[str, list[str]] = {name: [] for name in bare}
    for i, prefix in blocks.first_of_each_family([parse_network(text) for text in topology.prefixes]):
        try:
            found = blocks.cut(prefix, len(topology.nodes), len(bare), taken)
        except ValueError as cause:
            raise file.error(str(cause), "prefixes", i, remedy="widen the prefix") from None
        for name, block in zip(bare, found, strict=True):
            cut[name].append(str(block))
    nodes = (replace(node, blocks=node.blocks or tuple(cut[node.name])) for node in topology.nodes)
    return replace(topology, nodes=tuple(nodes))
