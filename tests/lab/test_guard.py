"""The boot guard on every node of a whole fabric: it costs nothing, and holds when all else is off.

Each trial of what it holds back is made twice, with the guard and without: what
leaks without it shows that the trial could have failed. The wires of this lab are
therefore not watched to its end, as those of others are.
"""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import permutations

import pytest
from scapy.packet import Packet

from meshfabric.cli.exits import Code
from meshfabric.kernel import netns
from meshfabric.kernel.attach import detach, pin_name
from meshfabric.kernel.bpf import Direction
from meshfabric.lab import agents, build, frames, workloads
from meshfabric.lab.capture import attach_filter, capture
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import ip
from tests.features import requires
from tests.lab.guarded import BURST, OURS, booted, dropped, guard, led_astray, stray
from tests.lab.kernel import devices, pins
from tests.lab.places import SILENCE_S, Echo, answers, clear, connects, namespace, ping, send_frame
from tests.lab.small import said
from tests.lab.whole import (
    DEADLINE_S,
    address,
    bring_up,
    is_whole,
    names,
    places,
    put_right,
    resume,
    until,
    watched,
)

pytestmark = requires("capabilities", "nftables")

NODE, FAR = "kube1", "kube2"
UPLINKS = ("up0", "up1")
CARD, FAR_END, CARD_MAC = "card0", "far0", "02:00:00:00:00:77"
ON_CARD = {4: ("198.51.100.2/24", "198.51.100.1"), 6: ("2001:db8:c::2/64", "2001:db8:c::1")}


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    """The built-in lab, each node guarded before its agent starts."""
    requires("nftables")
    with booted() as lab:
        bring_up(lab)
        yield lab


@pytest.fixture
def guarded(standing: Lab) -> Lab:
    """The lab, all well and every node guarded, whatever an earlier test did."""
    for node in names(standing):
        guard(standing, node, "up")
    return put_right(standing)


def take_off(lab: Lab, node: str, *where: str) -> None:
    """What a mistaken operator does: no program of the fabric is left on these devices."""
    for device in where:
        for direction in Direction:
            pin = pins(lab, node) / "links" / pin_name(device, direction)
            assert netns.run(namespace(lab, node), detach, pin), pin


def out_of(lab: Lab, where: str, frame: Packet) -> None:
    """A workload sends what its node then is to forward."""
    send_frame(lab, where, "eth0", frame, BURST)


def test_it_costs_a_fabric_nothing(guarded: Lab) -> None:
    before = {node: dropped(guarded, node) for node in names(guarded)}
    everything = places(guarded)
    with watched(guarded), Echo(guarded, *everything):
        for a, b in permutations(everything, 2):
            for family in (4, 6):
                to = address(guarded, b, family)
                assert ping(guarded, a, to) is not None, (a, b)
                assert answers(guarded, a, to), (a, b)
                assert connects(guarded, a, to), (a, b)
    assert {node: dropped(guarded, node) for node in names(guarded)} == before == dict.fromkeys(before, 0)


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_leaves_in_clear_when_every_program_is_gone(guarded: Lab, family: int) -> None:
    """Agents killed, programs off the uplinks and the pod's device, routes into the underlay."""
    lab, to = guarded, address(guarded, f"{FAR}/db", family)
    web = lab.attached("web")
    assert web is not None
    pod_side = build.run(lab, NODE, ["cat", f"/sys/class/net/{web.device}/address"]).stdout.strip()
    for node in names(lab):
        agents.kill_agent(lab, node)
    take_off(lab, NODE, *UPLINKS, web.device)

    def try_all() -> int:
        """How much was sent."""
        stray(lab, NODE, to)
        stray(lab, NODE, to, source=address(lab, NODE, family))
        out_of(lab, f"{NODE}/web", clear(address(lab, f"{NODE}/web", family), to, to_mac=pod_side))
        return 3 * BURST

    with led_astray(lab, NODE), capture(lab, "red") as red, capture(lab, "blue") as blue:
        before = dropped(lab, NODE)
        sent = try_all()
        until(lambda: dropped(lab, NODE) - before == sent)
        assert (red.counts().fabric, blue.counts().fabric) == (0, 0)
        guard(lab, NODE, "down")
        sent = try_all()
        until(lambda: red.counts().fabric == sent)
        assert blue.counts().fabric == 0
    print(f"0 of {sent} with the guard, {sent} of {sent} without")


def test_a_guest_without_its_programs_gets_nowhere(guarded: Lab) -> None:
    """Its tap is no device of the fabric's: the guard drops what comes from it."""
    lab, to = guarded, address(guarded, f"{FAR}/db")
    guest = lab.attached("guest1")
    assert guest is not None
    tap_mac = build.run(lab, "vm1", ["cat", f"/sys/class/net/{guest.device}/address"]).stdout.strip()
    frame = clear(address(lab, "vm1/guest1"), to, to_mac=tap_mac)
    agents.kill_agent(lab, "vm1")
    take_off(lab, "vm1", *UPLINKS, guest.device)
    with led_astray(lab, "vm1"), capture(lab, "red") as red:
        before = dropped(lab, "vm1")
        out_of(lab, "vm1/guest1", frame)
        until(lambda: dropped(lab, "vm1") - before == BURST)
        assert red.counts().fabric == 0
        guard(lab, "vm1", "down")
        out_of(lab, "vm1/guest1", frame)
        until(lambda: red.counts().fabric == BURST)


