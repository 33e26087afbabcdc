"""The guard's file: text to a checked `Guard`, every error with its line.

fabric: prod
prefixes: [10.64.0.0/16, "fd6d:6600::/48"]
device_prefix: mf          # as datapath.prefix in the agent's file
devices: [br-local, vnet*] # others that may carry the fabric's packets within this machine
"""

import re
from ipaddress import ip_network
from itertools import combinations

import msgspec

from meshfabric.model import yamltext
from meshfabric.model.addresses import Network, parse_network
from meshfabric.model.names import IFNAMSIZ, check_device_prefix, check_name
from meshfabric.model.settings import DatapathSettings
from meshfabric.model.yamltext import Located

ANY = "*"
DEVICE = re.compile(r"[A-Za-z0-9_.@+:-]+\*?")
NEVER = {
    "0.0.0.0/8": "unspecified",  # RFC 1122, 3.2.1.3: a host that asks for its address (DHCP)
    "127.0.0.0/8": "loopback",
    "::/8": "reserved",  # RFC 4291, 2.5: unspecified, loopback, and IPv4 in IPv6 among them
    "169.254.0.0/16": "link-local",  # RFC 3927; the gateway of workloads is one of them
    "fe80::/10": "link-local",  # RFC 4291, 2.5.6: neighbour discovery
    "224.0.0.0/4": "multicast",
    "ff00::/8": "multicast",
    "255.255.255.255/32": "broadcast",
}
"""What no fabric may have: without these a host has no network at all."""


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which packets to keep off which devices; checked when it comes from `parse`."""

    fabric: str
    prefixes: tuple[str, ...]
    device_prefix: str = DatapathSettings().prefix
    devices: tuple[str, ...] = ()

    def networks(self, version: int) -> list[Network]:
        """The prefixes of a family, sorted."""
        return sorted(one for one in map(ip_network, self.prefixes) if one.version == version)

    def passes(self, device: str) -> bool:
        """Whether the fabric's packets may use this device."""
        return device == "lo" or any(_matches(pattern, device) for pattern in self.patterns())

    def patterns(self) -> list[str]:
        """Devices that the fabric's packets may use, as nftables writes them; `lo` goes without saying."""
        return [self.device_prefix + ANY, *self.devices]


def parse(text: str, name: str) -> Guard:
    """The guard that `text` describes; `name` is the file's in errors. Raises InputError."""
    found = yamltext.locate(text, name, Guard)
    check_name(found.value.fabric, "fabric", found.at("fabric"))
    _check_prefixes(found)
    _check_devices(found)
    return found.value


def _check_prefixes(found: Located[Guard]) -> None:
    texts = found.value.prefixes
    if not texts:
        raise found.error("no prefixes", "prefixes", remedy="list those that the fabric has in etcd")
    networks = [parse_network(text, found.at("prefixes", at)) for at, text in enumerate(texts)]
    for at, network in enumerate(networks):
        for never, what in NEVER.items():
            if _overlap(network, ip_network(never)):
                raise found.error(f"{network} holds {what} addresses ({never})", "prefixes", at)
    for (_, one), (at, other) in combinations(enumerate(networks), 2):
        if _overlap(one, other):
            raise found.error(f"{other} overlaps {one}", "prefixes", at, remedy="leave one of them out")


def _check_devices(found: Located[Guard]) -> None:
    check_device_prefix(found.value.device_prefix, "device_prefix", found.at("device_prefix"))
    for at, device in enumerate(found.value.devices):
        if not DEVICE.fullmatch(device) or len(device.removesuffix(ANY)) > IFNAMSIZ:
            remedy = "write a device's name, or how names begin: vnet*"
            raise found.error(f"{device!r} is no name of a device", "devices", at, remedy=remedy)


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _matches(pattern: str, device: str) -> bool:
    if pattern.endswith(ANY):
        return device.startswith(pattern.removesuffix(ANY))
    return device == pattern
