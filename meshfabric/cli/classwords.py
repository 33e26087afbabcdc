"""Traffic classes in words, for `class check` and `class show` (pure)."""

from collections.abc import Iterator

from meshfabric.model.dscp import format_dscp
from meshfabric.model.labels import format_selector
from meshfabric.model.ports import format_ports
from meshfabric.model.qos import DEFAULT, Match, Prefer, Tcp, TrafficClass
from meshfabric.model.rates import format_rate

INDENT = "  "
NO_LIMIT = "no limit of its own"
PREFER = {
    Prefer.CHEAPEST: "the cheapest of those that are sound",
    Prefer.FASTEST: "the one with the shortest round trip of those that are sound",
}


def describe(one: TrafficClass) -> str:
    """What a class is, some lines without a last newline."""
    return "\n".join(
        [
            f"{one.name} is for {_subject(one)}",
            *(f"{INDENT * 2}{_match(match)}" for match in one.matches),
            f"{INDENT}priority: {one.priority}",
            f"{INDENT}encrypted packets: DSCP {_dscp(one.dscp)}",
            f"{INDENT}on each uplink, together: {_rates(one.guaranteed, one.most)}",
            f"{INDENT}each workload: {_alone(one.egress, one.ingress)}",
            f"{INDENT}path: {', '.join(_path(one))}",
            f"{INDENT}tcp: {', '.join(_tcp(one.tcp)) or 'as the system has it'}",
        ]
    )


def _subject(one: TrafficClass) -> str:
    if one.select is None:
        return "the fabric's own control traffic"
    workloads = f"workloads with {format_selector(one.select)}" if one.select else "every workload"
    if one.name == DEFAULT:
        workloads += ", and those that no class selects"
    return f"these packets of {workloads}:" if one.matches else workloads


def _match(match: Match) -> str:
    ports = None if match.ports is None else f"conversations on {', '.join(map(format_ports, match.ports))}"
    dscp = None if match.dscp is None else f"DSCP {', '.join(map(_dscp, match.dscp))}"
    return " with ".join(filter(None, (ports, dscp)))


def _dscp(number: int) -> str:
    name = format_dscp(number)
    return name if name == str(number) else f"{name} ({number})"


def _rates(guaranteed: int, most: int) -> str:
    parts = [f"{format_rate(guaranteed)} guaranteed"] if guaranteed else []
    return ", ".join([*parts, *([f"at most {format_rate(most)}"] if most else [])]) or NO_LIMIT


def _alone(egress: int, ingress: int) -> str:
    named = (("sends", egress), ("receives", ingress))
    return ", ".join(f"{verb} at most {format_rate(rate)}" for verb, rate in named if rate) or NO_LIMIT


def _path(one: TrafficClass) -> Iterator[str]:
    yield PREFER[one.prefer]
    if one.rtt_ms:
        yield f"sound up to a round trip of {one.rtt_ms:g} ms"
    if one.loss_percent:
        yield f"sound up to {one.loss_percent:g} % loss"


def _tcp(tcp: Tcp) -> Iterator[str]:
    if tcp.congestion_control:
        yield f"congestion control {tcp.congestion_control}"
    if tcp.initial_window:
        yield f"begins with {tcp.initial_window} segments"
    if tcp.window_clamp:
        yield f"windows of at most {tcp.window_clamp} bytes"
