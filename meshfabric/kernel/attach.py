"""Hangs programs on devices, so that repeating it changes nothing and replacing drops no packet.

A pinned link is the memory of what is attached: it keeps the program running
while no agent does, and the next agent finds it. `loader` makes the programs;
`features` knows the ways that the kernel has.
"""

import os
from functools import cache
from pathlib import Path
from typing import Literal

from meshfabric.kernel import features
from meshfabric.kernel.bpf import Direction, Link, LinkInfo, Program
from meshfabric.kernel.fault import fault
from meshfabric.model.errors import UnsupportedError

UNFINISHED = "~new"  # a pin that a crash may leave behind; no dot is allowed in a bpffs


def attach(program: Program, ifindex: int, direction: Direction, pin: Path) -> bool:
    """Let `program` run on the device, kept by the link pinned at `pin`; True when something changed.

    A link that hangs there already only changes its program, from one packet to
    the next; a link of a gone or other device is replaced. `ifindex` is seen
    from the calling thread's network namespace. Raises UnsupportedError when
    the kernel has no way to attach, TemporaryError when the device is gone.
    """
    way()
    if not pin.exists():
        _hang(program, ifindex, direction, pin)
        return True
    with Link.open(pin) as earlier:
        info = earlier.info
        if (info.ifindex, info.attach_type) != (ifindex, direction):
            _hang(program, ifindex, direction, pin)
            earlier.detach()  # at once: the kernel frees a link that lost its pin some time later
        elif info.program_id == program.id:
            return False
        else:
            earlier.update(program)
    return True


def detach(pin: Path) -> bool:
    """Take the program of the link pinned at `pin` off its device; False when there is no such pin."""
    if not pin.exists():
        return False
    with Link.open(pin) as link:
        link.detach()
    pin.unlink(missing_ok=True)
    return True


def attached(pins: Path) -> dict[str, LinkInfo]:
    """The links pinned in the folder `pins`, by file name; `ifindex` is 0 where the device is gone."""
    if not pins.is_dir():
        return {}
    return {pin.name: _info(pin) for pin in sorted(pins.iterdir()) if not pin.name.endswith(UNFINISHED)}


def pin_name(device: str, direction: Direction) -> str:
    """A file name for the link on a device: a bpffs allows no dot, a device name (eth0.5) no colon."""
    return f"{device.replace('.', ':')}-{direction.name.lower()}"


@cache
def way() -> Literal["tcx"]:
    """The best way to attach that this kernel has; clsact and netkit would be chosen here."""
    if features.tcx().present:
        return "tcx"
    remedy = f"run Linux {features.TCX_SINCE} or newer"
    raise UnsupportedError("this kernel cannot attach programs by tcx", remedy=remedy)


def _info(pin: Path) -> LinkInfo:
    with Link.open(pin) as link:
        return link.info


def _hang(program: Program, ifindex: int, direction: Direction, pin: Path) -> None:
    """Make a link and pin it in one step, in place of whatever was pinned there."""
    fresh = pin.with_name(pin.name + UNFINISHED)
    with Link.create(program, ifindex, direction) as link:
        try:
            fresh.unlink(missing_ok=True)
            link.pin(fresh)
            os.rename(fresh, pin)
        except OSError as cause:
            raise fault(cause, place=str(pin), wanted="pin the link") from cause