@contextlib.contextmanager
def undeclared_card(lab: Lab, node: str) -> Iterator[socket.socket]:
    """A card that nobody told the fabric of, with the default routes; gives an ear on its wire."""
    here, wire = lab.node(node), lab.init
    ip(here, [f"link add {CARD} type veth peer name {FAR_END} netns {wire.pid}", f"link set {CARD} up"])
    try:
        ip(wire, [f"link set {FAR_END} up"])
        for own, gateway in ON_CARD.values():
            nodad = " nodad" if ":" in own else ""
            ip(
                here,
                [f"address add {own} dev {CARD}{nodad}", f"neigh add {gateway} lladdr {CARD_MAC} dev {CARD}"],
            )
            ip(here, [f"route replace default via {gateway} dev {CARD}"])
        with netns.run(namespace(lab, "underlay"), _tap, FAR_END, lab.topology.prefixes) as tap:
            yield tap
    finally:
        ip(here, [f"link delete {CARD}"])


def _tap(device: str, prefixes: Sequence[str]) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    attach_filter(tap, frames.addresses_in(prefixes))
    tap.bind((device, 3))
    return tap


def heard(tap: socket.socket, wanted: int = 0) -> int:
    """Packets that came since the last time: what is wanted has time to, then silence for a while."""
    count = 0
    with contextlib.suppress(TimeoutError):
        while True:
            tap.settimeout(DEADLINE_S if count < wanted else SILENCE_S)
            count += len(tap.recv(frames.ACCEPT_BYTES)) > 0
    return count


@pytest.mark.parametrize("family", [4, 6])
def test_a_card_that_nobody_declared_carries_nothing(guarded: Lab, family: int) -> None:
    lab, to = guarded, address(guarded, f"{FAR}/db", family)
    with undeclared_card(lab, NODE) as tap:
        stray(lab, NODE, to, device=CARD)  # the agent is there, and so are its routes
        assert heard(tap) == 0
        agents.kill_agent(lab, NODE)
        for which in (4, 6):
            said(lab, NODE, f"ip -{which} route flush proto {OURS}")
        stray(lab, NODE, to)
        stray(lab, NODE, to, device=CARD)
        stray(lab, NODE, to, source=address(lab, NODE, family))
        assert ping(lab, NODE, address(lab, NODE, family)) is not None, "to itself it may speak"
        assert heard(tap) == 0
        guard(lab, NODE, "down")
        stray(lab, NODE, to)
        assert heard(tap, BURST) == BURST


def keys(lab: Lab, node: str) -> dict[str, bytes]:
    """What a detached node keeps, to be the same one to its peers."""
    folder = lab.node_folder(node) / "state"
    return {str(file): file.read_bytes() for file in [*folder.glob("keys/*"), folder / "numbers.json"]}


def detached(lab: Lab, node: str) -> subprocess.CompletedProcess[str]:
    """`meshfabric detach`, as a node's operator runs it."""
    config = str(lab.node_folder(node) / "agent.yaml")
    return build.run(lab, node, [sys.executable, "-m", "meshfabric", "detach", "--config", config, "--yes"])


def test_the_break_glass_takes_all_of_it_off(guarded: Lab) -> None:
    """Not while an agent runs; then everything goes, twice is once, and a new agent makes all of it again."""
    lab, before = guarded, keys(guarded, NODE)
    refused = detached(lab, NODE)
    assert refused.returncode == Code.INPUT
    assert "another agent runs on it" in refused.stderr
    agents.kill_agent(lab, NODE)
    with watched(lab):
        done = detached(lab, NODE)
        assert (done.returncode, done.stderr) == (Code.OK, "")
        print(done.stdout)
        assert {line.partition(":")[0] for line in done.stdout.splitlines()} == {
            *("program", "device", "rules", "routes", "pins", "guard", "detached")
        }
        assert devices(lab, NODE) == {}
        assert not pins(lab, NODE).exists()
        left = [f"ip route show table all proto {OURS}", f"ip -6 route show table all proto {OURS}"]
        left += [f"ip -{family} rule show | grep 'proto {OURS}' || :" for family in (4, 6)]
        left += ["nft list ruleset", "pidof wireguard-go || :"]
        assert said(lab, FAR, left[2]), "what a node has that is not detached"
        assert {script: said(lab, NODE, script) for script in left} == dict.fromkeys(left, "")
        assert keys(lab, NODE) == before
        assert detached(lab, NODE).stdout == "there was nothing to detach\n"
    resume(lab, NODE)
    for workload in lab.topology.workloads_of(NODE):
        workloads.attach(lab, workload)
    until(lambda: is_whole(lab))
    assert keys(lab, NODE).keys() == before.keys()
    assert ping(lab, f"{NODE}/web", address(lab, f"{FAR}/db")) is not None
