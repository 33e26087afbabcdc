"""What an operator can see: metrics for Prometheus, logs in JSON; and what nobody may see: keys."""

import os
import re
import stat
import time
from datetime import datetime
from pathlib import Path

from meshfabric.lab import build
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.places import SILENCE_S, ping
from tests.lab.scrape import scraped, text_of
from tests.lab.store import Store
from tests.lab.streams import Flow, flowing
from tests.lab.whole import address, agent, dropping, drops, log_of, names, paths, places, until

pytestmark = requires("capabilities")

GAUGES = (
    *("store_connected", "store_revision", "records_refused", "removal_held", "tables_failing"),
    *("nodes_known", "nodes_alive", "endpoints", "workloads", "plan_entries", "key_epoch", "key_rotation"),
    *("path_up", "path_active", "path_rtt_seconds"),
)
COUNTERS = (
    *("events", "event_seconds", "apply_seconds", "changes", "drift_repaired", "record_refusals"),
    *("packets", "bytes", "path_probes_sent", "path_probes_heard", "path_flaps"),
)
FAMILY = re.compile(r"# (HELP|TYPE) (meshfabric_[a-z0-9_]+) (.+)")
PROCESSES = Path("/proc")


def families(text: str) -> dict[str, str]:
    """Types by name; each family has a help text too."""
    found: dict[str, dict[str, str]] = {"HELP": {}, "TYPE": {}}
    for line in text.splitlines():
        if match := FAMILY.fullmatch(line):
            assert match[2] not in found[match[1]], f"{match[2]} is told twice"
            found[match[1]][match[2]] = match[3]
    assert found["HELP"].keys() == found["TYPE"].keys()
    assert all(text.endswith(".") for text in found["HELP"].values())
    return found["TYPE"]


def test_metrics_have_the_promised_families(fabric: Lab) -> None:
    wanted = {f"meshfabric_{name}": "gauge" for name in GAUGES}
    wanted |= {f"meshfabric_{name}_total": "counter" for name in COUNTERS}
    found = families(text_of(fabric, "kube1"))
    assert {name: found.get(name) for name in wanted} == wanted


def test_metrics_say_what_is(fabric: Lab) -> None:
    samples = scraped(fabric, "kube1")
    one = {name: values[""] for name, values in samples.items() if "" in values}
    assert (one["meshfabric_store_connected"], one["meshfabric_nodes_known"]) == (1, len(names(fabric)))
    assert one["meshfabric_endpoints"] == 2 * len(places(fabric))
    assert one["meshfabric_workloads"] == 3
    assert one["meshfabric_records_refused"] == one["meshfabric_tables_failing"] == 0
    assert 0 < samples["meshfabric_path_rtt_seconds"]['device="mfwg00",node="kube2"'] < 1
    assert samples["meshfabric_plan_entries"]['table="addresses"'] == one["meshfabric_endpoints"]


def test_metrics_say_which_paths_are_up(fabric: Lab) -> None:
    def shown() -> list[float]:
        samples, ways = scraped(fabric, "kube1"), ("mfwg00", "mfwg11")
        names = [f"meshfabric_path_{what}" for what in ("up", "active")]
        return [samples[name][f'device="{way}",node="kube2"'] for name in names for way in ways]

    until(lambda: shown() == [1, 1, 1, 0])  # both, and the preferred one is taken


def test_counters_count(fabric: Lab) -> None:
    before = scraped(fabric, "kube1")
    with dropping(fabric, "kube1", "no_route"):
        assert ping(fabric, "kube1/web", "10.64.4.99", answer_s=SILENCE_S) is None
    assert ping(fabric, "kube1/web", address(fabric, "kube2/db")) is not None
    after = scraped(fabric, "kube1")

    def more(name: str, labels: str) -> float:
        return after[f"meshfabric_{name}_total"][labels] - before[f"meshfabric_{name}_total"][labels]

    assert more("packets", 'reason="no_route"') == 1
    assert more("bytes", 'reason="no_route"') == 14 + 20 + 8 + 56
    assert more("packets", 'reason="forwarded_to_node"') >= 1
    assert after["meshfabric_packets_total"]['reason="no_route"'] == drops(fabric, "kube1", "no_route")
    path, probes = 'device="mfwg00",node="kube2"', "meshfabric_path_probes_sent_total"
    until(lambda: scraped(fabric, "kube1")[probes][path] > before[probes][path])


