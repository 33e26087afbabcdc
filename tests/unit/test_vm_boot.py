"""What brings a VM up, without one: modules in order, the archive, the kernels that are there."""

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from meshfabric.model.errors import PermanentError
from tests.vm import cpio, kernels, modules

NAMES = [f"m{number}" for number in range(8)]
HEADER_BYTES, FIELD_BYTES = 110, 8
MODE, SIZE, NAME_SIZE = 1, 6, 11
"""Numbers of fields in a header behind its magic."""


def dep_line(name: str, needed: list[str]) -> str:
    return f"kernel/{name}.ko.xz:" + "".join(f" kernel/{one}.ko.xz" for one in needed)


@some.composite
def trees(draw: some.DrawFn) -> dict[str, list[str]]:
    """What each module needs directly: only modules before it, so that no circle is made."""
    return {
        name: draw(some.lists(some.sampled_from(NAMES[:index]), unique=True)) if index else []
        for index, name in enumerate(NAMES)
    }


def all_needed(tree: dict[str, list[str]], name: str) -> list[str]:
    """As depmod writes it: all that a module needs, each before what it needs in turn."""
    found = {one for need in tree[name] for one in [need, *all_needed(tree, need)]}
    return sorted(found, key=NAMES.index, reverse=True)


@given(trees(), some.lists(some.sampled_from(NAMES)))
def test_each_module_comes_once_and_after_what_it_needs(
    tree: dict[str, list[str]], wanted: list[str]
) -> None:
    text = "\n".join(dep_line(name, all_needed(tree, name)) for name in tree)
    order = [Path(path).name.removesuffix(".ko.xz") for path in modules.in_order(wanted, text, "")]
    assert len(order) == len(set(order))
    assert set(order) == {one for name in wanted for one in [name, *all_needed(tree, name)]}
    assert all(order.index(need) < order.index(name) for name in order for need in tree[name])


def test_what_is_built_in_needs_no_file() -> None:
    text = dep_line("net/9pnet-virtio", ["net/9pnet"]) + "\n" + dep_line("net/9pnet", [])
    built_in = "kernel/drivers/virtio/virtio-pci.ko\n"
    assert modules.in_order(["virtio_pci", "9pnet_virtio"], text, built_in) == [
        "kernel/net/9pnet.ko.xz",
        "kernel/net/9pnet-virtio.ko.xz",
    ]


def test_a_kernel_without_a_module_is_told() -> None:
    with pytest.raises(PermanentError, match="this kernel has no module overlay"):
        modules.in_order(["overlay"], "", "")


def test_modules_are_read_as_they_are_or_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.ko").write_bytes(b"plain")
    (tmp_path / "b.ko.xz").write_bytes(lzma.compress(b"packed"))
    assert [modules.read(tmp_path / name) for name in ("a.ko", "b.ko.xz")] == [b"plain", b"packed"]


def entries(archive: bytes) -> list[tuple[str, int, bytes]]:
    """Name, mode and data of each entry: read as the kernel's init/initramfs.c does."""
    found: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        assert archive[at : at + len(cpio.MAGIC)] == cpio.MAGIC
        digits = archive[at + len(cpio.MAGIC) : at + HEADER_BYTES]
        fields = [int(digits[i : i + FIELD_BYTES], 16) for i in range(0, len(digits), FIELD_BYTES)]
        name = archive[at + HEADER_BYTES : at + HEADER_BYTES + fields[NAME_SIZE]]
        assert name.endswith(b"\0")
        data_at = -(-(at + HEADER_BYTES + len(name)) // cpio.ALIGNMENT) * cpio.ALIGNMENT
        data = archive[data_at : data_at + fields[SIZE]]
        at = -(-(data_at + len(data)) // cpio.ALIGNMENT) * cpio.ALIGNMENT
        if name[:-1].decode() == cpio.LAST:
            assert at == len(archive)
            return found
        found.append((name[:-1].decode(), fields[MODE], data))


@given(some.dictionaries(some.sampled_from(["init", "a/b/c", "a/d", "bin/sh", "bin/longer"]), some.binary()))
def test_the_archive_holds_every_file_below_its_folders(files: dict[str, bytes]) -> None:
    found = entries(cpio.archive(files))
    assert {name: data for name, mode, data in found if mode == cpio.PROGRAM} == files
    names = [name for name, _, _ in found]
    assert len(names) == len(set(names))
    for name in names:
        above = name.rpartition("/")[0]
        assert not above or names.index(above) < names.index(name)


def test_a_kernel_that_is_not_there_is_told_with_what_brings_it(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as absent:
        kernels.find("6.1", tmp_path)
    assert str(absent.value) == "kernel 6.1 is not unpacked (as root: deploy/dev/vm.sh 6.1)"
    with pytest.raises(PermanentError) as unknown:
        kernels.find("6.66")
    assert str(unknown.value) == "no kernel 6.66 (choose of 6.1, 6.12, newest)"


def test_a_kernel_is_found_where_it_was_unpacked(tmp_path: Path) -> None:
    (tmp_path / "6.1").mkdir()
    (tmp_path / "6.1" / "version").write_text("6.1.0-50-amd64\n")
    found = kernels.find("6.1", tmp_path)
    assert (found.release, found.image) == ("6.1.0-50-amd64", tmp_path / "6.1" / "vmlinuz")
    assert found.modules == tmp_path / "6.1/lib/modules/6.1.0-50-amd64"
