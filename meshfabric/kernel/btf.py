"""Reads BTF, the type information of BPF objects, by libbpf's functions.

Three questions are answered: where a global variable lies in its section, how
the bytes of a map's keys and values are laid out (`layout`), and what a map's
declaration is tagged with (Documentation/bpf/btf.rst).
"""

import ctypes
import struct
import sys
from collections.abc import Iterator
from ctypes import c_char_p, c_int32, c_uint32, c_uint64, c_void_p
from typing import NamedTuple

from meshfabric.kernel.layout import Array, Layout, Member, Number, Opaque, Order, Record

_TYPE = struct.Struct("=III")  # struct btf_type: name_off info size_or_type
_TRIPLE = struct.Struct("=III")  # btf_member, btf_array and btf_var_secinfo alike
_VLEN_MASK, _KIND_SHIFT, _KIND_MASK = 0xFFFF, 24, 0x1F
_BYTE = 8  # bits; a member's offset is counted in them, above bit 24 in those of a bit field

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _ENUM64 = 8, 14, 15, 16, 17, 19
_ALIASES = frozenset({_TYPEDEF, 9, 10, 11, _VAR, 18})  # volatile const restrict type_tag
_KIND_FLAG = 1 << 31  # of a struct: it has bit fields; of an enum: it is signed
_INT_SIGNED = 1 << 24  # in the word behind a BTF_KIND_INT
_WORD = struct.Struct("=I")
_ORDERS: dict[str, Order] = {"__be": "big", "__le": "little"}  # how names of the kernel's types begin


class Variable(NamedTuple):
    """Where a global variable lies in its section, in bytes."""

    offset: int
    size: int


class _Type(NamedTuple):
    name: str
    kind: int
    members: int
    flag: bool
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

    def layout(self, number: int) -> Layout | None:
        """A type with the names, places and sizes of all its members; None when unknown."""
        if not number or not self._library.btf__type_by_id(self._handle, number):
            return None
        return self._layout(number)

    def tags(self) -> dict[str, set[str]]:
        """What the declarations of variables, maps among them, are tagged with (BTF_KIND_DECL_TAG)."""
        found: dict[str, set[str]] = {}
        for number in range(1, self._library.btf__type_cnt(self._handle)):
            one = self._type(number)
            if one.kind == _DECL_TAG and (target := self._type(one.size_or_type)).kind == _VAR:
                found.setdefault(target.name, set()).add(one.name)
        return found

    def _layout(self, number: int, order: Order = sys.byteorder) -> Layout:
        found = self._type(number)
        if found.kind in _ALIASES:
            return self._layout(found.size_or_type, _ORDERS.get(found.name[:4], order))
        if found.kind == _ARRAY:
            element, _, count = _TRIPLE.unpack(ctypes.string_at(found.tail, _TRIPLE.size))
            return Array(self._layout(element), count)
        if found.kind in (_STRUCT, _UNION):
            return self._compound(found)
        if found.kind == _INT:
            (word,) = _WORD.unpack(ctypes.string_at(found.tail, _WORD.size))
            return Number(found.size_or_type, bool(word & _INT_SIGNED), order)
        if found.kind in (_ENUM, _ENUM64):
            return Number(found.size_or_type, found.flag)
        if found.kind == _PTR:
            return Opaque(ctypes.sizeof(c_uint64), "*", address=True)
        return Opaque(found.size_or_type if found.kind == _FLOAT else 0, found.name or "?")

    def _compound(self, found: _Type) -> Layout:
        """A struct; what cannot be taken apart is opaque: a union, a struct with bit fields."""
        bits = list(self._triples(found))
        if found.kind == _STRUCT and not found.flag:
            parts = (Member(self._text(name), at // _BYTE, self._layout(kind)) for name, kind, at in bits)
            return Record(found.size_or_type, tuple(parts))
        parts = (Member(self._text(name), at, self._layout(kind)) for name, kind, at in bits)
        return Opaque(found.size_or_type, "{" + " ".join(map(str, parts)) + "}")

    def _triples(self, found: _Type) -> Iterator[tuple[int, int, int]]:
        yield from _TRIPLE.iter_unpack(ctypes.string_at(found.tail, found.members * _TRIPLE.size))

    def _type(self, number: int) -> _Type:
        at = self._library.btf__type_by_id(self._handle, number)
        name, info, size_or_type = _TYPE.unpack(ctypes.string_at(at, _TYPE.size))
        kind = info >> _KIND_SHIFT & _KIND_MASK
        flag = bool(info & _KIND_FLAG)
        return _Type(self._text(name), kind, info & _VLEN_MASK, flag, size_or_type, at + _TYPE.size)

    def _text(self, offset: int) -> str:
        found: bytes | None = self._library.btf__name_by_offset(self._handle, offset)
        return (found or b"").decode()


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the signatures of the BTF functions (stable since libbpf 1.0)."""
    library.btf__find_by_name_kind.restype = c_int32
    library.btf__find_by_name_kind.argtypes = [c_void_p, c_char_p, c_uint32]
    library.btf__type_by_id.restype = c_void_p
    library.btf__type_by_id.argtypes = [c_void_p, c_uint32]
    library.btf__type_cnt.restype = c_uint32
    library.btf__type_cnt.argtypes = [c_void_p]
    library.btf__name_by_offset.restype = c_char_p
    library.btf__name_by_offset.argtypes = [c_void_p, c_uint32]
    library.btf__load_from_kernel_by_id.restype = c_void_p
    library.btf__load_from_kernel_by_id.argtypes = [c_uint32]
    library.btf__free.restype = None
    library.btf__free.argtypes = [c_void_p]
