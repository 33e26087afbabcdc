"""The reading end of a ring buffer: records that programs wrote, in their order.

libbpf knows the layout and the memory barriers. `read` never waits; who wants to
be woken waits for `fd` to become readable, which it stays as long as there is more.
"""

import asyncio
import ctypes
import errno
import os
from ctypes import c_int, c_size_t, c_void_p

from meshfabric.kernel.bpf_map import Map
from meshfabric.kernel.fault import fault
from meshfabric.kernel.libbpf import library

MOST = 1024
"""Records to one `read`: a program that writes without end does not keep us for ever."""
_SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)  # ring_buffer_sample_fn


class Ring:
    """One consumer of a map of type RINGBUF; there must be no other."""

    def __init__(self, table: Map) -> None:
        self._records: list[bytes] = []
        self._taken = _SAMPLE(self._take)  # libbpf calls it as long as the ring is open
        self._handle = library().ring_buffer__new(table.fd, self._taken, None, None)
        if not self._handle:
            code = ctypes.get_errno()
            raise fault(OSError(code, os.strerror(code)), place=table.place, wanted="read its records")

    @property
    def fd(self) -> int:
        """Readable while there are records; it stays ours."""
        return int(library().ring_buffer__epoll_fd(self._handle))

    def read(self) -> list[bytes]:
        """What is there, up to `MOST` records."""
        self._records = []
        done = library().ring_buffer__consume(self._handle)
        if done < 0 and done != -errno.ECANCELED:
            raise fault(OSError(-done, os.strerror(-done)), place="ring buffer", wanted="read its records")
        return self._records

    def close(self) -> None:
        """Stop reading; what is unread stays for the next one."""
        handle, self._handle = self._handle, None
        if handle:
            library().ring_buffer__free(handle)

    def _take(self, context: int, data: int, size: int) -> int:
        """The consumer's position goes past this record, whatever is answered."""
        self._records.append(ctypes.string_at(data, size))
        return 0 if len(self._records) < MOST else -errno.ECANCELED


async def readable(fd: int) -> None:
    """Return once there are records behind a ring's `fd`."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
