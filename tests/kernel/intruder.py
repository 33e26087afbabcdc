"""What root in a pod may try against the programs on its interface, with such capabilities as pods have.

    setpriv ... python -m tests.kernel.intruder IFINDEX ID...      in the pod

IFINDEX is the interface, each ID a link that hangs on it. Prints one JSON object: what
was tried, and the errno that the kernel answered, 0 where it let it happen.
`test_pod_side` judges.
"""

import errno
import json
import struct
import sys
from collections.abc import Callable
from functools import partial

from meshfabric.kernel import rtnl
from meshfabric.kernel.bpf import Direction, Link, Program, Side
from meshfabric.kernel.bpfcall import attempt
from meshfabric.kernel.clsact import PARENT
from meshfabric.kernel.pairs import Policy, Scrub
from meshfabric.model.errors import MeshfabricError

LINK_GET_FD_BY_ID = 30  # enum bpf_cmd
PROG_DETACH = 9
PASS = struct.Struct("=BBhiBBhi").pack(0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # r0 = 0; exit


def main(ifindex: int, links: list[int]) -> dict[str, int]:
    """All attempts, one after the other, on a program that he may load."""
    with Program.load(PASS) as program:
        tried: dict[str, Callable[[], object]] = {
            "set the policy": lambda: _set(ifindex, "netkit_policy", Policy.PASS),
            "set the other policy": lambda: _set(ifindex, "netkit_peer_policy", Policy.PASS),
            "keep marks": lambda: _set(ifindex, "netkit_scrub", Scrub.NONE),
            "detach what is there": lambda: _bpf(PROG_DETACH, "IIIIII", ifindex, 0, Side.PEER, 0, 0, 0),
            "attach here": lambda: Link.create(program, ifindex, Side.PEER).close(),
            "attach there": lambda: Link.create(program, ifindex, Side.PRIMARY).close(),
            "filter before it": lambda: _filter(ifindex, program),
        }
        for link in links:
            tried[f"open link {link}"] = partial(_bpf, LINK_GET_FD_BY_ID, "III", link, 0, 0)
        return {what: _errno(doing) for what, doing in tried.items()}


def _errno(doing: Callable[[], object]) -> int:
    try:
        doing()
    except (MeshfabricError, OSError) as refusal:
        cause = refusal.__cause__ or refusal
        return int(getattr(cause, "errno", None) or getattr(cause, "code", None) or errno.EIO)
    return 0


def _bpf(command: int, layout: str, *values: int) -> None:
    outcome = attempt(command, layout, *values)  # type: ignore[arg-type]  # each command has its own arguments
    if outcome.result < 0:
        raise OSError(outcome.errno, "refused")


def _set(ifindex: int, what: str, value: int) -> None:
    with rtnl.session("the interface", f"set {what}") as route:
        route.link("set", index=ifindex, kind="netkit", **{what: value})


def _filter(ifindex: int, program: Program) -> None:
    """His own device's egress is his: this he may, and it gets him nowhere."""
    with rtnl.session("the interface", "put a filter on it") as route:
        route.tc("add", "clsact", index=ifindex)
        where = {"index": ifindex, "parent": PARENT[Direction.EGRESS]}
        route.tc("add-filter", "bpf", fd=program.fd, name="pass", direct_action=True, **where)


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), list(map(int, sys.argv[2:])))))
