"""Makes segments worse: delay, jitter, loss and rate on each crossing, by netem or by a cable of ours.

    node a ── n0u0 ─┐            ┌─ n1u0 ── node b      a to b is impaired at n1u0, b to a at n0u0
                    └── bridge ──┘

    netem:  the queue of the bridge port
    cable:  the port's frames are redirected to a tap, and come back late or never (`wire`)

Both work where the bridge hands a frame to a node's port: a crossing from node to
node is impaired once, a round trip twice; what nodes send to the store not at
all, what it sends them once. Cuts, heals and captures are the port's and go on as
ever. `impairment` says what the numbers mean, `Topology.impaired_by` chooses.

A cable that dies is an unplugged one: nothing is delivered until it is started
again by impairing the segment again.
"""

import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from meshfabric.kernel import attach, features, netns
from meshfabric.kernel.bpf import Direction, Program
from meshfabric.lab import tools
from meshfabric.lab.impairment import NONE, Impairment, room
from meshfabric.lab.process import run, spawn
from meshfabric.lab.records import Topology
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import ip, port_name, shown_by
from meshfabric.lab.wire import Order, tap_of
from meshfabric.model.errors import TemporaryError, UnsupportedError

ROLE = "wire"
START_TIMEOUT_S = 10.0
TAP_QUEUE = 10_000
"""Frames that a tap holds while the cable's process waits for its turn."""
IN_ORDER_RATE = "1000gbit"
"""netem keeps frames in order only with a rate: this one takes 12 ns for a frame."""
WHOLE_SEGMENTS = 65535
"""The kernel's own limit of what a device is given to cut up (GSO_LEGACY_MAX_SIZE, in segments)."""
_NET = ("net",)
_POLL_S = 0.01
_TWO = struct.Struct("=BBhiBBhi")  # two instructions: opcode registers offset immediate
_MOVE, _CALL, _EXIT, _REDIRECT = 0xB7, 0x85, 0x95, 23

Way = Literal["netem", "cable"]


def way(topology: Topology) -> Way:
    """What delays and loses in this lab. Raises `UnsupportedError` for netem where there is none."""
    if topology.impaired_by == "cable":
        return "cable"
    netem = features.netem()
    if netem.present:
        return "netem"
    if topology.impaired_by == "netem":
        remedy = "impaired_by: auto, or a kernel with sch_netem"
        raise UnsupportedError(f"this kernel has no netem: {netem.detail}", remedy=remedy)
    return "cable"


def check(topology: Topology) -> None:
    """Raise the reason why the segments cannot be impaired as they ask; fine if none asks."""
    asked = [segment.impairment for segment in topology.segments if segment.impairment != NONE]
    if asked and way(topology) == "netem" and any(given.black_hole_mtu for given in asked):
        raise UnsupportedError("netem has no black_hole_mtu", remedy="impaired_by: cable")


def impair_as_described(lab: Lab, segment: str) -> None:
    """Do to a segment, whose nodes are plugged in, what its description says."""
    if lab.topology.segment(segment).impairment != NONE:
        _make(lab, segment)


def impair(lab: Lab, segment: str, given: Impairment) -> Lab:
    """Let this befall the segment from now on, and only this; the lab as it is then, written down.

    Raises `InputError` for an unknown segment, `UnsupportedError` for what this lab's way cannot do;
    `check_impairment` is the caller's.
    """
    lab.topology.segment(segment)
    keys = msgspec.to_builtins(given)
    segments = (replace(one, **keys) if one.name == segment else one for one in lab.topology.segments)
    changed = replace(lab, topology=replace(lab.topology, segments=tuple(segments)))
    check(changed.topology)
    if given == NONE:
        _end(changed, segment)
    else:
        _make(changed, segment)
    changed.save()
    return changed


def shown(lab: Lab, segment: str) -> str:
    """What befalls a segment and by what, `10 ms, 0.5% lost by netem`; "" for a good one."""
    given = lab.topology.segment(segment).impairment
    if given == NONE:
        return ""
    if way(lab.topology) == "netem":
        return f"{given} by netem"
    return f"{given} by cable" if lab.process(ROLE, segment) else "unplugged: its cable is dead"


def _make(lab: Lab, segment: str) -> None:
    if way(lab.topology) == "netem":
        _make_netem(lab, segment)
    else:
        _make_cable(lab, segment)


def _end(lab: Lab, segment: str) -> None:
    if way(lab.topology) == "netem":
        _end_netem(lab, segment)
    else:
        _end_cable(lab, segment)


def _make_netem(lab: Lab, segment: str) -> None:
    """Segments of TCP are cut up before they cross, so that each frame has its own fate."""
    described = lab.topology.segment(segment)
    words = _netem_words(described.impairment, described.mtu)
    _cut_up(lab, segment, 1)
    _tc(lab, (f"qdisc replace dev {port} root netem {words}" for port in _ports(lab, segment)))


def _end_netem(lab: Lab, segment: str) -> None:
    rows = shown_by(lab.init, ["tc", "-j", "qdisc", "show"])
    impaired = {str(row["dev"]) for row in rows if row["kind"] == "netem"}
    _tc(lab, (f"qdisc delete dev {port} root" for port in _ports(lab, segment) if port in impaired))
    _cut_up(lab, segment, WHOLE_SEGMENTS)


