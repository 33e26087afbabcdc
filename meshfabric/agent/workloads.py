"""The workloads of this node: attached, detached, and found again after a restart.

    pod    a netkit or veth pair, far end in the pod's namespace, everything set from here
    vm     a tap that exists; its guest is told what it has to know
    host   the node itself: a veth pair within the node's own namespace

What was attached is written to `workloads.json` before it is in force, so that
a restart adopts it; a pair stays of the kind that it was made. Addresses come out
of the node's blocks (`store.ipam`).
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from meshfabric.api.messages import Attach, Attached
from meshfabric.compiler.paths import workload_mtu
from meshfabric.compiler.workloads import HOST, host_name
from meshfabric.kernel import links
from meshfabric.kernel.attach import pod_pair
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.pairs import PairKind
from meshfabric.kernel.routes import MAIN
from meshfabric.model.addresses import Address, format_address, format_prefix, host_prefix, parse_address
from meshfabric.model.errors import InputError, MeshfabricError, PermanentError, TemporaryError
from meshfabric.model.labels import make_labels
from meshfabric.model.names import (
    GATEWAY4,
    GATEWAY4_ROUTE,
    GATEWAY6,
    GATEWAY_MAC,
    MAC,
    WORKLOAD,
    host_devices,
    is_pod_device,
    pod_device,
    workload_mac,
)
from meshfabric.model.node import Allocation, Link, Workload
from meshfabric.model.settings import WorldMode
from meshfabric.model.world import Event, Kind, World
from meshfabric.observe.events import Events
from meshfabric.reconcile.loop import Loop
from meshfabric.store.ipam import choose
from meshfabric.store.pins import AttachedWorkload, load_workloads, save_workloads
from meshfabric.store.registry import endpoint_labels

WORKLOADS_FILE = "workloads.json"
NO_MAC = "00:00:00:00:00:00"  # of an interface without link addresses: netkit's mode L3
WORLD_METRICS = {"0.0.0.0/0": 2048, "::/0": 2048}  # behind a default route of another network's
GATEWAYS = {GATEWAY4: GATEWAY_MAC, GATEWAY6: GATEWAY_MAC}


class Workloads:
    """Owns `workloads.json` and the devices of pods; tells the loop through events."""

    def __init__(
        self, loop: Loop, lane: Lane, events: Events, save_numbers: Callable[[], None] = lambda: None
    ) -> None:
        self._loop, self._lane, self._events, self._save_numbers = loop, lane, events, save_numbers
        self._world: World = loop.world
        self._file = self._world.settings.state_dir / WORKLOADS_FILE
        self._attached: dict[str, AttachedWorkload] = {}
        self._last: dict[int, Address] = {}
        self._under_way: list[str] = []  # being attached
        self._restored = asyncio.Event()  # nobody may attach or detach before

    async def restore(self) -> None:
        """Adopt what an earlier run attached; what lost its device meanwhile is forgotten."""
        for workload in load_workloads(self._file):
            link = await self._lane.run(links.find, workload.device)
            if link is None:
                self._events.note("workload lost", f"{workload.name}: device {workload.device} is gone")
                continue
            self._attached[workload.name] = workload
            self._loop.feed([_link_event(link), self._event(workload)])
        self._save()
        self._restored.set()

    async def attach(self, request: Attach) -> Attached:
        """Raises `InputError` for a bad request, `TemporaryError` before the node has its blocks."""
        await self._restored.wait()
        labels = self._check(request)
        allocation = self._allocation()
        known = self._attached.get(request.name)
        self._under_way.append(request.name)
        try:
            workload = self._described(request, known, allocation)
            self._save_numbers()  # a device has its workload's number in its name
            workload, link = await self._lane.run(self._plug, request, workload)
        except MeshfabricError:
            if known is None:
                self._world.workload_numbers.release(request.name)
            raise
        finally:
            self._under_way.remove(request.name)
        self._attached[request.name] = workload
        self._save()
        self._loop.feed([_link_event(link), self._event(workload)])
        await self._loop.settled()
        if known is None:
            self._events.note(
                "workload attached", f"{request.name} {', '.join(workload.addresses)} {dict(labels)}"
            )
        return self._answer(workload)

    async def detach(self, name: str) -> None:
        """Forget the workload and remove a pod's devices; an absent one is no error."""
        await self._restored.wait()
        workload = self._attached.pop(name, None)
        if workload is None:
            return
        self._save()
        self._loop.feed([Event(Kind.WORKLOAD, name)])
        await self._loop.settled()
        if workload.kind == "pod":
            await self._lane.run(links.delete, workload.device)
        self._events.note("workload detached", name)

    async def sweep(self) -> None:
        """Remove pods' devices that nobody has: a kill in the midst of attaching or detaching left them."""
        prefix, numbers = self._world.settings.datapath.prefix, self._world.workload_numbers
        owned = {one.device for one in self._attached.values()}
        owned |= {pod_device(prefix, numbers[name]) for name in self._under_way if numbers.find(name)}
        for device in sorted(self._world.links.keys() - owned):
            if is_pod_device(prefix, device):
                await self._lane.run(links.delete, device)
                self._events.note("device removed", f"{device} was nobody's")

    async def host(self) -> None:
        """Make the node itself a workload when its blocks are known, when they changed, and when its
        devices are gone; else nothing is done.
        """
        allocation = self._world.allocations.get(self._world.node)
        if allocation is None:
            return
        name = host_name(self._world)
        outer, inner = host_devices(self._world.settings.datapath.prefix)
        mac = workload_mac(self._world.workload_numbers.take(name))
        labels = endpoint_labels(HOST, name, self._world.settings.labels)
        workload = Workload(name, HOST, labels, allocation.addresses, inner, mac)
        if self._world.workloads.get(name) == workload and {outer, inner} <= self._world.links.keys():
            await self._lane.run(links.ensure_sysctls, inner, links.HOST_SYSCTLS)  # ip_forward sets them all
            return
        found = await self._lane.run(_plug_host, outer, inner, mac)
        self._loop.feed([*map(_link_event, found), Event(Kind.WORKLOAD, name, workload)])

    def devices(self, name: str) -> list[tuple[str, Path | None]]:
        """Every device of a workload, with the namespace it is in; for its MTU."""
        if name == host_name(self._world):
            return [(device, None) for device in host_devices(self._world.settings.datapath.prefix)]
        workload = self._attached.get(name)
        if workload is None:
            return []
        near: tuple[str, Path | None] = (workload.device, None)
        far = [(workload.inner, Path(workload.netns))] if workload.kind == "pod" else []
        return [near, *far]

    def _check(self, request: Attach) -> dict[str, str]:
        if not WORKLOAD.fullmatch(request.name) or request.name == host_name(self._world):
            raise InputError(
                f"{request.name!r} is no valid workload name", remedy="lower-case letters, digits and -./"
            )
        if bool(request.netns) != (request.kind == "pod"):
            raise InputError(
                f"a {request.kind} is attached {'by' if request.kind == 'pod' else 'without'} netns"
            )
        if request.bridged and request.kind != "pod":
            raise InputError(f"a {request.kind} has no interface of ours to bridge", place=request.name)
        if request.mac and not MAC.fullmatch(request.mac):
            raise InputError(f"{request.mac!r} is no MAC of an interface", remedy="write 52:54:00:12:34:56")
        labels = dict(make_labels(request.labels, request.name))
        endpoint_labels(request.kind, self._world.node, labels, request.ports)
        taken = [
            one.name for one in self._attached.values() if one.device == request.device and not request.netns
        ]
        if taken and taken != [request.name]:
            raise PermanentError(
                f"device {request.device} is {taken[0]}'s", remedy=f"detach {taken[0]} first"
            )
        return labels

    def _allocation(self) -> Allocation:
        allocation = self._world.allocations.get(self._world.node)
        if allocation is None:
            remedy = f"an operator has to write allocations/{self._world.node}"
            raise TemporaryError("this node has no address blocks yet", remedy=remedy)
        return allocation

    def _described(
        self, request: Attach, known: AttachedWorkload | None, allocation: Allocation
    ) -> AttachedWorkload:
        number = self._world.workload_numbers.take(request.name)
        pod = request.kind == "pod"
        return AttachedWorkload(
            name=request.name,
            kind=request.kind,
            labels=dict(request.labels),
            addresses=known.addresses if known else self._choose(allocation),
            device=pod_device(self._world.settings.datapath.prefix, number) if pod else request.device,
            mac=request.mac or workload_mac(number),
            netns=request.netns,
            inner=request.device if pod else "",
            ports=dict(request.ports),
        )

    def _choose(self, allocation: Allocation) -> tuple[str, ...]:
        taken = set(self._world.here) | set(allocation.addresses)
        chosen = []
        for family in (4, 6):
            blocks = [block for block in allocation.blocks if block.version == family]
            if blocks:
                address = choose(blocks, taken, self._last.get(family))
                self._last[family] = address
                chosen.append(format_address(address))
        return tuple(chosen)

    def _plug(self, request: Attach, workload: AttachedWorkload) -> tuple[AttachedWorkload, links.Link]:
        """The workload with the MAC that its interface turned out to have, and the device on the node."""
        if request.kind == "pod":
            kind = pod_pair(self._world.settings.pods)
            mac = _plug_pod(workload, kind, self._networks(), workload_mtu(self._world), request.bridged)
            workload = structs.replace(workload, mac=mac)
        link = links.find(workload.device)
        if link is None:
            raise InputError(f"no device {workload.device}", remedy="make the tap first: ip tuntap add")
        links.ensure_sysctls(workload.device, links.FABRIC_SYSCTLS)
        return workload, link

    def _networks(self) -> list[str]:
        """What is reached through the gateway; the world beside what else the workload may have for it."""
        translated = self._world.settings.world is WorldMode.TRANSLATE
        fabric = [str(network) for network in self._world.prefixes.get("", ())]
        return [*fabric, *WORLD_METRICS] if translated else fabric

    def _event(self, workload: AttachedWorkload) -> Event:
        labels = endpoint_labels(workload.kind, self._world.node, workload.labels, workload.ports)
        addresses = tuple(parse_address(address) for address in workload.addresses)
        value = Workload(workload.name, workload.kind, labels, addresses, workload.device, workload.mac)
        return Event(Kind.WORKLOAD, workload.name, value)

    def _answer(self, workload: AttachedWorkload) -> Attached:
        return Attached(
            addresses=[format_prefix(host_prefix(parse_address(address))) for address in workload.addresses],
            routes=self._networks(),
            gateways=[GATEWAY4, GATEWAY6],
            gateway_mac=GATEWAY_MAC,
            device=workload.device,
            mac=workload.mac,
            mtu=workload_mtu(self._world),
        )

    def _save(self) -> None:
        save_workloads(self._file, list(self._attached.values()))


