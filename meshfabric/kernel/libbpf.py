"""The system's libbpf through ctypes: an ELF object file becomes loaded programs and maps.

    Elf(path)  ->  maps resized, variables set, others' maps reused  ->  load()  ->  handles

Works with libbpf 1.1 (Debian 12) to 1.5 (Debian 13): nothing newer than 1.0 is
called. `loader` knows which maps are shared and pinned; `bpf` owns the handles
that come out. libbpf's own messages go to the log `meshfabric.libbpf` at debug.
"""

import contextlib
import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterator
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from meshfabric.kernel import btf
from meshfabric.kernel.bpf import Map, Program
from meshfabric.kernel.fault import fault
from meshfabric.kernel.layout import MapShape
from meshfabric.model.errors import MeshfabricError, PermanentError, UnsupportedError

LOG = "meshfabric.libbpf"
log = logging.getLogger(LOG)

LIBRARY = "libbpf.so.1"
_INSTALL = "install the package libbpf1"
VERIFIER_LOG_BYTES = 1 << 20  # untouched pages cost nothing; newer kernels keep the end of a longer log
MESSAGE_BYTES = 4096
VARIABLE_SECTIONS = (".rodata", ".data", ".bss")
_WARN = 0  # enum libbpf_print_level
_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_VERIFIER_NOISE = ("processed ", "max_states", "peak_states", "verification time", "stack depth")


class VerifierError(PermanentError):
    """The kernel refuses a program; the message has the verifier's verdict, `log` all that it said."""

    def __init__(self, what: str, *, place: str, log: str) -> None:
        super().__init__(what, place=place, remedy=f"a newer kernel may take it; {LOG} tells all at debug")
        self.log = log


class Elf:
    """One opened object file; close it (or use `with`) once the handles are taken."""

    def __init__(self, path: Path) -> None:
        """Parse the file. Raises PermanentError when it is absent or no BPF object."""
        self.path = path
        self._handle: int | None = None
        if not path.is_file():
            raise PermanentError("no such object file", place=str(path), remedy="build it with make -C bpf")
        with _collect() as said:
            self._handle = library().bpf_object__open_file(os.fsencode(path), None)
        if not self._handle:
            raise PermanentError(f"not a BPF object: {_last(said)}", place=str(path))
        self._maps = dict(self._walk("map"))
        self._programs = dict(self._walk("program"))
        self._btf = btf.Btf(library(), library().bpf_object__btf(self._handle))

    @property
    def maps(self) -> list[str]:
        """Names of the maps that the file declares, in its order, without the sections of variables."""
        return [name for name, at in self._maps.items() if not library().bpf_map__is_internal(at)]

    @property
    def programs(self) -> list[str]:
        """Names of the programs, in the file's order."""
        return list(self._programs)

    def shape(self, name: str) -> MapShape:
        """What the map will be when it is made."""
        at, lib = self._maps[name], library()
        types = (lib.bpf_map__btf_key_type_id(at), lib.bpf_map__btf_value_type_id(at))
        return MapShape(
            lib.bpf_map__type(at),
            lib.bpf_map__key_size(at),
            lib.bpf_map__value_size(at),
            lib.bpf_map__max_entries(at),
            lib.bpf_map__map_flags(at),
            *map(self._btf.layout, types),
        )

    def tags(self, name: str) -> set[str]:
        """What the map's declaration is tagged with, by `btf_decl_tag`."""
        return self._btf.tags().get(name, set())

    def resize(self, name: str, max_entries: int) -> None:
        """Let the map hold `max_entries` instead of what the file says."""
        self._demand(
            library().bpf_map__set_max_entries(self._maps[name], max_entries), f"resize the map {name}"
        )

    def reuse(self, name: str, existing: Map) -> None:
        """Use a map that exists already instead of making one; the shapes must fit."""
        self._demand(library().bpf_map__reuse_fd(self._maps[name], existing.fd), f"reuse the map {name}")

    def set_variables(self, values: dict[str, bytes]) -> set[str]:
        """Give global variables their value before the program is verified; returns those that the file has.

        A value has exactly the variable's size, in native byte order.
        """
        found: set[str] = set()
        for map_name, at in self._maps.items():
            section = "." + map_name.rpartition(".")[2]
            if section in VARIABLE_SECTIONS and library().bpf_map__is_internal(at):
                found |= self._set_section(at, section, values)
        return found

    def load(self) -> None:
        """Make maps and programs in the kernel. Raises VerifierError, or what the errno means."""
        text = ctypes.create_string_buffer(VERIFIER_LOG_BYTES)
        for at in self._programs.values():
            library().bpf_program__set_log_buf(at, text, VERIFIER_LOG_BYTES)
        with _collect() as said:
            failed = library().bpf_object__load(self._handle)
        if failed:
            code = ctypes.get_errno()
            raise self._load_error(code, said, text.value.decode(errors="replace"))

    def map(self, name: str) -> Map:
        """A handle of one's own to a loaded map."""
        return Map.from_fd(library().bpf_map__fd(self._maps[name]))

    def program(self, name: str) -> Program:
        """A handle of one's own to a loaded program, under its full name."""
        return Program(os.dup(library().bpf_program__fd(self._programs[name])), name)

    def close(self) -> None:
        """Free libbpf's memory; loaded objects live on in their handles."""
        handle, self._handle = self._handle, None
        if handle:
            library().bpf_object__close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _walk(self, kind: str) -> Iterator[tuple[str, int]]:
        following = getattr(library(), f"bpf_object__next_{kind}")
        name = getattr(library(), f"bpf_{kind}__name")
        at = following(self._handle, None)
        while at:
            yield name(at).decode(), at
            at = following(self._handle, at)

    def _set_section(self, at: int, section: str, values: dict[str, bytes]) -> set[str]:
        size = c_size_t()
        memory = library().bpf_map__initial_value(at, ctypes.byref(size))
        found = {name: place for name, place in self._btf.variables(section).items() if name in values}
        for name, place in found.items():
            value = values[name]
            if len(value) != place.size or place.offset + place.size > size.value:
                what = f"variable {name} has {place.size} bytes, not {len(value)}"
                raise PermanentError(what, place=str(self.path))
            ctypes.memmove(memory + place.offset, value, place.size)
        return set(found)

    def _load_error(self, code: int, said: list[str], verdict: str) -> MeshfabricError:
        last = _last(said)
        if verdict.strip():
            log.debug("%s", verdict)
            return VerifierError(f"{last}: {_verdict(verdict)}", place=str(self.path), log=verdict)
        cause = OSError(code, last)
        return fault(cause, place=str(self.path), wanted=f"load it [{last}]")

    def _demand(self, result: int, wanted: str) -> None:
        if result:
            cause = OSError(-result, os.strerror(-result))
            raise fault(cause, place=str(self.path), wanted=wanted) from cause


