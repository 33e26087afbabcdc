"""The WireGuard devices, their peers, and the routing tables that hold each to its uplink."""

from ipaddress import ip_interface

from meshfabric.compiler.paths import joined, port_at_relay, tunnel_mtu
from meshfabric.compiler.programs import program_entries
from meshfabric.model.addresses import family_of, format_prefix, host_prefix
from meshfabric.model.names import tunnel_device
from meshfabric.model.node import MAX_SLOTS, Allocation, Uplink
from meshfabric.model.plan import Entries, Route, Rule, Table, TunnelDevice, TunnelPeer
from meshfabric.model.uplinks import size_of
from meshfabric.model.world import World

KEEPALIVE_S = 25  # holds NAT bindings open (RFC 4787, REQ-5: at least 2 minutes)
UNREACHABLE_METRIC = 4096
DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}


def tunnel_number(local: int, remote: int, generation: int = 0) -> int:
    """0..127: what a tunnel's port and mark add to their bases."""
    return MAX_SLOTS * (MAX_SLOTS * generation + local) + remote


def tunnel_entries(world: World, local: int, remote: int) -> Entries:
    """The devices for (local uplink, remote slot), one a generation of keys, if any node needs them."""
    uplink = next((uplink for uplink in world.uplinks if uplink.slot == local), None)
    if uplink is None or not world.far_ends.reachable(uplink, remote):
        return {}
    entries: Entries = {}
    for generation in world.own_keys.generations:
        entries |= _device_entries(world, uplink, remote, generation)
    return entries


def _device_entries(world: World, uplink: Uplink, remote: int, generation: int) -> Entries:
    settings, local = world.settings.datapath, uplink.slot
    number = tunnel_number(local, remote, generation)
    device = TunnelDevice(
        local, remote, settings.port_base + number, settings.mark_base + number, tunnel_mtu(size_of(uplink))
    )
    name = tunnel_device(settings.prefix, local, remote, generation)
    link = world.links.get(name)
    return {
        (Table.TUNNELS, name): device,
        (Table.RULES, device.mark): Rule(settings.table_base + local),
        **(program_entries(link, "overlay") if link else {}),
    }


def uplink_table_entries(world: World) -> Entries:
    """One routing table an uplink, with nothing but that uplink, so that a tunnel never wanders.

    The MTU is locked: what routers tell is not believed. Else WireGuard's packets of more than a router takes
    would be cut up here one by one, and its large batches be refused: TCP at 2 Mbit/s was seen. So they go on
    without "do not fragment" (or, by IPv6, are lost), and probes find out what fits (`probe.search`).
    """
    entries: Entries = {}
    for slot, wanted in enumerate(world.settings.uplinks):
        table = world.settings.datapath.table_base + slot
        for destination in DEFAULT_ROUTES.values():
            entries[Table.ROUTES, (table, destination, UNREACHABLE_METRIC)] = Route()
        link = world.links.get(wanted.device)
        if link is None or not link.up:
            continue
        for address in link.addresses:
            network = str(ip_interface(address).network)
            entries[Table.ROUTES, (table, network, 0)] = Route(wanted.device, mtu=link.mtu)
        for gateway in wanted.gateways:
            destination = DEFAULT_ROUTES[family_of(gateway)]
            entries[Table.ROUTES, (table, destination, 0)] = Route(wanted.device, gateway, mtu=link.mtu)
    return entries


def peer_entries(world: World, node: str) -> Entries:
    """A node as the peer of each tunnel towards it; AllowedIPs are what operators allocated to it."""
    entries: Entries = {}
    for generation in world.own_keys.generations:
        for device, _, pair, far in joined(world, node, generation):
            port = port_at_relay(pair.relay_port, generation, pair.remote) if pair.relay else far.port
            endpoint = _endpoint(pair.destination, port)
            peer = TunnelPeer(node, endpoint, _allowed_ips(world.allocations[node]), KEEPALIVE_S)
            entries[Table.PEERS, (device, far.public_key)] = peer
    return entries


def _allowed_ips(allocation: Allocation) -> tuple[str, ...]:
    own = [format_prefix(host_prefix(address)) for address in allocation.addresses]
    return tuple(sorted({*own, *map(str, allocation.blocks)}))


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if family_of(address) == 6 else f"{address}:{port}"
