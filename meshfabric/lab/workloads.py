"""Pods and guests on the nodes of a lab, and their attachment to the fabric.

    pod:    a namespace; the agent makes its device and sets everything in it
    guest:  a namespace that stands for a virtual machine: only a cable joins it
            to the node, and what the agent says (addresses, gateways, MTU) is set
            by us, as DHCP or cloud-init would. It learns the gateway by ARP and
            neighbour discovery like any machine.

        guest's namespace                    node
          eth0 (tap) ══ cable process ══ tap-guest1 ← the agent's programs

Owns the namespaces, taps and cables; `agents` runs who is asked for attachment.
"""

import sys
import time
from ipaddress import ip_interface
from pathlib import Path

import msgspec

from meshfabric.api.client import call
from meshfabric.api.messages import Attach, Attached, Detach
from meshfabric.lab import cable, tools
from meshfabric.lab.process import Process, run, spawn
from meshfabric.lab.records import Workload
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import ip
from meshfabric.model.errors import TemporaryError

ROLE, CABLE_ROLE = "workload", "cable"
DEVICE = "eth0"
HOLDER = ("sleep", "infinity")
"""Keeps a namespace; what is run in it is reaped by the node's init."""
CABLE_TIMEOUT_S = 30.0
ATTACH_TIMEOUT_S = 120.0
_POLL_S = 0.01
_SYSCTLS = """
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra
ip link set lo up
"""


def raise_workload(lab: Lab, workload: Workload) -> None:
    """Make a workload's namespace and, for a guest, plug it into its tap."""
    node = lab.node(workload.node)
    holder = spawn(HOLDER, lab.log(ROLE, workload.name), into=node, new=("net",))
    lab.remember(ROLE, workload.name, holder)
    run(holder, ["sh", "-euc", _SYSCTLS])
    if workload.kind == "vm":
        ip(node, [f"tuntap add dev {workload.tap} mode tap vnet_hdr", f"link set {workload.tap} up"])
        ip(holder, [f"tuntap add dev {DEVICE} mode tap vnet_hdr"])
        start_cable(lab, workload)


def start_cable(lab: Lab, workload: Workload) -> Process:
    """Join a guest to its tap, again if the cable has been killed; returns when both ends are in."""
    node, guest = lab.node(workload.node), lab.workload(workload.node, workload.name)
    netns = f"/proc/{guest.inner_pid}/ns/net"
    argv = [sys.executable, "-I", "-S", cable.__file__, workload.tap, netns, DEVICE]
    log = lab.log(CABLE_ROLE, workload.name)
    process = spawn(argv, log, into=node, env=tools.environment())
    lab.remember(CABLE_ROLE, workload.name, process)
    _wait_carrier(Path(f"/proc/{node.pid}/root/sys/class/net/{workload.tap}/carrier"), log)
    return process


def attach(lab: Lab, workload: Workload, timeout_s: float = ATTACH_TIMEOUT_S) -> Attached:
    """Let the node's agent attach a workload; a guest is then told what it has to know."""
    holder = lab.workload(workload.node, workload.name)
    answer = call(lab.socket(workload.node), _request(workload, holder), timeout_s)
    attached = msgspec.convert(answer, Attached)
    if workload.kind == "vm":
        ip(holder, guest_lines(attached))
    lab.keep_attached(workload.name, attached)
    return attached


def detach(lab: Lab, workload: Workload) -> None:
    """Let the node's agent take a workload out of the fabric; its namespace stays."""
    call(lab.socket(workload.node), Detach(workload.name))
    lab.forget_attached(workload.name)


def guest_lines(attached: Attached) -> list[str]:
    """What a guest sets on its card, as lines of iproute2; no neighbour entry, it has to ask."""
    card = f"link set {DEVICE} address {attached.mac} mtu {attached.mtu} up"
    addresses = [f"address replace {each} dev {DEVICE}{_nodad(each)}" for each in attached.addresses]
    gateways = {_version(gateway): gateway for gateway in attached.gateways}
    routes = [
        f"route replace {route} via {gateways[_version(route)]} dev {DEVICE} onlink"
        for route in attached.routes
    ]
    return [card, *addresses, *routes]


def _request(workload: Workload, holder: Process) -> Attach:
    if workload.kind == "vm":
        return Attach(workload.name, "vm", workload.labels, workload.tap, ports=workload.ports)
    netns = f"/proc/{holder.inner_pid}/ns/net"
    return Attach(workload.name, "pod", workload.labels, DEVICE, netns, ports=workload.ports)


def _wait_carrier(carrier: Path, log: Path) -> None:
    deadline = time.monotonic() + CABLE_TIMEOUT_S
    while carrier.read_text().strip() != "1":
        if time.monotonic() > deadline:
            raise TemporaryError("the guest's cable is not plugged in", remedy=f"see {log}")
        time.sleep(_POLL_S)


def _version(address: str) -> int:
    return ip_interface(address).version


def _nodad(address: str) -> str:
    return " nodad" if _version(address) == 6 else ""
