"""The bytes of the maps, field by field, as bpf/include/types.h has them."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model import tables
from meshfabric.model.addresses import Prefix, parse_address, parse_network, prefix_of
from meshfabric.model.show import show_key, show_value
from meshfabric.model.tables import (
    MAX_PATHS,
    SHARES,
    Delivery,
    Direction,
    PathState,
    Reason,
    Verdict,
    address_key,
    address_value,
    fabric_value,
    node_value,
    number,
    path_value,
    policy_key,
    policy_value,
    read_counter,
    read_node,
    read_path,
    workload_value,
)

u32 = st.integers(0, (1 << 32) - 1)
u16 = st.integers(0, (1 << 16) - 1)


def test_sizes_are_those_of_the_structs() -> None:
    sizes = {
        "ADDRESS_KEY": 4 + 16,
        "ADDRESS_VALUE": 8,
        "WORKLOAD": 24,
        "NODE": 4 + 2 * MAX_PATHS + 4 * MAX_PATHS + 4 + SHARES,
        "PATH": 192,
        "PROBE_ENDS": 32,
        "LOOP": 8,
        "TOKEN": 6 * 8 + 8 * 4,
        "POLICY_KEY": 16,
        "POLICY_VALUE": 8,
        "CLASS_RULE_KEY": 12,
        "TRAFFIC_CLASS": 12,
        "CLASS_COUNTER": 40,
        "COUNTER": 16,
    }
    assert {name: getattr(tables, name).size for name in sizes} == sizes


def test_an_address_key_is_length_then_bytes() -> None:
    key = address_key(prefix_of(parse_network("10.1.0.0/16")))
    assert key == struct.pack("=I", 112) + parse_address("10.1.0.0")
    assert show_key("addresses", key) == "10.1.0.0/16"
    assert address_key(Prefix(128, parse_address("fd00::1")))[4:] == parse_address("fd00::1")


@given(u32, u32)
def test_an_address_value(identity: int, place: int) -> None:
    assert address_value(identity, place) == struct.pack("=II", identity, place)


def test_a_workload_value() -> None:
    value = workload_value(7, 300, 1380, Delivery.PEER, "02:6d:66:01:00:05")
    assert value[:12] == struct.pack("=IIHBB", 7, 300, 1380, 1, 0)
    assert value[12:18] == bytes.fromhex("026d66010005")
    assert value[18:] == bytes(6)
    assert show_value("workloads", value) == "ifindex 7 identity 300 mtu 1380 peer 02:6d:66:01:00:05"


orders = st.lists(st.integers(0, MAX_PATHS - 1), unique=True)


@given(st.lists(st.tuples(u32, u16), max_size=12), orders)
def test_a_node_value_holds_the_paths_by_position(paths: list[tuple[int, int]], order: list[int]) -> None:
    value = node_value(paths, order)
    packed, *found, shared, share = struct.unpack(f"=I{MAX_PATHS}H{MAX_PATHS}II{SHARES}s", value)
    assert (shared, share) == (0, bytes(SHARES))
    mtus, ifindexes = found[:MAX_PATHS], found[MAX_PATHS:]
    whole = order + [position for position in range(MAX_PATHS) if position not in order]
    assert list(zip(ifindexes, mtus, strict=True))[: len(paths)] == paths[:MAX_PATHS]
    assert not any(ifindexes[len(paths) :] + mtus[len(paths) :])
    used = [paths[position] for position in whole if position < len(paths) and paths[position][0]]
    assert f"{packed:08x}"[::-1] == ("".join(map(str, whole)) if used else "0" * MAX_PATHS)
    assert read_node(value) == used


def test_a_node_value_holds_the_shares_of_its_paths() -> None:
    shares = [0, 1] * (SHARES // 2)
    value = node_value([(7, 1380), (9, 1280)], shares=shares)
    assert value[-SHARES - 4] == 0b11
    assert list(value[-SHARES:]) == shares
    assert read_node(value) == [(7, 1380), (9, 1280)]


def test_a_node_is_shown_by_its_paths() -> None:
    paths = [(7, 1380), (0, 0), (9, 1280)]
    assert show_value("nodes", node_value(paths)) == "ifindex 7 mtu 1380, ifindex 9 mtu 1280"
    assert show_value("nodes", node_value(paths, [2])) == "ifindex 9 mtu 1280, ifindex 7 mtu 1380"
    assert show_value("nodes", node_value([])) == "no path"


@given(st.lists(st.sampled_from(["10.0.0.0/8", "192.168.0.0/16", "fd00::/48", "fd01::/64"]), max_size=8))
def test_the_fabric_value_has_room_for_every_prefix(texts: list[str]) -> None:
    value = fabric_value(9, [prefix_of(parse_network(text)) for text in texts])
    assert len(value) == 8 + 8 * 32 + 8 + 8 * 32
    assert struct.unpack_from("=II", value) == (len(texts), 9)
    assert not any(value[8 + 32 * len(texts) :])
    assert show_value("fabric", value) == f"self 9 prefixes {' '.join(texts)}"


@pytest.mark.parametrize(
    ("key", "bits", "text"),
    [
        (policy_key(1, 0, Direction.EGRESS), 72, "subject 1 peer any egress anything"),
        (policy_key(1, 2, Direction.INGRESS, 6, 0, 0), 80, "subject 1 peer 2 ingress tcp"),
        (policy_key(1, 2, Direction.INGRESS, 6, 443, 16), 96, "subject 1 peer 2 ingress tcp/443"),
        (policy_key(1, 2, Direction.EGRESS, 17, 8000, 13), 93, "subject 1 peer 2 egress udp/8000-8007"),
    ],
)
def test_a_policy_key_counts_the_bits_that_matter(key: bytes, bits: int, text: str) -> None:
    assert struct.unpack_from("=I", key) == (bits,)
    assert show_key("policy", key) == text


def test_a_policy_key_has_its_port_in_network_order() -> None:
    assert policy_key(1, 2, Direction.INGRESS, 6, 443, 16)[12:] == bytes([1, 6, 0x01, 0xBB])


def test_a_policy_value() -> None:
    assert policy_value(1000, Verdict.ALLOW, True)[5] == 1
    value = policy_value(1000, Verdict.ALLOW)
    assert value == struct.pack("=IBBBB", 1000, 1, 0, 0, 0)
    assert show_value("policy", value) == "allow at 1000"


def test_what_is_read_comes_back() -> None:
    state = PathState(*range(1, len(PathState._fields) + 1))
    assert read_path(struct.pack("=5Q6I3Q10I4QII24x", *state)) == read_path(path_value(state)) == state
    assert read_counter([struct.pack("=QQ", 1, 100), struct.pack("=QQ", 2, 11)]) == (3, 111)
    assert number(258) == struct.pack("=I", 258)


def test_reasons_are_in_order_and_fit_the_array() -> None:
    assert all(one < other for one, other in pairwise(Reason))
    assert max(Reason) < 35  # REASONS in reason.h
