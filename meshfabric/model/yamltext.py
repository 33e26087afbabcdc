"""YAML text that a person wrote, as typed values; every error is one line with `file:line`.

Owns the way from text to a msgspec type: syntax, positions, unknown and missing
keys (with "did you mean"), wrong types, and bounds on what a hostile document
may cost. What the values mean together (does that segment exist?) is checked by
whoever owns the type, which then raises `located.error(what, *path)`.

    text --yaml events--> plain values + lines --check--> typed value
                                    |
                                    +--> Located.at("nodes", 2, "kind") -> "lab.yaml:14"

Scalars follow the core schema of YAML 1.2 (chapter 10.3), not YAML 1.1: `yes`,
`on`, 52:54:00:12:34:56, `1_000` and dates stay text. Merge keys (`<<`), tags
other than `!!str` and infinite numbers are not understood.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

import msgspec
import yaml

from meshfabric.model.errors import InputError
from meshfabric.model.yamlcheck import Fault, first_fault, suggest

__all__ = ["Located", "Spot", "dotted", "locate", "locate_documents", "parse", "parse_documents", "suggest"]

MAX_CHARACTERS = 1 << 20
"""Longest text that is read at all."""
MAX_VALUES = 100_000
"""Most values in one text after every alias has been written out ("billion laughs")."""
MAX_DEPTH = 40
"""Deepest nesting of lists and mappings."""

T = TypeVar("T")
Key = str | int | float | bool
Path = tuple[Key, ...]
DecodeHook = Callable[[type, Any], Any]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}|0x[0-9a-fA-F]{1,16}|0o[0-7]{1,21}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_WORDS = {"": None, "~": None, "true": True, "false": False, "null": None}
_WORDS |= {word.capitalize(): value for word, value in _WORDS.items() if word.isalpha()}
_WORDS |= {word.upper(): value for word, value in _WORDS.items() if word.isalpha()}


def parse(text: str, name: str, type: type[T], dec_hook: DecodeHook | None = None) -> T:
    """The one document in `text` as a `type`; `name` is the file's name in errors.

    Raises `InputError` for anything that is wrong, also for no or more than one document.
    """
    return locate(text, name, type, dec_hook).value


def parse_documents(text: str, name: str, type: type[T], dec_hook: DecodeHook | None = None) -> list[T]:
    """Every document in `text` (separated by `---`), in order; empty ones are left out.

    Raises `InputError` at the first thing that is wrong.
    """
    return [found.value for found in locate_documents(text, name, type, dec_hook)]


def locate(text: str, name: str, type: type[T], dec_hook: DecodeHook | None = None) -> "Located[T]":
    """As `parse`, with the positions kept for errors that are found later."""
    found = locate_documents(text, name, type, dec_hook)
    if not found:
        raise InputError("the document is empty", place=name, remedy="nothing but comments was found")
    if len(found) > 1:
        raise found[1].error("a second document begins here", remedy="only one is allowed in this file")
    return found[0]


def locate_documents(
    text: str, name: str, type: type[T], dec_hook: DecodeHook | None = None
) -> list["Located[T]"]:
    """As `parse_documents`, with the positions kept for errors that are found later."""
    return [
        Located(_convert(raw, spot, name, type, dec_hook), name, spot)
        for raw, spot in _read(text, name)
        if raw is not None
    ]


@dataclass(frozen=True)
class Spot:
    """Where a value stands: `line` counts from 1, `parts` holds the lines of keys and items below.

    `values` is how many values it is, aliases written out.
    """

    line: int
    parts: dict[Key, tuple[int, "Spot"]] = field(default_factory=dict)
    values: int = 1


@dataclass(frozen=True)
class Located(Generic[T]):
    """A typed value that still knows the lines of its parts."""

    value: T
    name: str
    _spot: Spot

    def at(self, *path: Key) -> str:
        """`file:line` of the part at `path` (keys and list positions), or of its nearest holder."""
        return f"{self.name}:{_line(self._spot, path)}"

    def error(self, what: str, *path: Key, remedy: str = "") -> InputError:
        """An error to raise about the part at `path`."""
        return InputError(what, place=self.at(*path), remedy=remedy)


def dotted(path: Path) -> str:
    """`("nodes", 2, "kind")` as `nodes[2].kind`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) and not isinstance(part, bool) else f".{part}"
    return text.removeprefix(".")


def _line(spot: Spot, path: Path) -> int:
    line = spot.line
    for part in path:
        if part not in spot.parts:
            break
        line, spot = spot.parts[part]
    return line


def _convert(raw: Any, spot: Spot, name: str, type: type[T], dec_hook: DecodeHook | None) -> T:
    fault = first_fault(raw, type)
    if fault:
        _raise(fault, spot, name)
    try:
        return msgspec.convert(raw, type, dec_hook=dec_hook)
    except msgspec.ValidationError as cause:
        _raise(Fault.of(cause, raw, lambda part: msgspec.convert(part, type, dec_hook=dec_hook)), spot, name)
    except InputError as cause:
        # A constructor of the type found it; it cannot know the file.
        raise InputError(cause.what, place=cause.place or name, remedy=cause.remedy) from cause


