"""What is shown of an agent: metrics that Prometheus reads, logs that jq reads, names in one spelling."""

import json
import logging
import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshfabric.model.errors import PermanentError
from meshfabric.model.tables import DROPS, NO_DROPS, Reason
from meshfabric.observe import metrics
from meshfabric.observe.events import KEPT, Events
from meshfabric.observe.logs import JsonLines
from meshfabric.observe.metrics import PathReading, Reading
from meshfabric.observe.reasons import MEANING
from meshfabric.observe.rows import drop_rows
from tests.patience import DEADLINE_S

READING = Reading(
    gauges={"nodes_known": ("Nodes.", 4)},
    counters={"events": ("Events.", 9)},
    reasons={"policy_ingress": (3, 300)},
    map_entries={"addresses": 18},
    paths=[PathReading("kube1", "mfwg00", True, True, 250, 10, 9, 1)],
)


def scrape(port: int) -> dict[str, float]:
    """Samples by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S) as page:
        families = text_string_to_metric_families(page.read().decode())
        return {
            sample.name + str(sorted(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }


def test_a_scrape_reads_once_and_has_every_family(free_port: int) -> None:
    reads: list[Reading] = []

    def read() -> Reading:
        reads.append(READING)
        return READING

    stop = metrics.serve(read, "127.0.0.1", free_port)
    try:
        seen = scrape(free_port)
    finally:
        stop()
    assert len(reads) == 1
    assert seen["meshfabric_nodes_known[]"] == 4
    assert seen["meshfabric_events_total[]"] == 9
    assert seen["meshfabric_packets_total['policy_ingress']"] == 3
    assert seen["meshfabric_bytes_total['policy_ingress']"] == 300
    assert seen["meshfabric_plan_entries['addresses']"] == 18
    assert seen["meshfabric_path_rtt_seconds['kube1', 'mfwg00']"] == 0.00025
    assert seen["meshfabric_path_active['kube1', 'mfwg00']"] == 1


def test_a_taken_port_is_told_in_one_line(free_port: int) -> None:
    stop = metrics.serve(lambda: READING, "127.0.0.1", free_port)
    try:
        with pytest.raises(PermanentError, match=rf"^127\.0\.0\.1:{free_port}: cannot listen: .*\(free it"):
            metrics.serve(lambda: READING, "127.0.0.1", free_port)
    finally:
        stop()


def test_a_log_line_is_json_with_its_extras() -> None:
    record = logging.LogRecord("meshfabric.x", logging.WARNING, __file__, 1, "drift %s", ("seen",), None)
    record.table = Path("/a")
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["message"], line["table"]) == ("warning", "drift seen", "/a")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])


def test_the_last_events_are_kept() -> None:
    events = Events()
    for number in range(KEPT + 5):
        events.note(f"event {number}", "detail")
    assert [event.name for event in events.last] == [f"event {number}" for number in range(5, KEPT + 5)]


def test_what_happens_often_drives_out_only_its_own() -> None:
    events = Events()
    events.note("agent started")
    for number in range(2 * KEPT):
        events.note("path switch", str(number))
    assert len(events.last) == KEPT
    assert (events.last[0].name, events.last[-1].detail) == ("agent started", str(2 * KEPT - 1))


def test_every_drop_is_listed_also_when_it_never_happened() -> None:
    rows = drop_rows({Reason.NO_ROUTE: (2, 200)})
    assert {row["reason"]: row["packets"] for row in rows}["no_route"] == 2
    assert len(rows) == len(DROPS) == len(set(Reason) - NO_DROPS)
    assert not {Reason.AUDITED, Reason.FORWARDED_TO_WORLD} & {*DROPS}, "what goes is no drop"
    assert all(MEANING[Reason[row["reason"].upper()]] == row["meaning"] for row in rows)
