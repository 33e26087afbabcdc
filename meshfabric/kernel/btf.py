"""Reads BTF, the type information of BPF objects, by libbpf's functions.

Two questions are answered: where a global variable lies in its section, and how
the bytes of a map's keys and values are laid out, written as a line of text
that two builds of the same struct share (Documentation/bpf/btf.rst).
"""

import ctypes
import struct
from collections.abc import Iterator
from ctypes import c_char_p, c_int32, c_uint32, c_void_p
from typing import NamedTuple

_TYPE = struct.Struct("=III")  # struct btf_type: name_off info size_or_type
_TRIPLE = struct.Struct("=III")  # btf_member, btf_array and btf_var_secinfo alike
_VLEN_MASK, _KIND_SHIFT, _KIND_MASK = 0xFFFF, 24, 0x1F
_BITFIELD_MASK = 0xFFFFFF  # of a member's offset in bits

_PTR, _ARRAY, _STRUCT, _UNION, _DATASEC = 2, 3, 4, 5, 15
_ALIASES = frozenset({8, 9, 10, 11, 14, 18})  # typedef volatile const restrict var type_tag


class Variable(NamedTuple):
    """Where a global variable lies in its section, in bytes."""

    offset: int
    size: int


class _Type(NamedTuple):
    name: str
    kind: int
    members: int
    size_or_type: int
    tail: int


class Btf:
    """A view of a `struct btf *` that somebody else owns and frees."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library, self._handle = library, handle

    def variables(self, section: str) -> dict[str, Variable]:
        """The variables of a section such as `.rodata`; {} when there is no such section."""
        number = self._library.btf__find_by_name_kind(self._handle, section.encode(), _DATASEC)
        if number < 0:
            return {}
        return {
            self._type(kind).name: Variable(offset, size)
            for kind, offset, size in self._triples(self._type(number))
        }

    def layout(self, number: int) -> str:
        """A type with the names, places and sizes of all its members; "?" when unknown."""
        if not number or not self._library.btf__type_by_id(self._handle, number):
            return "?"
        found = self._type(number)
        if found.kind in _ALIASES:
            return self.layout(found.size_or_type)
        if found.kind == _ARRAY:
            element, _, count = _TRIPLE.unpack(ctypes.string_at(found.tail, _TRIPLE.size))
            return f"{self.layout(element)}[{count}]"
        if found.kind in (_STRUCT, _UNION):
            return "{" + " ".join(self._members(found)) + "}"
        return "*" if found.kind == _PTR else str(found.size_or_type)

    def _members(self, found: _Type) -> Iterator[str]:
        for name, kind, offset in self._triples(found):
            yield f"{self._text(name)}@{offset & _BITFIELD_MASK}:{self.layout(kind)}"

    def _triples(self, found: _Type) -> Iterator[tuple[int, int, int]]:
        yield from _TRIPLE.iter_unpack(ctypes.string_at(found.tail, found.members * _TRIPLE.size))

    def _type(self, number: int) -> _Type:
        at = self._library.btf__type_by_id(self._handle, number)
        name, info, size_or_type = _TYPE.unpack(ctypes.string_at(at, _TYPE.size))
        kind = info >> _KIND_SHIFT & _KIND_MASK
        return _Type(self._text(name), kind, info & _VLEN_MASK, size_or_type, at + _TYPE.size)

    def _text(self, offset: int) -> str:
        found: bytes | None = self._library.btf__name_by_offset(self._handle, offset)
        return (found or b"").decode()


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the signatures of the BTF functions (stable since libbpf 1.0)."""
    library.btf__find_by_name_kind.restype = c_int32
    library.btf__find_by_name_kind.argtypes = [c_void_p, c_char_p, c_uint32]
    library.btf__type_by_id.restype = c_void_p
    library.btf__type_by_id.argtypes = [c_void_p, c_uint32]
    library.btf__name_by_offset.restype = c_char_p
    library.btf__name_by_offset.argtypes = [c_void_p, c_uint32]
    library.btf__load_from_kernel_by_id.restype = c_void_p
    library.btf__load_from_kernel_by_id.argtypes = [c_uint32]
    library.btf__free.restype = None
    library.btf__free.argtypes = [c_void_p]
