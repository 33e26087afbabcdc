"""Traffic classes as people write them, and the way to checked values (`qos`); docs/qos.md is the reference.

    name: video
    select: app=video                        # without it: traffic-class=video
    match:                                   # only these packets of those workloads
      - ports: [tcp/443, udp/5000-5100]
      - dscp: [ef, af41]
    priority: 5
    dscp: af41                               # of the encrypted packet
    uplink: {guaranteed: 20mbit, max: 80mbit}
    workload: {egress: 10mbit, ingress: 50mbit}
    path: {prefer: fastest, rtt_ms: 50, loss_percent: 1}
    tcp: {congestion_control: bbr, initial_window: 20, window_clamp: 65536}

What a document of a built-in class leaves out stays as it is built in.
"""

import re
from collections.abc import Sized
from typing import TypeVar

import msgspec

from meshfabric.model.dscp import DscpText, parse_dscp
from meshfabric.model.errors import InputError
from meshfabric.model.labels import parse_selector
from meshfabric.model.names import check_name
from meshfabric.model.peertext import choose
from meshfabric.model.policytext import SelectorText
from meshfabric.model.ports import Ports, is_plain, parse_ports
from meshfabric.model.qos import BUILT_IN, CONTROL, LAST_PRIORITY, Match, Prefer, Tcp, TrafficClass, chosen
from meshfabric.model.rates import RateText, format_rate, parse_rate

MAX_MATCHES = 16
MAX_LISTED = 16
"""Ports, or DSCPs, of one match."""
PRIORITIES = (0, LAST_PRIORITY - 1)
RTT_MS = (0, 60_000)
LOSS_PERCENT = (0, 100)
INITIAL_WINDOW = (1, 1000)
"""Segments; Linux begins with 10 (RFC 6928)."""
WINDOW_CLAMP = (4096, 65535 << 14)
"""Bytes; the most is what window scaling can tell (RFC 7323, 2.3)."""
ALGORITHM = re.compile("[a-z0-9_]{1,15}")
"""A congestion control's name: TCP_CA_NAME_MAX of the kernel, less the final zero."""
OF_CONTROL = frozenset({"name", "description", "min_version", "dscp", "uplink"})

Number = TypeVar("Number", int, float)


class MatchText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Packets that have both: a server's end on one of the ports, and one of the DSCPs."""

    ports: list[str] | None = None
    dscp: list[DscpText] | None = None


class UplinkText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rates of all workloads of a node together, on each of its uplinks."""

    guaranteed: RateText | None = None
    most: RateText | None = msgspec.field(name="max", default=None)


class WorkloadText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The most of each workload alone."""

    egress: RateText | None = None
    ingress: RateText | None = None


class PathText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which path is taken, and when one is no longer good enough."""

    prefer: str | None = None
    rtt_ms: float = 0.0
    loss_percent: float = 0.0


class TcpText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What sockets are told."""

    congestion_control: str | None = None
    initial_window: int | None = None
    window_clamp: int | None = None