def shape_of(existing: Map) -> MapShape:
    """The shape of a map in the kernel."""
    lib = library()
    handle = lib.btf__load_from_kernel_by_id(existing.btf_id) if existing.btf_id else None
    types = btf.Btf(lib, handle) if handle else None
    key = types.layout(existing.btf_key_type) if types else None
    value = types.layout(existing.btf_value_type) if types else None
    lib.btf__free(handle)
    sizes = (existing.type, existing.key_size, existing.value_size, existing.max_entries, existing.flags)
    return MapShape(*sizes, key, value)


def version() -> str:
    """The library's version, as `1.1.2`. Raises UnsupportedError when it is not installed."""
    text: bytes = library().libbpf_version_string()
    return text.decode().removeprefix("v")


@cache
def library() -> ctypes.CDLL:
    """libbpf with its signatures declared and its messages routed to the log."""
    try:
        found = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as cause:
        raise UnsupportedError(f"cannot load it: {cause}", place=LIBRARY, remedy=_INSTALL) from cause
    for names, restype, argtypes in _SIGNATURES:
        for name in names.split():
            function = getattr(found, name)
            function.restype, function.argtypes = restype, list(argtypes)
    btf.declare(found)
    found.libbpf_set_print(_PRINTER)
    return found


_SIGNATURES: tuple[tuple[str, type | None, tuple[type, ...]], ...] = (
    ("libbpf_version_string", c_char_p, ()),
    ("libbpf_set_print", c_void_p, (_PRINT,)),
    ("bpf_object__open_file", c_void_p, (c_char_p, c_void_p)),
    ("bpf_object__close", None, (c_void_p,)),
    ("bpf_object__load", c_int, (c_void_p,)),
    ("bpf_object__btf", c_void_p, (c_void_p,)),
    ("bpf_object__next_map bpf_object__next_program", c_void_p, (c_void_p, c_void_p)),
    ("bpf_map__name bpf_program__name", c_char_p, (c_void_p,)),
    ("bpf_map__fd bpf_program__fd", c_int, (c_void_p,)),
    ("bpf_map__is_internal", ctypes.c_bool, (c_void_p,)),
    ("bpf_map__type bpf_map__key_size bpf_map__value_size", c_uint32, (c_void_p,)),
    ("bpf_map__max_entries bpf_map__map_flags", c_uint32, (c_void_p,)),
    ("bpf_map__btf_key_type_id bpf_map__btf_value_type_id", c_uint32, (c_void_p,)),
    ("bpf_map__set_max_entries", c_int, (c_void_p, c_uint32)),
    ("bpf_map__reuse_fd", c_int, (c_void_p, c_int)),
    ("bpf_map__initial_value", c_void_p, (c_void_p, c_void_p)),
    ("ring_buffer__new", c_void_p, (c_int, c_void_p, c_void_p, c_void_p)),
    ("ring_buffer__consume ring_buffer__epoll_fd", c_int, (c_void_p,)),
    ("ring_buffer__free", None, (c_void_p,)),
    ("bpf_program__set_log_buf", c_int, (c_void_p, c_char_p, c_size_t)),
)

_heard = threading.local()
_vsnprintf: Callable[..., int] = ctypes.CDLL(None).vsnprintf


@contextlib.contextmanager
def _collect() -> Iterator[list[str]]:
    """The warnings that libbpf prints in this thread meanwhile."""
    _heard.lines = []
    try:
        yield _heard.lines
    finally:
        del _heard.lines


def _print(level: int, form: bytes, arguments: int) -> int:
    """libbpf_print_fn_t: on all our machines a va_list is passed as a pointer."""
    if level > _WARN and not log.isEnabledFor(logging.DEBUG):
        return 0
    line = ctypes.create_string_buffer(MESSAGE_BYTES)
    _vsnprintf(line, c_size_t(MESSAGE_BYTES), c_char_p(form), c_void_p(arguments))
    said = line.value.decode(errors="replace").strip()
    log.debug("%s", said)
    if level == _WARN:
        getattr(_heard, "lines", []).append(said)
    return 0


_PRINTER = _PRINT(_print)  # libbpf calls it as long as the process lives


def _last(said: list[str]) -> str:
    """The most telling of libbpf's warnings: the first one that names a failing object."""
    lines = [line.removeprefix("libbpf: ") for line in said if line]
    named = [line for line in lines if line.startswith(("prog '", "map '", "elf: "))]
    return (named or lines or ["libbpf gave no reason"])[0]


def _verdict(text: str) -> str:
    """The line in which the verifier says why: the last one before its statistics."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_VERIFIER_NOISE)]
    return (telling or lines)[-1]
