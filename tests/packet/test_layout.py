"""User space packs the bytes that the datapath's structs have: held against the compiled objects' BTF."""

import json
import re
import subprocess
from math import prod
from pathlib import Path
from typing import Any

import pytest

from meshfabric.model import qos, tables
from meshfabric.model.addresses import parse_network, prefix_of
from meshfabric.model.tables import ClassRule, Delivery, Direction, Fault, Reason, Verdict
from meshfabric.observe import flows
from meshfabric.probe import packet

OBJECT = Path(__file__).parents[2] / "build" / "bpf" / "layout.bpf.o"
LIFE = Path(__file__).parents[2] / "bpf" / "lib" / "life.h"
PREFIX = prefix_of(parse_network("10.64.0.0/16"))
MAC = "02:00:00:00:00:07"


@pytest.fixture(scope="module")
def btf() -> dict[str, dict[str, Any]]:
    """Named types of the layout object by name; the first of each."""
    done = subprocess.run(["bpftool", "btf", "dump", "file", OBJECT, "-j"], capture_output=True, check=True)
    named: dict[str, dict[str, Any]] = {}
    for one in json.loads(done.stdout)["types"]:
        named.setdefault(one["name"], one)
    return named


def field(btf: dict[str, dict[str, Any]], struct: str, name: str, packed: bytes, size: int) -> int:
    """One member of packed bytes, read as a number in native order."""
    member = next(one for one in btf[struct]["members"] if one["name"] == name)
    at = member["bits_offset"] // 8
    return int.from_bytes(packed[at : at + size], "little")


