"""Prometheus metrics: read off the agent when somebody scrapes, nothing is counted twice.

`Reading` is what the agent knows at that moment; the names below are the
public ones and keep to Prometheus' conventions (base units, `_total`).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from meshfabric.model.errors import PermanentError
from meshfabric.model.tables import Fault

Family = GaugeMetricFamily | CounterMetricFamily

US_PER_S = 1_000_000
NS_PER_S = 1_000_000_000


class PathReading(NamedTuple):
    """One tunnel to one node."""

    node: str
    device: str
    up: bool
    active: bool
    rtt_us: int
    sent: int
    heard: int
    flaps: int
    lost_out: int = 0
    lost_back: int = 0
    jitter_out_ns: int = 0
    jitter_back_ns: int = 0
    faults: int = 0
    falls: int = 0
    encrypted: bool = True


class Reading(NamedTuple):
    """A moment of the agent. `reasons`: packets and bytes by name of the verdict; `switches` by node."""

    gauges: dict[str, tuple[str, float]]
    counters: dict[str, tuple[str, float]]
    reasons: dict[str, tuple[int, int]]
    map_entries: dict[str, int]
    paths: list[PathReading]
    switches: Mapping[str, int] = {}


class Metrics:
    """A collector that asks `read` at each scrape."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Nothing: the names are known only after reading, and registering must not read."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metric families."""
        reading = self._read()
        for name, (text, value) in reading.gauges.items():
            yield GaugeMetricFamily(f"meshfabric_{name}", text, value=value)
        for name, (text, value) in reading.counters.items():
            yield CounterMetricFamily(f"meshfabric_{name}", text, value=value)
        yield from _verdicts(reading)
        yield from _paths(reading)
        yield _switches(reading)
        entries = GaugeMetricFamily("meshfabric_plan_entries", "Entries planned by table.", labels=["table"])
        for table, count in reading.map_entries.items():
            entries.add_metric([table], count)
        yield entries


def _verdicts(reading: Reading) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        "meshfabric_packets", "Packets by verdict of the datapath.", labels=["reason"]
    )
    octets = CounterMetricFamily("meshfabric_bytes", "Bytes by verdict of the datapath.", labels=["reason"])
    for reason, (number, size) in reading.reasons.items():
        packets.add_metric([reason], number)
        octets.add_metric([reason], size)
    yield from (packets, octets)


def _paths(reading: Reading) -> Iterator[Metric]:
    labels = ["node", "device"]
    up = GaugeMetricFamily("meshfabric_path_up", "1 if the path answers.", labels=labels)
    active = GaugeMetricFamily(
        "meshfabric_path_active", "1 if the path carries the node's traffic.", labels=labels
    )
    rtt = GaugeMetricFamily("meshfabric_path_rtt_seconds", "Last probe's round trip.", labels=labels)
    sent = CounterMetricFamily("meshfabric_path_probes_sent", "Probes sent.", labels=labels)
    heard = CounterMetricFamily("meshfabric_path_probes_heard", "Probes answered.", labels=labels)
    flaps = CounterMetricFamily("meshfabric_path_flaps", "Times the path was given up.", labels=labels)
    falls = CounterMetricFamily(
        "meshfabric_path_falls", "Times the path got worse: given up, lossy or slow.", labels=labels
    )
    encrypted = GaugeMetricFamily("meshfabric_path_encrypted", "0 if packets go in clear.", labels=labels)
    families: tuple[Family, ...] = (up, active, rtt, sent, heard, flaps, falls, encrypted)
    for path in reading.paths:
        where = [path.node, path.device]
        rtt_s, counts = path.rtt_us / US_PER_S, (path.sent, path.heard, path.flaps, path.falls)
        values = (path.up, path.active, rtt_s, *counts, path.encrypted)
        for family, value in zip(families, values, strict=True):
            family.add_metric(where, value)
    yield from families
    yield from _ways(reading)
    yield _faults(reading)


def _faults(reading: Reading) -> GaugeMetricFamily:
    """What keeps traffic off a path that answers."""
    faulty = GaugeMetricFamily(
        "meshfabric_path_fault", "1 while the path has this fault.", labels=["node", "device", "fault"]
    )
    for path in reading.paths:
        for fault in Fault:
            faulty.add_metric([path.node, path.device, str(fault.name).lower()], bool(path.faults & fault))
    return faulty


def _switches(reading: Reading) -> Metric:
    family = CounterMetricFamily(
        "meshfabric_path_switches", "Times a node's traffic changed its path.", labels=["node"]
    )
    for node, count in reading.switches.items():
        family.add_metric([node], count)
    return family


def _ways(reading: Reading) -> Iterator[Metric]:
    """What each of the two ways of a path does to probes."""
    labels = ["node", "device", "way"]
    lost = CounterMetricFamily("meshfabric_path_probes_lost", "Probes lost on that way.", labels=labels)
    jitter = GaugeMetricFamily(
        "meshfabric_path_jitter_seconds", "Mean change of that way's transit time.", labels=labels
    )
    for path in reading.paths:
        for way, probes, change_ns in (
            ("out", path.lost_out, path.jitter_out_ns),
            ("back", path.lost_back, path.jitter_back_ns),
        ):
            lost.add_metric([path.node, path.device, way], probes)
            jitter.add_metric([path.node, path.device, way], change_ns / NS_PER_S)
    yield from (lost, jitter)


def serve(read: Callable[[], Reading], host: str, port: int) -> Callable[[], None]:
    """Answer scrapes over HTTP in a thread of its own; returns what stops it.

    Raises `PermanentError` when the address cannot be listened on.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics(read))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as cause:
        remedy = "free it, or configure another address for metrics"
        raise PermanentError(
            f"cannot listen: {cause.strerror}", place=f"{host}:{port}", remedy=remedy
        ) from cause

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
