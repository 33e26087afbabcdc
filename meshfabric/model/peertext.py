"""The peers of a policy's rules as people write them, and the way to checked values.

app=web, {app: web}                            who has these labels
10.0.0.0/8                                     addresses outside of the fabric
{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}      the same, less some
{entity: world}, {node: n2}                    see docs/policy.md
"""

from enum import Enum
from ipaddress import ip_network
from typing import TypeVar

from meshfabric.model.errors import InputError
from meshfabric.model.labels import KIND_LABEL, NODE_LABEL, Selector, parse_selector
from meshfabric.model.names import check_name
from meshfabric.model.networks import Cidr, parse_cidr
from meshfabric.model.policy import Entity, Peer
from meshfabric.model.versions import FIRST, LANGUAGE, OUTSIDE, TIERS

PeerText = str | dict[str, str | list[str]]
"""A selector, a prefix, `{entity: NAME}`, `{node: NAME}` or `{cidr: PREFIX, except: [PREFIX]}`."""

ENTITY, NODE, CIDR, EXCEPT = "entity", "node", "cidr", "except"

Choice = TypeVar("Choice", bound=Enum)


def parse_peer(text: PeerText, version: int, place: str) -> Peer:
    """One of the peers of a rule, as a document of this version says it; raises `InputError`."""
    if isinstance(text, str):
        outside = _is_outside(text, version)
        return parse_cidr(text.strip(), (), place) if outside else parse_selector(text, place)
    key = _special_key(text) if version >= TIERS else ""
    if key == CIDR:
        return _cidr(text, place)
    plain = _plain(text, place)
    if not key:
        return parse_selector(plain, place)
    if len(text) > 1:
        remedy = f'write labels as text: "{",".join(f"{key}={value}" for key, value in plain.items())}"'
        raise InputError(f"{key} stands alone in a peer", place=place, remedy=remedy)
    if key == NODE:
        return host_of(plain[key], place)
    return choose(Entity, plain[key], ENTITY, place)


def host_of(node: str, place: str = "") -> Selector:
    """The host workload of a node (`store.rights.endpoint_labels`); raises `InputError` for a bad name."""
    return parse_selector({KIND_LABEL: "host", NODE_LABEL: check_name(node, NODE, place)})


def peer_needs(text: PeerText) -> int:
    """The version from which on agents understand it."""
    if isinstance(text, str):
        return OUTSIDE if _is_outside(text, LANGUAGE) else FIRST
    key = _special_key(text)
    if key == CIDR or text.get(ENTITY) in (Entity.WORLD.value, Entity.KUBE_APISERVER.value):
        return OUTSIDE
    return TIERS if key else FIRST


def _cidr(text: dict[str, str | list[str]], place: str) -> Cidr:
    network, exceptions = text[CIDR], text.get(EXCEPT, [])
    if not isinstance(network, str) or isinstance(exceptions, str) or text.keys() - {CIDR, EXCEPT}:
        what, remedy = "cidr is one prefix, except a list", "write {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}"
        raise InputError(what, place=place, remedy=remedy)
    return parse_cidr(network, exceptions, place)


def _plain(text: dict[str, str | list[str]], place: str) -> dict[str, str]:
    """A mapping of labels, or of an entity or node: none of its values is a list."""
    for key, value in text.items():
        if isinstance(value, list):
            remedy = f'write "{key} in ({", ".join(value)})"'
            raise InputError(f"label {key} has a list of values", place=place, remedy=remedy)
    return {key: value for key, value in text.items() if isinstance(value, str)}


def _is_outside(text: str, version: int) -> bool:
    """Whether a peer's text is a prefix; in records of version 1 it is a label, however odd."""
    try:
        ip_network(text.strip(), strict=False)
    except ValueError:
        return False
    return version >= TIERS


def _special_key(peer: dict[str, str | list[str]]) -> str:
    """What makes a mapping no selector of labels, from version 2 on."""
    return next((key for key in (ENTITY, NODE, CIDR) if key in peer), "")


def choose(choice: type[Choice], given: str, what: str, place: str) -> Choice:
    """The member with this value; raises `InputError` that names them all."""
    try:
        return choice(given)
    except ValueError:
        words = ", ".join(str(member.value) for member in choice)
        raise InputError(f"unknown {what} {given!r}", place=place, remedy=f"one of {words}") from None
