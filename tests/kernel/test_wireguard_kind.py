"""An operator's word on what runs the tunnels: kernel, userspace, or whatever is there."""

from dataclasses import replace
from pathlib import Path

import pytest

from meshfabric.kernel import features, links, tool, wireguard, wireguard_go
from meshfabric.kernel.features import Feature
from meshfabric.kernel.wireguard import Backend
from meshfabric.model.errors import UnsupportedError
from meshfabric.model.settings import WireGuardKind
from tests.features import requires

NAME, PORT, MARK, MTU = "mfwg00", 51820, 0x4D460000, 1380
AUTO, KERNEL, USERSPACE = WireGuardKind.AUTO, WireGuardKind.KERNEL, WireGuardKind.USERSPACE


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """Something that can be run; nobody does."""
    path = tmp_path / "wireguard-go"
    path.touch(0o755)
    return path


@pytest.fixture
def userspace(wireguard_go: Path | None) -> Backend:
    """wireguard-go, not an operator's choice."""
    return Backend("userspace", tool.find("wireguard-go", wireguard_go, tool.WIREGUARD_GO_ENV))


def module(monkeypatch: pytest.MonkeyPatch, *, present: bool) -> None:
    """Let the probe find the kernel's WireGuard, or not."""
    found = Feature("wireguard", present, "tried", False, "5.6")
    monkeypatch.setattr(features, "wireguard_module", lambda: found)


def kept_key(tmp_path: Path) -> Path:
    return tmp_path / f"{NAME}.key"


def ensure(backend: Backend, tmp_path: Path) -> bool:
    return wireguard.ensure_device(backend, NAME, kept_key(tmp_path), PORT, MARK, MTU)


def kind_of(name: str) -> str:
    found = links.find(name)
    return found.kind if found else ""


def test_auto_takes_the_kernel_where_it_can_and_keeps_what_works(
    binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(monkeypatch, present=True)
    assert wireguard.choose_backend(binary, AUTO) == Backend("kernel")
    module(monkeypatch, present=False)
    assert wireguard.choose_backend(binary, AUTO) == Backend("userspace", binary)


def test_userspace_is_taken_though_the_kernel_could(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, present=True)
    assert wireguard.choose_backend(binary, USERSPACE) == Backend("userspace", binary, strict=True)
    with pytest.raises(UnsupportedError, match="install the package wireguard-go"):
        wireguard.choose_backend(binary.with_name("absent") / "wireguard-go", USERSPACE)


def test_a_kernel_that_was_asked_for_and_cannot_is_told_in_one_line(
    binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(monkeypatch, present=True)
    assert wireguard.choose_backend(binary, KERNEL) == Backend("kernel", strict=True)
    module(monkeypatch, present=False)
    with pytest.raises(UnsupportedError) as refused:
        wireguard.choose_backend(binary, KERNEL)
    assert str(refused.value) == (
        "wireguard: kernel: this kernel makes no WireGuard devices"
        " (load the module wireguard (modprobe wireguard), or set wireguard: auto)"
    )


@requires("wireguard-go", "tun")
def test_a_device_of_wireguard_go_goes_when_the_kernel_was_chosen(userspace: Backend, tmp_path: Path) -> None:
    ensure(userspace, tmp_path)
    key = kept_key(tmp_path).read_text()
    assert not wireguard.drop_other(Backend("kernel"), NAME)
    assert not wireguard.drop_other(userspace, NAME)
    assert wireguard_go.process(NAME)
    assert wireguard.drop_other(Backend("kernel", strict=True), NAME)
    assert (kind_of(NAME), wireguard_go.process(NAME)) == ("", 0)
    assert kept_key(tmp_path).read_text() == key
    assert not wireguard.drop_other(Backend("kernel", strict=True), NAME)


@requires("wireguard", "wireguard-go", "tun")
def test_a_device_is_made_anew_by_the_other_kind_with_its_key(userspace: Backend, tmp_path: Path) -> None:
    kernel, chosen = Backend("kernel", strict=True), replace(userspace, strict=True)
    keys = set()
    for backend, kind in ((kernel, "wireguard"), (chosen, "tun"), (kernel, "wireguard")):
        wireguard.drop_other(backend, NAME)
        assert ensure(backend, tmp_path)
        assert not wireguard.drop_other(backend, NAME)
        assert kind_of(NAME) == kind
        keys.add(wireguard.observe_device(NAME).public_key)
    assert len(keys) == 1
    assert wireguard_go.process(NAME) == 0
