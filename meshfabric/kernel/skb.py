"""The context of a tc program for BPF_PROG_TEST_RUN: a `struct __sk_buff` in and out.

`bpf.Program.test_run` takes and gives the bytes. Only the fields named here may
be set (net/bpf/test_run.c, convert___skb_to_skb); the kernel refuses the rest.
"""

import struct
from dataclasses import dataclass

_LAYOUT = struct.Struct("=8xI20xI I I 4x 20s 84x Q I I 8x I 4x Q".replace(" ", ""))


@dataclass(frozen=True)
class SkbContext:
    """`ifindex` is the device that the packet is on (1, lo, by default), `cb` the 20 private bytes.

    A non-zero `wire_len` must not be shorter than the packet; `tstamp` is in ns.
    """

    mark: int = 0
    priority: int = 0
    ingress_ifindex: int = 0
    ifindex: int = 0
    cb: bytes = bytes(20)
    tstamp: int = 0
    wire_len: int = 0
    gso_segs: int = 0
    gso_size: int = 0
    hwtstamp: int = 0

    def pack(self) -> bytes:
        """192 bytes for `Program.test_run(ctx=...)`."""
        return _LAYOUT.pack(
            self.mark,
            self.priority,
            self.ingress_ifindex,
            self.ifindex,
            self.cb,
            self.tstamp,
            self.wire_len,
            self.gso_segs,
            self.gso_size,
            self.hwtstamp,
        )

    @classmethod
    def unpack(cls, data: bytes) -> "SkbContext":
        """Read `TestRun.ctx_out`."""
        return cls(*_LAYOUT.unpack(data))
