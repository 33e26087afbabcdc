"""How the bytes of a map's keys and values are laid out, as values: what `btf` reads and `migrate` compares.

    Record(Member("place", 8, Array(Number(4), 2)), ...)   as a line of text   {place@8:4[2] ...}

Two layouts with the same text hold the same bytes, whatever their types are called.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Order = Literal["little", "big"]


@dataclass(frozen=True)
class Number:
    """An integer, a boolean or an enum of so many bytes. The `__be` types of the kernel are "big"."""

    size: int
    signed: bool = False
    order: Order = sys.byteorder

    def __str__(self) -> str:
        return str(self.size)


@dataclass(frozen=True)
class Opaque:
    """Bytes that mean something only as a whole: a union, a struct with bit fields, a float.

    A pointer is an `address`: it means nothing in another map.
    """

    size: int
    text: str
    address: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Array:
    """`count` elements, one after the other."""

    element: "Layout"
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.element.size * self.count

    def __str__(self) -> str:
        return f"{self.element}[{self.count}]"


class Member(NamedTuple):
    """A field of a struct, at so many bytes from its start; the name of an anonymous one is ""."""

    name: str
    offset: int
    layout: "Layout"

    def __str__(self) -> str:
        return f"{self.name}@{self.offset}:{self.layout}"


@dataclass(frozen=True)
class Record:
    """A struct; bytes that no member covers are holes."""

    size: int
    members: tuple[Member, ...]

    def __str__(self) -> str:
        return "{" + " ".join(map(str, self.members)) + "}"


Layout = Number | Opaque | Array | Record


class Leaf(NamedTuple):
    """What has no parts, by its way from the outside, as `.prefix[0].net`, and its place in bytes."""

    path: str
    offset: int
    layout: Number | Opaque


def leaves(layout: Layout, path: str = "", offset: int = 0) -> Iterator[Leaf]:
    """All that has no parts, in the order of the declaration.

    Members of an anonymous struct belong to the one around it (C11, 6.7.2.1); an
    anonymous union goes by what is in it.
    """
    if isinstance(layout, Record):
        for name, at, part in layout.members:
            yield from leaves(part, path + _step(name, part), offset + at)
    elif isinstance(layout, Array):
        for index in range(layout.count):
            at = offset + index * layout.element.size
            yield from leaves(layout.element, f"{path}[{index}]", at)
    else:
        yield Leaf(path, offset, layout)


def _step(name: str, part: Layout) -> str:
    if name:
        return f".{name}"
    return f".{part}" if isinstance(part, Opaque) else ""


@dataclass(frozen=True)
class MapShape:
    """What two maps must agree in to be the same map; `key` and `value` are None when unknown."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key: Layout | None
    value: Layout | None

    def differences(self, other: "MapShape") -> list[str]:
        """What `other` has otherwise, as `max_entries 10 not 20`; [] when it fits."""
        return [
            f"{name} {theirs} not {ours}"
            for name, ours in vars(self).items()
            if (theirs := getattr(other, name)) is not None and ours is not None and str(theirs) != str(ours)
        ]
