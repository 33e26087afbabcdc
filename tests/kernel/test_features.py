"""What is probed agrees with what this machine does, quickly and without a trace."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meshfabric.kernel import features, links, pairs
from meshfabric.kernel.features import Feature
from meshfabric.model.errors import MeshfabricError, PermanentError, UnsupportedError
from tests.patience import DEADLINE_S

LIMIT_S = DEADLINE_S / 3  # 0.1 s on an idle machine
NAMES = {
    "capabilities", "bpf", "libbpf", "btf", "tcx", "redirect_peer", "batch", "memlock", "bpffs", "ipv6",
    "wireguard", "wireguard-go", "tun", "wg", "netkit", "nftables", "fq", "delay", "netem", "clsact",
    "attach", "vxlan",
}  # fmt: skip


MAKERS: dict[str, Callable[[], object]] = {
    "wireguard": lambda: links.ensure_device("trial", "wireguard"),
    "netkit": lambda: pairs.add_netkit("trial", "trialx", None, pairs.Mode.L3),
}


def test_everything_is_told_with_what_was_seen() -> None:
    found = features.probe()
    assert {feature.name for feature in found} == NAMES
    assert len(found) == len(NAMES)
    assert all(feature.detail and "\n" not in feature.detail for feature in found)


def test_the_answers_agree_with_using_the_thing() -> None:
    found = {feature.name: feature.present for feature in features.probe()}
    for kind, make in MAKERS.items():
        try:
            make()
            made = links.delete("trial")
        except MeshfabricError:
            made = False
        assert found[kind] is made
    for name, tried in (("tcx", features.tcx), ("clsact", features.clsact), ("netkit", features.netkit)):
        assert found[name] is tried().present
    assert found["attach"] is (found["tcx"] or found["clsact"])
    assert found["capabilities"]


def test_one_trial_is_in_no_others_way() -> None:
    """Two queues, two devices: what the first left would keep the second from being made."""
    found = {feature.name: feature for feature in features.probe()}
    for name in ("fq", "netem", "tun"):
        assert "exists" not in found[name].detail
        assert "Invalid" not in found[name].detail


WAYS = [Feature(name, True, "works", False, "6.6") for name in ("tcx", "clsact", "netkit")]


@pytest.mark.parametrize(
    ("present", "detail"),
    [
        ((True, True, True), "by tcx; new pods get netkit pairs by default"),
        ((True, True, False), "by tcx; new pods get veth pairs by default"),
        ((False, True, False), "by clsact; new pods get veth pairs by default"),
        ((False, False, False), "programs hang neither by tcx (works) nor by clsact (works)"),
    ],
)
def test_one_way_to_attach_is_needed_and_named(present: tuple[bool, ...], detail: str) -> None:
    ways = [replace(way, present=there) for way, there in zip(WAYS, present, strict=True)]
    told = features._to_attach(*ways)
    assert (told.present, told.detail, told.needed) == (any(present), detail, True)
    if not told.present:
        with pytest.raises(UnsupportedError, match=r"lacks attach \(Linux 4\.5 or newer\): "):
            features.require([told, *ways])


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
