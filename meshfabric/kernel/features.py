"""What this machine can do, found out by trying and never by a version number.

Devices, links and mounts are tried in a thread with namespaces of its own, which
end with it: nothing is left behind. `meshfabric doctor` shows the list, the agent
calls `require` before it starts, `attach` and `wireguard` ask for what they need.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from meshfabric.kernel import clsact as filters
from meshfabric.kernel import holding, libbpf, netns, nft, pairs, rtnl, tool, vxlan
from meshfabric.kernel.bpf import Direction, Link, Map, MapType, Program, Side
from meshfabric.kernel.tun import create_tun
from meshfabric.model.errors import MeshfabricError, PermanentError, UnsupportedError

TCX_SINCE = "6.6"
NETKIT_SINCE = "6.12"  # 6.7 has netkit, but it clears our marks before the program looks
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}  # uapi/linux/capability.h
VMLINUX_BTF = Path("/sys/kernel/btf/vmlinux")
BTF_MAGIC = 0xEB9F
MEMLOCK_TRIAL_BYTES = 16 << 20  # twice the usual limit of locked memory
TRIAL_DEVICE = "mftry0"
TRIAL_PAIR = ("mftry1", "mftry2")
TRIAL_DEVICE_IN_CLEAR, TRIAL_PORT, TRIAL_VNI = "mftry3", 51948, 1
TRIAL_ADDRESS = "fd6d:66::1"

_LOOPBACK = 1  # ifindex of lo in every network namespace
_CLONE_NEWNS = 0x00020000
_MS_PRIVATE_ALL = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC
_MOUNT_POINTS = ("/sys/fs/bpf", "/mnt", "/tmp")

_TWO = struct.Struct("=BBhiBBhi")  # two instructions: opcode registers offset immediate
_PASS = _TWO.pack(0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # r0 = 0; exit
_REDIRECT_PEER = _TWO.pack(0xB7, 1, 0, 1, 0xB7, 2, 0, 0) + _TWO.pack(0x85, 0, 0, 155, 0x95, 0, 0, 0)

_libc = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Feature:
    """One thing that was tried: `detail` says what was seen, `since_kernel` is "" for what is no kernel's."""

    name: str
    present: bool
    detail: str
    needed: bool
    since_kernel: str = ""


def probe(wireguard_go: Path | None = None) -> list[Feature]:
    """Try everything, in well under 300 ms; without root only that is told.

    `wireguard_go` is the binary's configured path, if there is one.
    """
    try:
        return _alone(lambda: _probe(wireguard_go))
    except MeshfabricError as cause:
        return [Feature("capabilities", False, str(cause), True)]


def require(features: list[Feature]) -> None:
    """Raise UnsupportedError when something needed is absent, naming all of it in one line."""
    absent = [feature for feature in features if feature.needed and not feature.present]
    if absent:
        what = "; ".join(f"{feature.name}{_since(feature)}: {feature.detail}" for feature in absent)
        raise UnsupportedError(f"this machine lacks {what}", remedy="meshfabric doctor shows all")


def tcx() -> Feature:
    """Whether programs can be attached by tcx links; raises PermanentError without root."""
    return _alone(_tcx)


def clsact() -> Feature:
    """Whether programs can be attached as filters of clsact; raises PermanentError without root."""
    return _alone(_clsact)


def netkit() -> Feature:
    """Whether pods can have netkit pairs; raises PermanentError without root."""
    return _alone(_netkit)


def wireguard_module() -> Feature:
    """Whether the kernel itself makes WireGuard devices; raises PermanentError without root."""
    return _alone(lambda: _try("wireguard", lambda: _device("wireguard"), False, "5.6"))


def trusted() -> Feature:
    """Whether segments can go without encryption; raises PermanentError without root."""
    return _alone(_vxlan)


def fq() -> Feature:
    """Whether there are fq queues, which send each packet at its time; raises PermanentError without root."""
    return _alone(lambda: _try("fq", lambda: _qdisc("fq"), False, "3.12"))


