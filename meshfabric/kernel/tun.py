"""Makes persistent TUN devices for wireguard-go to run on: they outlive its process, with their ifindex."""

import fcntl
import os
import struct

from meshfabric.kernel import netns
from meshfabric.kernel.fault import fault

DEVICE = "/dev/net/tun"
TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB  # include/uapi/linux/if_tun.h
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_IFREQ = struct.Struct("=16sH22x")


@netns.inside
def create_tun(name: str, *, netns: object = None) -> None:
    """Make the TUN device, persistent and with virtio headers (segments are handed over unsplit).

    Taking an existing idle one is no error; one in use raises TemporaryError (EBUSY).
    """
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(name.encode(), flags))
            fcntl.ioctl(fd, TUNSETPERSIST, 1)
        finally:
            os.close(fd)
    except OSError as cause:
        raise fault(cause, place=f"device {name}", wanted="make a TUN device") from cause
