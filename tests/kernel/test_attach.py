"""Programs on devices: replaced without losing a packet, found again, taken off."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfabric.kernel import features, links, netns
from meshfabric.kernel.attach import attach, attached, detach, pin_name, way
from meshfabric.kernel.bpf import Direction, Link
from meshfabric.kernel.features import Feature
from meshfabric.kernel.loader import Datapath, load
from meshfabric.model.errors import TemporaryError, UnsupportedError
from tests.kernel.cell import BPFFS, namespace
from tests.kernel.conftest import Compile

PINS = BPFFS / "fabric" / "links"
HERE, POD = "10.99.0.1", "10.99.0.2"
PORT = 9
PACKETS_EACH, REPLACEMENTS = 1000, 200
PATIENCE_S = 5.0

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


class Bench:
    """A veth pair between here and a pod, and the programs."""

    def __init__(self, datapath: Datapath, pod: Path) -> None:
        self.datapath, self.pod = datapath, pod
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

    def demand_seen(self, wanted: list[int]) -> None:
        """The programs have seen so many packets, now or soon: softirqs may come late."""
        deadline = time.monotonic() + PATIENCE_S
        while self.seen() != wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        assert self.seen() == wanted

    def seen(self) -> list[int]:
        stored = [value for _, value in self.datapath.maps["seen"].items()]
        return [struct.unpack("=Q", value)[0] for value in stored[:3]]


@contextlib.contextmanager
def _bench(compile_bpf: Compile) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        pod = stack.enter_context(namespace())
        _wire(pod)
        bench = Bench(stack.enter_context(load([compile_bpf(SOURCE)], BPFFS / "fabric")), pod)
        stack.callback(bench.sender.close)
        stack.callback(bench.receiver.close)
        yield bench


def _wire(pod: Path) -> None:
    links.ensure_veth("mfp1", "eth0", pod)
    for name, where, mine in (("mfp1", None, HERE), ("eth0", pod, POD)):
        links.ensure_addresses(name, {f"{mine}/24"}, netns=where)
        links.set_up(name, netns=where)
    far = links.find("eth0", netns=pod)
    near = links.find("mfp1")
    assert far is not None
    assert near is not None
    links.ensure_neighbours("mfp1", {POD: far.mac})
    links.ensure_neighbours("eth0", {HERE: near.mac}, netns=pod)


def _socket(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE_S)
    made.bind((address, PORT))
    return made


def _index(name: str) -> int:
    link = links.find(name)
    assert link is not None
    return link.index


def test_replacing_a_program_loses_no_packet(compile_bpf: Compile) -> None:
    with _bench(compile_bpf) as bench:
        pin, index = PINS / "mfp1-ingress", _index("mfp1")
        attach(bench.first, index, Direction.INGRESS, pin)
        lost: list[bytes] = []
        done = threading.Event()
        traffic = threading.Thread(target=_send_until, args=(bench, done, lost))
        traffic.start()
        replaced = 0
        while not lost and (min(bench.seen()[:2]) < PACKETS_EACH or replaced < REPLACEMENTS):
            assert attach((bench.second, bench.first)[replaced % 2], index, Direction.INGRESS, pin)
            replaced += 1
        done.set()
        traffic.join()
        assert lost == []
        assert [info.ifindex for info in attached(PINS).values()] == [index]


def _send_until(bench: Bench, done: threading.Event, lost: list[bytes]) -> None:
    number = 0
    while not done.is_set() and not lost:
        number += 1
        text = b"%d" % number
        bench.send(text)
        if bench.received(1) != [text]:
            lost.append(text)


def test_attaching_again_changes_nothing(compile_bpf: Compile) -> None:
    with _bench(compile_bpf) as bench:
        pin, index = PINS / "mfp1-egress", _index("mfp1")
        assert attach(bench.first, index, Direction.EGRESS, pin)
        before = attached(PINS)
        assert not attach(bench.first, index, Direction.EGRESS, pin)
        assert attached(PINS) == before


def test_the_next_load_takes_over_the_running_link(compile_bpf: Compile) -> None:
    with _bench(compile_bpf) as bench:
        pin, index = PINS / "mfp1-ingress", _index("mfp1")
        attach(bench.first, index, Direction.INGRESS, pin)
        link = attached(PINS)[pin.name].id
        with load([compile_bpf(SOURCE)], BPFFS / "fabric") as restarted:
            assert attach(restarted.programs["first"], index, Direction.INGRESS, pin)
        bench.send(b"1", b"2", b"3")
        bench.demand_seen([3, 0, 0])
        assert attached(PINS)[pin.name].id == link


def test_a_link_of_a_gone_device_is_replaced(compile_bpf: Compile) -> None:
    with _bench(compile_bpf) as bench:
        pin = PINS / "mfp1-ingress"
        attach(bench.drop, _index("mfp1"), Direction.INGRESS, pin)
        links.delete("mfp1")
        assert attached(PINS)[pin.name].ifindex == 0
        _wire(bench.pod)
        assert attach(bench.first, _index("mfp1"), Direction.INGRESS, pin)
        assert attached(PINS)[pin.name].ifindex == _index("mfp1")
        bench.send(b"1", b"2")
        bench.demand_seen([2, 0, 0])


def test_a_link_of_another_device_is_replaced(compile_bpf: Compile) -> None:
    with _bench(compile_bpf) as bench:
        pin = PINS / "moved"
        attach(bench.drop, _index("mfp1"), Direction.INGRESS, pin)
        attach(bench.drop, _index("lo"), Direction.INGRESS, pin)
        bench.send(b"1", b"2")
        assert bench.received(2) == [b"1", b"2"]
        assert list(attached(PINS)) == ["moved"]


def test_ours_come_first_at_ingress_and_last_at_egress(compile_bpf: Compile) -> None:
    with _bench(compile_bpf) as bench:
        index = _index("mfp1")
        with Link.create(bench.second, index, Direction.INGRESS):
            attach(bench.drop, index, Direction.INGRESS, PINS / "ours")
            bench.send(b"1", b"2")
            bench.demand_seen([0, 0, 2])
        with Link.create(bench.first, index, Direction.EGRESS):
            attach(bench.drop, index, Direction.EGRESS, PINS / "ours-too")
            bench.receiver.sendto(b"x", (POD, PORT))
            bench.demand_seen([1, 0, 3])


def test_detaching_lets_everything_pass(compile_bpf: Compile) -> None:
    with _bench(compile_bpf) as bench:
        pin, index = PINS / "mfp1-ingress", _index("mfp1")
        attach(bench.drop, index, Direction.INGRESS, pin)
        bench.send(b"before")
        bench.demand_seen([0, 0, 1])
        with Link.open(pin):  # somebody else's handle must not keep the program running
            assert detach(pin)
            bench.send(b"after")
            assert bench.received(1) == [b"after"]
        assert not detach(pin)
        assert attached(PINS) == {}


def test_detaching_from_a_gone_device_is_no_error(compile_bpf: Compile) -> None:
    with _bench(compile_bpf) as bench:
        attach(bench.drop, _index("mfp1"), Direction.INGRESS, PINS / "gone")
        links.delete("mfp1")
        assert detach(PINS / "gone")


def test_a_device_that_is_not_there_is_worth_another_try(compile_bpf: Compile) -> None:
    with _bench(compile_bpf) as bench:
        with pytest.raises(TemporaryError, match="device 4242: cannot attach first at ingress"):
            attach(bench.first, 4242, Direction.INGRESS, PINS / "none")
        assert attached(PINS) == {}


def test_a_kernel_without_tcx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    way.cache_clear()
    monkeypatch.setattr(features, "tcx", lambda: Feature("tcx", False, "refused", True, "6.6"))
    with pytest.raises(UnsupportedError, match=r"by tcx \(run Linux 6\.6 or newer\)"):
        way()


def test_pins_of_dotted_devices_have_no_dot() -> None:
    assert pin_name("eth0.100", Direction.EGRESS) == "eth0:100-egress"
