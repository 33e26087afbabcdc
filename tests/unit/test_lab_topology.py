"""A lab's description: what is filled in, and the one line that is said when it is wrong."""

import pytest

from meshfabric.lab.records import Topology
from meshfabric.lab.topology import default_text, read
from meshfabric.model.errors import InputError
from meshfabric.model.node import NodeKind

GOOD = """\
segments:
  - {name: red, ipv4: 172.31.1.0/24}
  - {name: blue, ipv6: "fd00:b1::/64", mtu: 9000}
nodes:
  - name: a
    kind: vm
    uplinks:
      - {name: up0, segment: red}
      - {name: up1, segment: blue, mtu: 1500}
  - name: b
    blocks: [10.64.1.0/25]
    uplinks: [{name: eth0, segment: blue}]
workloads:
  - {name: web, node: a}
  - {name: guest, node: b, kind: vm, labels: {app: x}}
"""


def lab(text: str) -> Topology:
    return read(text, "lab.yaml")


def error(text: str) -> str:
    with pytest.raises(InputError) as caught:
        lab(text)
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def test_the_built_in_lab_is_what_the_documentation_says() -> None:
    built_in = lab(default_text())
    assert [(node.name, node.kind, len(node.uplinks)) for node in built_in.nodes] == [
        ("vm1", NodeKind.VM, 2),
        ("metal1", NodeKind.METAL, 2),
        ("kube1", NodeKind.KUBERNETES, 2),
        ("kube2", NodeKind.KUBERNETES, 2),
    ]
    assert built_in.nodes[2].blocks == ("10.64.3.0/24", "fd6d:6600:0:3::/64")
    assert {segment.name for segment in built_in.segments} == {"red", "blue"}
    assert all(segment.ipv4 and segment.ipv6 for segment in built_in.segments)
    assert {f"{workload.node}/{workload.name}" for workload in built_in.workloads} == {
        "vm1/guest1",
        "kube1/web",
        "kube1/client",
        "kube2/db",
        "kube2/cache",
    }


def test_what_is_left_out_is_filled_in() -> None:
    a, b = lab(GOOD).nodes
    assert a.kind is NodeKind.VM
    assert b.kind is NodeKind.METAL
    assert [uplink.mtu for uplink in a.uplinks] == [1500, 1500]
    assert b.uplinks[0].mtu == 9000
    assert b.blocks == ("10.64.1.0/25",)
    assert a.blocks == ("10.64.2.0/24", "fd6d:6600:0:1::/64")


def test_blocks_are_cut_in_the_order_of_nodes() -> None:
    bare = lab(changed("    blocks: [10.64.1.0/25]\n", ""))
    assert [node.blocks for node in bare.nodes] == [
        ("10.64.1.0/24", "fd6d:6600:0:1::/64"),
        ("10.64.2.0/24", "fd6d:6600:0:2::/64"),
    ]


def test_ports_have_an_address_of_each_family_of_their_segment() -> None:
    described = lab(GOOD)
    (port,) = described.ports("red")
    assert (port.node, port.slot, [str(each) for each in port.addresses]) == ("a", 0, ["172.31.1.11/24"])
    blue = [(port.node, port.slot, *map(str, port.addresses)) for port in described.ports("blue")]
    assert blue == [("a", 1, "fd00:b1::11/64"), ("b", 0, "fd00:b1::12/64")]
    assert [str(each) for each in described.own_addresses("blue")] == ["fd00:b1::1/64"]


def test_segments_are_good_unless_they_say_otherwise() -> None:
    text = changed("mtu: 9000", "delay_ms: 10, jitter_ms: 2.5, loss_percent: 0.5, rate_mbit: 100")
    assert [str(each.impairment) for each in lab(text).segments] == [
        "",
        "10 ms ± 2.5 ms, 0.5% lost, 100 Mbit/s",
    ]


