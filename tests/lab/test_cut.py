"""An uplink that fails silently, its carrier still up: traffic goes on over the other, and comes back."""

import pytest

from meshfabric.lab import underlay
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.kernel import kept
from tests.lab.places import SILENCE_S, ping
from tests.lab.policies import everywhere
from tests.lab.store import Store
from tests.lab.streams import Flow, flowing
from tests.lab.whole import active, address, listing, names, paths, told, until, wait_whole
from tests.patience import PATIENCE

pytestmark = requires("capabilities")

CUT = "kube1"
FLOWS = (
    Flow("kube1/web", "kube2/db"),
    Flow("kube2/cache", "kube1/client", 6),
    Flow("vm1/guest1", "kube1/web"),
    Flow("metal1", "kube1", 6),
    Flow("kube1/web", "kube2/db", 6, "tcp"),
)
BYSTANDERS = (Flow("vm1/guest1", "kube2/db"), Flow("metal1", "kube2", 6))
GAP_MS = 1000 * PATIENCE
"""A bound for sanity; what is reached is printed."""


def far_ends(lab: Lab) -> list[str]:
    return [name for name in names(lab) if name != CUT]


def go_by(lab: Lab, uplink: str) -> bool:
    """Whether all traffic from and to the node goes by this uplink."""
    return all(active(lab, CUT, far) == uplink and active(lab, far, CUT) == uplink for far in far_ends(lab))


def test_traffic_goes_on_over_the_other_uplink_and_comes_back(fabric: Lab) -> None:
    until(lambda: go_by(fabric, "up0"))  # the preferred one
    with flowing(fabric, *FLOWS, *BYSTANDERS) as streams:
        until(streams.all_pass)
        underlay.cut(fabric, CUT, "up0")
        took = until(lambda: go_by(fabric, "up1"))
        until(streams.all_pass)
    for one in (*streams.datagrams, *streams.connections):
        print(one)
    print(f"all shown on the other after {took * 1000:.0f} ms")
    concerned = streams.datagrams[: -len(BYSTANDERS)]
    assert all(0 < one.outage_ms < GAP_MS for one in concerned)
    assert all(not one.lost for one in streams.datagrams[-len(BYSTANDERS) :]), "the others' traffic"
    assert all(one.whole for one in streams.connections)
    with flowing(fabric, *FLOWS) as streams:
        until(streams.all_pass)
        underlay.heal(fabric, CUT, "up0")
        took = until(lambda: go_by(fabric, "up0"))
        wait_whole(fabric)
    print(f"back {took:.1f} s after it was healed")
    streams.assert_nothing_lost()


def test_the_list_of_paths_shows_it(fabric: Lab) -> None:
    flaps = {row["device"]: row["flaps"] for row in paths(fabric, CUT, "kube2")}
    underlay.cut(fabric, CUT, "up0")
    until(lambda: go_by(fabric, "up1"))
    until(lambda: shown(fabric, CUT) == [("red", "down", False), ("blue", "up", True)])
    until(lambda: ups(fabric, "vm1") == "1/2 up")
    until(lambda: shown(fabric, "vm1") == [("red", "up", True), ("blue", "up", False)])
    underlay.heal(fabric, CUT, "up0")
    until(lambda: paths(fabric, CUT, "kube2")[0]["flaps"] == flaps["mfwg00"] + 1)
    until(lambda: go_by(fabric, "up0"))


def shown(lab: Lab, node: str) -> list[tuple[str, str, bool]]:
    """A node's paths to kube2, by segment."""
    return [(row["segment"], row["state"], row["active"]) for row in paths(lab, node, "kube2")]


def ups(lab: Lab, node: str) -> str:
    """How many of a node's paths to the one that is cut are up."""
    return next(str(row["paths"]) for row in listing(lab, node, "nodes") if row["node"] == CUT)


@pytest.mark.parametrize("uplink", ["up0", "up1"])
def test_etcd_is_reached_by_the_other_segment(fabric: Lab, uplink: str) -> None:
    """Whichever of the two it was reached by: news arrive."""
    underlay.cut(fabric, CUT, uplink)
    store = Store(fabric)
    revision = store.put("policies/news", {"name": "news", "select": "app=none", "ingress": []})
    took = until(lambda: store.reported(CUT) >= revision)
    print(f"news after {took:.1f} s")
    until(lambda: told(fabric, CUT)["store"]["connected"])
    everywhere(fabric, store.delete("policies/news"))


def test_a_node_with_no_uplink_left_comes_back_as_it_was(fabric: Lab) -> None:
    before, db = kept(fabric, CUT), address(fabric, "kube2/db")
    for uplink in ("up0", "up1"):
        underlay.cut(fabric, CUT, uplink)
    until(lambda: all(row["state"] == "down" for row in listing(fabric, CUT, "paths")))
    assert ping(fabric, "kube1/web", db, answer_s=SILENCE_S) is None
    assert ping(fabric, "kube1/web", address(fabric, "kube1/client")) is not None, "its own pods"
    for uplink in ("up0", "up1"):
        underlay.heal(fabric, CUT, uplink)
    took = until(lambda: ping(fabric, "kube1/web", db, answer_s=SILENCE_S) is not None)
    print(f"back {took:.1f} s after it was healed")
    wait_whole(fabric)
    assert kept(fabric, CUT) == before
