"""A pod on a wire: a pair between here and its namespace, and programs that count what they see.

here  mfp1 ==== eth0  the pod        programs hang on mfp1, by the way that a test asks for
"""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfabric.kernel import features, links, netns
from meshfabric.kernel.attach import pin_name, way
from meshfabric.kernel.bpf import Direction
from meshfabric.kernel.features import Feature
from meshfabric.kernel.loader import Datapath, load
from tests.features import requires
from tests.kernel.cell import BPFFS, namespace
from tests.kernel.conftest import Compile
from tests.patience import DEADLINE_S

PINS = BPFFS / "fabric" / "links"
INGRESS, EGRESS = (PINS / pin_name("mfp1", direction) for direction in Direction)
HERE, POD = "10.99.0.1", "10.99.0.2"
PORT = 9
SILENCE_S = 0.3
BOTH = ("tcx", "clsact")
ALL = (*BOTH, "netkit")

SOURCE = """
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");
static __always_inline int note(struct __sk_buff *skb, __u32 who, int verdict)
{
	__u64 *count = bpf_map_lookup_elem(&seen, &who);
	if (count && skb->protocol == __builtin_bswap16(0x0800))
		__sync_fetch_and_add(count, 1);
	return verdict;
}
SEC("tc") int first(struct __sk_buff *skb) { return note(skb, 0, TC_ACT_UNSPEC); }
SEC("tc") int second(struct __sk_buff *skb) { return note(skb, 1, TC_ACT_UNSPEC); }
SEC("tc") int drop(struct __sk_buff *skb) { return note(skb, 2, TC_ACT_SHOT); }
"""


def by(*names: str) -> pytest.MarkDecorator:
    """Run the test with devices of which programs hang by these ways."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=requires(name)) for name in names])


class Bench:
    """A pair between here and a pod, and the programs."""

    def __init__(self, datapath: Datapath, pod: Path, kind: str) -> None:
        self.datapath, self.pod, self.kind = datapath, pod, kind
        self.first, self.second, self.drop = (datapath.programs[n] for n in ("first", "second", "drop"))
        self.sender = netns.run(pod, _socket, POD)
        self.receiver = _socket(HERE)

    def send(self, *texts: bytes) -> None:
        for text in texts:
            self.sender.sendto(text, (HERE, PORT))

    def received(self, count: int) -> list[bytes]:
        """The next `count` packets, fewer when they do not come in time."""
        got: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            while len(got) < count:
                got.append(self.receiver.recv(100))
        return got

    def is_silent(self) -> bool:
        """Nothing comes for a while."""
        self.receiver.settimeout(SILENCE_S)
        silent = self.received(1) == []
        self.receiver.settimeout(DEADLINE_S)
        return silent

    def demand_seen(self, wanted: list[int]) -> None:
        """The programs have seen so many packets, now or soon: softirqs may come late."""
        deadline = time.monotonic() + DEADLINE_S
        while self.seen() != wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        assert self.seen() == wanted

    def seen(self) -> list[int]:
        stored = [value for _, value in self.datapath.maps["seen"].items()]
        return [struct.unpack("=Q", value)[0] for value in stored[:3]]


@contextlib.contextmanager
def wired(compile_bpf: Compile, name: str) -> Iterator[Bench]:
    """A netkit pair for "netkit", else a veth pair in a kernel that has this way alone."""
    kind = "netkit" if name == "netkit" else "veth"
    with contextlib.ExitStack() as stack:
        if kind == "veth":
            stack.enter_context(only(name))
        pod = stack.enter_context(namespace())
        wire(pod, kind)
        bench = Bench(stack.enter_context(load([compile_bpf(SOURCE)], BPFFS / "fabric")), pod, kind)
        stack.callback(bench.sender.close)
        stack.callback(bench.receiver.close)
        yield bench


@contextlib.contextmanager
def only(name: str) -> Iterator[None]:
    """The kernel has no other way to attach than this one; "" for none at all."""
    with pytest.MonkeyPatch.context() as patch:
        for one in BOTH:
            told = Feature(one, one == name, "refused", False, "6.6")
            patch.setattr(features, one, lambda told=told: told)
        way.cache_clear()
        yield
    way.cache_clear()


def wire(pod: Path, kind: str) -> None:
    links.ensure_pod_pair("netkit" if kind == "netkit" else "veth", "mfp1", "eth0", pod, "", 0)
    for name, where, mine in (("mfp1", None, HERE), ("eth0", pod, POD)):
        links.ensure_addresses(name, {f"{mine}/24"}, netns=where)
        links.set_up(name, netns=where)
    if kind == "veth":
        links.ensure_neighbours("mfp1", {POD: links.mac_of("eth0", netns=pod)})
        links.ensure_neighbours("eth0", {HERE: links.mac_of("mfp1")}, netns=pod)


def _socket(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(DEADLINE_S)
    made.bind((address, PORT))
    return made