def delay() -> Feature:
    """The best queue that can hold a packet back, as `detail`; raises PermanentError without root."""
    return _alone(lambda: _try("delay", _delay, False, "2.6"))


def netem() -> Feature:
    """Whether the kernel can emulate bad networks; raises PermanentError without root."""
    return _alone(lambda: _try("netem", lambda: _qdisc("netem"), False, "2.6"))


def _probe(wireguard_go: Path | None) -> list[Feature]:
    module = _try("wireguard", lambda: _device("wireguard"), False, "5.6")
    userspace = not module.present
    ways = _tcx(), _clsact(), _netkit()
    return [
        _try("capabilities", _capabilities, True),
        _try("bpf", _bpf, True, "4.4"),
        _try("libbpf", libbpf.version, True),
        _try("btf", _btf, False, "5.2"),
        *ways,
        _to_attach(*ways),
        _try("redirect_peer", _redirect_peer, True, "5.10"),
        _try("batch", _batch, False, "5.6"),
        _try("memlock", _memlock, True, "5.11"),
        _try("bpffs", _bpffs, True, "4.4"),
        _try("ipv6", _ipv6, True, "2.6"),
        module,
        _try("wireguard-go", lambda: _wireguard_go(wireguard_go), userspace),
        _try("tun", _tun, userspace, "2.6"),
        _try("wg", lambda: tool.run(["wg", "--version"]).split(" - ")[0], True),
        _vxlan(),
        _try("nftables", nft.trial, False, nft.SINCE),
        _try("fq", lambda: _qdisc("fq"), False, "3.12"),
        _try("delay", _delay, False, "2.6"),
        _try("netem", lambda: _qdisc("netem"), False, "2.6"),
    ]


def _alone(function: Callable[[], _T]) -> _T:
    """Run it in throw-away network and mount namespaces."""

    def entered() -> _T:
        netns.leave_for(netns.CLONE_NEWNET | _CLONE_NEWNS)
        return function()

    return netns.in_thread(entered)


def _try(name: str, trial: Callable[[], str], needed: bool, since_kernel: str = "") -> Feature:
    """The trial returns what it saw, or raises."""
    try:
        return Feature(name, True, trial(), needed, since_kernel)
    except MeshfabricError as cause:
        return Feature(name, False, cause.what, needed, since_kernel)
    except OSError as cause:
        return Feature(name, False, str(cause), needed, since_kernel)


def _since(feature: Feature) -> str:
    return f" (Linux {feature.since_kernel} or newer)" if feature.since_kernel else ""