PACKED = {
    "address_key": (tables.address_key(PREFIX), {"prefixlen": (112, 4)}),
    "address_value": (tables.address_value(5, 6), {"identity": (5, 4), "place": (6, 4)}),
    "workload": (
        tables.workload_value(1, 2, 1380, Delivery.EGRESS, MAC, 9, 5),
        {
            "ifindex": (1, 4),
            "identity": (2, 4),
            "mtu": (1380, 2),
            "delivery": (2, 1),
            "class": (9, 1),
            "class_rules": (5, 1),
            "mac": (0x07 << 40 | 2, 6),
        },
    ),
    "class_rule_key": (
        tables.class_rule_key(7, 46, 6, 443, 16),
        {
            "prefixlen": (64, 4),
            "place": (7, 4),
            "dscp": (46, 1),
            "protocol": (6, 1),
            "port": (int.from_bytes((443).to_bytes(2, "big"), "little"), 2),
        },
    ),
    "traffic_class": (
        tables.class_value(5, 46, 20_000_000, 80_000_000),
        {
            "guaranteed": (400_000, 4),
            "most": (100_000, 4),
            "priority": (5, 1),
            "dscp": (46, 1),
            "known": (1, 1),
        },
    ),
    "node": (
        tables.node_value([(8, 1380), (9, 1300)], [7, 3], [6, 7] * (tables.SHARES // 2)),
        {
            "order": (0x65421037, 4),
            "shared": (192, 4),
            "share": (7 << 8 | 6, 2),
            "mtu": (1300 << 16 | 1380, 4),
            "ifindex": (9 << 32 | 8, 8),
        },
    ),
    "plain_key": (tables.plain_key(7, 4097), {"ifindex": (7, 4), "place": (4097, 4)}),
    "plain_end": (
        tables.plain_value(bytes(range(16)), bytes(range(16, 32)), 0x6D6601, 3),
        {
            "remote": (int.from_bytes(bytes(range(16)), "little"), 16),
            "local": (int.from_bytes(bytes(range(16, 32)), "little"), 16),
            "vni": (0x6D6601, 4),
            "mark": (3, 4),
        },
    ),
    "relay_end": (
        tables.RelayEnd(9, 1, 2, 1).key(),
        {"number": (9, 4), "local": (1, 1), "remote": (2, 1), "generation": (1, 1)},
    ),
    "relay_source_key": (
        tables.relay_source_key(bytes(range(16)), 0x0102),
        {"addr": (int.from_bytes(bytes(range(16)), "little"), 16), "port": (0x0201, 2)},
    ),
    "relay_source": (
        tables.relay_source_value(tables.RelayEnd(9, 1, 2, 1), 7, bytes(range(16))),
        {
            "end": (1 << 48 | 2 << 40 | 1 << 32 | 9, 8),
            "ifindex": (7, 4),
            "own": (int.from_bytes(bytes(range(16)), "little"), 16),
        },
    ),
    "relay_target": (
        tables.relay_end_value(bytes(range(16)), bytes(range(16, 32)), 0x0102, 7, 3),
        {
            "addr": (int.from_bytes(bytes(range(16)), "little"), 16),
            "source": (int.from_bytes(bytes(range(16, 32)), "little"), 16),
            "ifindex": (7, 4),
            "mark": (3, 4),
            "port": (0x0201, 2),
        },
    ),
    "policy_key": (
        tables.policy_key(1, 2, Direction.INGRESS, 6, 443, 16),
        {
            "prefixlen": (96, 4),
            "subject": (1, 4),
            "peer": (2, 4),
            "direction": (1, 1),
            "protocol": (6, 1),
            "port": (int.from_bytes((443).to_bytes(2, "big"), "little"), 2),
        },
    ),
    "policy_value": (
        tables.policy_value(1000, Verdict.ALLOW, True),
        {"precedence": (1000, 4), "verdict": (1, 1), "audited": (1, 1)},
    ),
    "fabric": (tables.fabric_value(3, [PREFIX]), {"n_prefixes": (1, 4), "self": (3, 4)}),
    "uplink": (
        tables.uplink_value(7, [bytes(range(16))], 100_000_000, 2),
        {"ifindex": (7, 4), "ps_per_byte": (80_000, 4), "lead": (2, 4)},
    ),
}


@pytest.mark.parametrize("struct", PACKED)
def test_packed_bytes_have_the_struct_of_the_datapath(btf: dict[str, dict[str, Any]], struct: str) -> None:
    packed, fields = PACKED[struct]
    assert len(packed) == btf[struct]["size"]
    for name, (value, size) in fields.items():
        assert field(btf, struct, name, packed, size) == value, name


def test_a_fabric_prefix_is_where_the_datapath_looks(btf: dict[str, dict[str, Any]]) -> None:
    packed = tables.fabric_value(3, [PREFIX])
    at = next(one for one in btf["fabric"]["members"] if one["name"] == "prefix")["bits_offset"] // 8
    body = packed[at : at + btf["prefix"]["size"]]
    assert body[:16] == PREFIX.address
    assert body[16:] == b"\xff" * 14 + b"\0\0"


def test_path_state_is_read_by_name(btf: dict[str, dict[str, Any]]) -> None:
    size = btf["path"]["size"]
    assert size == tables.PATH.size
    packed = bytearray(size)
    for number, name in enumerate(tables.PathState._fields, start=1):
        member = next(one for one in btf["path"]["members"] if one["name"] == name)
        packed[member["bits_offset"] // 8] = number
    assert tables.read_path(bytes(packed)) == tuple(range(1, len(tables.PathState._fields) + 1))


def test_an_audit_is_read_by_name(btf: dict[str, dict[str, Any]]) -> None:
    size = btf["audit"]["size"]
    assert size == tables.AUDIT.size
    packed, told = bytearray(size), {"addr": 7, "identity": 5, "port": 0, "protocol": 6, "direction": 1}
    for name, value in told.items():
        member = next(one for one in btf["audit"]["members"] if one["name"] == name)
        packed[member["bits_offset"] // 8] = value
    first = bytes([7]).ljust(16, b"\0")
    assert tables.read_audit(bytes(packed)) == (first, bytes(16), 5, 0, 6, 0, Direction.INGRESS)


def test_a_turn_is_read_by_name(btf: dict[str, dict[str, Any]]) -> None:
    size = btf["turn"]["size"]
    assert size == tables.TURN.size
    packed, told = bytearray(size), {"at_ns": 7, "heard_ns": 5, "place": 3, "ifindex": 2, "grade": 4}
    for name, value in told.items():
        member = next(one for one in btf["turn"]["members"] if one["name"] == name)
        packed[member["bits_offset"] // 8] = value
    assert tables.read_turn(bytes(packed)) == (7, 5, 3, 2, tables.Fault.HELD)


def spread(btf: dict[str, dict[str, Any]], struct: str, **values: bytes) -> bytes:
    """A struct with these bytes in these members."""
    packed = bytearray(btf[struct]["size"])
    for name, value in values.items():
        at = next(one for one in btf[struct]["members"] if one["name"] == name)["bits_offset"] // 8
        packed[at : at + len(value)] = value
    return bytes(packed)


def test_what_became_of_a_class_is_read_by_name(btf: dict[str, dict[str, Any]]) -> None:
    said = {"packets": 1, "bytes": 2, "marked": 3, "dropped": 4, "delay_ns": 5}
    packed = spread(btf, "class_counter", **{name: bytes([one]) for name, one in said.items()})
    assert len(packed) == tables.CLASS_COUNTER.size
    assert tables.read_class_counter([packed, packed]) == (2, 4, 6, 8, 10)


@pytest.mark.parametrize("swapped", [0, 1])
def test_a_flow_is_read_by_name_from_the_end_that_spoke_first(
    btf: dict[str, dict[str, Any]], swapped: int
) -> None:
    low, high = bytes(15) + b"\1", bytes(15) + b"\2"
    ports = (1000).to_bytes(2, "big") + (443).to_bytes(2, "big")
    key = spread(btf, "flow_key", addr=low + high, port=ports, protocol=b"\6")
    flags = {"swapped": bytes([swapped]), "replied": b"\1", "closing": b"\0"}
    value = spread(btf, "flow", seen_ns=(7).to_bytes(8, "little"), **flags)
    assert (len(key), len(value)) == (tables.FLOW_KEY.size, tables.FLOW.size)
    ends = ((high, low), (443, 1000)) if swapped else ((low, high), (1000, 443))
    assert tables.read_flow(key, value) == (6, *ends, 7, True, False)
    closing = spread(btf, "flow", closing=b"\1", service_class=b"\1", generation=b"\1" * 8)
    assert tables.read_flow(key, closing)[3:] == (0, False, True)


def test_flows_live_as_long_as_the_datapath_says() -> None:
    said = dict(re.findall(r"\t(\w+_S) = ([0-9* ]+),", LIFE.read_text()))
    lifetimes = {name: prod(map(int, product.split("*"))) for name, product in said.items()}
    kept = {name: getattr(flows, name) for name in lifetimes if name != "SEEN_STEP_S"}
    assert kept == {name: seconds for name, seconds in lifetimes.items() if name in kept}
    assert len(kept) == 5


def test_counters_are_summed_over_cpus(btf: dict[str, dict[str, Any]]) -> None:
    assert btf["counter"]["size"] == tables.COUNTER.size
    assert tables.read_counter([tables.COUNTER.pack(1, 10), tables.COUNTER.pack(2, 20)]) == (3, 30)


def constants(btf: dict[str, dict[str, Any]], enum: str) -> dict[str, int]:
    """The names and values of an enum."""
    return {one["name"]: one["val"] for one in btf[enum]["values"]}


def test_reasons_have_the_same_names_and_numbers(btf: dict[str, dict[str, Any]]) -> None:
    reasons = constants(btf, "reason")
    assert reasons.pop("REASONS") > max(Reason)
    assert reasons.pop("FIRST_DROP") == tables.FIRST_DROP
    assert reasons == {reason.name: reason.value for reason in Reason}


def test_enums_have_the_same_numbers(btf: dict[str, dict[str, Any]]) -> None:
    assert constants(btf, "delivery") == {f"DELIVER_{one.name}": one.value for one in Delivery}
    assert constants(btf, "class_rule") == {one.name: one.value for one in ClassRule}
    assert constants(btf, "class_number") == {
        f"{name.upper()}_CLASS": qos.NUMBERS[name] for name in (qos.DEFAULT, qos.CONTROL)
    }
    assert constants(btf, "any_dscp") == {"ANY_DSCP": tables.ANY_DSCP}
    assert constants(btf, "fault") == {one.name: one.value for one in Fault}
    assert constants(btf, "direction") == {one.name: one.value for one in Direction}
    assert constants(btf, "direction_flag") == {"AUDIT": tables.AUDITING}
    assert constants(btf, "grade") == {one.name: one.value for one in tables.Grade}
    assert constants(btf, "verdict") == {one.name: one.value for one in Verdict}
    assert constants(btf, "order_bits") == {"BITS_OF_A_RANK": tables.BITS_OF_A_RANK}
    sizes = constants(btf, "sizes")
    for name in ("FIRST_NODE", "PLACES", "WORLD", "MAX_PATHS", "SHARES", "MAX_PREFIXES", "MAX_EXPOSED"):
        assert sizes[name] == getattr(tables, name)
    for name in ("MAX_SLOTS", "CLASSES", "PRIORITIES"):
        assert sizes[name] == getattr(tables, name)
    assert (sizes["CLASSES"], sizes["PRIORITIES"]) == (qos.LAST_NUMBER + 1, qos.LAST_PRIORITY + 1)
    ports = constants(btf, "probe_port")
    assert (ports["STAMP_PORT"], ports["PROBE_PORT"]) == (packet.STAMP_PORT, packet.PROBE_PORT)
