"""The records that nodes and operators keep in the store, as checked values.

Who writes which is the store's business (`store.keys`, `store.registry`); here
is what they say. Unknown fields of a record are ignored on reading, so that a
newer writer does not upset an older reader; `min_version` says what a reader
must at least be.
"""

from enum import StrEnum

import msgspec

from meshfabric.model.addresses import Address, Network
from meshfabric.model.keyring import FIRST, GENERATIONS, Keyring
from meshfabric.model.labels import Labels

RECORD_VERSION = 1
NODE_VERSION = 2
"""Of node records: the `min_version` of those with uplinks through a relay, which older agents would take
for direct ones."""
MAX_SLOTS = 8
PORTS_OF_ONE = GENERATIONS * MAX_SLOTS
"""Those in a row at which a relay takes what is for one node."""


class NodeKind(StrEnum):
    """What a node is to its operator; all are equal to the datapath."""

    VM = "vm"
    METAL = "metal"
    KUBERNETES = "kubernetes"


class Uplink(msgspec.Struct, frozen=True):
    """One way out of a node. Uplinks of the same segment reach each other.

    `slot` 0..7 numbers it in device names and ports; `addresses` are the
    underlay's, at most one of each family; `mtu` in bytes; a lower `cost` is
    preferred; `capacity` in Mbit/s weighs shares, 0: unknown. `draining`: it is about to be
    taken down, both ends take it last. `plain_port`: packets without encryption are taken
    there, by UDP; 0: none are. `relay`: what comes by this way is handed on by that node, which
    is in the segment; two uplinks that name the same one reach each other, whatever their segments.
    """

    slot: int
    name: str
    segment: str
    addresses: tuple[str, ...]
    mtu: int
    cost: int = 0
    capacity: int = 0
    draining: bool = False
    plain_port: int = 0
    relay: str = ""

    @property
    def meeting(self) -> str:
        """Uplinks with the same one reach each other. (A segment's name has no `@`.)"""
        return f"@{self.relay}" if self.relay else self.segment


class Tunnel(msgspec.Struct, frozen=True):
    """The near end of a WireGuard device for (local uplink, remote slot), key in base64."""

    local: int
    remote: int
    public_key: str
    port: int


class NodeRecord(msgspec.Struct, frozen=True):
    """`nodes/<node>`: what a node says of itself; `wireguard` is what runs its tunnels, for people.

    `tunnels` have keys of even epochs (generation 0), `odd_tunnels` of odd ones. An agent that knows nothing
    of generations reads the first only, and has nothing but them: it joins no tunnel wrongly.
    `relayed`: the nodes that it hands on packets to, each with the first of the UDP ports for that.
    """

    name: str
    kind: NodeKind
    labels: dict[str, str] = {}
    uplinks: tuple[Uplink, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    agent: str = ""
    wireguard: str = ""
    odd_tunnels: tuple[Tunnel, ...] = ()
    keyring: Keyring = FIRST
    version: int = RECORD_VERSION
    min_version: int = 1
    relayed: dict[str, int] = {}

    def tunnels_of(self, generation: int) -> tuple[Tunnel, ...]:
        """The ends with keys of a generation, 0 or 1."""
        return self.odd_tunnels if generation else self.tunnels


class RotationRecord(msgspec.Struct, frozen=True):
    """`rotation`: the epoch of the fabric's tunnel keys since the Unix time `since_s`.

    With `every_s`, the epoch is one more each time that so many seconds have gone by; 0: only when told.
    """

    epoch: int = 0
    since_s: int = 0
    every_s: int = 0
    version: int = RECORD_VERSION
    min_version: int = 1


class FabricRecord(msgspec.Struct, frozen=True):
    """`config`: what the fabric is.

    `prefixes` hold every fabric address, `exposed` what of them the world may see. `kube_apiservers` are
    addresses outside: whom policies mean by `{entity: kube-apiserver}`. `control_ports` are those by which
    operators reach hosts, and which the CLI therefore lets no policy cut by mistake.
    """

    prefixes: tuple[str, ...]
    exposed: tuple[str, ...] = ()
    kube_apiservers: tuple[str, ...] = ()
    control_ports: tuple[str, ...] = ("tcp/22",)
    version: int = RECORD_VERSION
    min_version: int = 1


class AllocationRecord(msgspec.Struct, frozen=True):
    """`allocations/<node>`: address blocks of a node; its own address is the first of each."""

    blocks: tuple[str, ...]
    version: int = RECORD_VERSION
    min_version: int = 1


class GrantRecord(msgspec.Struct, frozen=True):
    """`grants/<node>`: label values by key (`*` for any) and floating pools that a node may use."""

    labels: dict[str, tuple[str, ...]] = {}
    pools: tuple[str, ...] = ()
    version: int = RECORD_VERSION
    min_version: int = 1


class EndpointRecord(msgspec.Struct, frozen=True):
    """`endpoints/<node>/<address>`: one address of one workload; `ports` by name, as `tcp/8080`."""

    workload: str
    kind: str
    labels: dict[str, str] = {}
    epoch: int = 0
    handoff_to: str = ""
    version: int = RECORD_VERSION
    min_version: int = 1
    ports: dict[str, str] = {}


class Allocation(msgspec.Struct, frozen=True):
    """A checked `AllocationRecord`. `addresses` are the node's own, one of each family at most."""

    blocks: tuple[Network, ...]
    addresses: tuple[Address, ...]


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """An address in use; kept by the ten thousand, so names and labels are shared objects."""

    node: str
    workload: str
    kind: str
    labels: Labels
    epoch: int = 0


class Workload(msgspec.Struct, frozen=True):
    """A workload attached to this node. `device` is the node's side, `labels` as granted."""

    name: str
    kind: str  # pod, vm or host
    labels: Labels
    addresses: tuple[Address, ...]
    device: str
    mac: str


class Link(msgspec.Struct, frozen=True):
    """A network device of this node, as observed. `addresses` without host-local ones."""

    name: str
    index: int
    mac: str
    mtu: int
    up: bool
    addresses: tuple[str, ...] = ()
