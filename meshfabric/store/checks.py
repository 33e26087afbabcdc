"""What a record must be in itself: size, shape, version, and values that make sense (pure).

From bytes to a checked value, or a `Refusal` in words for the operator. What a
record may say, given what operators granted and others claimed, is the
business of `store.rights` and `store.claims`.
"""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from meshfabric.model.addresses import (
    Network,
    format_address,
    is_ipv4,
    parse_address,
    parse_network,
    prefix_of,
)
from meshfabric.model.classtext import ClassText, read_class
from meshfabric.model.errors import InputError
from meshfabric.model.keyring import GENERATIONS, MAX_EPOCH, Keyring, generation_of
from meshfabric.model.labels import MAX_LABELS, check_labels
from meshfabric.model.names import WORKLOAD, check_name
from meshfabric.model.networks import lies_in
from meshfabric.model.node import (
    MAX_SLOTS,
    NODE_VERSION,
    PORTS_OF_ONE,
    RECORD_VERSION,
    Allocation,
    AllocationRecord,
    EndpointRecord,
    FabricRecord,
    GrantRecord,
    NodeRecord,
    RotationRecord,
    Tunnel,
    Uplink,
)
from meshfabric.model.policytext import PolicyText, read_policy
from meshfabric.model.ports import MAX_PORT, parse_ports
from meshfabric.model.tables import MAX_EXPOSED, MAX_PREFIXES
from meshfabric.model.versions import LANGUAGE
from meshfabric.store.claims import last_address
from meshfabric.store.keys import DOCUMENTS, Located, RecordKind, Refusal, printable
from meshfabric.store.rights import ANY, KINDS, Grant, Span, check_given

MAX_RECORD_BYTES = 64 * 1024
"""A policy of a thousand rules fits; an endpoint has some 150 bytes."""
MAX_BLOCKS = 64
MAX_POOLS = 64
MAX_APISERVERS = 64
MAX_GRANTED = 1024
"""Label keys in one grant."""
LONGEST_FIRST_BLOCK = {4: 30, 6: 126}
"""The first block of a family has room for the network, the node and one workload."""
LEAST_UPLINK_MTU, GREATEST_UPLINK_MTU = 1280, 65535  # RFC 8200, 5; the length field of IPv4
MAX_COST = 1_000_000
MAX_CAPACITY = 100_000_000  # Mbit/s
MAX_MOVES = (1 << 63) - 1
MAX_AGENT_CHARACTERS = 64
KEY_BYTES = 32  # Curve25519
ROTATE_EVERY_S = (3600, 10 * 365 * 86_400)
"""A rotation should long be over when the next one begins."""


class _Head(msgspec.Struct):
    min_version: int = 1


_KNOWN = {RecordKind.POLICY: LANGUAGE, RecordKind.NODE: NODE_VERSION}
"""The newest version that this agent understands; of other kinds RECORD_VERSION."""
_HEAD = msgspec.json.Decoder(_Head)
_DECODERS: dict[RecordKind, Any] = {
    RecordKind.CONFIG: msgspec.json.Decoder(FabricRecord),
    RecordKind.ALLOCATION: msgspec.json.Decoder(AllocationRecord),
    RecordKind.GRANT: msgspec.json.Decoder(GrantRecord),
    RecordKind.POLICY: msgspec.json.Decoder(PolicyText),
    RecordKind.CLASS: msgspec.json.Decoder(ClassText),
    RecordKind.NODE: msgspec.json.Decoder(NodeRecord),
    RecordKind.ROTATION: msgspec.json.Decoder(RotationRecord),
    RecordKind.ENDPOINT: msgspec.json.Decoder(EndpointRecord),
}


class Fact(NamedTuple):
    """A record that is good in itself: as decoded, and as the world has it (grants: `Grant`)."""

    record: Any
    value: Any
    revision: int


def read_record(located: Located, value: bytes, revision: int) -> Fact | Refusal:
    """Bytes from the store to a fact; never raises, whatever the bytes are."""
    if len(value) > MAX_RECORD_BYTES:
        return Refusal(f"{len(value)} bytes are too many (at most {MAX_RECORD_BYTES})")
    try:
        record = _DECODERS[located.kind].decode(value)
        _check_version(located.kind, record.min_version)
        return Fact(record, _READERS[located.kind](located.name, record), revision)
    except InputError as cause:
        return Refusal(printable(str(cause)))
    except (msgspec.DecodeError, RecursionError, ValueError) as cause:
        return Refusal(_unreadable(located.kind, value, cause))


