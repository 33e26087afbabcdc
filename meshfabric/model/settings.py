"""What an agent is told about its own node: the checked form of its configuration file."""

from enum import StrEnum
from pathlib import Path

import msgspec

from meshfabric.model.keyring import GENERATIONS
from meshfabric.model.node import MAX_SLOTS, PORTS_OF_ONE, NodeKind

TUNNELS = GENERATIONS * MAX_SLOTS * MAX_SLOTS
"""WireGuard's ports in a row, and marks, from their bases on."""
RELAYED_NODES = 1024
"""Whose packets a node hands on at most."""
PS_PER_BYTE_AT_1_MBIT = 8_000_000
RELAY_PORTS = RELAYED_NODES * PORTS_OF_ONE


class Queue(StrEnum):
    """What becomes of an uplink's queue (qdisc)."""

    AUTO = "auto"  # fq in place of what the kernel took by itself; what an operator chose stays
    KEEP = "keep"  # none of our business


class Encryption(StrEnum):
    """Whether what goes by an uplink to other nodes is encrypted."""

    ON = "on"
    OFF = "off"  # not to nodes that say the same of theirs in that segment


class WireGuardKind(StrEnum):
    """What runs the WireGuard devices."""

    AUTO = "auto"  # the kernel where it can, else wireguard-go
    KERNEL = "kernel"
    USERSPACE = "userspace"


class PodPair(StrEnum):
    """What joins new pods to their node."""

    AUTO = "auto"  # netkit where the kernel has it, else veth
    NETKIT = "netkit"
    VETH = "veth"


class WorldMode(StrEnum):
    """Whether workloads speak with the world outside of the fabric."""

    OFF = "off"
    TRANSLATE = "translate"


class Sharing(StrEnum):
    """Whether flows to a node are shared among its paths of least cost."""

    OFF = "off"
    ON = "on"


class UplinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One uplink; its place in the list is its slot. `gateways`: next hops, where the segment is routed.

    `capacity` in Mbit/s, 0: unknown. `relay`: the node that hands on what goes this way; the device,
    and all that is the device's, are those of the uplink by which it is reached.
    """

    name: str
    device: str
    segment: str = "default"
    cost: int = 0
    gateways: tuple[str, ...] = ()
    qdisc: Queue = Queue.AUTO
    capacity: int = 0
    encryption: Encryption = Encryption.ON
    relay: str = ""


class EtcdSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach the store; endpoints are URLs at underlay addresses."""

    endpoints: tuple[str, ...]
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""


class DatapathSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names and numbers on the node that others could also want; `flows` is a table size.

    `world_ports` ports in a row are the node's end of translated flows.
    """

    prefix: str = "mf"
    port_base: int = 51820
    mark_base: int = 0x4D460000
    table_base: int = 19780
    flows: int = 131072
    world_port_base: int = 61000
    world_ports: int = 4536
    relay_port_base: int = 16384

    @property
    def plain_port(self) -> int:
        """The UDP port of all tunnels without encryption: the one after WireGuard's."""
        return self.port_base + TUNNELS

    @property
    def plain_mark(self) -> int:
        """The mark of their packets by uplink 0; that of the next follows."""
        return self.mark_base + TUNNELS


class ProbeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Each tunnel to a node with traffic is probed once in `interval_ms`, to another once in `idle_ms`.

    One that loses `loss_percent` of the probes, or whose round trips take more than `rtt_ms`, is left for
    a better one; 0: never. One that was left again and again is held for at most `hold_s`, 0: not at all.
    """

    interval_ms: int = 50
    idle_ms: int = 1000
    loss_percent: float = 10.0
    rtt_ms: float = 300.0
    hold_s: float = 32.0


class RotationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When old tunnel keys may go: `grace_s` after everyone needs them no more, and for nodes that are not
    alive no later than `away_s` after the rotation began.
    """

    grace_s: float = 180.0
    away_s: float = 86_400.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration file; paths are absolute.

    Everything on the node is held against the plan once in `drift_check_s`. With `relay_mbit` the node hands
    on others' encrypted packets, of each of them at most so many Mbit/s.
    """

    fabric: str
    node: str
    kind: NodeKind
    etcd: EtcdSettings
    uplinks: tuple[UplinkSettings, ...]
    state_dir: Path = Path("/var/lib/meshfabric")
    socket: Path = Path("/run/meshfabric/agent.sock")
    bpffs: Path = Path("/sys/fs/bpf")
    metrics: str = ""
    labels: dict[str, str] = {}
    datapath: DatapathSettings = DatapathSettings()
    probe: ProbeSettings = ProbeSettings()
    rotation: RotationSettings = RotationSettings()
    wireguard: WireGuardKind = WireGuardKind.AUTO
    pods: PodPair = PodPair.AUTO
    world: WorldMode = WorldMode.OFF
    drift_check_s: float = 30.0
    sharing: Sharing = Sharing.OFF
    relay_mbit: int = 0

    def drained_with(self, name: str) -> frozenset[int]:
        """The slots of an uplink and, unless it leads through a relay itself, of all others by its device."""
        named = [uplink for uplink in self.uplinks if uplink.name == name]
        devices = {uplink.device for uplink in named if not uplink.relay}
        return frozenset(
            slot for slot, uplink in enumerate(self.uplinks) if uplink in named or uplink.device in devices
        )

    @property
    def trusted_slots(self) -> tuple[int, ...]:
        """The uplinks on which encryption is off."""
        return tuple(slot for slot, uplink in enumerate(self.uplinks) if uplink.encryption is Encryption.OFF)

    @property
    def trusts(self) -> bool:
        """Whether encryption is off on any uplink."""
        return bool(self.trusted_slots)

    @property
    def tunnel_ports(self) -> range:
        """WireGuard's, and the one after them where a segment goes without encryption."""
        first = self.datapath.port_base
        return range(first, first + TUNNELS + self.trusts)

    @property
    def relay_ports(self) -> range:
        """To each of which comes what is for another node; none where nothing is handed on."""
        first = self.datapath.relay_port_base
        return range(first, first + (RELAY_PORTS if self.relay_mbit else 0))

    @property
    def relay_ps_per_byte(self) -> int:
        """How long a byte that is handed on takes at the rate of its node, in picoseconds."""
        return PS_PER_BYTE_AT_1_MBIT // self.relay_mbit if self.relay_mbit else 0
