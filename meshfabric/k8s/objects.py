"""Objects as JSON or YAML gives them: foreign, so each value is looked at before it is believed (pure).

Every mistake is an `InputError` that names the object and the field, also what the
API server would not take; a field that nobody knows is refused, as it may say what
we would leave out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from meshfabric.model.errors import InputError
from meshfabric.model.ports import MAX_PORT

Object = Mapping[str, Any]

LABEL = re.compile("(?=.{1,63}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")  # RFC 1123
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


def fields(given: Any, place: str, known: set[str]) -> Object:
    """A mapping of these fields and no others."""
    found = mapping(given, place)
    for key in found:
        if key not in known:
            raise InputError(f"{shown(key)} cannot be said yet", place=place, remedy="leave it out")
    return found


def only(given: Object, place: str, remedy: str) -> str:
    """The one field that has a value."""
    set_ = [key for key, value in given.items() if value is not None]
    if len(set_) != 1:
        raise InputError(f"{len(set_)} of its fields are set", place=place, remedy=remedy)
    return set_[0]


def or_empty(given: Any) -> Any:
    """A missing mapping is an empty one."""
    return {} if given is None else given


def mapping(given: Any, place: str) -> Object:
    """A mapping with text for keys."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise InputError(f"expected a mapping, got {shown(given)}", place=place, remedy="see the API")
    return given


def sequence(given: Any, place: str) -> Sequence[Any]:
    """A list; a missing one is empty."""
    if given is None:
        return ()
    if not isinstance(given, list):
        raise InputError(f"expected a list, got {shown(given)}", place=place, remedy="see the API")
    return given


def word(form: re.Pattern[str], given: Any, place: str) -> str:
    """A name of this form."""
    if not isinstance(given, str) or not form.fullmatch(given):
        raise InputError(f"{shown(given)} is no name", place=place, remedy="as the API server writes it")
    return given


def text(given: Any, place: str) -> str:
    """Any text."""
    if not isinstance(given, str):
        raise InputError(f"expected text, got {shown(given)}", place=place, remedy="put it in quotes")
    return given


def protocol(given: Any, place: str) -> str:
    """A protocol, in our word for it; TCP where none is named."""
    name = "TCP" if given is None else given
    if not isinstance(name, str) or name not in PROTOCOLS:
        remedy = f"one of {', '.join(PROTOCOLS)}"
        raise InputError(f"unknown protocol {shown(name)}", place=place, remedy=remedy)
    return PROTOCOLS[name]


def port(given: Any, place: str) -> int:
    """The number of a port."""
    if type(given) is not int or not 1 <= given <= MAX_PORT:
        raise InputError(f"{shown(given)} is no port", place=place, remedy=f"1 to {MAX_PORT}")
    return given


def shown(given: Any) -> str:
    """Somebody's value, short and printable."""
    if isinstance(given, list | dict):
        return "a list" if isinstance(given, list) else "a mapping"
    return ascii(given)[:60]