def _unreadable(kind: RecordKind, value: bytes, cause: Exception) -> str:
    """A newer record may have another shape: then say that, and not what is odd about it."""
    try:
        _check_version(kind, _HEAD.decode(value).min_version)
    except InputError as newer:
        return str(newer)
    except (msgspec.DecodeError, RecursionError, ValueError):
        pass
    return printable(f"cannot be read: {cause}")


def _check_version(kind: RecordKind, wanted: int) -> None:
    known = _KNOWN.get(kind, RECORD_VERSION)
    if wanted > known:
        what = f"written for a newer agent (records of version {printable(str(wanted))})"
        raise InputError(what, remedy=f"upgrade this one, which knows {known}")


def read_config(record: FabricRecord) -> tuple[Network, ...]:
    """The fabric's prefixes: one to eight, apart from each other, addresses of single machines. Also
    looks at the API servers' addresses (`read_apiservers`).
    """
    networks = tuple(parse_network(text, f"prefixes[{i}]") for i, text in enumerate(record.prefixes))
    if not 1 <= len(networks) <= MAX_PREFIXES:
        raise InputError(f"{len(networks)} prefixes", remedy=f"1 to {MAX_PREFIXES} are possible")
    for i, text in enumerate(record.control_ports):
        parse_ports(text, f"control_ports[{i}]")
    _check_apart(networks, "prefixes")
    for i, network in enumerate(networks):
        if not network.prefixlen or network.is_multicast or network.is_loopback or network.is_link_local:
            raise InputError(
                f"{network} cannot be a fabric's prefix", place=f"prefixes[{i}]", remedy="take a private one"
            )
    read_exposed(record)
    for i, server in enumerate(read_apiservers(record)):
        if any(lies_in(server, network) for network in networks):
            place, remedy = f"kube_apiservers[{i}]", "they are reached at underlay addresses"
            raise InputError(f"{server[0]} is in a prefix of the fabric", place=place, remedy=remedy)
    return networks


def read_apiservers(record: FabricRecord) -> tuple[Network, ...]:
    """A network of one address for each of the API servers' addresses; raises `InputError`."""
    if len(record.kube_apiservers) > MAX_APISERVERS:
        what = f"{len(record.kube_apiservers)} kube_apiservers"
        raise InputError(what, remedy=f"at most {MAX_APISERVERS} are possible")
    servers = [parse_address(text, f"kube_apiservers[{i}]") for i, text in enumerate(record.kube_apiservers)]
    return tuple(ip_network(format_address(server)) for server in dict.fromkeys(servers))


def read_exposed(record: FabricRecord) -> tuple[Network, ...]:
    """What of the fabric the world may see: apart from each other, each inside one of the prefixes."""
    exposed = tuple(parse_network(text, f"exposed[{i}]") for i, text in enumerate(record.exposed))
    if len(exposed) > MAX_EXPOSED:
        raise InputError(f"{len(exposed)} exposed prefixes", remedy=f"at most {MAX_EXPOSED} are possible")
    _check_apart(exposed, "exposed")
    spans = [span_of(parse_network(text)) for text in record.prefixes]
    for i, network in enumerate(exposed):
        first, last = span_of(network)
        if not any(start <= first and last <= end for start, end in spans):
            raise InputError(
                f"{network} is in no prefix of the fabric", place=f"exposed[{i}]", remedy="see prefixes"
            )
    return exposed


def read_allocation(record: AllocationRecord) -> Allocation:
    """The blocks and, out of the first of each family, the node's own addresses."""
    blocks = tuple(parse_network(text, f"blocks[{i}]") for i, text in enumerate(record.blocks))
    if not 1 <= len(blocks) <= MAX_BLOCKS:
        raise InputError(f"{len(blocks)} blocks", remedy=f"1 to {MAX_BLOCKS} are possible")
    _check_apart(blocks, "blocks")
    first: dict[int, Network] = {}
    for block in blocks:
        first.setdefault(block.version, block)
    for block in first.values():
        if block.prefixlen > LONGEST_FIRST_BLOCK[block.version]:
            longest = LONGEST_FIRST_BLOCK[block.version]
            raise InputError(f"the first block {block} is too small for a node", remedy=f"/{longest} at most")
    return Allocation(blocks, tuple(parse_address(str(block[1])) for block in first.values()))