class ClassText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A document as written, and the record `classes/<name>`."""

    name: str
    select: SelectorText | None = None
    match: list[MatchText] | None = None
    priority: int | None = None
    dscp: DscpText | None = None
    uplink: UplinkText | None = None
    workload: WorkloadText | None = None
    path: PathText | None = None
    tcp: TcpText | None = None
    description: str = ""
    min_version: int = 1


def read_class(text: ClassText, place: str = "") -> TrafficClass:
    """Check a document; raises `InputError` that names the field."""
    where = f"{place}: " if place else ""
    name = check_name(text.name, "class", f"{where}name")
    base = BUILT_IN.get(name, TrafficClass(name, chosen(name)))
    if name == CONTROL:
        _check_control(text, where)
    guaranteed, most = _of_uplink(text.uplink or UplinkText(), f"{where}uplink")
    egress, ingress = _of_workload(text.workload or WorkloadText(), f"{where}workload")
    path = text.path or PathText()
    return TrafficClass(
        name=name,
        select=base.select if text.select is None else parse_selector(text.select, f"{where}select"),
        matches=_matches(text.match, f"{where}match"),
        priority=_ranged(text.priority, base.priority, PRIORITIES, f"{where}priority"),
        dscp=base.dscp if text.dscp is None else parse_dscp(text.dscp, f"{where}dscp"),
        guaranteed=guaranteed,
        most=most,
        egress=egress,
        ingress=ingress,
        prefer=base.prefer if path.prefer is None else _prefer(path.prefer, f"{where}path.prefer"),
        rtt_ms=_ranged(path.rtt_ms, 0.0, RTT_MS, f"{where}path.rtt_ms"),
        loss_percent=_ranged(path.loss_percent, 0.0, LOSS_PERCENT, f"{where}path.loss_percent"),
        tcp=_tcp(text.tcp or TcpText(), f"{where}tcp"),
    )


def _check_control(text: ClassText, where: str) -> None:
    for field in text.__struct_fields__:
        if field not in OF_CONTROL and getattr(text, field) is not None:
            what = f"class {CONTROL} is the fabric's own: nobody sets its {field}"
            raise InputError(what, place=f"{where}{field}", remedy="set dscp and uplink only")


def _matches(texts: list[MatchText] | None, place: str) -> tuple[Match, ...]:
    if texts is None:
        return ()
    _check_count(texts, MAX_MATCHES, "matches", place)
    return tuple(_match(text, f"{place}[{number}]") for number, text in enumerate(texts))


def _match(text: MatchText, place: str) -> Match:
    if text.ports is None and text.dscp is None:
        raise InputError("neither ports nor dscp", place=place, remedy="leave match out for all packets")
    ports, dscp = None, None
    if text.ports is not None:
        _check_count(text.ports, MAX_LISTED, "ports", f"{place}.ports")
        ports = tuple(sorted({_ports(one, f"{place}.ports[{i}]") for i, one in enumerate(text.ports)}))
    if text.dscp is not None:
        _check_count(text.dscp, MAX_LISTED, "DSCPs", f"{place}.dscp")
        dscp = tuple(sorted({parse_dscp(one, f"{place}.dscp[{i}]") for i, one in enumerate(text.dscp)}))
    return Match(ports, dscp)


def _ports(text: str, place: str) -> Ports:
    ports = parse_ports(text, place)
    if not is_plain(text):
        what = f"{text!r}: classes know neither names of ports nor types of ICMP"
        raise InputError(what, place=place, remedy="write tcp/443, udp/5000-5100 or icmp")
    return ports


def _of_uplink(text: UplinkText, place: str) -> tuple[int, int]:
    guaranteed, most = _rate(text.guaranteed, f"{place}.guaranteed"), _rate(text.most, f"{place}.max")
    if most and guaranteed > most:
        what = f"guaranteed {format_rate(guaranteed)} is more than max {format_rate(most)}"
        raise InputError(what, place=f"{place}.guaranteed", remedy="guarantee no more than the max")
    return guaranteed, most


def _of_workload(text: WorkloadText, place: str) -> tuple[int, int]:
    return _rate(text.egress, f"{place}.egress"), _rate(text.ingress, f"{place}.ingress")


def _rate(given: RateText | None, place: str) -> int:
    return 0 if given is None else parse_rate(given, place)


def _prefer(given: str, place: str) -> Prefer:
    return choose(Prefer, given, "preference", place)


def _tcp(text: TcpText, place: str) -> Tcp:
    algorithm = text.congestion_control
    if algorithm is not None and not ALGORITHM.fullmatch(algorithm):
        what, remedy = f"no congestion control is called {algorithm!r}", "write cubic or bbr"
        raise InputError(what, place=f"{place}.congestion_control", remedy=remedy)
    return Tcp(
        algorithm or "",
        _ranged(text.initial_window, 0, INITIAL_WINDOW, f"{place}.initial_window"),
        _ranged(text.window_clamp, 0, WINDOW_CLAMP, f"{place}.window_clamp"),
    )


def _check_count(listed: Sized, most: int, what: str, place: str) -> None:
    if not 1 <= len(listed) <= most:
        raise InputError(f"{len(listed)} {what}", place=place, remedy=f"1 to {most}, or leave it out")


def _ranged(given: Number | None, missing: Number, bounds: tuple[int, int], place: str) -> Number:
    if given is None:
        return missing
    least, most = bounds
    if not least <= given <= most:
        raise InputError(f"{given} out of range", place=place, remedy=f"{least} to {most}")
    return given