def _capabilities() -> str:
    status = Path("/proc/thread-self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        raise PermanentError(f"without {', '.join(missing)}", remedy="run as root")
    return ", ".join(CAPABILITIES)


def _bpf() -> str:
    with Program.load(_PASS) as program:
        verdict = program.test_run(bytes(64)).retval
    return f"a program loads and runs (returned {verdict})"


def _redirect_peer() -> str:
    with Program.load(_REDIRECT_PEER):
        return "the helper is known"


def _tcx() -> Feature:
    return _try("tcx", _tcx_link, False, TCX_SINCE)


def _clsact() -> Feature:
    return _try("clsact", _clsact_filter, False, filters.SINCE)


def _netkit() -> Feature:
    return _try("netkit", _netkit_pair, False, NETKIT_SINCE)


def _to_attach(tcx: Feature, clsact: Feature, netkit: Feature) -> Feature:
    """What programs hang by: one of two is needed, and `attach` prefers them in this order."""
    chosen = next((way.name for way in (tcx, clsact) if way.present), "")
    pods = "netkit" if netkit.present else "veth"
    detail = f"by {chosen}; new pods get {pods} pairs by default"
    if not chosen:
        detail = f"programs hang neither by tcx ({tcx.detail}) nor by clsact ({clsact.detail})"
    return Feature("attach", bool(chosen), detail, True, filters.SINCE)


def _tcx_link() -> str:
    with Program.load(_PASS) as program, Link.create(program, _LOOPBACK, Direction.INGRESS):
        return "a link attaches"


def _clsact_filter() -> str:
    spot = (_LOOPBACK, Direction.EGRESS)
    with Program.load(_PASS) as program:
        filters.prepare(spot, TRIAL_DEVICE)
        filters.hang(program, spot, TRIAL_DEVICE)
        if filters.hanging([spot], TRIAL_DEVICE) != {spot: program.id}:
            raise PermanentError("the kernel does not tell which program a filter runs")
    return "a filter attaches"


def _netkit_pair() -> str:
    pairs.add_netkit(*TRIAL_PAIR, None, pairs.Mode.L3)
    made = pairs.netkit(TRIAL_PAIR[0])
    if made is None or made.scrub is not pairs.Scrub.NONE:
        raise PermanentError("a pair can be made, but clears the marks that its programs go by")
    index = socket.if_nametoindex(TRIAL_PAIR[0])
    with Program.load(_PASS) as program, Link.create(program, index, Side.PEER):
        return "a pair can be made, and a link attaches to it"


def _btf() -> str:
    with VMLINUX_BTF.open("rb") as file:
        magic = int.from_bytes(file.read(2), "little")
    if magic not in (BTF_MAGIC, int.from_bytes(BTF_MAGIC.to_bytes(2, "little"), "big")):
        raise PermanentError(f"{VMLINUX_BTF} is no BTF")
    return str(VMLINUX_BTF)


def _batch() -> str:
    with Map.create(MapType.HASH, 4, 4, 4, "mftry") as trial:
        if not trial.batches():
            raise PermanentError("entries are written one by one", place="bpf")
        return "many entries to a system call"


def _memlock() -> str:
    with Map.create(MapType.ARRAY, 4, 4096, MEMLOCK_TRIAL_BYTES // 4096, "mftry"):
        return f"a map of {MEMLOCK_TRIAL_BYTES >> 20} MiB is granted"


def _bpffs() -> str:
    target = next(folder for folder in _MOUNT_POINTS if os.path.isdir(folder))
    _mount(None, "/", None, _MS_PRIVATE_ALL)
    _mount(b"bpf", target, b"bpf", 0)
    return "can be mounted"


def _mount(source: bytes | None, target: str, kind: bytes | None, flags: int) -> None:
    if _libc.mount(source, target.encode(), kind, flags, None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def _ipv6() -> str:
    with rtnl.session("lo", "add an IPv6 address") as route:
        route.addr("add", index=_LOOPBACK, address=TRIAL_ADDRESS, prefixlen=128, family=socket.AF_INET6)
    return "an address can be added"


def _tun() -> str:
    create_tun(TRIAL_DEVICE)
    return "a persistent device with virtio headers can be made"


def _device(kind: str) -> str:
    with rtnl.session("kernel", f"make a {kind} device") as route:
        route.link("add", ifname=f"mf{kind}"[:15], kind=kind)
    return "a device can be made"


def _vxlan() -> Feature:
    return _try("vxlan", _vxlan_device, False, vxlan.SINCE)


def _vxlan_device() -> str:
    vxlan.ensure_vxlan(TRIAL_DEVICE_IN_CLEAR, TRIAL_PORT, TRIAL_VNI)
    if not vxlan.observe_vxlan()[TRIAL_DEVICE_IN_CLEAR].ours:
        raise PermanentError("a device can be made, but not of VXLAN-GPE with a filter of VNIs")
    return "a device without encryption can be made, for trusted segments"


def _qdisc(kind: str) -> str:
    with rtnl.session("kernel", f"make a {kind} queue") as route:
        route.tc("add", kind, index=_LOOPBACK, handle="1:")
        route.tc("del", index=_LOOPBACK, root=True)
    return "a queue can be made"


def _delay() -> str:
    return holding.try_queues("lo", _LOOPBACK)


def _wireguard_go(setting: Path | None) -> str:
    binary = tool.find("wireguard-go", setting, tool.WIREGUARD_GO_ENV)
    first = tool.run([str(binary), "--version"]).splitlines()[0]
    return f"{binary}, {first}"
