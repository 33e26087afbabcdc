"""The datapath's entries as people read them; `tables` owns the bytes, `plan` what is printed.

addresses 10.1.0.7/32 -> identity 256 place 4096
policy subject 256 peer 300 ingress tcp/8000-8007 -> allow at 1000
"""

from collections.abc import Callable

from meshfabric.model.addresses import Prefix, format_address, format_prefix
from meshfabric.model.ports import MAX_PORT, Ports, format_ports
from meshfabric.model.tables import (
    ADDRESS_KEY,
    ADDRESS_VALUE,
    ANY_DSCP,
    AUDITING,
    CLASS_FIXED_BITS,
    CLASS_RULE_KEY,
    FABRIC_COUNT,
    FABRIC_HEAD,
    FABRIC_PREFIX,
    FIRST_NODE,
    LOOP,
    MAX_PREFIXES,
    NUMBER,
    PLAIN_END,
    PLAIN_KEY,
    POLICY_FIXED_BITS,
    POLICY_KEY,
    POLICY_VALUE,
    PROBE_ENDS,
    PROTOCOL_BITS,
    RELAY_END,
    RELAY_SOURCE,
    RELAY_SOURCE_KEY,
    RELAY_TARGET,
    TRAFFIC_CLASS,
    UPLINK,
    WORKLOAD,
    ClassRule,
    Delivery,
    Direction,
    Verdict,
    read_node,
)

ANYONE = {0: "any", 1: "world"}


def show_key(name: str, key: object) -> str:
    """The key of an entry in the map or table `name`."""
    return _KEYS[name](key) if isinstance(key, bytes) else str(key)


def show_value(name: str, value: object) -> str:
    """The value of an entry in the map or table `name`."""
    return _VALUES[name](value) if isinstance(value, bytes) else str(value)


def _number(value: bytes) -> str:
    return str(NUMBER.unpack(value)[0])


def _node_key(key: bytes) -> str:
    return f"place {FIRST_NODE + NUMBER.unpack(key)[0]}"


def _node(value: bytes) -> str:
    return ", ".join(f"ifindex {index} mtu {mtu}" for index, mtu in read_node(value)) or "no path"


def _plain_end(value: bytes) -> str:
    remote, local, vni, mark = PLAIN_END.unpack(value)
    return f"from {format_address(local)} to {format_address(remote)} vni {vni:#x} mark {mark:#x}"


def _relay_source_key(key: bytes) -> str:
    address, port = RELAY_SOURCE_KEY.unpack(key)
    return f"{format_address(address)} port {int.from_bytes(port, 'big')}"


def _relay_end(key: bytes) -> str:
    number, local, remote, generation = RELAY_END.unpack(key)
    return f"place {FIRST_NODE + number} slots {local} {remote} generation {generation}"


def _relay_source(value: bytes) -> str:
    *_, ifindex, own = RELAY_SOURCE.unpack(value)
    return f"{_relay_end(value[: RELAY_END.size])} by ifindex {ifindex} to {format_address(own)}"


def _relay_target(value: bytes) -> str:
    address, source, ifindex, mark, port = RELAY_TARGET.unpack(value)
    to = f"{format_address(address)} port {int.from_bytes(port, 'big')}"
    return f"from {format_address(source)} to {to} by ifindex {ifindex} mark {mark:#x}"


def _probe(value: bytes) -> str:
    source, destination = map(format_address, PROBE_ENDS.unpack(value))
    return f"from {source} to {destination}"


def _address_key(key: bytes) -> str:
    return format_prefix(Prefix(*ADDRESS_KEY.unpack(key)))


def _address(value: bytes) -> str:
    return "identity {} place {}".format(*ADDRESS_VALUE.unpack(value))


def _workload(value: bytes) -> str:
    ifindex, identity, mtu, delivery, number, mac, rules = WORKLOAD.unpack(value)
    way = Delivery(delivery).name.lower()
    shown = f"ifindex {ifindex} identity {identity} mtu {mtu} {way} {mac.hex(':')}"
    words = [str(one.name).lower().replace("_", " ") for one in ClassRule(rules)]
    return shown + (f" class {number}" if number else "") + "".join(f", {word}" for word in words)