def _netem_words(given: Impairment, mtu: int) -> str:
    """The impairment as tc-netem(8) takes it."""
    words = [f"limit {room(given, mtu)}"]
    words += [f"delay {given.delay_ms}ms {given.jitter_ms}ms"] if given.delay_ms else []
    words += [f"loss random {given.loss_percent}%"] if given.loss_percent else []
    words += [f"rate {given.rate_mbit}mbit" if given.rate_mbit else f"rate {IN_ORDER_RATE}"]
    return " ".join(words)


def _cut_up(lab: Lab, segment: str, segments: int) -> None:
    """How many frames those who send into the segment may leave in one piece for others to cut up."""
    for port in lab.topology.ports(segment):
        ip(lab.node(port.node), [f"link set {port.uplink.name} gso_max_segs {segments}"])
    ip(lab.init, [f"link set {segment} gso_max_segs {segments}"])


def _tc(lab: Lab, lines: Iterator[str]) -> None:
    run(lab.init, ["tc", "-batch", "-"], _NET, stdin="".join(f"{line}\n" for line in lines))


def _make_cable(lab: Lab, segment: str) -> None:
    """First the process with its taps, then what leads frames to them: nothing is lost on the way in."""
    process = lab.process(ROLE, segment)
    order = _write_order(lab, segment)
    if process:
        process.signal(signal.SIGHUP)
        return
    _make_taps(lab, segment)
    argv = [sys.executable, "-m", "meshfabric.lab.wire", str(order)]
    log = lab.log(ROLE, segment)
    kinds = ("pid", "mnt", "net")
    lab.remember(ROLE, segment, spawn(argv, log, into=lab.init, join=kinds, env=tools.environment()))
    _wait_plugged(lab, segment)
    script = 'mkdir -p "$1"; mountpoint -q "$1" || mount -n -t bpf bpf "$1"'
    run(lab.init, ["sh", "-euc", script, "sh", str(_pins(lab))])
    netns.run(_namespace(lab), _redirect_all, _ports(lab, segment), _seen_from_here(lab))


def _end_cable(lab: Lab, segment: str) -> None:
    netns.run(_namespace(lab), _redirect_none, _ports(lab, segment), _seen_from_here(lab))
    process = lab.process(ROLE, segment)
    if process:
        process.kill()
    ip(lab.init, [f"link delete {tap}" for tap in _taps_of(lab, segment) if tap in _devices(lab)])


def _write_order(lab: Lab, segment: str) -> Path:
    described = lab.topology.segment(segment)
    folder = lab.folder / "wires"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{segment}.json"
    draft = path.with_suffix(".new")
    order = Order(tuple(_ports(lab, segment)), described.mtu, described.impairment)
    draft.write_bytes(msgspec.json.encode(order))
    draft.replace(path)
    return path


def _make_taps(lab: Lab, segment: str) -> None:
    mtu, there = lab.topology.segment(segment).mtu, _devices(lab)
    for tap in _taps_of(lab, segment):
        if tap not in there:
            # A tap that is only looked through says nothing itself: no ARP, no IPv6 address.
            quiet = f"link set {tap} mtu {mtu} txqueuelen {TAP_QUEUE} arp off addrgenmode none up"
            ip(lab.init, [f"tuntap add dev {tap} mode tap", quiet])


def _wait_plugged(lab: Lab, segment: str) -> None:
    """Return once the process has every tap in its hands."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not all("LOWER_UP" in _devices(lab).get(tap, ()) for tap in _taps_of(lab, segment)):
        if time.monotonic() > deadline or lab.process(ROLE, segment) is None:
            what = f"the cable of segment {segment} is not plugged in"
            raise TemporaryError(what, remedy=f"see {lab.log(ROLE, segment)}")
        time.sleep(_POLL_S)


def _redirect_all(ports: list[str], pins: Path) -> None:
    for port in ports:
        with Program.load(_redirect_to(socket.if_nametoindex(tap_of(port)))) as program:
            attach.attach(program, socket.if_nametoindex(port), Direction.EGRESS, _pin(pins, port))


def _redirect_none(ports: list[str], pins: Path) -> None:
    for port in ports:
        attach.detach(_pin(pins, port))


def _pin(pins: Path, port: str) -> Path:
    return pins / attach.pin_name(port, Direction.EGRESS)


def _redirect_to(ifindex: int) -> bytes:
    """`return bpf_redirect(ifindex, 0)`: the frame leaves by that device instead (bpf-helpers(7))."""
    return _TWO.pack(_MOVE, 1, 0, ifindex, _MOVE, 2, 0, 0) + _TWO.pack(_CALL, 0, 0, _REDIRECT, _EXIT, 0, 0, 0)


def _ports(lab: Lab, segment: str) -> list[str]:
    topology = lab.topology
    return [port_name(topology, port.node, port.slot) for port in topology.ports(segment)]


def _taps_of(lab: Lab, segment: str) -> list[str]:
    return [tap_of(port) for port in _ports(lab, segment)]


def _devices(lab: Lab) -> dict[str, list[str]]:
    """The devices beside the segments, with their flags."""
    rows = shown_by(lab.init, ["ip", "-j", "link", "show"])
    return {str(row["ifname"]): list(map(str, _list(row["flags"]))) for row in rows}


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _namespace(lab: Lab) -> Path:
    return Path(f"/proc/{lab.init.pid}/ns/net")


def _pins(lab: Lab) -> Path:
    """A bpffs that only the lab sees and that ends with it, as everything that is pinned there."""
    return lab.folder / "pins"


def _seen_from_here(lab: Lab) -> Path:
    return Path(f"/proc/{lab.init.pid}/root{_pins(lab)}")
