"""Labels and the selectors over them.

A label set is an identity: two workloads with the same labels are the same to
policy. `Labels` is interned, so that 50,000 endpoints of 500 kinds hold 500
sets, and comparing is comparing pointers.

Selector text is kubectl's: `app=web, tier in (gold, silver), env!=test,
!legacy`; a mapping means equality of each pair (Kubernetes API, "Labels and
Selectors").
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from meshfabric.model.errors import InputError

RESERVED_PREFIX = "meshfabric.io/"
PORT_PREFIX = "port.meshfabric.io/"  # names of ports (`portnames`)
NODE_LABEL = RESERVED_PREFIX + "node"
KIND_LABEL = RESERVED_PREFIX + "kind"
WORKLOAD_LABEL = RESERVED_PREFIX + "workload"
CIDR_LABEL = RESERVED_PREFIX + "cidr"  # of networks, which are no workloads: no selector finds them

EVERYTHING = "*"  # as a selector's text

MAX_LABELS = 64
MAX_LENGTH = 253

Labels = tuple[tuple[str, str], ...]  # sorted by key

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_./-]{0,251}[A-Za-z0-9])?"
_KEY = re.compile(_WORD)
_VALUE = re.compile(rf"(?:{_WORD})?")
_VALUES = rf"\s*(?:{_WORD}\s*)?(?:,\s*(?:{_WORD}\s*)?)*"
_TERM = re.compile(
    rf"\s*(?:!\s*(?P<absent>{_WORD})"
    rf"|(?P<key>{_WORD})(?:\s*(?P<equal>!=|==|=)\s*(?P<value>{_WORD})?"
    rf"|\s+(?P<set>in|notin)\s*\((?P<values>{_VALUES})\))?)\s*(?:,(?!\s*$)|$)"
)
_BY_KEY = frozenset({"exists", "absent"})
_POSITIVE = frozenset({"in", "exists"})
_interned: dict[Labels, Labels] = {}


class Term(NamedTuple):
    """One requirement; all terms of a selector must hold. `op`: in, notin, exists, absent."""

    key: str
    op: str
    values: tuple[str, ...]


Selector = tuple[Term, ...]  # sorted; empty selects everything


def check_labels(pairs: Mapping[str, str], place: str = "") -> None:
    """Raises `InputError` for bad characters or too many; keeps nothing, unlike `make_labels`."""
    if len(pairs) > MAX_LABELS:
        raise InputError(f"{len(pairs)} labels", place=place, remedy=f"keep to {MAX_LABELS}")
    for key, value in pairs.items():
        if not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            remedy = f"letters, digits and -_./ only, at most {MAX_LENGTH}"
            raise InputError(f"bad label {f'{key}={value}'!r}", place=place, remedy=remedy)


def is_reserved(key: str) -> bool:
    """Whether a label is the fabric's own, which nobody gives."""
    return key.startswith((RESERVED_PREFIX, PORT_PREFIX))


def make_labels(pairs: Mapping[str, str], place: str = "") -> Labels:
    """Checked, sorted and interned; raises `InputError` for bad characters or too many."""
    labels = tuple(sorted(pairs.items()))
    known = _interned.get(labels)
    if known is None:
        check_labels(pairs, place)
        known = _interned[labels] = labels
    return known


def forget_labels(labels: Labels) -> None:
    """Drop an interned set that nothing refers to any more."""
    _interned.pop(labels, None)


def format_labels(labels: Labels) -> str:
    """`app=web,tier=gold`."""
    return ",".join(f"{key}={value}" for key, value in labels)


def parse_selector(given: str | Mapping[str, str], place: str = "") -> Selector:
    """Selector text or an equality mapping to terms; raises `InputError` naming the bad term."""
    if not isinstance(given, str):
        check_labels(given, place)
        return tuple(Term(key, "in", (value,)) for key, value in sorted(given.items()))
    return () if given.strip() == EVERYTHING else tuple(sorted(_terms(given, place)))


def _terms(text: str, place: str) -> Iterable[Term]:
    at = 0
    while at < len(text.rstrip()):
        match = _TERM.match(text, at)
        if not match:
            remedy = "use =, !=, in (..), notin (..), key or !key, separated by commas"
            raise InputError(f"cannot read selector at {text[at:].strip()!r}", place=place, remedy=remedy)
        yield _term(match)
        at = match.end()


def _term(match: re.Match[str]) -> Term:
    if match["absent"]:
        return Term(match["absent"], "absent", ())
    if match["equal"]:
        return Term(match["key"], "notin" if match["equal"] == "!=" else "in", (match["value"] or "",))
    if match["set"]:
        values = tuple(sorted({value.strip() for value in match["values"].split(",")}))
        return Term(match["key"], match["set"], values)
    return Term(match["key"], "exists", ())


def matches(selector: Selector, labels: Labels) -> bool:
    """Whether a label set meets every term; `notin` also holds where the key is missing."""
    pairs = dict(labels)
    for key, op, values in selector:  # written out: the compiler asks this 10,000 times for one workload
        value = pairs.get(key)
        holds = (value is not None) if op in _BY_KEY else (value in values)
        if holds != (op in _POSITIVE):
            return False
    return True


def format_selector(selector: Selector) -> str:
    """The text that parses to the same selector; `*` for everything."""
    return ", ".join(_format_term(term) for term in selector) or EVERYTHING


def _format_term(term: Term) -> str:
    if term.op in ("exists", "absent"):
        return ("!" if term.op == "absent" else "") + term.key
    if len(term.values) == 1:
        return f"{term.key}{'=' if term.op == 'in' else '!='}{term.values[0]}"
    return f"{term.key} {term.op} ({', '.join(term.values)})"
