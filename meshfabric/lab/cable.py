"""A cable between two taps: what a hypervisor does between a guest's network card and the node's tap.

    python -I -S cable.py TAP GUEST_NETNS GUEST_TAP

    guest's kernel <-> GUEST_TAP in GUEST_NETNS <-> this process <-> TAP in the node <-> node's kernel

A script of its own, run in the node by `workloads`. Both taps exist already.
Frames carry the header of virtio-net (virtio 1.2, 5.1.6), so that segments of
up to 64 KiB and unfinished checksums pass as they are, as they do with vhost.
A frame that the far end does not take is lost, as on a wire.
"""

import ctypes
import fcntl
import os
import struct
import sys
import threading

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h, as the rest here
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
OFFLOADS = (0x0F | 0x60, 0x0F)
"""Checksums, TSO for both families with ECN, and UDP segmentation where the kernel has it (6.2)."""
MAX_FRAME = 12 + 14 + 65536 + 1024
"""Bytes: header, Ethernet and the largest segment; the rest is room for VLAN tags and the like."""

_libc = ctypes.CDLL(None, use_errno=True)


def open_tap(name: str) -> int:
    """A descriptor of an existing tap in the current namespace, with every offload that the kernel has."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    fcntl.ioctl(tap, TUNSETIFF, request)
    for flags in OFFLOADS:
        try:
            fcntl.ioctl(tap, TUNSETOFFLOAD, flags)
        except OSError:
            continue
        break
    return tap


def open_tap_in(netns: str, name: str) -> int:
    """As `open_tap`, in another network namespace: a thread goes there and ends (setns(2))."""
    opened: list[int] = []

    def there() -> None:
        entered = os.open(netns, os.O_RDONLY)
        if _libc.setns(entered, 0) == 0:
            opened.append(open_tap(name))

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    if not opened:
        raise OSError(f"cannot open {name} in {netns}")
    return opened[0]


def carry(source: int, target: int) -> None:
    """Copy frames one way until the source is gone (its device was deleted)."""
    frame = bytearray(MAX_FRAME)
    view = memoryview(frame)
    while True:
        length = os.readv(source, [frame])
        try:
            os.write(target, view[:length])
        except OSError:
            continue  # the far device is down or full


def main(tap: str, netns: str, guest_tap: str) -> None:
    """Plug the cable in and carry until killed; once TAP has a carrier, both ends are in."""
    far = open_tap_in(netns, guest_tap)
    near = open_tap(tap)
    threading.Thread(target=carry, args=(far, near), daemon=True).start()
    carry(near, far)


if __name__ == "__main__":
    main(*sys.argv[1:])
