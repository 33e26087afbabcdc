"""What somebody else changed on a node is put back, counted, and told in the log."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from meshfabric.lab import build
from meshfabric.lab.state import Lab
from meshfabric.model.addresses import host_prefix, parse_address
from meshfabric.model.tables import address_key, address_value, number, uplink_value
from tests.features import requires
from tests.lab.kernel import devices, hanging, opened_map, pins, take_off
from tests.lab.places import SILENCE_S, ping
from tests.lab.policies import everywhere
from tests.lab.scrape import scraped
from tests.lab.store import Store
from tests.lab.whole import address, log_of, told, until

pytestmark = requires("capabilities")

NODE, DB = "kube1", "kube2/db"
STRANGER = address_key(host_prefix(parse_address("10.64.4.222")))


def key_of(lab: Lab, where: str) -> bytes:
    return address_key(host_prefix(parse_address(address(lab, where))))


def run(lab: Lab, script: str) -> None:
    done = build.run(lab, NODE, ["sh", "-euc", script])
    assert done.returncode == 0, done.stderr


@contextmanager
def repaired(lab: Lab, *tables: str, perhaps: Sequence[str] = ()) -> Iterator[None]:
    """What is disturbed within is put back afterwards, and noted as drift of these tables.

    `perhaps` are those that fail for the others' sake if they are looked at first: what is tried
    again is no drift.
    """
    before, lines = told(lab, NODE)["drift_repaired"], len(log_of(lab, NODE))

    def noted() -> set[str]:
        return {line["table"] for line in log_of(lab, NODE)[lines:] if line["message"] == "drift repaired"}

    def counted() -> bool:
        count = scraped(lab, NODE)["meshfabric_drift_repaired_total"][""]
        return bool(count == told(lab, NODE)["drift_repaired"])

    yield
    until(lambda: noted() >= set(tables))
    until(lambda: passes(lab) and not told(lab, NODE)["failing"])
    assert set(tables) <= noted() <= {*tables, *perhaps}
    assert told(lab, NODE)["drift_repaired"] > before
    until(counted)


def passes(lab: Lab) -> bool:
    """Whether the node and its pods reach another node."""
    tries = [(source, address(lab, DB, family)) for source in (NODE, "kube1/web") for family in (4, 6)]
    try:
        return all(ping(lab, source, to, answer_s=SILENCE_S) is not None for source, to in tries)
    except OSError:  # no route: the host has none while it is not put back
        return False


def test_an_undisturbed_node_finds_no_drift(fabric: Lab) -> None:
    """What the tests below rest on; several checks have gone by since the lab was raised."""
    before = [told(fabric, node)["drift_repaired"] for node in ("vm1", "metal1")]
    rounds = scraped(fabric, NODE)["meshfabric_events_total"]
    assert rounds[""] > 0
    until(lambda: told(fabric, "vm1")["uptime_s"] > 3)
    assert [told(fabric, node)["drift_repaired"] for node in ("vm1", "metal1")] == before


def test_an_address_that_was_taken_out(fabric: Lab) -> None:
    with repaired(fabric, "addresses"), opened_map(fabric, NODE, "addresses") as addresses:
        value = addresses.lookup(key_of(fabric, DB))
        assert addresses.delete(key_of(fabric, DB))
    with opened_map(fabric, NODE, "addresses") as addresses:
        assert addresses.lookup(key_of(fabric, DB)) == value


def test_an_address_that_was_put_in(fabric: Lab) -> None:
    with repaired(fabric, "addresses"), opened_map(fabric, NODE, "addresses") as addresses:
        addresses.update(STRANGER, address_value(256, 1))
    with opened_map(fabric, NODE, "addresses") as addresses:
        assert addresses.lookup(STRANGER) is None


MAPS = ("workloads", "devices", "nodes", "policy", "fabric", "uplinks")
ARRAYS = frozenset({"workloads", "nodes", "fabric", "uplinks"})  # they are never empty, but may be zero


def held(lab: Lab, name: str) -> dict[bytes, bytes]:
    with opened_map(lab, NODE, name) as one:
        return {key: value for key, value in one.items() if any(value)}


def test_maps_that_were_emptied(fabric: Lab) -> None:
    before = {name: held(fabric, name) for name in MAPS}
    assert all(before.values())
    with repaired(fabric, *MAPS):
        for name, entries in before.items():
            with opened_map(fabric, NODE, name) as one:
                if name in ARRAYS:
                    one.update_batch((key, bytes(len(value))) for key, value in entries.items())
                else:
                    one.delete_batch(entries)
    assert {name: held(fabric, name) for name in MAPS} == before


def routes(lab: Lab) -> list[str]:
    shown = build.run(lab, NODE, ["sh", "-c", "ip route show table all; ip -6 route show table all"]).stdout
    return sorted(line for line in shown.splitlines() if "proto 109" in line)


def test_routes_that_were_changed(fabric: Lab) -> None:
    before = routes(fabric)
    with repaired(fabric, "routes"):
        run(
            fabric,
            """
            ip -6 route delete fd6d:6600::/48 dev mfhost0
            ip route delete unreachable 10.64.0.0/16 metric 4096
            ip route flush table 19780
            # without its source
            ip route replace 10.64.0.0/16 via 169.254.1.1 dev mfhost0 onlink proto 109
            # and one too many
            ip route add 203.0.113.0/24 dev up0 proto 109
            """,
        )
    assert routes(fabric) == before


def test_a_rule_that_was_deleted(fabric: Lab) -> None:
    with repaired(fabric, "rules"):
        run(fabric, "ip -6 rule delete priority 90 fwmark 0x4d460000")


def test_an_address_of_the_host_that_was_deleted(fabric: Lab) -> None:
    """Its routes go with it."""
    before = routes(fabric)
    with repaired(fabric, "host_addresses", perhaps=["routes"]):
        run(fabric, f"ip address delete {address(fabric, NODE)}/32 dev mfhost0")
    until(lambda: routes(fabric) == before)


def test_the_hosts_devices_that_were_deleted(fabric: Lab) -> None:
    before = devices(fabric, NODE)
    run(fabric, "ip link delete mfhost0")
    until(lambda: devices(fabric, NODE).keys() == before.keys())
    until(lambda: passes(fabric))


def test_an_mtu_that_was_changed(fabric: Lab) -> None:
    attached = fabric.attached("web")
    assert attached is not None
    with repaired(fabric, "mtus"):
        run(fabric, f"ip link set {attached.device} mtu 1300")
    assert "mtu 1380" in build.run(fabric, NODE, ["ip", "link", "show", attached.device]).stdout


def test_programs_that_were_taken_off(fabric: Lab) -> None:
    """Detached by whoever may, or their links unpinned, which ends them too."""
    links = pins(fabric, NODE) / "links"
    detached, unpinned = ("up0-egress", "mfwg00-ingress"), ("up1-ingress", "mfhost1-egress")
    with repaired(fabric, "programs"):
        for name in detached:
            take_off(fabric, NODE, name)
        for name in unpinned:
            (links / name).unlink()
    for name, info in hanging(fabric, NODE).items():
        assert info.ifindex, name


def test_peers_that_were_changed(fabric: Lab) -> None:
    tunnels = json.loads(Store(fabric).get("nodes/kube2") or b"{}")["tunnels"]
    keys = {(one["local"], one["remote"]): one["public_key"] for one in tunnels}
    with repaired(fabric, "peers"):
        run(fabric, f"wg set mfwg00 peer {keys[0, 0]} remove")
        run(fabric, f"wg set mfwg11 peer {keys[1, 1]} allowed-ips 10.64.4.1/32")


def test_tunnels_that_were_changed(fabric: Lab) -> None:
    with repaired(fabric, "tunnels"):
        run(fabric, "wg set mfwg00 listen-port 40000; wg set mfwg11 fwmark 0x99")


@pytest.mark.parametrize("value", [None, b"garbage"])
def test_a_record_of_the_node_that_was_changed(fabric: Lab, value: bytes | None) -> None:
    store = Store(fabric)
    before = store.get(f"nodes/{NODE}")
    with repaired(fabric, "records"):
        everywhere(fabric, store.put(f"nodes/{NODE}", value) if value else store.delete(f"nodes/{NODE}"))
    assert store.get(f"nodes/{NODE}") == before


def test_what_is_repaired_is_written_as_people_read_it(fabric: Lab) -> None:
    with repaired(fabric, "uplinks"), opened_map(fabric, NODE, "uplinks") as uplinks:
        uplinks.update(number(5), uplink_value(77))
    line = next(line for line in reversed(log_of(fabric, NODE)) if line["message"] == "drift repaired")
    assert (line["level"], line["key"], line["found"], line["wanted"]) == (
        "warning",
        "slot 5",
        "ifindex 77",
        "None",
    )
