"""What is wrong with plain values that should become a typed one, in words for the person who wrote them.

Owns the comparison of plain values with a msgspec type and the wording of
faults; `yamltext` owns text, lines and the conversion itself. `first_fault`
finds what msgspec would not tell precisely (unknown keys, missing keys, words
outside a choice); `Fault.of` puts msgspec's own errors, mostly of wrong types,
into words and finds the entry that they mean.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import inspect

Path = tuple[Any, ...]

SHOWN_CHARACTERS = 40
"""Longest piece of somebody's value that is repeated in an error."""

_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "null": "nothing",
    "array": "a list",
    "object": "a mapping",
}
_EXPECTED = re.compile(r"Expected `(?P<wanted>[a-z |]+)`, got `[a-z]+`")
_PLACE = re.compile(r"(?P<what>.*) - at (?P<key>`key` in )?`\$(?P<path>.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[([0-9]+)\]|\[(\.\.\.)\]")


@dataclass(frozen=True)
class Fault:
    """One thing wrong at `path` (keys and list positions from the top), with a remedy or none."""

    path: Path
    what: str
    remedy: str = ""

    @classmethod
    def of(cls, cause: msgspec.ValidationError, raw: Any, convert: Callable[[Any], object]) -> "Fault":
        """The fault behind an error of msgspec; `convert` is what failed with it on `raw`."""
        match = _PLACE.fullmatch(str(cause))
        if not match:
            return _worded(str(cause), (), raw)
        path = _resolve(match["path"], raw, str(cause), convert)
        if match["key"]:
            key = _culprit(raw, path, str(cause), convert)
            fault = _worded(match["what"], (*path, key), key)
            return Fault(fault.path, f"the key itself: {fault.what}", fault.remedy)
        return _worded(match["what"], path, _value(raw, path))


def first_fault(raw: Any, type: Any) -> Fault | None:
    """The first unknown or missing key or word outside a choice, in the order of the text."""
    return next(_faults(raw, inspect.type_info(type), ()), None)