def read_grant(record: GrantRecord) -> Grant:
    """The label values by key, and the floating pools as spans of addresses."""
    if len(record.labels) > MAX_GRANTED or len(record.pools) > MAX_POOLS:
        raise InputError(f"more than {MAX_GRANTED} label keys or {MAX_POOLS} pools", remedy="use * for any")
    for key, values in record.labels.items():
        _check_granted(key, values)
    pools = tuple(parse_network(text, f"pools[{i}]") for i, text in enumerate(record.pools))
    labels = {key: frozenset(values) for key, values in record.labels.items()}
    return Grant(labels, pools, tuple(map(span_of, pools)))


def _check_granted(key: str, values: Iterable[str]) -> None:
    if key != ANY:
        check_given({key: ""}, "labels")
    for value in values:
        if value != ANY:
            check_labels({"value": value}, f"labels.{key}")


def read_node(name: str, record: NodeRecord) -> NodeRecord:
    """The record itself, after everything in it was looked at."""
    if record.name != name:
        raise InputError(f"the record names node {record.name!r}, its key {name!r}")
    check_given(record.labels, "labels")
    if len(record.agent) > MAX_AGENT_CHARACTERS or not record.agent.isprintable():
        raise InputError("no agent's version looks like that", place="agent")
    if len(record.wireguard) > MAX_AGENT_CHARACTERS or not record.wireguard.isprintable():
        raise InputError("no kind of WireGuard looks like that", place="wireguard")
    _check_unlike("uplinks", "slots", [uplink.slot for uplink in record.uplinks])
    _check_unlike("uplinks", "names", [uplink.name for uplink in record.uplinks])
    for i, uplink in enumerate(record.uplinks):
        _check_uplink(uplink, f"uplinks[{i}]")
    _check_relayed(record.relayed)
    _check_keyring(record.keyring)
    for generation, name in enumerate(("tunnels", "odd_tunnels")):
        _check_tunnels(record.tunnels_of(generation), name)
    both = (*record.tunnels, *record.odd_tunnels)
    _check_unlike("tunnels", "ports", [tunnel.port for tunnel in both])
    _check_unlike("tunnels", "keys", [tunnel.public_key for tunnel in both])
    return record


def read_rotation(record: RotationRecord) -> RotationRecord:
    """The record itself, after a look at its numbers."""
    _check_range(record.epoch, 0, MAX_EPOCH, "epoch", "")
    _check_range(record.since_s, 0, MAX_EPOCH, "since_s", "")
    if record.every_s:
        _check_range(record.every_s, *ROTATE_EVERY_S, "every_s", "")
    return record


def tunnel_keys(record: NodeRecord) -> list[bytes]:
    """The public keys of a checked node record, 32 bytes each."""
    return [b64decode(tunnel.public_key) for tunnel in (*record.tunnels, *record.odd_tunnels)]


def _check_keyring(keyring: Keyring) -> None:
    for generation, epoch in enumerate(keyring.epochs):
        if epoch is not None:
            _check_range(epoch, 0, MAX_EPOCH, "epoch", f"keyring.epochs[{generation}]")
            if generation_of(epoch) != generation:
                raise InputError(f"epoch {epoch} is of the other generation", place="keyring.epochs")
    for place in ("preferred", "taken"):
        generation = getattr(keyring, place)
        _check_range(generation, 0, GENERATIONS - 1, "generation", f"keyring.{place}")
        if keyring.generations and generation not in keyring.generations:
            raise InputError(f"generation {generation}, but no keys of it", place=f"keyring.{place}")


def _check_tunnels(tunnels: tuple[Tunnel, ...], place: str) -> None:
    _check_unlike(place, "pairs", [(tunnel.local, tunnel.remote) for tunnel in tunnels])
    for i, tunnel in enumerate(tunnels):
        _check_tunnel(tunnel, f"{place}[{i}]")


def _check_relayed(ports: dict[str, int]) -> None:
    """Each node has PORTS_OF_ONE in a row, and no two share any."""
    for node, port in ports.items():
        check_name(node, "node", "relayed")
        _check_range(port, 1, MAX_PORT - PORTS_OF_ONE + 1, "port", "relayed")
    if any(other - one < PORTS_OF_ONE for one, other in pairwise(sorted(ports.values()))):
        raise InputError("two nodes share a port", place="relayed")


