"""Hangs programs on devices, so that repeating it changes nothing and replacing drops no packet.

    netkit pair    a netkit link: the device itself runs the program
    else           a tcx link (Linux 6.6), or else a filter of clsact

A pin is the memory of what is attached, and the next agent finds it. A pinned link
keeps the program running while no agent does. A filter does that by itself: what is
pinned in its stead is its program, and the device that it is on is in the pin's
name, which must be `pin_name`'s. `loader` makes the programs; `features` knows the
ways that the kernel has.
"""

import contextlib
import os
import socket
from functools import cache
from pathlib import Path
from typing import Literal

from meshfabric.kernel import clsact, features
from meshfabric.kernel.bpf import Direction, Link, LinkInfo, Program
from meshfabric.kernel.bpf_link import Hook, Side, is_netkit, links_at
from meshfabric.kernel.bpfcall import BpfObject, open_pinned
from meshfabric.kernel.fault import fault
from meshfabric.kernel.pairs import PairKind
from meshfabric.model.errors import UnsupportedError
from meshfabric.model.settings import PodPair

UNFINISHED = "~new"  # a pin that a crash may leave behind; no dot is allowed in a bpffs
NETKIT_SIDE = {Direction.INGRESS: Side.PEER, Direction.EGRESS: Side.PRIMARY}
PROGRAM_FD = "bpf-prog"  # in what /proc calls the file of a program

Way = Literal["tcx", "clsact"]


def attach(program: Program, ifindex: int, direction: Direction, pin: Path) -> bool:
    """Let `program` run on the device, remembered by `pin`; True when something changed.

    What hangs there already only changes its program, from one packet to the
    next; what hangs on a gone or other device is replaced. `ifindex` is seen
    from the calling thread's network namespace. Raises UnsupportedError when
    the kernel has no way to attach, TemporaryError when the device is gone.
    """
    if is_netkit(ifindex):
        return _by_link(program, ifindex, NETKIT_SIDE[direction], pin)
    if way() == "tcx":
        return _by_link(program, ifindex, direction, pin)
    return _by_filter(program, (ifindex, direction), pin)


def detach(pin: Path) -> bool:
    """Take what `pin` remembers off its device, and nothing else; False when there is no such pin."""
    if not pin.exists():
        return False
    with _open(pin) as earlier:
        _take_off(earlier, pin)
    pin.unlink(missing_ok=True)
    return True


def attached(pins: Path) -> dict[str, LinkInfo]:
    """What is remembered in the folder `pins`, by file name.

    `ifindex` is that of the node's device, 0 where it is gone or the program is.
    """
    if not pins.is_dir():
        return {}
    found: dict[str, LinkInfo] = {}
    filters: dict[str, tuple[clsact.Spot, int]] = {}
    for pin in sorted(pins.iterdir()):
        if not pin.name.endswith(UNFINISHED):
            with _open(pin) as held:
                if isinstance(held, Link):
                    found[pin.name] = _seen_from_node(held, pin)
                else:
                    filters[pin.name] = _spot(pin), held.id
    return found | _filters(filters, owner_of(pins))


def pin_name(device: str, direction: Direction) -> str:
    """A file name for what is on a device: a bpffs allows no dot, a device name (eth0.5) no colon."""
    return f"{device.replace('.', ':')}-{direction.name.lower()}"


def pinned_at(name: str) -> tuple[str, Direction]:
    """The device and the direction that `pin_name` made a file name of."""
    device, _, direction = name.rpartition("-")
    return device.replace(":", "."), Direction[direction.upper()]


def owner_of(pins: Path) -> str:
    """Whose the filters are that `pins` tells of: the fabric's, as in `<bpffs>/<fabric>/links`."""
    return pins.parent.name


@cache
def way() -> Way:
    """How programs hang on devices that are no netkit: the best way that this kernel has."""
    tried: tuple[tuple[Way, features.Feature], ...] = (("tcx", features.tcx()), ("clsact", features.clsact()))
    for name, feature in tried:
        if feature.present:
            return name
    what = "this kernel cannot attach programs, neither by tcx nor by clsact"
    raise UnsupportedError(what, remedy=f"boot Linux {features.TCX_SINCE} or newer")


