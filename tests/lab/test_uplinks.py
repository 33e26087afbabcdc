"""Uplinks come and go under traffic, whoever takes them away, and no agent is started anew for it.

pear ── up0 ── red  ── up0 ── plum
     ── up1 ── blue ── up1 ──
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from meshfabric.api.client import call
from meshfabric.api.messages import Undrain
from meshfabric.kernel import netns
from meshfabric.lab import agents, underlay
from meshfabric.lab.process import run
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.places import namespace
from tests.lab.scrape import scraped
from tests.lab.streams import Flow, flowing
from tests.lab.whole import (
    PAIR,
    active,
    agent,
    listing,
    log_of,
    order,
    paths,
    put_right,
    raised_whole,
    told,
    until,
    wait_ready,
)
from tests.patience import PATIENCE

pytestmark = requires("capabilities")

ENDS = (("pear", "plum"), ("plum", "pear"))
FLOWS = (
    Flow("pear/web", "plum/db"),
    Flow("plum/db", "pear/web", 6),
    Flow("pear/web", "plum/db", 4, "tcp"),
    Flow("plum/db", "pear/web", 4, "tcp"),
)
OUTAGE_MS = 1000 * PATIENCE
"""What failing over may cost, for sanity: a tenth of it was seen."""
PEAR_RED, NEW_RED = "172.31.1.11", "172.31.1.77"
ROUTER_RED = "172.31.1.1"


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    with raised_whole(PAIR) as lab:
        yield lab


@pytest.fixture
def lab(standing: Lab) -> Lab:
    """All well, nothing is drained, and traffic takes the first uplink."""
    for node in ("pear", "plum"):
        for row in listing(standing, node, "uplinks"):
            call(standing.socket(node), Undrain([row["uplink"]]))
    put_right(standing)
    until(lambda: carried_by(standing, "up0"))
    return standing


def carried_by(lab: Lab, uplink: str) -> bool:
    """Whether both nodes' traffic to each other leaves there."""
    return all(active(lab, near, far) == uplink for near, far in ENDS)


def all_up(lab: Lab) -> bool:
    return all(row["state"] == "up" for near, far in ENDS for row in paths(lab, near, far))


def link(lab: Lab, node: str, *lines: str) -> None:
    """What somebody does to a node's uplink, in one go."""
    underlay.ip(lab.node(node), lines)


def switches(lab: Lab, node: str) -> list[tuple[str, str, str]]:
    """From where to where and why, the latest first."""
    return [(row["from"], row["to"], row["why"]) for row in listing(lab, node, "switches")]


@pytest.mark.parametrize(("near", "far"), ENDS)
def test_what_is_drained_is_taken_down_and_up_without_a_loss(lab: Lab, near: str, far: str) -> None:
    with flowing(lab, *FLOWS) as streams:
        until(streams.all_pass)
        drained = order(lab, near, "uplink", "drain", "up0")
        assert drained.returncode == 0, drained.stderr
        assert drained.stdout == (
            "up0: draining\nin force on 1 other node\nup0: nothing but probes passes; it can be taken down\n"
        )
        assert carried_by(lab, "up1")
        link(lab, near, "link set up0 down")
        until(lambda: paths(lab, far, near)[-1]["state"] == "down")
        link(lab, near, "link set up0 up")
        assert order(lab, near, "uplink", "undrain", "up0").stdout == "up0: in use again\n"
        until(lambda: all_up(lab) and carried_by(lab, "up0"))
    streams.assert_nothing_lost()
    for one, _ in ENDS:
        back, away = switches(lab, one)[:2]
        # On a busy machine the other path may have been held yet as the order came.
        assert away[:2] == ("mfwg00", "mfwg11")
        assert away[2] in ("drained", "came back")
        assert back[:2] == ("mfwg11", "mfwg00")


def test_an_order_to_drain_outlives_the_agent(lab: Lab) -> None:
    assert order(lab, "pear", "uplink", "drain", "up0").returncode == 0
    agents.kill_agent(lab, "pear", signal.SIGKILL)
    with flowing(lab, *FLOWS) as streams:
        until(streams.all_pass)
        agents.start_agent(lab, "pear")
        wait_ready(lab, "pear")
        until(lambda: all_up(lab))
        assert carried_by(lab, "up1")
    streams.assert_nothing_lost()
    assert [(row["uplink"], row["draining"]) for row in listing(lab, "pear", "uplinks")] == [
        ("up0", True),
        ("up1", False),
    ]
    assert order(lab, "pear", "uplink", "undrain", "up0").returncode == 0


def test_the_only_way_is_not_drained_unless_forced(lab: Lab) -> None:
    underlay.cut(lab, "pear", "up1")
    until(lambda: paths(lab, "pear", "plum")[1]["state"] == "down")
    refused = order(lab, "pear", "uplink", "drain", "up0")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "up0: it is the only way that works to plum" in refused.stderr
    assert told(lab, "pear")["draining"] == []
    with flowing(lab, *FLOWS) as streams:
        until(streams.all_pass)
        forced = order(lab, "pear", "uplink", "drain", "up0", "--force", "--timeout", "5")
        assert forced.returncode == 4
        assert "traffic still passes: plum (" in forced.stderr
        assert order(lab, "pear", "uplink", "undrain", "up0").returncode == 0
        underlay.heal(lab, "pear", "up1")
    streams.assert_nothing_lost()