def _class_rule_key(key: bytes) -> str:
    bits, place, dscp, protocol, port = CLASS_RULE_KEY.unpack(key)
    about = "" if dscp == ANY_DSCP else f"dscp {dscp} "
    return f"place {place} {about}{_ports(bits - CLASS_FIXED_BITS, protocol, int.from_bytes(port, 'big'))}"


def _class(value: bytes) -> str:
    guaranteed, most, priority, dscp, _ = TRAFFIC_CLASS.unpack(value)
    rates = ("guaranteed", guaranteed), ("most", most)
    shown = [f"{word} {one} ps a byte" for word, one in rates if one]
    return ", ".join([f"priority {priority} dscp {dscp}", *shown])


def _policy_key(key: bytes) -> str:
    bits, subject, peer, direction, protocol, port = POLICY_KEY.unpack(key)
    what = _ports(bits - POLICY_FIXED_BITS, protocol, int.from_bytes(port, "big"))
    return f"subject {subject} peer {ANYONE.get(peer, peer)} {_direction(direction)} {what}"


def _direction(number: int) -> str:
    audit = "audit " if number & AUDITING else ""
    return audit + Direction(number & ~AUDITING).name.lower()


def _ports(bits: int, protocol: int, port: int) -> str:
    if not bits:
        return "anything"
    last = port | MAX_PORT >> bits - PROTOCOL_BITS
    return format_ports(Ports(protocol, port, last))


def _policy(value: bytes) -> str:
    precedence, verdict, audited = POLICY_VALUE.unpack(value)
    return f"{Verdict(verdict).name.lower()} at {precedence}{', audited' if audited else ''}"


def _fabric(value: bytes) -> str:
    used, place = FABRIC_HEAD.unpack_from(value)
    behind = FABRIC_HEAD.size + MAX_PREFIXES * FABRIC_PREFIX.size
    (exposed,) = FABRIC_COUNT.unpack_from(value, behind)
    shown = f"self {place} prefixes {_prefixes(value[FABRIC_HEAD.size : behind], used)}"
    return f"{shown} exposed {_prefixes(value[behind + FABRIC_COUNT.size :], exposed)}" if exposed else shown


def _prefixes(packed: bytes, used: int) -> str:
    prefixes = FABRIC_PREFIX.iter_unpack(packed)
    return " ".join(_masked(*prefix) for _, prefix in zip(range(used), prefixes, strict=False))


def _uplink(value: bytes) -> str:
    ifindex, ps_per_byte, lead, *addresses = UPLINK.unpack(value)
    pace = [f"{ps_per_byte} ps a byte by the clocks of slot {lead}"] if ps_per_byte else []
    known = (format_address(address) for address in addresses if any(address))
    return " ".join([f"ifindex {ifindex}", *known, *pace])


def _masked(address: bytes, mask: bytes) -> str:
    return format_prefix(Prefix(int.from_bytes(mask, "big").bit_count(), address))


_KEYS: dict[str, Callable[[bytes], str]] = {
    "fabric": _number,
    "uplinks": lambda key: f"slot {_number(key)}",
    "plain_ends": lambda key: "ifindex {} place {}".format(*PLAIN_KEY.unpack(key)),
    "relay_ends": _relay_end,
    "relay_sources": _relay_source_key,
    "nodes": _node_key,
    "probes": _node_key,
    "loop": _number,
    "classes": lambda key: f"class {_number(key)}",
    "class_rules": _class_rule_key,
    "workloads": lambda key: f"place {_number(key)}",
    "devices": lambda key: f"ifindex {_number(key)}",
    "policy": _policy_key,
    "addresses": _address_key,
}
_VALUES: dict[str, Callable[[bytes], str]] = {
    "fabric": _fabric,
    "uplinks": _uplink,
    "plain_ends": _plain_end,
    "relay_ends": _relay_target,
    "relay_sources": _relay_source,
    "nodes": _node,
    "probes": _probe,
    "loop": lambda value: "out ifindex {} in ifindex {}".format(*LOOP.unpack(value)),
    "classes": _class,
    "class_rules": lambda value: f"class {_number(value)}",
    "workloads": _workload,
    "devices": lambda value: f"place {_number(value)}",
    "policy": _policy,
    "addresses": _address,
    "records": bytes.decode,
}
