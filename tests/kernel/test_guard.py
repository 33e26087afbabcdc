"""What each hook of the boot guard holds in a real kernel, and that it holds while it is renewed."""

import itertools
import socket
import threading

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from meshfabric.guard import install, observed
from meshfabric.guard.file import Guard
from meshfabric.kernel import links, netns, nft
from meshfabric.kernel.routes import MAIN, Route, ensure_routes
from tests.features import requires
from tests.kernel.cell import namespace
from tests.kernel.outside import (
    BURST,
    FAR,
    GUARD,
    HERE,
    NEAR,
    OURS,
    OUTSIDE,
    PORT,
    PREFIX,
    SAID,
    bridge,
    bridged,
    carded,
    heard,
    listening,
    say,
    settle,
)
from tests.patience import DEADLINE_S

pytestmark = requires("nftables")

ETH_P_ALL = 3
UPDATES = 30


def counted(where: str, way: str, match: str) -> int:
    """What a rule has dropped."""
    key = (where, way, match)
    return next(part.packets or 0 for part in observed.status() if (part.where, part.way, part.match) == key)


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_said_to_the_fabric_stays_here(family: int) -> None:
    with carded() as outside, listening(FAR[family], outside) as far:
        assert (say(HERE[family], FAR[family]), heard(far, BURST)) == (BURST, BURST), "without it"
        install.up(GUARD)
        assert (say(HERE[family], FAR[family]), heard(far, 0)) == (0, 0)
        assert counted("host", "out", f"to {PREFIX[family]}") == BURST
        install.down("prod")
        assert (say(HERE[family], FAR[family]), heard(far, BURST)) == (BURST, BURST)


@pytest.mark.parametrize("family", [4, 6])
def test_what_an_address_of_the_fabric_says_stays_here(family: int) -> None:
    with carded() as outside, listening(OUTSIDE[family], outside) as far:
        assert (say(OURS[family], OUTSIDE[family]), heard(far, BURST)) == (BURST, BURST), "without it"
        install.up(GUARD)
        assert (say(OURS[family], OUTSIDE[family]), heard(far, 0)) == (0, 0)
        assert counted("host", "out", f"from {PREFIX[family]}") == BURST


@pytest.mark.parametrize("family", [4, 6])
def test_what_comes_from_outside_is_not_taken_in(family: int) -> None:
    with carded() as outside:
        for source, to, match in ((OUTSIDE, OURS, "to"), (FAR, HERE, "from")):
            with listening(to[family], None) as here:
                say(source[family], to[family], outside)
                assert heard(here, BURST) == BURST, "without it"
                install.up(GUARD)
                say(source[family], to[family], outside)
                assert heard(here, 0) == 0
                assert counted("host", "in", f"{match} {PREFIX[family]}") == BURST
                install.down("prod")


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_not_the_fabrics_passes(family: int) -> None:
    with (
        carded() as outside,
        listening(OUTSIDE[family], outside) as far,
        listening(HERE[family], None) as here,
    ):
        install.up(GUARD)
        say(HERE[family], OUTSIDE[family])
        say(OUTSIDE[family], HERE[family], outside)
        assert (heard(far, BURST), heard(here, BURST)) == (BURST, BURST)
        with listening(OURS[family], None) as own:
            say(OURS[family], OURS[family])
            assert heard(own, BURST) == BURST, "to itself"
    assert {part.packets for part in observed.status()} == {0, None}


def test_the_fabrics_devices_pass() -> None:
    with carded("mfwg00") as outside, listening(FAR[4], outside) as far:
        install.up(GUARD)
        assert (say(OURS[4], FAR[4]), heard(far, BURST)) == (BURST, BURST)


def test_a_listed_device_passes_and_no_other() -> None:
    for device, passed in (("vnet3", BURST), ("vlan3", 0)):
        with carded(device) as outside, listening(FAR[4], outside) as far:
            install.up(Guard("prod", GUARD.prefixes, devices=("vnet*",)))
            assert (say(OURS[4], FAR[4]), heard(far, passed)) == (passed, passed)
            links.delete(device)


NAT = "table ip trial {{ chain nat {{ type nat hook {}; {}; }}; }}"


def test_a_translation_is_no_way_out() -> None:
    """The last hook sees what a packet has become: said to the world, and led into the fabric."""
    with carded() as outside, listening(FAR[4], outside) as far:
        nft.apply(NAT.format("output priority -100", f"ip daddr 198.51.100.7 dnat to {FAR[4]}"))
        ensure_routes(MAIN, {Route("198.51.100.0/24", "card", OUTSIDE[4])}, protocol=5)
        say(HERE[4], "198.51.100.7")
        assert heard(far, BURST) == BURST, "without it"
        install.up(GUARD)
        say(HERE[4], "198.51.100.7")
        assert heard(far, 0) == 0
        assert counted("host", "out", f"to {PREFIX[4]}") == BURST