def suggest(word: object, known: Sequence[object]) -> str:
    """The remedy for an unknown word: the nearest known one, or all of them."""
    words = [str(each) for each in known]
    near = get_close_matches(str(word), words, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"one of {', '.join(words)}" if words else ""


def shown(value: Any) -> str:
    """A value as an error repeats it: short, and containers only by their kind."""
    if value is None:
        return "nothing"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = repr(value) if isinstance(value, str) else str(value).lower()
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _faults(raw: Any, type: inspect.Type, path: Path) -> Iterator[Fault]:
    match type:
        case inspect.UnionType():
            yield from _of_union(raw, type, path)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
            yield from _of_fields(raw, type, path)
        case inspect.DictType() if isinstance(raw, dict):
            for key, value in raw.items():
                yield from _faults(value, type.value_type, (*path, key))
        case inspect.TupleType() if isinstance(raw, list):
            for i, (value, part) in enumerate(zip(raw, type.item_types, strict=False)):
                yield from _faults(value, part, (*path, i))
        case inspect.CollectionType() if isinstance(raw, list):
            for i, value in enumerate(raw):
                yield from _faults(value, type.item_type, (*path, i))
        case inspect.LiteralType() | inspect.EnumType():
            yield from _of_choice(raw, type, path)


def _of_fields(raw: Any, type: Any, path: Path) -> Iterator[Fault]:
    if not isinstance(raw, dict) or getattr(type, "array_like", False):
        return
    fields = {field.encode_name: field for field in type.fields}
    known = sorted([*fields, *([type.tag_field] if getattr(type, "tag_field", None) else [])])
    for key, value in raw.items():
        if key in fields:
            yield from _faults(value, fields[key].type, (*path, key))
        elif key not in known:
            yield Fault((*path, key), "unknown key", suggest(key, known))
    for name, field in fields.items():
        if field.required and name not in raw:
            yield Fault(path, f"the key {name!r} is missing", "add it")


def _of_union(raw: Any, type: inspect.UnionType, path: Path) -> Iterator[Fault]:
    tagged = [part for part in type.types if isinstance(part, inspect.StructType) and part.tag_field]
    if tagged and isinstance(raw, dict):
        yield from _of_tagged(raw, tagged, path)
        return
    fitting = [part for part in type.types if _may_be(raw, part)]
    if len(fitting) == 1:
        yield from _faults(raw, fitting[0], path)


def _of_tagged(raw: dict[Any, Any], tagged: list[inspect.StructType], path: Path) -> Iterator[Fault]:
    name = str(tagged[0].tag_field)
    tags = [part.tag for part in tagged]
    if name not in raw:
        yield Fault(path, f"the key {name!r} is missing", f"one of {', '.join(map(str, tags))}")
    elif raw[name] not in tags:
        yield Fault((*path, name), f"unknown {name} {shown(raw[name])}", suggest(raw[name], tags))
    else:
        yield from _faults(raw, tagged[tags.index(raw[name])], path)


def _of_choice(raw: Any, type: inspect.LiteralType | inspect.EnumType, path: Path) -> Iterator[Fault]:
    choice = (
        list(type.values) if isinstance(type, inspect.LiteralType) else [member.value for member in type.cls]
    )
    if raw not in choice:
        name = next((part for part in reversed(path) if isinstance(part, str)), "value")
        yield Fault(path, f"unknown {name} {shown(raw)}", suggest(raw, choice))


def _may_be(raw: Any, type: inspect.Type) -> bool:
    """Whether a plain value has the shape of a part of a union (not whether it is valid)."""
    if isinstance(type, inspect.NoneType):
        return raw is None
    if isinstance(raw, dict):
        return not isinstance(type, inspect.CollectionType | inspect.TupleType | _SCALARS)
    if isinstance(raw, list):
        return isinstance(type, inspect.CollectionType | inspect.TupleType)
    return isinstance(type, _SCALARS) and raw is not None


_SCALARS = (
    inspect.IntType | inspect.FloatType | inspect.StrType | inspect.BoolType
    | inspect.LiteralType | inspect.EnumType | inspect.BytesType
)  # fmt: skip


def _resolve(steps: str, raw: Any, message: str, convert: Callable[[Any], object]) -> Path:
    """msgspec's `.nodes[2].labels[...]` as a path; it leaves out the key of a mapping's entry."""
    path: Path = ()
    for name, position, entry in _STEP.findall(steps):
        step = _culprit(raw, path, message, convert) if entry else name or int(position)
        path = (*path, step)
    return path


def _culprit(raw: Any, path: Path, message: str, convert: Callable[[Any], object]) -> Any:
    """The key of the mapping at `path` whose entry makes `convert` fail with `message`.

    Found by halving: the shortest beginning of the mapping that still fails in the same way ends in it.
    """
    entries = list(_value(raw, path).items())
    good, bad = 0, len(entries)
    while bad - good > 1:
        half = (good + bad) // 2
        if _fails(_replaced(raw, path, dict(entries[:half])), message, convert):
            bad = half
        else:
            good = half
    return entries[bad - 1][0]


def _fails(raw: Any, message: str, convert: Callable[[Any], object]) -> bool:
    try:
        convert(raw)
    except msgspec.ValidationError as cause:
        return str(cause) == message
    return False


def _value(raw: Any, path: Path) -> Any:
    for part in path:
        raw = raw[part]
    return raw


def _replaced(raw: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    copy = list(raw) if isinstance(raw, list) else dict(raw)
    copy[path[0]] = _replaced(raw[path[0]], path[1:], value)
    return copy


def _worded(message: str, path: Path, value: Any) -> Fault:
    match = _EXPECTED.fullmatch(message)
    if not match:
        plain = re.sub(r"`([a-z]+)`", lambda word: _NAMES.get(word[1], word[1]), message)
        return Fault(path, plain[:1].lower() + plain[1:])
    wanted = match["wanted"].split(" | ")
    remedy = ""
    if "str" in wanted and isinstance(value, int | float):
        remedy = f'put it in quotes: "{shown(value)}"'
    expected = " or ".join(_NAMES.get(word, word) for word in wanted)
    return Fault(path, f"expected {expected}, got {shown(value)}", remedy)