def _plug_pod(
    workload: AttachedWorkload, kind: PairKind, networks: list[str], mtu: int, bridged: bool
) -> str:
    """The pod's pair: our end down until its programs are there, the pod's end with all that it needs.

    Gives the MAC of the pod's end, all zeros if it has none.
    """
    netns, inner = Path(workload.netns), workload.inner
    if not netns.exists():
        raise InputError(
            f"no network namespace {netns}", place=workload.name, remedy="give the path of a running one"
        )
    runs = links.find(workload.device) is not None
    try:
        links.ensure_pod_pair(kind, workload.device, inner, netns, workload.mac, mtu, bridged=bridged)
        return _set_up_pod(inner, netns, workload.addresses, networks)
    except MeshfabricError:
        if not runs:
            links.delete(workload.device)
        raise


def _set_up_pod(inner: str, netns: Path, addresses: tuple[str, ...], networks: list[str]) -> str:
    """The pod's end; gives its MAC."""
    links.ensure_sysctls(inner, links.POD_SYSCTLS, netns=netns)
    links.set_up(inner, netns=netns)
    wanted = {format_prefix(host_prefix(parse_address(address))) for address in addresses}
    links.ensure_addresses(inner, wanted, netns=netns)
    mac = links.mac_of(inner, netns=netns)
    if mac != NO_MAC:
        links.ensure_neighbours(inner, GATEWAYS, netns=netns)
    to_gateway = links.Route(GATEWAY4_ROUTE, inner)  # else Linux may take no ICMP error from it (rp_filter)
    links.ensure_routes(MAIN, {to_gateway, *(_route(network, inner) for network in networks)}, netns=netns)
    return mac


def _plug_host(outer: str, inner: str, mac: str) -> list[links.Link]:
    links.ensure_veth(outer, inner, macs=(mac, ""))
    links.ensure_sysctls(outer, links.FABRIC_SYSCTLS)
    links.ensure_sysctls(inner, links.HOST_SYSCTLS)
    links.set_up(outer)
    links.ensure_neighbours(outer, GATEWAYS)
    return [link for link in map(links.find, (outer, inner)) if link]


def _route(network: str, device: str) -> links.Route:
    gateway = GATEWAY6 if ":" in network else GATEWAY4
    return links.Route(network, device, gateway, metric=WORLD_METRICS.get(network, 0), onlink=True)


def _link_event(link: links.Link) -> Event:
    return Event(Kind.LINK, link.name, Link(link.name, link.index, link.mac, link.mtu, link.up))
