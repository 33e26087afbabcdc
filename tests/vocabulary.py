"""The few names, addresses, labels, selectors, ports and devices of made-up worlds, so that things meet.

Selectors and ports come from tables that say in plain Python what each text
means, so that an oracle needs neither the parser nor the matcher.
"""

from collections.abc import Callable, Mapping
from itertools import product

from meshfabric.model.addresses import Address, parse_address
from meshfabric.model.labels import Labels, Selector, make_labels, parse_selector
from meshfabric.model.peertext import PeerText, host_of
from meshfabric.model.policy import Entity
from meshfabric.model.ports import Ports, parse_ports

SELF = "n1"
NODES = (SELF, "n2", "n3", "n4")
SEGMENTS = ("red", "blue")
SLOTS = (0, 1, 2)
MTUS = (1280, 1400, 1500, 9000)
PORT_BASE = 51820
PLAIN_PORTS = (0, PORT_BASE + 128, 4789)
"""None, the one of everybody with the same `port_base`, and another's."""

LABEL_SETS: tuple[Labels, ...] = tuple(
    map(
        make_labels,
        [
            {},
            {"app": "web"},
            {"app": "db"},
            {"app": "web", "tier": "gold"},
            {"tier": "tin"},
            {"meshfabric.io/kind": "host", "meshfabric.io/node": "n2"},
            {"app": "web", "port.meshfabric.io/http": "tcp.443"},
            {"app": "db", "port.meshfabric.io/http": "tcp.444", "port.meshfabric.io/dns": "udp.53"},
        ],
    )
)

Says = Callable[[Mapping[str, str]], bool]
SELECTORS: dict[str, Says] = {
    "*": lambda labels: True,
    "app=web": lambda labels: labels.get("app") == "web",
    "app=db": lambda labels: labels.get("app") == "db",
    "app!=web": lambda labels: labels.get("app") != "web",
    "app in (web, db)": lambda labels: labels.get("app") in ("web", "db"),
    "app notin (web, db)": lambda labels: labels.get("app") not in ("web", "db"),
    "tier": lambda labels: "tier" in labels,
    "!tier": lambda labels: "tier" not in labels,
    "app=web, tier=gold": lambda labels: labels.get("app") == "web" and labels.get("tier") == "gold",
    "app=nobody": lambda labels: False,
}
NODE_MEANING: dict[str, Says] = {
    "n2": lambda labels: labels.get("meshfabric.io/node") == "n2",
    "n3": lambda labels: False,
}
"""Of `{node: n2}` among peers: no workload of `LABEL_SETS` is another node's host."""
MEANING: dict[Selector, Says] = {parse_selector(text): says for text, says in SELECTORS.items()}
MEANING |= {host_of(node): says for node, says in NODE_MEANING.items()}
OUTSIDE = (
    *("198.51.100.7", "198.51.100.200", "198.51.1.1", "203.0.113.9", "10.9.9.9", "10.1.3.77", "10.2.0.5"),
    *("2001:db8::1", "2001:db9::1", "fd00:9::1"),
)
"""At the edges of all that follows; whether one is outside depends on the fabric's prefixes."""
CIDRS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("198.51.100.0/24", ()),
    ("198.51.0.0/16", ("198.51.100.0/25", "198.51.1.1/32")),
    ("10.0.0.0/8", ("10.1.3.0/24",)),
    ("10.1.3.0/24", ()),
    ("2001:db8::/31", ("2001:db8::/32",)),
    ("2001:db8::1/128", ()),
    ("0.0.0.0/0", ()),
    ("::/0", ()),
)
EXPOSED = ("10.1.1.0/24", "fd00:1::/64")
APISERVERS = ("198.51.100.7/32", "203.0.113.9/32", "2001:db8::1/128")


def _peer(text: PeerText) -> PeerText:
    return text


