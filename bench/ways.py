"""Other ways between the same pods and nodes of a lab: bare WireGuard, and the kernel's routing in clear.

      pod --eth1--> node: ip_forward --+-- barewg0 (WireGuard, two peers, nothing of ours) --> node --> pod
                                       +-- up0, in clear ------------------------------------> node --> pod

WireGuard is the kernel's own where it has one, as it is for the fabric. Every
pod gets a second card, with an address for each of the two ways; all devices
have the MTU of the fabric's pods. Owns what is set up beside the fabric;
`throughput` measures.
"""

from typing import NamedTuple

from meshfabric.kernel import features
from meshfabric.lab import tools
from meshfabric.lab.process import Process, run, spawn
from meshfabric.lab.state import Lab
from meshfabric.lab.status import addresses
from meshfabric.lab.underlay import ip

DEVICE, PORT = "barewg0", 51999
"""The port is none of the fabric's 64."""
GATEWAY = "169.254.7.1"
CARD = "eth1"
BARE, CLEAR = "172.30", "172.31"
NODE_HOST = 254
START_S = 5


class Way(NamedTuple):
    """How to reach a place: the address to connect to, for each kind of way."""

    fabric: str
    bare: str
    clear: str


def prepare(lab: Lab, mtu: int) -> dict[str, Way]:
    """Set up both ways between all nodes and pods; place (`node` or `node/pod`) to its addresses."""
    names = [node.name for node in lab.topology.nodes]
    keys = {name: run(lab.node(name), ["wg", "genkey"]).strip() for name in names}
    for name in names:
        _start_wireguard(lab, name, keys[name], mtu)
    for name in names:
        for other in names:
            if other != name:
                _join(lab, name, other, keys[other])
    return {place: way for name in names for place, way in _plug_all(lab, name, mtu).items()}


def _subnet(lab: Lab, kind: str, name: str) -> str:
    return f"{kind}.{1 + [node.name for node in lab.topology.nodes].index(name)}"


def _underlay(lab: Lab, name: str) -> str:
    segment = lab.topology.segments[0].name
    return next(str(port.addresses[0].ip) for port in lab.topology.ports(segment) if port.node == name)


def _start_wireguard(lab: Lab, name: str, key: str, mtu: int) -> None:
    node = lab.node(name)
    if features.wireguard_module().present:
        ip(node, [f"link add {DEVICE} type wireguard"])
    else:
        _start_wireguard_go(lab, name)
    run(node, ["wg", "set", DEVICE, "private-key", "/dev/stdin", "listen-port", str(PORT)], stdin=key)
    run(node, ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
    ip(
        node,
        [
            f"link set {DEVICE} mtu {mtu} up",
            f"address add {_subnet(lab, BARE, name)}.{NODE_HOST}/32 dev {DEVICE}",
            f"address add {_subnet(lab, CLEAR, name)}.{NODE_HOST}/32 dev lo",
        ],
    )


def _start_wireguard_go(lab: Lab, name: str) -> None:
    node, binary = lab.node(name), tools.find("wireguard-go")
    spawn([binary, "-f", DEVICE], lab.log("bare", name), into=node, env=tools.environment())
    run(node, ["timeout", str(START_S), "sh", "-c", f"until wg show {DEVICE}; do sleep .01; done"])


def _join(lab: Lab, name: str, other: str, key: str) -> None:
    node, subnet, underlay = lab.node(name), _subnet(lab, BARE, other), _underlay(lab, other)
    public = run(node, ["wg", "pubkey"], stdin=key).strip()
    endpoint = ["endpoint", f"{underlay}:{PORT}", "allowed-ips", f"{subnet}.0/24"]
    run(node, ["wg", "set", DEVICE, "peer", public, *endpoint])
    near, clear = _subnet(lab, BARE, name), _subnet(lab, CLEAR, name)
    ip(
        node,
        [
            f"route add {subnet}.0/24 dev {DEVICE} src {near}.{NODE_HOST}",
            f"route add {_subnet(lab, CLEAR, other)}.0/24 via {underlay} src {clear}.{NODE_HOST}",
        ],
    )


def _plug_all(lab: Lab, name: str, mtu: int) -> dict[str, Way]:
    bare, clear = _subnet(lab, BARE, name), _subnet(lab, CLEAR, name)
    ways = {name: Way(_fabric(lab, name), f"{bare}.{NODE_HOST}", f"{clear}.{NODE_HOST}")}
    for number, pod in enumerate(lab.topology.workloads_of(name), 1):
        own = (f"{bare}.{number}", f"{clear}.{number}")
        _plug(lab.node(name), lab.workload(name, pod.name), f"bare{number}", own, mtu)
        place = f"{name}/{pod.name}"
        ways[place] = Way(_fabric(lab, place), *own)
    return ways


def _plug(node: Process, pod: Process, device: str, own: tuple[str, str], mtu: int) -> None:
    ip(
        node,
        [
            f"link add {device} mtu {mtu} type veth peer name {CARD} mtu {mtu} netns {pod.pid}",
            f"address add {GATEWAY}/32 dev {device}",
            f"link set {device} up",
            *(f"route add {address}/32 dev {device}" for address in own),
        ],
    )
    ip(
        pod,
        [
            *(f"address add {address}/32 dev {CARD}" for address in own),
            f"link set {CARD} up",
            *(
                f"route add {kind}.0.0/16 via {GATEWAY} dev {CARD} src {address} onlink"
                for kind, address in zip((BARE, CLEAR), own, strict=True)
            ),
        ],
    )


def _fabric(lab: Lab, place: str) -> str:
    return next(address for address in addresses(lab, place) if ":" not in address)