def test_a_switch_is_told_with_what_it_cost(lab: Lab) -> None:
    before = switch_count(lab)
    with flowing(lab, *FLOWS) as streams:
        until(streams.all_pass)
        underlay.cut(lab, "pear", "up0")
        until(streams.all_came_back)
        until(lambda: switches(lab, "pear")[:1] == [("mfwg00", "mfwg11", "no answers")])
        (cut,) = listing(lab, "pear", "switches")[:1]
        row = paths(lab, "pear", "plum")[0]
        assert row["why"].startswith("no answer for ")
        assert paths(lab, "pear", "plum")[1]["why"] == "next best: mfwg00 is down"
        underlay.heal(lab, "pear", "up0")
        until(lambda: switches(lab, "pear")[:1] == [("mfwg11", "mfwg00", "came back")])
    lost_ms = max(one.outage_ms for one in streams.datagrams)
    print(f"told {cut['outage_ms']} ms, lost for {lost_ms:.0f} ms")
    assert 0 < cut["outage_ms"] < OUTAGE_MS
    assert (cut["from_uplinks"], cut["to_uplinks"]) == ("up0-up0", "up1-up1")
    assert switch_count(lab) == before + 2
    names = [line["detail"] for line in log_of(lab, "pear") if line["message"] == "path switch"]
    assert any(one.startswith("plum: mfwg00 to mfwg11, no answers, ") for one in names)
    shown = order(lab, "pear", "path", "show", "plum")
    assert "no answers" in shown.stdout
    assert "preferred" in shown.stdout


def switch_count(lab: Lab) -> float:
    return scraped(lab, "pear")["meshfabric_path_switches_total"]['node="plum"']


def test_a_link_that_goes_down_is_followed(lab: Lab) -> None:
    def down() -> None:
        link(lab, "pear", "link set up0 down")

    def up() -> None:
        link(lab, "pear", "link set up0 up")

    see_followed(lab, down, up)


def test_an_address_that_changes_is_followed(lab: Lab) -> None:
    """As DHCP does it: the old one goes, and a new one is there at once. So it is each time."""

    def change() -> None:
        link(lab, "pear", f"address del {PEAR_RED}/24 dev up0", f"address replace {NEW_RED}/24 dev up0")

    def change_back() -> None:
        until(lambda: paths(lab, "plum", "pear")[0]["endpoint"] == NEW_RED and all_up(lab))
        link(lab, "pear", f"address del {NEW_RED}/24 dev up0", f"address replace {PEAR_RED}/24 dev up0")

    see_followed(lab, change, change_back, failing=False)
    assert paths(lab, "plum", "pear")[0]["endpoint"] == PEAR_RED


def test_a_link_that_is_shaken_is_as_before(lab: Lab) -> None:
    """Down and up before anybody looks, and a lease that is renewed: the kernel forgets all routes."""
    for lines in (
        ("link set up0 down", "link set up0 up"),
        (f"address del {PEAR_RED}/24 dev up0", f"address replace {PEAR_RED}/24 dev up0"),
    ):
        see_followed(lab, partial(link, lab, "pear", *lines), lambda: None, failing=False)


def test_a_nat_is_followed(lab: Lab) -> None:
    """A router comes between pear and red, behind which nobody reaches pear of his own accord."""
    with contextlib.ExitStack() as router:

        def take_away() -> None:
            until(lambda: reached_at(lab) == ROUTER_RED and all_up(lab))
            router.close()

        see_followed(lab, lambda: router.enter_context(translated(lab)), take_away, failing=False)
    assert reached_at(lab) == PEAR_RED


def see_followed(
    lab: Lab, away: Callable[[], object], back: Callable[[], object], *, failing: bool = True
) -> None:
    """Traffic goes on but for the time of failing over, twice, and takes the uplink again in the end."""
    pids = [agent(lab, node).pid for node in ("pear", "plum")]
    with flowing(lab, *FLOWS) as streams:
        until(streams.all_pass)
        away()
        if failing:
            until(lambda: carried_by(lab, "up1"))
        until(streams.all_pass)
        back()
        until(lambda: all_up(lab) and carried_by(lab, "up0"))
        until(streams.all_pass)
    print(*streams.datagrams, *streams.connections, sep="\n")
    assert max(one.outage_ms for one in streams.datagrams) < OUTAGE_MS
    assert all(one.whole for one in streams.connections)
    assert [agent(lab, node).pid for node in ("pear", "plum")] == pids


def reached_at(lab: Lab) -> str:
    """Where plum's WireGuard sends what is for pear by red."""
    shown = run(lab.node("plum"), ["wg", "show", "mfwg00", "endpoints"])
    return shown.split()[-1].rpartition(":")[0]


@contextlib.contextmanager
def translated(lab: Lab) -> Iterator[None]:
    """Pear's first uplink ends at a router, the underlay itself, which speaks for pear as itself."""
    port, table = underlay.port_name(lab.topology, "pear", 0), f"ip nat{os.getpid()}"
    rules = (
        f"add table {table}; add chain {table} out {{ type nat hook postrouting priority 100; }};"
        f" add rule {table} out oifname red ip saddr {PEAR_RED} masquerade"
    )

    def set_router(on: int) -> None:
        settings = (f"net.ipv4.ip_forward={on}", f"net.ipv4.conf.{port}.proxy_arp={on}")
        run(lab.init, ["sysctl", "-qw", *settings], ("net",))

    def forget_neighbours() -> None:
        """As after any change of a link; else they would be believed for half a minute."""
        link(lab, "pear", "neighbour flush dev up0")

    underlay.ip(lab.init, [f"link set {port} nomaster", f"route add {PEAR_RED}/32 dev {port}"])
    set_router(1)
    netns.run(namespace(lab, "underlay"), subprocess.run, ["nft", rules], check=True)
    forget_neighbours()
    try:
        yield
    finally:
        netns.run(namespace(lab, "underlay"), subprocess.run, ["nft", f"delete table {table}"], check=True)
        set_router(0)
        underlay.ip(lab.init, [f"route del {PEAR_RED}/32 dev {port}", f"link set {port} master red"])
        forget_neighbours()