def test_the_same_text_makes_the_same_lab() -> None:
    assert lab(GOOD) == lab(GOOD)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: vm\n", "kind: vmm\n", "6: nodes[0].kind: unknown kind 'vmm' (did you mean 'vm'?)"),
        ("    blocks:", "    blcks:", "11: nodes[1].blcks: unknown key (did you mean 'blocks'?)"),
        ("up0, segment: red}", "up0, segment: rd}", "8: unknown segment 'rd' (did you mean 'red'?)"),
        ("web, node: a}", "web, node: c}", "14: unknown node 'c' (one of a, b)"),
        ("name: b\n", "name: a\n", "10: a second node 'a' (first at lab.yaml:5)"),
        ("name: up1", "name: up0", "9: a second uplink 'up0' (first at lab.yaml:8)"),
        ("name: blue, ", "name: red, ", "3: a second segment 'red' (first at lab.yaml:2)"),
        ("name: guest", "name: web", "15: a second workload 'web' (first at lab.yaml:14)"),
        (
            "172.31.1.0/24",
            "172.31.1.1/24",
            "2: '172.31.1.1/24' is no prefix: 172.31.1.1/24 has host bits set (write 10.0.0.0/24)",
        ),
        ("172.31.1.0/24", "red", "2: 'red' is no prefix: "),
        ("ipv4: 172.31.1.0/24", 'ipv4: "fd00::/64"', "2: fd00::/64 is no ipv4 subnet (use the key"),
        ("ipv4: 172.31.1.0/24", "mtu: 1500", "2: segment red has no subnet (give ipv4 or ipv6)"),
        (
            "172.31.1.0/24",
            "10.64.7.0/24",
            "2: 10.64.7.0/24 overlaps 10.64.0.0/16 (that one is at lab.yaml:1)",
        ),
        ("172.31.1.0/24", "172.31.1.0/31", "2: 172.31.1.0/31 is too small for etcd and 1 ports"),
        ("10.64.1.0/25", "10.65.1.0/25", "11: block 10.65.1.0/25 is outside the fabric's prefixes"),
        (
            "[10.64.1.0/25]",
            "[10.64.1.0/25, 10.64.1.64/26]",
            "11: 10.64.1.64/26 overlaps 10.64.1.0/25 (that one is at lab.yaml:11)",
        ),
        ("mtu: 9000", "delay_ms: -1", "3: delay_ms is -1 (0 to 10000 are possible)"),
        ("mtu: 9000", "delay_ms: fast", "3: segments[1].delay_ms: expected a number, got 'fast'"),
        ("mtu: 9000", "delay_ms: 1, jitter_ms: 2", "3: jitter_ms is 2 (at most the delay)"),
        ("mtu: 9000", "loss_percent: 101", "3: loss_percent is 101 (0 to 100 are possible)"),
        ("mtu: 9000", "rate_mbit: 0.001", "3: rate_mbit is 0.001 (0.01 to 10000 are possible)"),
        ("mtu: 9000", "latency_ms: 1", "3: segments[1].latency_ms: unknown key (did you mean 'delay_ms'?)"),
        (
            "segments:\n",
            "impaired_by: cabel\nsegments:\n",
            "1: impaired_by: unknown impaired_by 'cabel'",
        ),
        ("kind: vm\n", "wireguard: ko\n", "6: nodes[0].wireguard: unknown wireguard 'ko' (one of auto, "),
        ("mtu: 9000", "mtu: 1200", "3: an MTU of 1200 bytes (1400 to 65535 are possible here)"),
        ("mtu: 1500", "mtu: 9001", "9: an MTU of 9001 bytes (1400 to 9000 are possible here)"),
        ("{name: eth0", "{name: mfwg00", "12: the uplink's name mfwg00 is taken by the fabric"),
        ("{name: eth0", "{name: lo", "12: the uplink's name lo is taken by the fabric"),
        (
            "{name: eth0",
            "{name: a-very-long-uplink",
            "12: a-very-long-uplink is too long for an interface: 18 characters (shorten it by 3)",
        ),
        (
            "{name: guest",
            "{name: guest-twelve",
            "15: tap-guest-twelve is too long for an interface: 16 characters (shorten it by 1)",
        ),
        ("name: b\n", "name: underlay\n", "10: 'underlay' is no node's name (it names the segments)"),
        ("name: b\n", f"name: {'b' * 33}\n", f"10: the name {'b' * 33} has 33 characters (at most 32)"),
        ("name: b\n", "name: B_1\n", "10: node name 'B_1' is no valid name"),
        (
            "[{name: eth0, segment: blue}]",
            f"[{', '.join(f'{{name: u{i}, segment: blue}}' for i in range(9))}]",
            "12: node b has 9 uplinks (1 to 8 are possible)",
        ),
        ("name: b\n", "name: b\n    through: [a]\n", "11: 'a' is no relay"),
        ("[{name: eth0, segment: blue}]", "[]", "12: node b has 0 uplinks (1 to 8 are possible)"),
        ("app: x", "app: a b", "15: bad label "),
        ("segments:\n", "etcd: {port: 0}\nsegments:\n", "1: port is 0 (1 to 65535 are possible)"),
        ("segments:\n", "fabric: A B\nsegments:\n", "1: the fabric's name 'A B' is no valid name"),
        ("[10.64.1.0/25]", "[10.64.1.0/32]", "11: the first block 10.64.1.0/32 is too small for a node"),
        (
            "segments:\n",
            "prefixes: [fe80::/64, 10.64.0.0/16]\nsegments:\n",
            "1: fe80::/64 cannot be a fabric's prefix (take a private one)",
        ),
        ("segments:\n", "prefixes: []\nsegments:\n", "1: no prefixes (give the fabric one"),
        (
            "segments:\n",
            "prefixes: [10.64.0.0/16, 10.0.0.0/8]\nsegments:\n",
            "1: 10.0.0.0/8 overlaps 10.64.0.0/16 (that one is at lab.yaml:1)",
        ),
    ],
)
def test_a_mistake_is_named_with_line_and_remedy(old: str, new: str, message: str) -> None:
    assert error(changed(old, new)).startswith(f"lab.yaml:{message}")


def test_a_prefix_without_room_for_all_nodes_is_refused() -> None:
    text = changed("segments:\n", "prefixes: [10.64.1.0/24, fd6d:6600::/127]\nsegments:\n")
    assert error(text) == "lab.yaml:1: fd6d:6600::/127 is too small for 2 nodes (widen the prefix)"


def test_asking_for_what_is_not_there_names_the_nearest() -> None:
    described = lab(GOOD)
    with pytest.raises(InputError, match=r"node a has no uplink 'up3' \(did you mean 'up"):
        described.uplink("a", "up3")
    with pytest.raises(InputError, match=r"the lab has no node 'x' \(one of a, b\)"):
        described.node("x")
    with pytest.raises(InputError, match=r"node b has no workload 'web' \(one of guest\)"):
        described.workload("b", "web")