def test_probes_are_answered_at_the_pace_that_is_set(fabric: Lab) -> None:
    """With traffic 20 a second, give and take what a busy machine does to it."""
    with flowing(fabric, Flow("kube1/web", "kube2/db")) as streams:
        until(streams.all_pass)
        begun, before = time.monotonic(), heard(fabric)
        until(lambda: heard(fabric) >= before + 20)
        more, took = (
            heard(fabric) - before,
            time.monotonic() - begun,
        )  # all of them came in this time, or less
    print(f"{more / took:.0f} probes a second")
    assert 2 < more / took < 25


def heard(lab: Lab) -> int:
    """Answers to probes from kube1 to kube2, by the preferred path."""
    return int(paths(lab, "kube1", "kube2")[0]["heard"])


def test_logs_are_json_lines_that_say_what_happened(fabric: Lab) -> None:
    for node in names(fabric):
        lines = log_of(fabric, node)
        assert lines
        for line in lines:
            assert {"time", "level", "logger", "message"} <= line.keys()
            assert datetime.fromisoformat(line["time"]).tzinfo is not None
            assert "exception" not in line
        events = {line.get("event") for line in lines}
        assert {"agent started", "store connected", "store listing"} <= events


class TestPrivateKeys:
    """They are in files of root's, and nowhere else."""

    @staticmethod
    def files(lab: Lab) -> dict[Path, str]:
        return {
            path: path.read_text().strip()
            for node in names(lab)
            for path in sorted((lab.node_folder(node) / "state" / "keys").glob("*.key"))
        }

    def test_the_files_are_roots_alone(self, fabric: Lab) -> None:
        found = self.files(fabric)
        assert len(found) == 2 * len(names(fabric))
        for path, key in found.items():
            assert re.fullmatch(r"[A-Za-z0-9+/]{43}=", key)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert (path.stat().st_uid, path.stat().st_gid) == (0, 0)
        assert len(set(found.values())) == len(found), "one for each device"

    def test_they_are_what_the_tunnels_use(self, fabric: Lab) -> None:
        for path, key in self.files(fabric).items():
            used = build.run(fabric, path.parts[-4], ["wg", "show", path.stem, "private-key"])
            assert used.stdout.strip() == key

    def test_etcd_has_none_of_them(self, fabric: Lab) -> None:
        everything = b"\n".join(Store(fabric).everything().values())
        assert b"public_key" in everything
        assert not [path for path, key in self.files(fabric).items() if key.encode() in everything]

    def test_no_log_has_any(self, fabric: Lab) -> None:
        logs = [*(fabric.folder / "logs").iterdir(), *(fabric.folder / "nodes").rglob("*.log")]
        text = "\n".join(path.read_text(errors="replace") for path in logs)
        assert "agent started" in text
        assert not [path for path, key in self.files(fabric).items() if key in text]

    def test_no_file_of_the_agent_has_any_but_their_own(self, fabric: Lab) -> None:
        keys = self.files(fabric)
        others = [
            path for path in (fabric.folder / "nodes").rglob("*") if path.is_file() and path not in keys
        ]
        assert any(path.name == "snapshot.json" for path in others)
        text = "\n".join(path.read_text(errors="replace") for path in others)
        assert not [path for path, key in keys.items() if key in text]

    def test_no_process_shows_any(self, fabric: Lab) -> None:
        """Neither in its command line nor in its environment, while the agent starts and sets them too."""
        keys = [key.encode() for key in self.files(fabric).values()]
        inside = os.readlink(f"/proc/{fabric.node('kube1').pid}/ns/net")
        seen = 0
        build.run(fabric, "kube1", ["ip", "link", "delete", "mfwg00"])  # the agent makes it anew
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            for text in shown_by_processes(inside):
                seen += 1
                assert not any(key in text for key in keys)
        assert seen > 10
        assert agent(fabric, "kube1").alive


def shown_by_processes(netns: str) -> list[bytes]:
    """Command lines and environments of the processes in a network namespace."""
    found = []
    for folder in PROCESSES.iterdir():
        try:
            if folder.name.isdigit() and os.readlink(folder / "ns" / "net") == netns:
                found += [(folder / name).read_bytes() for name in ("cmdline", "environ")]
        except OSError:
            continue  # it ended
    return found
