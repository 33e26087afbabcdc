"""Programs on devices, by every way to attach: replaced without losing a packet, found again, taken off."""

import socket
import threading
from typing import Any

import pytest

from meshfabric.kernel import attach as ways
from meshfabric.kernel import clsact, features, links, netns, rtnl
from meshfabric.kernel.attach import attach, attached, detach, owner_of, pin_name, pinned_at, pod_pair, way
from meshfabric.kernel.bpf import Direction, Link, Side
from meshfabric.kernel.bpf_link import links_at
from meshfabric.kernel.loader import load
from meshfabric.model.errors import PermanentError, TemporaryError, UnsupportedError
from tests.features import requires
from tests.kernel.cell import BPFFS
from tests.kernel.conftest import Compile
from tests.kernel.wired import (
    ALL,
    BOTH,
    EGRESS,
    INGRESS,
    PINS,
    POD,
    PORT,
    SILENCE_S,
    SOURCE,
    Bench,
    by,
    only,
    wire,
    wired,
)

PACKETS_EACH, REPLACEMENTS = 1000, 200


def _index(name: str) -> int:
    return socket.if_nametoindex(name)


@by(*ALL)
def test_replacing_a_program_loses_no_packet(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        index = _index("mfp1")
        attach(bench.first, index, Direction.INGRESS, INGRESS)
        lost: list[bytes] = []
        done = threading.Event()
        traffic = threading.Thread(target=_send_until, args=(bench, done, lost))
        traffic.start()
        replaced = 0
        while not lost and (min(bench.seen()[:2]) < PACKETS_EACH or replaced < REPLACEMENTS):
            assert attach((bench.second, bench.first)[replaced % 2], index, Direction.INGRESS, INGRESS)
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


@by(*ALL)
@pytest.mark.parametrize("direction", Direction)
def test_attaching_again_changes_nothing(compile_bpf: Compile, name: str, direction: Direction) -> None:
    with wired(compile_bpf, name) as bench:
        pin, index = PINS / pin_name("mfp1", direction), _index("mfp1")
        assert attach(bench.first, index, direction, pin)
        before = attached(PINS)
        assert [(one.program_id, one.ifindex) for one in before.values()] == [(bench.first.id, index)]
        assert not attach(bench.first, index, direction, pin)
        assert attached(PINS) == before


@by(*ALL)
def test_programs_run_on_with_nobody_and_the_next_load_takes_them_over(
    compile_bpf: Compile, name: str
) -> None:
    with wired(compile_bpf, name) as bench:
        index = _index("mfp1")
        with load([compile_bpf(SOURCE)], BPFFS / "fabric") as dead:
            attach(dead.programs["first"], index, Direction.INGRESS, INGRESS)
        bench.send(b"1")
        bench.demand_seen([1, 0, 0])
        link = attached(PINS)[INGRESS.name].id
        with load([compile_bpf(SOURCE)], BPFFS / "fabric") as restarted:
            program = restarted.programs["first"]
            assert attach(program, index, Direction.INGRESS, INGRESS)
            assert attached(PINS)[INGRESS.name].program_id == program.id
        bench.send(b"2", b"3")
        bench.demand_seen([3, 0, 0])
        assert attached(PINS)[INGRESS.name].id == link


@by(*ALL)
def test_what_hung_on_a_gone_device_is_replaced(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        attach(bench.drop, _index("mfp1"), Direction.INGRESS, INGRESS)
        links.delete("mfp1")
        assert attached(PINS)[INGRESS.name].ifindex == 0
        wire(bench.pod, bench.kind)
        assert attached(PINS)[INGRESS.name].ifindex == 0
        assert attach(bench.first, _index("mfp1"), Direction.INGRESS, INGRESS)
        assert attached(PINS)[INGRESS.name].ifindex == _index("mfp1")
        bench.send(b"1", b"2")
        bench.demand_seen([2, 0, 0])


@by("tcx")
def test_a_link_of_another_device_is_replaced(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        pin = PINS / "moved"
        attach(bench.drop, _index("mfp1"), Direction.INGRESS, pin)
        attach(bench.drop, _index("lo"), Direction.INGRESS, pin)
        bench.send(b"1", b"2")
        assert bench.received(2) == [b"1", b"2"]
        assert list(attached(PINS)) == ["moved"]


@by("tcx")
def test_our_links_come_first_at_ingress_and_last_at_egress(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        index = _index("mfp1")
        with Link.create(bench.second, index, Direction.INGRESS):
            attach(bench.drop, index, Direction.INGRESS, PINS / "ours")
            bench.send(b"1", b"2")
            bench.demand_seen([0, 0, 2])
        with Link.create(bench.first, index, Direction.EGRESS):
            attach(bench.drop, index, Direction.EGRESS, PINS / "ours-too")
            bench.receiver.sendto(b"x", (POD, PORT))
            bench.demand_seen([1, 0, 3])


@by("netkit")
def test_our_links_come_first_and_last_on_netkit_too(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        index = _index("mfp1")
        with Link.create(bench.second, index, Side.PRIMARY), Link.create(bench.second, index, Side.PEER):
            attach(bench.drop, index, Direction.INGRESS, INGRESS)
            bench.send(b"1", b"2")
            bench.demand_seen([0, 0, 2])
            attach(bench.drop, index, Direction.EGRESS, EGRESS)
            bench.receiver.sendto(b"x", (POD, PORT))
            bench.demand_seen([0, 1, 3])


@by("clsact")
def test_our_filters_come_first_at_ingress_and_last_at_egress(compile_bpf: Compile, name: str) -> None:
    """Before what iproute2 adds without a priority, and after it."""
    with wired(compile_bpf, name) as bench:
        spots = [(_index("mfp1"), direction) for direction in Direction]
        for spot in spots:
            clsact.prepare(spot, "")
            with _session() as route:
                where = {"index": spot[0], "parent": clsact.PARENT[spot[1]]}
                route.tc("add-filter", "bpf", fd=bench.first.fd, name="other", direct_action=True, **where)
        attach(bench.drop, spots[0][0], Direction.INGRESS, INGRESS)
        bench.send(b"1", b"2")
        bench.demand_seen([0, 0, 2])
        attach(bench.drop, spots[0][0], Direction.EGRESS, EGRESS)
        bench.receiver.sendto(b"x", (POD, PORT))
        bench.demand_seen([1, 0, 3])
        detach(INGRESS)
        detach(EGRESS)
        bench.send(b"3")
        bench.demand_seen([2, 0, 3])


def _session() -> Any:
    return rtnl.session("mfp1", "change its filters")


@by("clsact")
def test_two_fabrics_have_a_filter_each_on_one_device(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        index, other = _index("mfp1"), BPFFS / "other" / "links" / INGRESS.name
        attach(bench.first, index, Direction.INGRESS, INGRESS)
        attach(bench.second, index, Direction.INGRESS, other)
        bench.send(b"1")
        bench.demand_seen([1, 1, 0])
        detach(INGRESS)
        bench.send(b"2")
        bench.demand_seen([1, 2, 0])
        assert attached(other.parent)[INGRESS.name].ifindex == index


@by("clsact")
def test_a_strangers_filter_is_not_replaced(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        spot = (_index("mfp1"), Direction.INGRESS)
        clsact.prepare(spot, owner_of(PINS))
        with _session() as route:
            where = clsact._where(spot, owner_of(PINS))
            route.tc("add-filter", "bpf", fd=bench.drop.fd, name="other", direct_action=True, **where)
        with pytest.raises(PermanentError, match=r"a filter 'other' has our place at ingress \(give it"):
            attach(bench.first, *spot, INGRESS)
        assert attached(PINS) == {}
        assert not detach(INGRESS)
        bench.send(b"1")
        bench.demand_seen([0, 0, 1])


@by("clsact")
def test_a_filter_that_somebody_took_off_or_changed_is_put_back(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        spot = (_index("mfp1"), Direction.INGRESS)
        attach(bench.first, *spot, INGRESS)
        for disturb in (
            lambda: clsact.take_off(spot, owner_of(PINS)),
            lambda: clsact.hang(bench.drop, spot, owner_of(PINS)),
        ):
            disturb()
            assert attached(PINS)[INGRESS.name].ifindex == 0
            assert attach(bench.first, *spot, INGRESS)
            assert attached(PINS)[INGRESS.name].ifindex == spot[0]


@requires("tcx", "clsact")
@pytest.mark.parametrize("order", [BOTH, BOTH[::-1]])
def test_another_kernel_way_takes_over_what_the_one_before_pinned(
    compile_bpf: Compile, order: tuple[str, str]
) -> None:
    with wired(compile_bpf, order[0]) as bench:
        index = _index("mfp1")
        attach(bench.first, index, Direction.INGRESS, INGRESS)
        with only(order[1]):
            assert attach(bench.second, index, Direction.INGRESS, INGRESS)
            assert not attach(bench.second, index, Direction.INGRESS, INGRESS)
            bench.send(b"1")
            bench.demand_seen([0, 1, 0])
            assert detach(INGRESS)
        bench.send(b"2")
        assert bench.received(2) == [b"1", b"2"]
        assert bench.seen() == [0, 1, 0]


@by(*BOTH)
def test_detaching_lets_everything_pass(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        attach(bench.drop, _index("mfp1"), Direction.INGRESS, INGRESS)
        bench.send(b"before")
        bench.demand_seen([0, 0, 1])
        with ways._open(INGRESS):  # somebody else's handle must not keep the program running
            assert detach(INGRESS)
            bench.send(b"after")
            assert bench.received(1) == [b"after"]
        assert not detach(INGRESS)
        assert attached(PINS) == {}


@by("netkit")
def test_without_programs_nothing_passes_a_netkit_pair(compile_bpf: Compile, name: str) -> None:
    """Neither before they are attached nor after they are gone, in neither direction."""
    with wired(compile_bpf, name) as bench:
        index = _index("mfp1")
        for _ in range(2):
            bench.send(b"out")
            assert bench.is_silent()
            bench.receiver.sendto(b"in", (POD, PORT))
            attach(bench.first, index, Direction.INGRESS, INGRESS)
            bench.send(b"seen")
            assert bench.received(1) == [b"seen"]
            assert detach(INGRESS)
        bench.sender.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            bench.sender.recv(100)


@by(*ALL)
def test_detaching_from_a_gone_device_is_no_error(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        attach(bench.drop, _index("mfp1"), Direction.INGRESS, INGRESS)
        links.delete("mfp1")
        assert detach(INGRESS)


@by(*ALL)
def test_a_device_that_is_not_there_is_worth_another_try(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        with pytest.raises(TemporaryError, match=r"device 4242: cannot .*: No such device"):
            attach(bench.first, 4242, Direction.INGRESS, PINS / "none-ingress")
        assert attached(PINS) == {}


@by("netkit")
def test_the_pods_side_of_a_netkit_is_not_ours_to_attach_to(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        index = netns.run(bench.pod, _index, "eth0")
        with pytest.raises(PermanentError, match="cannot attach first at peer: Permission denied"):
            netns.run(bench.pod, Link.create, bench.first, index, Side.PEER)
        assert netns.run(bench.pod, links_at, index, Side.PEER) == set()


def test_a_kernel_without_any_way_is_named() -> None:
    with only(""), pytest.raises(UnsupportedError, match=r"neither by tcx nor by clsact \(boot Linux 6\.6"):
        way()


def test_the_choice_is_told_as_the_doctor_tells_it() -> None:
    (told,) = (one for one in features.probe() if one.name == "attach")
    assert told.detail == f"by {way()}; new pods get {pod_pair()} pairs by default"
    assert ways.ways() == (f"netkit, {way()}" if pod_pair() == "netkit" else way())


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("device", ["eth0.100", "wan-5", "mfp1"])
def test_pins_tell_the_device_and_have_no_dot(device: str, direction: Direction) -> None:
    name = pin_name(device, direction)
    assert "." not in name
    assert pinned_at(name) == (device, direction)
