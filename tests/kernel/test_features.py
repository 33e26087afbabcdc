"""What is probed agrees with what this machine does, quickly and without a trace."""

import os
import time
from pathlib import Path

import pytest

from meshfabric.kernel import features, links
from meshfabric.kernel.features import Feature
from meshfabric.model.errors import MeshfabricError, PermanentError, UnsupportedError

LIMIT_S = 0.3
NAMES = {
    "capabilities", "bpf", "libbpf", "btf", "tcx", "redirect_peer", "batch", "memlock", "bpffs", "ipv6",
    "wireguard", "wireguard-go", "tun", "wg", "netkit", "fq", "netem",
}  # fmt: skip


def test_everything_is_told_with_what_was_seen() -> None:
    found = features.probe()
    assert {feature.name for feature in found} == NAMES
    assert len(found) == len(NAMES)
    assert all(feature.detail and "\n" not in feature.detail for feature in found)


def test_the_answers_agree_with_using_the_thing() -> None:
    found = {feature.name: feature.present for feature in features.probe()}
    for kind in ("wireguard", "netkit"):
        try:
            made = links.ensure_device("trial", kind)
            links.delete("trial")
        except MeshfabricError:
            made = False
        assert found[kind] is made
    assert found["tcx"] is features.tcx().present
    assert found["capabilities"]


def test_it_is_quick_and_leaves_nothing_behind() -> None:
    features.probe()  # loads libraries
    devices = links.observe()
    mounts = Path("/proc/self/mountinfo").read_text()
    times = []
    for _ in range(5):
        started = time.monotonic()
        features.probe()
        times.append(time.monotonic() - started)
    assert min(times) < LIMIT_S
    assert links.observe() == devices
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_the_configured_wireguard_go_counts(tmp_path: Path) -> None:
    absent = tmp_path / "wireguard-go"
    found = {feature.name: feature for feature in features.probe(absent)}
    assert not found["wireguard-go"].present
    assert found["wireguard-go"].needed is not found["wireguard"].present


def test_what_is_needed_is_demanded_in_one_line() -> None:
    lacking = [
        Feature("tcx", False, "refused", True, "6.6"),
        Feature("fq", False, "refused", False, "3.12"),
        Feature("wg", False, "not there", True),
    ]
    with pytest.raises(UnsupportedError) as refused:
        features.require(lacking)
    said = str(refused.value)
    assert said.startswith("this machine lacks tcx (Linux 6.6 or newer): refused; wg: not there (")
    features.require([Feature("fq", False, "refused", False), Feature("bpf", True, "runs", True)])


def test_without_root_only_that_is_told() -> None:
    os.setresuid(65534, 65534, 65534)
    (only,) = features.probe()
    assert (only.name, only.present, only.needed) == ("capabilities", False, True)
    assert "Operation not permitted" in only.detail
    with pytest.raises(PermanentError, match="run as root"):
        features.tcx()
