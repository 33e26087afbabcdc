"""Drawings of labs, as they were when somebody last looked at them.

After a change that is meant: `MESHFABRIC_GOLDEN=write pytest tests/golden/test_render.py`,
then look at the files (a browser shows the SVG) before they are committed.
"""

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from meshfabric.lab import render, svg
from meshfabric.lab.records import Topology
from meshfabric.lab.topology import default_text, read

HERE = Path(__file__).parent
WRITE = os.environ.get("MESHFABRIC_GOLDEN") == "write"

WIDE = """\
fabric: wide
prefixes: [fd6d:6600::/48, 10.1.0.0/16]
segments:
  - {name: storage-net, ipv6: "fd00:1::/64", mtu: 9000}
  - {name: wan, ipv4: 172.20.0.0/24, delay_ms: 40, jitter_ms: 5, loss_percent: 0.5, rate_mbit: 50}
  - {name: lte, ipv4: 172.21.0.0/24, ipv6: "fd00:3::/64", mtu: 1420}
nodes:
  - name: edge
    uplinks:
      - {name: u0, segment: wan}
      - {name: u1, segment: wan}
      - {name: u2, segment: lte}
      - {name: u3, segment: lte}
      - {name: u4, segment: wan}
      - {name: u5, segment: storage-net}
      - {name: u6, segment: wan}
      - {name: u7, segment: lte}
  - name: a-node-with-a-long-name-for-once
    kind: vm
    labels: {region: europe-west-somewhere-far-away, zone: z}
    uplinks: [{name: eth0, segment: lte}]
  - {name: c, kind: kubernetes, uplinks: [{name: eth0, segment: lte}]}
  - {name: d, kind: kubernetes, uplinks: [{name: a-long-ifname, segment: lte}]}
  - {name: e, kind: kubernetes, uplinks: [{name: eth0, segment: storage-net}]}
workloads:
  - {name: a-pod-with-a-long-name-as-they-have, node: c, labels: {app: "1"}}
  - {name: bare, node: e, kind: vm}
"""
LABS = {
    "default": (default_text(), []),
    "cut": (default_text(), [("kube1", "up0"), ("vm1", "up1")]),
    "wide": (WIDE, [("c", "eth0")]),
}


def golden(name: str, drawn: str) -> None:
    path = HERE / name
    if WRITE:
        path.write_text(drawn, "utf-8")
    assert drawn == path.read_text("utf-8")


def described(lab: str) -> tuple[Topology, list[tuple[str, str]]]:
    text, cuts = LABS[lab]
    return read(text, f"{lab}.yaml"), cuts


@pytest.mark.parametrize("lab", LABS)
def test_text(lab: str) -> None:
    topology, cuts = described(lab)
    golden(f"{lab}.txt", render.text(topology, cuts=cuts))


@pytest.mark.parametrize("lab", LABS)
def test_svg(lab: str) -> None:
    topology, cuts = described(lab)
    golden(f"{lab}.svg", svg.svg(topology, cuts))


@pytest.mark.parametrize("lab", LABS)
def test_svg_is_xml_and_names_everything(lab: str) -> None:
    topology, cuts = described(lab)
    root = ElementTree.fromstring(svg.svg(topology, cuts))
    words = " ".join(text for text in root.itertext() if text.strip())
    for segment in topology.segments:
        assert f"{segment.name}  ·  " in words
    for node in topology.nodes:
        assert node.name[:10] in words
        assert all(block in words for block in node.blocks)
    for workload in topology.workloads:
        assert workload.name[:10] in words


@pytest.mark.parametrize("width", [40, 60, 90, 200])
def test_text_keeps_to_its_width_where_a_box_does(width: int) -> None:
    topology, _ = described("wide")
    lines = render.text(topology, width).splitlines()
    widest_box = max(len(line) for line in render.text(topology, 1).splitlines())
    assert max(map(len, lines)) <= max(width, widest_box)


def test_names_cannot_break_out_of_the_svg() -> None:
    topology, _ = described("default")
    assert "<script>" not in svg.svg(Topology(topology.segments, topology.nodes, fabric="<script>"))
