"""What is outside of the fabric: two uplinks, what lies behind them, and the world's entries in the maps.

    alpha --mfp1--+                +-- up0 198.18.0.1, 2001:db8:1::1 --> all the rest of the world
                  +-- this node ---+
    guest --mfp3--+                +-- up1 198.18.1.1, 2001:db8:2::1 --> 203.0.113.0/24, 2001:db8:9::/48

alpha may speak to all of the world but to `banned`, guest to nobody there; the world may speak to guest
(where that is exposed), on one port.
"""

import subprocess

from meshfabric.kernel import links
from meshfabric.model import tables
from meshfabric.model.tables import Direction, Verdict
from tests.packet import world as fabric
from tests.packet.arena import Namespace
from tests.packet.frames import V4, V6
from tests.packet.rig import Rig
from tests.packet.world import Owner, Rule, World

FIRST_PORT, PORTS = 61000, 64
PLAIN_PORT, PLAIN_MARK = 51948, 0x4D460080
RELAY_PORT, RELAY_PS_PER_BYTE = 16384, 80_000  # 100 Mbit/s
SETTINGS = {
    "world_port_base": FIRST_PORT.to_bytes(2, "little"),
    "world_ports": PORTS.to_bytes(2, "little"),
    "plain_port": PLAIN_PORT.to_bytes(2, "little"),
    "plain_mark": PLAIN_MARK.to_bytes(4, "little"),
    "plain_slots": b"\1",
    "relay_port_base": RELAY_PORT.to_bytes(2, "little"),
    "relay_ps_per_byte": RELAY_PS_PER_BYTE.to_bytes(4, "little"),
}
RANGE = range(FIRST_PORT, FIRST_PORT + PORTS)
UPLINK_MTU = 1370  # below alpha's 1380: there is something that does not fit
ID_WORLD, ID_BANNED = 2, 3  # WORLD_IDENTITY, and one that policies name
ANY_WORLD = 1
UNDERLAY = {"up0": ("198.18.0.1", "2001:db8:1::1"), "up1": ("198.18.1.1", "2001:db8:2::1")}
NODE = {V4: "198.18.0.1", V6: "2001:db8:1::1"}
SECOND = {V4: "198.18.1.1", V6: "2001:db8:2::1"}
REMOTE = {V4: "192.0.2.80", V6: "2001:db8:80::80"}
BEHIND_UP1 = {V4: "203.0.113.7", V6: "2001:db8:9::7"}
BANNED = {V4: "198.51.100.9", V6: "2001:db8:bad::9"}
UNROUTED = {V4: "192.88.99.1", V6: "2001:db8:dead::1"}
BY_OTHERS = {V4: "172.30.0.9", V6: "2001:db8:5::9"}
ROUTER = {V4: "198.18.0.254", V6: "2001:db8:1::ff"}
ROUTES = (
    "addr add 198.18.0.1/24 dev up0",
    "addr add 2001:db8:1::1/64 dev up0 nodad",
    "addr add 198.18.1.1/24 dev up1",
    "addr add 2001:db8:2::1/64 dev up1 nodad",
    "route add default via 198.18.0.254 dev up0",
    "-6 route add default via 2001:db8:1::ff dev up0",
    "route add 203.0.113.0/24 via 198.18.1.254 dev up1",
    "-6 route add 2001:db8:9::/48 via 2001:db8:2::ff dev up1",
    "route add unreachable 192.88.99.0/24",
    "-6 route add unreachable 2001:db8:dead::/48",
    "route add 172.30.0.0/24 dev stray0",
    "-6 route add 2001:db8:5::/64 dev stray0",
)
FORWARDING = {"ipv4.forwarding": "1", "ipv6.forwarding": "1"}


def settle(place: Namespace) -> None:
    """The uplinks' addresses and the node's routes; the devices are there already."""
    for words in ROUTES:
        place.run(subprocess.run, ["ip", *words.split()], check=True, capture_output=True)
    place.run(links.ensure_sysctls, "mfhost1", FORWARDING)
    for name in UNDERLAY:
        place.run(links.set_mtu, name, UPLINK_MTU)


def open_to_world(world: World) -> World:
    """The entries that the compiler writes once policies may name the world."""
    world.addresses |= {
        "0.0.0.0/0": Owner(ID_WORLD, tables.WORLD),
        "::/0": Owner(ID_WORLD, tables.WORLD),
        "198.51.100.0/24": Owner(ID_BANNED, tables.WORLD),
        "2001:db8:bad::/48": Owner(ID_BANNED, tables.WORLD),
        **{prefix: Owner(0, tables.NOWHERE) for prefix in world.prefixes},
    }
    world.rules += [
        Rule(fabric.ID_ALPHA, ANY_WORLD, Direction.EGRESS),
        Rule(fabric.ID_ALPHA, ID_BANNED, Direction.EGRESS, Verdict.DENY, precedence=200),
        Rule(fabric.ID_GUEST, ANY_WORLD, Direction.INGRESS, protocol=fabric.UDP, port=53, port_bits=16),
        Rule(fabric.ID_GUEST, ANY_WORLD, Direction.INGRESS, protocol=fabric.TCP, port=80, port_bits=16),
    ]
    world.generations[tables.WORLD] = 5
    world.underlay = dict(UNDERLAY)
    return world


def expose(world: World) -> World:
    """alpha and guest show the world their own addresses."""
    world.exposed = ("10.77.0.1/32", "10.77.0.3/32", "fd77::1/128", "fd77::2/127")
    return world


def translations(rig: Rig) -> tuple[int, int]:
    """How many reverse entries are new, and how many answered."""
    return len(list(rig.maps["new_nat"].keys())), len(list(rig.maps["nat"].keys()))