PEERS: tuple[PeerText, ...] = (
    *sorted(SELECTORS),
    *[_peer({"entity": entity.value}) for entity in Entity],
    *[_peer({"node": node}) for node in NODE_MEANING],
    *[_peer({"cidr": network, "except": list(left_out)}) for network, left_out in CIDRS if left_out],
    *(network for network, left_out in CIDRS if not left_out),
)
PRIORITIES = (0, 1, 1000, None)

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
Allows = Callable[[int, int], bool]
PORTS: dict[str, Allows] = {
    "tcp": lambda protocol, port: protocol == TCP,
    "tcp/443": lambda protocol, port: (protocol, port) == (TCP, 443),
    "tcp/1-65535": lambda protocol, port: protocol == TCP and port >= 1,
    "udp/8000-8100": lambda protocol, port: protocol == UDP and 8000 <= port <= 8100,
    "udp/53": lambda protocol, port: (protocol, port) == (UDP, 53),
    "icmp": lambda protocol, port: protocol == ICMP,
    "icmp/8": lambda protocol, port: (protocol, port) == (ICMP, 8),
    "icmpv6/128": lambda protocol, port: (protocol, port) == (ICMPV6, 128),
    "icmp/timestamp-request": lambda protocol, port: (protocol, port) == (ICMP, 13),
}
PORT_MEANING: dict[Ports, Allows] = {parse_ports(text): allows for text, allows in PORTS.items()}
NAMED_PORTS = ("tcp/http", "udp/dns", "tcp/dns")
"""Among the ports of documents: they mean what a workload says of them, which an oracle has to look up."""

PACKETS = (
    *((TCP, port) for port in (0, 1, 442, 443, 444, 65535)),
    *((UDP, port) for port in (53, 7999, 8000, 8063, 8100, 8101)),
    *((ICMP, kind) for kind in (3, 8, 13)),
    *((ICMPV6, kind) for kind in (128, 135)),
    (132, 443),
)
"""(protocol, port) at the edges of everything in `PORTS`, for ICMP the type; SCTP is in none."""

CLASS_NAMES = ("video", "voice", "backup")
CLASS_PORTS = ("tcp", "tcp/443", "tcp/400-500", "tcp/1-65535", "udp/8000-8100", "udp/53", "sctp/443")
DSCPS = (0, 8, 46, 63)
"""Of classes, in bit/s."""

LOCAL: dict[str, tuple[str, str, tuple[str, ...]]] = {
    SELF: ("host", "mfhost1", ("10.1.1.1", "fd00:1::1")),
    "shop/a": ("pod", "mfp2", ("10.1.1.2", "fd00:1::2")),
    "shop/b": ("pod", "mfp3", ("10.1.1.3",)),
    "guest": ("vm", "tap0", ("10.1.1.4", "fd00:1::4")),
}
"""Kind, device and possible addresses of the workloads that may be attached."""

ADDRESSES: tuple[Address, ...] = tuple(
    map(parse_address, ["10.1.1.1", "10.1.1.2", "10.1.1.9", "10.1.2.2", "10.1.3.3", "fd00:1::2", "fd00:2::2"])
)
"""What endpoints may hold; some are also `LOCAL`."""

DEVICES = (
    "eth0",
    "eth1",
    "mfhost0",
    "mfhost1",
    "mfwg00",
    "mfwg01",
    "mfwg10",
    "mfwg11",
    "mfp2",
    "mfp3",
    "tap0",
    "mftick0",
    "mftick1",
    "mfpl00",
    "mfpl11",
    "mfwg00b",
    "mfwg11b",
)
TUNNELS = (*DEVICES[4:8], *DEVICES[-4:])
PATHS = tuple(product(TUNNELS, NODES[1:]))
RELAYED = {name: 16384 + 16 * number for number, name in enumerate(NODES)}
"""What a relay says of whom it knows: its ports for each."""
HEARD = tuple(product(map(parse_address, ("192.0.2.1", "2001:db8::2")), (PORT_BASE, PORT_BASE + 8, 1024)))
"""Sockets that WireGuard may hear a node from."""
CARRIED = (1320, 1376, 1408, 8000)
UPLINK_ADDRESSES = ("192.0.2.7/24", "192.0.2.8/24", "2001:db8::7/64", "2001:db8::8/64", "198.51.100.7/31")
PREFIXES = ("10.1.0.0/16", "fd00::/16", "10.2.0.0/16")
