"""Protocols and ports as policies name them: `tcp/443`, `udp/8000-8100`, `tcp/http`, `icmp/echo-request`.

A name stands for the port that the end which was spoken to gives it (`portnames`).
For ICMP the type stands in the place of the port, as it does in the datapath
(bpf/include/types.h, `policy_key`).
"""

import re

import msgspec

from meshfabric.model.errors import InputError

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
MAX_PORT = 65535
MAX_TYPE = 255

ICMP_TYPES = {  # IANA, "ICMP Parameters" and "ICMPv6 Parameters"; the errors and what asks
    "icmp": {
        "destination-unreachable": 3,
        "redirect": 5,
        "echo-request": 8,
        "time-exceeded": 11,
        "parameter-problem": 12,
        "timestamp-request": 13,
        "timestamp-reply": 14,
    },
    "icmpv6": {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "echo-request": 128,
    },
}
ECHO_REPLY = {"icmp": 0, "icmpv6": 129}
PORT_FORM = "write tcp/443, udp/8000-8100, tcp/http or icmp"

_PORT = re.compile("[0-9]{1,5}")
_TYPE = re.compile("[0-9]{1,3}")
NAMED = re.compile("(?=[0-9-]*[a-z])(?!.*--)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?")
"""A service's name, as containers name their ports (RFC 6335, 5.1, in lower case)."""


class Ports(msgspec.Struct, frozen=True, order=True):
    """A protocol number with a range of ports or ICMP types, both ends included, or with a port's name."""

    protocol: int
    first: int = 0
    last: int = MAX_PORT
    name: str = ""


def parse_ports(text: str, place: str = "") -> Ports:
    """`tcp/443`, `udp/8000-8100`, `tcp`, `tcp/http` or `icmp/8`; raises `InputError`."""
    name, slash, which = text.partition("/")
    protocol = PROTOCOLS.get(name)
    if protocol is None:
        raise InputError(
            f"unknown protocol in {text!r}", place=place, remedy=f"one of {', '.join(PROTOCOLS)}"
        )
    if not slash:
        return Ports(protocol)
    if name in ICMP_TYPES:
        number = _icmp_type(name, which, text, place)
        return Ports(protocol, number, number)
    if NAMED.fullmatch(which):
        return Ports(protocol, name=which)
    return Ports(protocol, *_numbers(which, text, place))


def format_ports(ports: Ports) -> str:
    """The text that parses to the same ports."""
    name = next(name for name, number in PROTOCOLS.items() if number == ports.protocol)
    if ports.name:
        return f"{name}/{ports.name}"
    if (ports.first, ports.last) == (0, MAX_PORT):
        return name
    if ports.first == ports.last:
        known = {number: word for word, number in ICMP_TYPES.get(name, {}).items()}
        return f"{name}/{known.get(ports.first, ports.first)}"
    return f"{name}/{ports.first}-{ports.last}"


def is_plain(text: str) -> bool:
    """Whether agents of the first version understand it: a protocol, a port or a range of ports."""
    name, slash, which = text.partition("/")
    return not slash or not (name in ICMP_TYPES or NAMED.fullmatch(which))


def _numbers(which: str, text: str, place: str) -> tuple[int, int]:
    first, dash, last = which.partition("-")
    bounds = [first, last if dash else first]
    if not all(_PORT.fullmatch(bound) for bound in bounds):
        raise InputError(f"cannot read port {text!r}", place=place, remedy=PORT_FORM)
    low, high = map(int, bounds)
    if not 1 <= low <= high <= MAX_PORT:
        raise InputError(
            f"port {text!r} out of range", place=place, remedy=f"1 to {MAX_PORT}, the lower one first"
        )
    return low, high


def _icmp_type(protocol: str, which: str, text: str, place: str) -> int:
    number = ICMP_TYPES[protocol].get(which)
    if number is None and _TYPE.fullmatch(which):
        number = int(which)
    if which == "echo-reply" or number == ECHO_REPLY[protocol]:
        remedy = f"write {protocol}/echo-request for the end that asks"
        raise InputError(f"{text!r}: an answer passes with its question", place=place, remedy=remedy)
    if number is None or number > MAX_TYPE:
        words = f"a number up to {MAX_TYPE}, or one of {', '.join(ICMP_TYPES[protocol])}"
        raise InputError(f"cannot read type {text!r}", place=place, remedy=words)
    return number
