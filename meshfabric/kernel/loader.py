"""Loads the datapath's object files so that they share maps, and adopts what an earlier run pinned.

A map belongs to all files that declare its name: the first one makes it, the
others reuse it, and it is pinned as `<pins>/maps/<name>`, where the next run
finds it with its entries. Those of a pinned map of another shape are moved into a
new one (`migrate` says how, `upgrade` until when); what cannot be moved is rebuilt
empty. Sections of variables stay each file's own. Pins change only after everything
is loaded: a failed load leaves the running datapath as it was.

`libbpf` reads the files, `attach` hangs the programs on devices (and keeps
running ones alive until then), the agent fills the maps.
"""

import contextlib
import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from meshfabric.kernel.bpf import Map, Program
from meshfabric.kernel.carry import Carried
from meshfabric.kernel.fault import fault
from meshfabric.kernel.libbpf import Elf, shape_of
from meshfabric.kernel.upgrade import Upgrade
from meshfabric.model.errors import PermanentError

BPF_FS_MAGIC = 0xCAFE4A11  # linux/magic.h
STATFS_BYTES = 256  # struct statfs has 120; f_type comes first (statfs(2))
MAPS = "maps"
UNFINISHED = "~new"  # a pin that a crash may leave behind; no dot is allowed in a bpffs

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Datapath:
    """Handles to all that was loaded, and what became of the maps that an earlier run had pinned.

    Those that fit were `adopted`. Of the others `migrated` tells what was moved, `rebuilt` why
    nothing could be: such a map is empty while programs that run already still use the old one, so
    fill it before attaching the new programs, and see `upgrade`.
    """

    upgrade: Upgrade
    programs: dict[str, Program] = field(default_factory=dict)
    maps: dict[str, Map] = field(default_factory=dict)
    adopted: list[str] = field(default_factory=list)
    migrated: dict[str, Carried] = field(default_factory=dict)
    rebuilt: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Let go of all handles; pins and links keep what runs."""
        for handle in (*self.programs.values(), *self.maps.values()):
            handle.close()
        self.upgrade.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    objects: list[Path],
    pins: Path,
    sizes: Mapping[str, int] | None = None,
    settings: Mapping[str, bytes] | None = None,
) -> Datapath:
    """Load the object files, in order, with maps shared by name and pinned under `pins` (in a bpffs).

    `sizes` gives maps another `max_entries`, `settings` variables their bytes;
    each name must occur in some file. Raises VerifierError, PermanentError or
    TemporaryError, and then has changed no pin.
    """
    sizes, settings = dict(sizes or {}), dict(settings or {})
    _demand_bpffs(pins)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(Elf(path)) for path in objects]
        _demand_known("map", sizes, {name for elf in files for name in elf.maps})
        _demand_known("variable", settings, {name for elf in files for name in elf.set_variables(settings)})
        datapath = Datapath(Upgrade(pins / MAPS))
        try:
            for elf in files:
                _load_file(elf, datapath, pins / MAPS, sizes)
            datapath.migrated = datapath.upgrade.copy(datapath.maps)
            _pin(datapath, pins / MAPS)
        except BaseException:  # Ctrl-C leaks no descriptors either
            datapath.close()
            raise
        return datapath


def _load_file(elf: Elf, datapath: Datapath, pins: Path, sizes: dict[str, int]) -> None:
    for name in elf.maps:
        if name in sizes:
            elf.resize(name, sizes[name])
        if name in datapath.maps:
            _share(elf, name, datapath.maps[name])
        elif (pins / name).exists():
            _inherit(elf, name, datapath, pins / name)
    elf.load()
    for name in elf.maps:
        if name not in datapath.maps:
            datapath.maps[name] = elf.map(name)
    for name in elf.programs:
        if name in datapath.programs:
            raise PermanentError(f"another file has a program {name} already", place=str(elf.path))
        datapath.programs[name] = elf.program(name)


def _share(elf: Elf, name: str, earlier: Map) -> None:
    """Let the file use the map that an earlier file made."""
    differing = elf.shape(name).differences(shape_of(earlier))
    if differing:
        what = f"map {name} is declared otherwise in another file: {', '.join(differing)}"
        raise PermanentError(what, place=str(elf.path), remedy="include one header in all files")
    elf.reuse(name, earlier)


def _inherit(elf: Elf, name: str, datapath: Datapath, pin: Path) -> None:
    """Let the file use the map that an earlier run made if it fits; else its own succeeds that one."""
    earlier, shape, tags = Map.open(pin), elf.shape(name), elf.tags(name)
    if shape.differences(shape_of(earlier)):
        why = datapath.upgrade.succeed(name, earlier, shape, tags)
        if why:
            datapath.rebuilt[name] = why
        return
    datapath.upgrade.adopt(name, earlier, shape, tags)
    datapath.maps[name] = earlier
    datapath.adopted.append(name)
    elf.reuse(name, earlier)


def _pin(datapath: Datapath, pins: Path) -> None:
    """Pin what is new; it takes its predecessor's place in one step."""
    datapath.upgrade.pin()
    for name in datapath.maps.keys() - set(datapath.adopted):
        fresh = pins / (name + UNFINISHED)
        fresh.unlink(missing_ok=True)
        datapath.maps[name].pin(fresh)
        os.rename(fresh, pins / name)


def _demand_bpffs(pins: Path) -> None:
    """Where `pins` will be there has to be a BPF file system, before anything is made."""
    place = next(path for path in (pins, *pins.parents) if path.exists())
    found = ctypes.create_string_buffer(STATFS_BYTES)
    if _libc.statfs(os.fsencode(place), found):
        raise fault(OSError(ctypes.get_errno(), "statfs"), place=str(place), wanted="look at its file system")
    if ctypes.c_long.from_buffer(found).value != BPF_FS_MAGIC:
        what = "no BPF file system is mounted there"
        raise PermanentError(what, place=f"bpffs {pins.parent}", remedy=f"mount -t bpf bpf {pins.parent}")


def _demand_known(kind: str, wanted: Mapping[str, object], known: set[str]) -> None:
    for name in sorted(wanted.keys() - known):
        raise PermanentError(f"no object file has a {kind} {name}", remedy="is the datapath's build older?")
