"""Nodes with a boot guard, and what tries to get past it."""

import contextlib
import json
import socket
import sys
from collections.abc import Iterator

from meshfabric.lab import build, state
from meshfabric.lab.state import Lab
from tests.lab.places import opened
from tests.lab.small import fresh_name, said
from tests.lab.whole import FABRIC, described, names

NEXT_HOP = {4: "172.31.1.14", 6: "fd00:ed::14"}  # of kube2, on red
OURS = 109  # the protocol number of the agent's routes
BURST = 20


@contextlib.contextmanager
def booted() -> Iterator[Lab]:
    """The built-in lab's nodes as they boot: guarded, with networks, and no agent yet."""
    name, topology = fresh_name(), described(FABRIC)
    try:
        with state.locked(name) as folder:
            lab = build.raise_nodes(topology, name, folder, lambda step: None)
        for node in names(lab):
            guard(lab, node, "up")
        yield lab
    finally:
        build.down(name)


def guard(lab: Lab, node: str, what: str) -> str:
    """`meshfabric guard` on a node, as its operator runs it."""
    file = lab.node_folder(node) / "guard.yaml"
    file.write_text(json.dumps({"fabric": lab.topology.fabric, "prefixes": lab.topology.prefixes}))
    more = {
        "up": ["--file", str(file)],
        "down": ["--fabric", lab.topology.fabric, "--yes"],
        "status": ["--output", "json"],
    }
    done = build.run(lab, node, [sys.executable, "-m", "meshfabric", "guard", what, *more[what]])
    assert done.returncode == 0, done.stderr
    return done.stdout


def dropped(lab: Lab, node: str) -> int:
    """Packets that a node's guard has dropped since it was put up."""
    return sum(part["packets"] or 0 for part in json.loads(guard(lab, node, "status")))


@contextlib.contextmanager
def led_astray(lab: Lab, node: str) -> Iterator[None]:
    """The fabric's prefixes by the underlay instead, with forwarding on, and nobody who checks sources."""
    said(lab, node, "for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$each; done")
    networks = {4: lab.topology.prefixes[0], 6: lab.topology.prefixes[1]}
    for family, via in NEXT_HOP.items():
        said(lab, node, f"ip -{family} route flush proto {OURS}")
        said(lab, node, f"ip route add {networks[family]} via {via} dev up0 metric 1")
        said(lab, node, f"echo 1 >/proc/sys/net/ipv{family}/conf/all/forwarding")
    try:
        yield
    finally:
        for network in networks.values():
            said(lab, node, f"ip route delete {network} dev up0 metric 1")


def stray(lab: Lab, node: str, to: str, source: str = "", device: str = "") -> None:
    """The node itself says something to an address of the fabric; that it may not is no error here."""
    with opened(lab, node, 6 if ":" in to else 4, socket.SOCK_DGRAM) as link:
        if device:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if source:
            link.bind((source, 0))
        for _ in range(BURST):
            with contextlib.suppress(OSError):
                link.sendto(b"in clear", (to, 4001))