def test_a_translation_is_no_way_in() -> None:
    """Neither for a process here: said to the node's own address, and led to one of the fabric."""
    with carded() as outside, listening(OURS[4], None) as here:
        nft.apply(NAT.format("prerouting priority -100", f"ip daddr {HERE[4]} dnat to {OURS[4]}"))
        say(OUTSIDE[4], HERE[4], outside)
        assert heard(here, BURST) == BURST, "without it"
        install.up(GUARD)
        say(OUTSIDE[4], HERE[4], outside)
        assert heard(here, 0) == 0
        assert counted("host", "in", f"to {PREFIX[4]}") == BURST


@pytest.mark.parametrize("family", [4, 6])
def test_a_bridge_is_no_way_round(family: int) -> None:
    """What a bridge passes from port to port never meets the hooks of the host."""
    with (
        bridged() as (left, right),
        listening(NEAR[family], right) as fabric,
        listening(HERE[family], right) as other,
    ):
        say(OURS[family], NEAR[family], left)
        assert heard(fabric, BURST) == BURST, "without it"
        install.up(GUARD)
        say(OURS[family], NEAR[family], left)
        say(OUTSIDE[family], HERE[family], left)
        assert (heard(fabric, 0), heard(other, BURST)) == (0, BURST)
        assert counted("bridges", "in", f"from {PREFIX[family]}") >= BURST, "neighbours ask each other, too"


def test_a_tag_is_no_way_round() -> None:
    """A bridge passes frames of VLANs that the host knows nothing of."""
    frame = (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / Dot1Q(vlan=5)
        / IP(src=OURS[4], dst=NEAR[4])
        / UDP(dport=PORT)
        / SAID
    )
    with bridged() as (left, right), listening(NEAR[4], right) as near:
        say(OURS[4], NEAR[4], left)
        assert heard(near, BURST) == BURST, "the bridge has begun to forward"
        with (
            netns.run(left, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as mouth,
            netns.run(
                right, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)
            ) as ear,
        ):
            for guard, wanted in ((Guard("prod", ("10.80.0.0/16",)), BURST), (GUARD, 0)):
                install.up(guard)
                for _ in range(BURST):
                    mouth.sendto(bytes(frame), ("eth0", 0))
                assert heard(ear, wanted) == wanted
        assert counted("bridges", "in", f"from {PREFIX[4]}") >= BURST


@pytest.mark.parametrize("family", [4, 6])
def test_a_listed_bridge_is_no_way_out_by_a_card_in_it(family: int) -> None:
    """What the host says or hears by a bridge uses a port, and that one has to be listed, too."""
    with namespace() as outside:
        bridge("br-local", {"p0": outside})
        settle("br-local", None, OURS)
        settle("eth0", outside, NEAR)
        with listening(NEAR[family], outside) as far, listening(OURS[family], None) as here:
            for ports, passed in ((["p0"], BURST), ([], 0)):
                install.up(Guard("prod", GUARD.prefixes, devices=("br-local", *ports)))
                say(OURS[family], NEAR[family])
                say(NEAR[family], OURS[family], outside)
                assert (heard(far, passed), heard(here, passed)) == (passed, passed)
        for way in ("in", "out"):
            assert counted("bridges", way, f"from {PREFIX[family]}") >= BURST


def test_nothing_passes_while_it_is_renewed() -> None:
    """Said all the time, while the guard is put up again and again with other prefixes beside."""
    begun, ended = threading.Event(), threading.Event()
    said, passed = itertools.count(), itertools.count()

    def speak(link: socket.socket) -> None:
        while not ended.is_set():
            try:
                link.sendto(SAID, (FAR[4], PORT))
                next(passed)
            except PermissionError:
                next(said)
            begun.set()

    with carded() as outside, listening(FAR[4], outside) as far, listening(HERE[4], None) as link:
        install.up(GUARD)
        speaker = threading.Thread(target=speak, args=(link,))
        speaker.start()
        try:
            assert begun.wait(DEADLINE_S)
            for number in range(UPDATES):
                install.up(Guard("prod", (*GUARD.prefixes, f"10.{100 + number}.0.0/16")))
        finally:
            ended.set()
            speaker.join()
        assert heard(far, 0) == 0
    assert next(passed) == 0
    tried = next(said)
    print(f"0 of {tried} passed during {UPDATES} updates")
    assert tried > UPDATES, "said more often than it was renewed"