def _check_uplink(uplink: Uplink, place: str) -> None:
    check_name(uplink.name, "uplink", place)
    check_name(uplink.segment, "segment", place)
    _check_range(uplink.slot, 0, MAX_SLOTS - 1, "slot", place)
    _check_range(uplink.mtu, LEAST_UPLINK_MTU, GREATEST_UPLINK_MTU, "mtu", place)
    _check_range(uplink.cost, 0, MAX_COST, "cost", place)
    _check_range(uplink.capacity, 0, MAX_CAPACITY, "capacity", place)
    _check_range(uplink.plain_port, 0, MAX_PORT, "plain_port", place)
    if uplink.relay:
        check_name(uplink.relay, "node", place)
        if uplink.plain_port:
            raise InputError("no encryption, and a relay", place=place)
    families = [is_ipv4(parse_address(text, place)) for text in uplink.addresses]
    _check_unlike(place, "address families", families)
    for text in uplink.addresses:
        parsed = ip_address(text)
        known = format_address(parse_address(text)) == text
        if not known or parsed.is_multicast or parsed.is_loopback or parsed.is_unspecified:
            raise InputError(f"{text!r} is no address of an uplink", place=place)


def _check_tunnel(tunnel: Tunnel, place: str) -> None:
    _check_range(tunnel.local, 0, MAX_SLOTS - 1, "local slot", place)
    _check_range(tunnel.remote, 0, MAX_SLOTS - 1, "remote slot", place)
    _check_range(tunnel.port, 1, MAX_PORT, "port", place)
    try:
        key = b64decode(tunnel.public_key, validate=True)
    except (NotBase64, ValueError):
        key = b""
    # Spare bits at the end of the text would give one key several spellings.
    if len(key) != KEY_BYTES or not any(key) or b64encode(key).decode() != tunnel.public_key:
        raise InputError("the public key is not 32 bytes in base64", place=place)


def _document(kind: RecordKind, read: Callable[[Any], Any]) -> Callable[[str, Any], Any]:
    """A reader of what people write, whose name is that of its key."""

    def checked(name: str, record: Any) -> Any:
        if record.name != name:
            raise InputError(f"the record names {DOCUMENTS[kind]} {record.name!r}, its key {name!r}")
        return read(record)

    return checked


def read_endpoint(record: EndpointRecord) -> EndpointRecord:
    """The record itself; its labels' characters are looked at where they are made (`store.endpoints`)."""
    if not WORKLOAD.fullmatch(record.workload):
        raise InputError(f"workload {record.workload!r} is no valid name")
    if record.kind not in KINDS:
        raise InputError(f"unknown kind {record.kind!r}", remedy=f"one of {', '.join(KINDS)}")
    _check_range(record.epoch, 0, MAX_MOVES, "epoch", "")
    if record.handoff_to:
        check_name(record.handoff_to, "node", "handoff_to")
    if len(record.labels) > MAX_LABELS:
        raise InputError(f"{len(record.labels)} labels", remedy=f"keep to {MAX_LABELS}")
    return record


_READERS: Mapping[RecordKind, Any] = {
    RecordKind.CONFIG: lambda _, record: read_config(record),
    RecordKind.ALLOCATION: lambda _, record: read_allocation(record),
    RecordKind.GRANT: lambda _, record: read_grant(record),
    RecordKind.POLICY: _document(RecordKind.POLICY, read_policy),
    RecordKind.CLASS: _document(RecordKind.CLASS, read_class),
    RecordKind.NODE: read_node,
    RecordKind.ROTATION: lambda _, record: read_rotation(record),
    RecordKind.ENDPOINT: lambda _, record: read_endpoint(record),
}


def span_of(network: Network) -> Span:
    """The first and the last address of a network."""
    prefix = prefix_of(network)
    return prefix.address, last_address(prefix)


def _check_range(value: int, least: int, most: int, what: str, place: str) -> None:
    if not least <= value <= most:
        raise InputError(f"{what} {printable(str(value))}", place=place, remedy=f"{least} to {most}")


def _check_unlike(place: str, what: str, values: list[Any]) -> None:
    if len(set(values)) != len(values):
        raise InputError(f"two have the same among the {what}", place=place)


def _check_apart(networks: tuple[Network, ...], place: str) -> None:
    spans = sorted((*span_of(network), str(network)) for network in networks)
    for (_, last, one), (first, _, other) in pairwise(spans):
        if first <= last:
            raise InputError(f"{one} and {other} overlap", place=place, remedy="take one of them out")