def ways(choice: PodPair = PodPair.AUTO) -> str:
    """What is chosen, for people: `netkit, tcx`."""
    return f"netkit, {way()}" if pod_pair(choice) == "netkit" else way()


@cache
def pod_pair(choice: PodPair = PodPair.AUTO) -> PairKind:
    """The kind of pair that new pods get. Raises UnsupportedError when the kernel lacks what was chosen."""
    if choice is PodPair.VETH:
        return "veth"
    netkit = features.netkit()
    if choice is PodPair.NETKIT and not netkit.present:
        remedy = f"boot Linux {netkit.since_kernel} or newer, or set pods: auto"
        raise UnsupportedError(
            f"this kernel makes no netkit pairs: {netkit.detail}", place="pods", remedy=remedy
        )
    return "netkit" if netkit.present else "veth"


def _by_link(program: Program, ifindex: int, hook: Hook, pin: Path) -> bool:
    if not pin.exists():
        _hang(program, ifindex, hook, pin)
        return True
    with _open(pin) as earlier:
        if not isinstance(earlier, Link) or earlier.info.id not in links_at(ifindex, hook):
            _hang(program, ifindex, hook, pin)
            _take_off(earlier, pin)  # at once: the kernel frees a link that lost its pin some time later
        elif earlier.info.program_id == program.id:
            return False
        else:
            earlier.update(program)
    return True


def _hang(program: Program, ifindex: int, hook: Hook, pin: Path) -> None:
    """Make a link and pin it in one step, in place of whatever was pinned there."""
    with Link.create(program, ifindex, hook) as link:
        _remember(link, pin)


def _by_filter(program: Program, spot: clsact.Spot, pin: Path) -> bool:
    """The memory comes first: a filter that no pin tells of would be nobody's."""
    owner = owner_of(pin.parent)
    clsact.prepare(spot, owner)
    with contextlib.ExitStack() as stack:
        earlier = stack.enter_context(_open(pin)) if pin.exists() else None
        running = clsact.hanging([spot], owner).get(spot)
        if isinstance(earlier, Program) and earlier.id == running == program.id:
            return False
        _remember(program, pin)
        clsact.hang(program, spot, owner)
        if isinstance(earlier, Link):
            earlier.detach()
    return True


def _remember(what: BpfObject, pin: Path) -> None:
    """Pin it, in one step, in place of whatever was pinned there."""
    fresh = pin.with_name(pin.name + UNFINISHED)
    try:
        fresh.unlink(missing_ok=True)
        what.pin(fresh)
        os.rename(fresh, pin)
    except OSError as cause:
        raise fault(cause, place=str(pin), wanted=f"pin the {what.kind}") from cause


def _open(pin: Path) -> Link | Program:
    fd = open_pinned(pin)
    return Program(fd) if PROGRAM_FD in os.readlink(f"/proc/self/fd/{fd}") else Link(fd)


def _take_off(earlier: Link | Program, pin: Path) -> None:
    if isinstance(earlier, Link):
        earlier.detach()
    else:
        clsact.take_off(_spot(pin), owner_of(pin.parent))


def _spot(pin: Path) -> clsact.Spot:
    """Where a filter is that this pin stands for; ifindex 0 when the device is gone."""
    device, direction = pinned_at(pin.name)
    return _index(device), direction


def _seen_from_node(link: Link, pin: Path) -> LinkInfo:
    """A netkit's peer tells the pod's ifindex; whose it is, the primary knows."""
    info = link.info
    if info.attach_type != Side.PEER:
        return info
    index = _index(pinned_at(pin.name)[0])
    mine = bool(index) and info.id in links_at(index, Side.PEER)
    return LinkInfo(info.id, info.type, info.program_id, index if mine else 0, info.attach_type)


def _filters(pinned: dict[str, tuple[clsact.Spot, int]], owner: str) -> dict[str, LinkInfo]:
    """Those whose filter runs the program that is pinned have their ifindex."""
    if not pinned:
        return {}
    running = clsact.hanging([spot for spot, _ in pinned.values() if spot[0]], owner)
    return {
        name: LinkInfo(0, 0, program, spot[0] if running.get(spot) == program else 0, spot[1])
        for name, (spot, program) in pinned.items()
    }


def _index(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0