def _raise(fault: Fault, spot: Spot, name: str) -> NoReturn:
    what = f"{dotted(fault.path)}: {fault.what}" if fault.path else fault.what
    raise InputError(what, place=f"{name}:{_line(spot, fault.path)}", remedy=fault.remedy) from None


def _read(text: str, name: str) -> list[tuple[Any, Spot]]:
    if len(text) > MAX_CHARACTERS:
        what = f"the text has {len(text)} characters, more than {MAX_CHARACTERS}"
        raise InputError(what, place=name, remedy="split it into several files")
    try:
        return list(_Builder(yaml.parse(text, Loader=_Loader), name).documents())
    except yaml.MarkedYAMLError as cause:
        raise _syntax(cause, text, name) from None
    except yaml.reader.ReaderError as cause:
        line = text.count("\n", 0, cause.position) + 1
        raise InputError(f"a character that YAML forbids: {cause.reason}", place=f"{name}:{line}") from None


def _syntax(cause: yaml.MarkedYAMLError, text: str, name: str) -> InputError:
    what = " ".join(" ".join(filter(None, [cause.problem, cause.context])).split())
    mark = cause.problem_mark or cause.context_mark
    if not mark:
        return InputError(f"not YAML: {what}", place=name)
    lines = text.splitlines()
    tabbed = mark.line < len(lines) and re.match(r" *\t", lines[mark.line])
    remedy = "indent with spaces, not tabs" if tabbed else ""
    return InputError(f"not YAML: {what}", place=f"{name}:{mark.line + 1}", remedy=remedy)


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if event.tag == "tag:yaml.org,2002:str" or not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _line_of(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _Builder:
    """Plain values and their lines out of a stream of YAML events, within the bounds above."""

    def __init__(self, events: Iterator[yaml.Event], name: str) -> None:
        self._events, self._name = events, name
        self._anchors: dict[str, tuple[Any, Spot]] = {}
        self._values = 0

    def documents(self) -> Iterator[tuple[Any, Spot]]:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
                yield self._value(next(self._events), 0)

    def _value(self, event: Any, depth: int) -> tuple[Any, Spot]:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self._count(1, event)
        if depth > MAX_DEPTH:
            raise self._error(event, f"nested more than {MAX_DEPTH} deep")
        made = self._part(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = made
        return made

    def _part(self, event: Any, depth: int) -> tuple[Any, Spot]:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise self._error(event, f"the tag {event.tag!r} is not understood", "leave it out")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event), Spot(_line_of(event))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(event, depth)
        return self._mapping(event, depth)

    def _list(self, start: yaml.Event, depth: int) -> tuple[list[Any], Spot]:
        items: list[Any] = []
        parts: dict[Key, tuple[int, Spot]] = {}
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item, spot = self._value(event, depth + 1)
            parts[len(items)] = (_line_of(event), spot)
            items.append(item)
        return items, self._spot(start, parts)

    def _mapping(self, start: yaml.Event, depth: int) -> tuple[dict[Key, Any], Spot]:
        entries: dict[Key, Any] = {}
        parts: dict[Key, tuple[int, Spot]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, line = self._key(event, depth), _line_of(event)
            if key in entries:
                raise self._error(event, f"the key {key!r} is given twice", f"first in line {parts[key][0]}")
            entries[key], spot = self._value(next(self._events), depth + 1)
            parts[key] = (line, spot)
        return entries, self._spot(start, parts)

    def _key(self, event: yaml.Event, depth: int) -> Key:
        key, _ = self._value(event, depth + 1)
        if key == "<<":
            raise self._error(event, "merge keys (<<) are not understood", "write the keys out")
        if isinstance(key, str | int | float | bool):
            return key
        raise self._error(event, "a key must be a word or a number", "put {...} and [...] in quotes")

    def _alias(self, event: yaml.AliasEvent) -> tuple[Any, Spot]:
        if event.anchor not in self._anchors:
            remedy = "an alias must follow the end of its anchor; a text that begins with * needs quotes"
            raise self._error(event, f"no anchor &{event.anchor} for the alias *{event.anchor}", remedy)
        value, spot = self._anchors[event.anchor]
        self._count(spot.values, event)
        return value, spot

    def _count(self, values: int, event: yaml.Event) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise self._error(event, f"more than {MAX_VALUES} values, aliases written out", "split the file")

    def _spot(self, start: yaml.Event, parts: dict[Key, tuple[int, Spot]]) -> Spot:
        return Spot(_line_of(start), parts, 1 + sum(spot.values for _, spot in parts.values()))

    def _error(self, event: yaml.Event, what: str, remedy: str = "") -> InputError:
        return InputError(what, place=f"{self._name}:{_line_of(event)}", remedy=remedy)
