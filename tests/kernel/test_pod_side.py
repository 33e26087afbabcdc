"""A pod's programs are out of the pod's reach: root in there can end the interface, and not get past them."""

import errno
import json
import socket
import subprocess
import sys
from pathlib import Path

from meshfabric.kernel import links, netns, rtnl
from meshfabric.kernel.attach import attach, attached
from meshfabric.kernel.bpf import Direction
from tests.kernel.cell import namespace
from tests.kernel.conftest import Compile
from tests.kernel.wired import ALL, EGRESS, HERE, INGRESS, PINS, Bench, by, wired

CAPABILITIES = "net_admin,net_raw,bpf,perfmon"  # all that has to do with networks, and no administration
HOUSE = Path(__file__).parents[2]
REFUSED = {errno.EPERM, errno.EACCES}
MAY = "filter before it"


def _shut(bench: Bench) -> None:
    for direction, pin in ((Direction.INGRESS, INGRESS), (Direction.EGRESS, EGRESS)):
        attach(bench.drop, socket.if_nametoindex("mfp1"), direction, pin)


def _intrude(bench: Bench) -> dict[str, int]:
    """What the pod's root tries, and what he is told."""
    index = netns.run(bench.pod, socket.if_nametoindex, "eth0")
    numbers = [str(info.id) for info in attached(PINS).values() if info.id]
    drop = ["setpriv", f"--bounding-set=-all,+{CAPABILITIES.replace(',', ',+')}", "--inh-caps=-all"]
    argv = [*drop, sys.executable, "-m", "tests.kernel.intruder", str(index), *numbers]
    done = netns.run(bench.pod, subprocess.run, argv, cwd=HOUSE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told: dict[str, int] = json.loads(done.stdout)
    return told


def _nothing_passes(bench: Bench) -> None:
    before = bench.seen()[2]
    bench.send(b"out", b"out")
    bench.demand_seen([0, 0, before + 2])
    assert bench.is_silent()


@by(*ALL)
def test_nothing_that_root_in_a_pod_may_do_opens_it(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        _shut(bench)
        before = attached(PINS)
        told = _intrude(bench)
        assert told.pop(MAY) == 0
        assert {what for what in told if what.startswith("open link")} or name == "clsact"
        if name == "netkit":
            assert {what: code for what, code in told.items() if code not in REFUSED} == {}
        else:
            assert 0 not in told.values()
        assert attached(PINS) == before
        _nothing_passes(bench)


@by(*ALL)
def test_moving_the_interface_about_gets_nothing_past(compile_bpf: Compile, name: str) -> None:
    """To another namespace and back: the programs stay with the pair."""
    with wired(compile_bpf, name) as bench, namespace() as other:
        _shut(bench)
        addresses, mac = links.observe_addresses("eth0", netns=bench.pod), links.mac_of("mfp1")
        for before, after in ((bench.pod, other), (other, bench.pod)):
            _move(before, after)
            links.ensure_addresses("eth0", addresses, netns=after)
            links.set_up("eth0", netns=after)
            if name != "netkit":
                links.ensure_neighbours("eth0", {HERE: mac}, netns=after)
        _nothing_passes(bench)


def _move(before: Path, after: Path) -> None:
    with after.open() as there:
        netns.run(before, _give_away, there.fileno())


def _give_away(there: int) -> None:
    with rtnl.session("eth0", "move it") as route:
        route.link("set", index=socket.if_nametoindex("eth0"), net_ns_fd=there)


@by(*ALL)
def test_deleting_the_interface_ends_it(compile_bpf: Compile, name: str) -> None:
    with wired(compile_bpf, name) as bench:
        _shut(bench)
        assert links.delete("eth0", netns=bench.pod)
        assert links.find("mfp1") is None
        assert bench.is_silent()
