"""The lab without agents: namespaces, segments, cuts, cables, captures; and that nothing stays behind."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshfabric.lab import build, capture, etcd, process, state, status, tools, underlay, workloads
from meshfabric.lab.process import Process
from meshfabric.lab.state import Lab
from meshfabric.model.errors import InputError, PermanentError, TemporaryError
from tests.features import requires
from tests.lab.small import (
    PEAR_RED,
    PLUM_BLUE6,
    PLUM_RED,
    PLUM_RED6,
    fresh_name,
    is_silent,
    pings,
    raised,
    said,
    topology,
)
from tests.patience import DEADLINE_S, until

pytestmark = requires("capabilities")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with raised(fresh_name()) as one:
        yield one


def remembered(lab: Lab) -> dict[str, Process]:
    roles = [("node", "pear"), ("node", "plum"), ("workload", "pod"), ("workload", "guest")]
    roles += [("cable", "guest"), ("etcd", "etcd")]
    found = {f"{role} {name}": lab.process(role, name) for role, name in roles}
    return {who: each for who, each in found.items() if each} | {"init": lab.init}


class TestNodes:
    """A node is as good as a machine."""

    def test_it_has_a_name_pids_and_folders_of_its_own(self, lab: Lab) -> None:
        assert said(lab, "pear", "hostname") == "pear"
        assert said(lab, "plum", "cat /proc/1/comm") == "sh"
        said(lab, "pear", "touch /run/wireguard/x /run/only-here; mkdir /sys/fs/bpf/only-here")
        assert "only-here" in said(lab, "pear", "ls /run /sys/fs/bpf")
        assert said(lab, "plum", "ls /run/wireguard") == ""
        assert "only-here" not in said(lab, "plum", "ls /run /sys/fs/bpf")
        assert not Path("/run/only-here").exists()
        assert said(lab, "pear", "ls /sys/class/net").split() == ["lo", "tap-guest", "up0", "up1"]

    def test_it_sees_its_own_files_and_no_others(self, lab: Lab) -> None:
        nodes = lab.node_folder("pear").parent
        assert said(lab, "pear", f"ls {nodes}") == "pear"
        assert said(lab, "pear", "readlink /run/meshfabric") == str(lab.node_folder("pear"))

    def test_orphans_are_reaped(self, lab: Lab) -> None:
        said(lab, "plum", "(setsid sh -c 'sleep 0.05 & exit' &)")
        until(lambda: "Z" not in said(lab, "plum", "ps -o stat= -e"))
        until(lambda: "sleep 0.05" not in said(lab, "plum", "ps -o args= -e"))

    def test_uplinks_have_their_addresses_and_mtu(self, lab: Lab) -> None:
        assert PEAR_RED in said(lab, "pear", "ip -br address show up0")
        assert "mtu 9000" in said(lab, "pear", "ip link show up1")
        assert "mtu 1500" in said(lab, "plum", "ip link show up1")

    def test_a_workload_has_a_network_of_its_own_on_its_node(self, lab: Lab) -> None:
        assert said(lab, "pear/pod", "ls /proc/sys/net/ipv4/conf").split() == ["all", "default", "lo"]
        assert said(lab, "pear/pod", "hostname") == "pear"

    def test_commands_keep_their_exit_code_and_input(self, lab: Lab) -> None:
        assert build.run(lab, "pear", ["sh", "-c", "exit 7"]).returncode == 7
        assert build.run(lab, "plum", ["cat"], stdin="through").stdout == "through"

    @pytest.mark.parametrize("where", ["per", "pear/pd", "pear/"])
    def test_unknown_places_are_refused(self, lab: Lab, where: str) -> None:
        if where == "pear/":
            assert build.target(lab, where) == build.target(lab, "pear")
            return
        with pytest.raises(InputError, match="did you mean"):
            build.target(lab, where)


class TestSegments:
    """Segments carry everything, to those who are plugged in, until they are cut."""

    def test_nodes_reach_each_other_in_every_segment(self, lab: Lab) -> None:
        assert pings(lab, "pear", PLUM_RED)
        assert pings(lab, "pear", PLUM_RED6)
        assert pings(lab, "pear", PLUM_BLUE6)

    def test_segments_do_not_reach_each_other(self, lab: Lab) -> None:
        script = f"ip -6 route add {PLUM_BLUE6}/128 dev up0; ping -c1 -W1 {PLUM_BLUE6} || echo lost"
        try:
            assert said(lab, "pear", script).endswith("lost")
        finally:
            said(lab, "pear", f"ip -6 route del {PLUM_BLUE6}/128 dev up0")

    def test_a_cut_is_silent_and_one_uplinks_only(self, lab: Lab) -> None:
        underlay.cut(lab, "pear", "up0")
        try:
            assert underlay.cuts(lab) == [("pear", "up0")]
            assert is_silent(lab, "pear", PLUM_RED)
            assert is_silent(lab, "plum", PEAR_RED)
            assert pings(lab, "pear", PLUM_BLUE6)
            assert said(lab, "pear", "cat /sys/class/net/up0/carrier") == "1"
        finally:
            underlay.heal(lab, "pear", "up0")
        assert underlay.cuts(lab) == []
        assert pings(lab, "pear", PLUM_RED)

    def test_cutting_twice_is_the_same_as_once(self, lab: Lab) -> None:
        underlay.cut(lab, "plum", "up1")
        underlay.cut(lab, "plum", "up1")
        underlay.heal(lab, "plum", "up1")
        underlay.heal(lab, "plum", "up1")
        assert pings(lab, "pear", PLUM_BLUE6)

    def test_an_unknown_uplink_is_refused(self, lab: Lab) -> None:
        with pytest.raises(InputError, match="node pear has no uplink 'up7'"):
            underlay.cut(lab, "pear", "up7")


class TestCapture:
    """A capture counts what nodes send, every packet once."""

    def test_pings_are_counted_exactly(self, lab: Lab) -> None:
        assert pings(lab, "pear", PLUM_RED)  # neighbours known from here on
        with capture.capture(lab, "red") as red, capture.capture(lab, "blue") as blue:
            assert pings(lab, "pear", PLUM_RED, count=5)
            # Five there, five back, and the kernel may ask for neighbours; counted twice they were 20.
            assert 10 <= red.counts().total < 20
            assert blue.counts().total < 10
            assert blue.counts().fabric == blue.counts().encrypted == 0
            assert red.counts().fabric == red.counts().encrypted == 0

    def test_fabric_addresses_in_clear_are_seen_even_on_a_cut_uplink(self, lab: Lab) -> None:
        leak = (
            "ip address add 10.64.1.1/32 dev lo; ip route add 10.64.2.0/24 via 172.31.1.12;"
            "ip neighbour replace 172.31.1.12 lladdr 02:00:00:00:00:99 dev up0;"
            "ping -q -c3 -i0.02 -W0.1 -I 10.64.1.1 10.64.2.7 || true;"
            "ip address del 10.64.1.1/32 dev lo; ip route del 10.64.2.0/24;"
            "ip neighbour del 172.31.1.12 dev up0"
        )
        underlay.cut(lab, "pear", "up0")
        try:
            with capture.capture(lab, "red") as red:
                said(lab, "pear", leak)
                until(lambda: red.counts().fabric == 3)
                assert red.in_clear() == ["10.64.1.1 > 10.64.2.7"] * 3
        finally:
            underlay.heal(lab, "pear", "up0")

    def test_data_messages_of_wireguard_are_told_apart(self, lab: Lab) -> None:
        send = "printf '\\004\\000\\000\\000data' >/dev/udp/{}/51820"
        with capture.capture(lab, "red") as red:
            for address in (PLUM_RED, PLUM_RED6):
                build.run(lab, "pear", ["bash", "-c", send.format(address)])
            until(lambda: red.counts().encrypted == 2)

    def test_an_unknown_segment_is_refused(self, lab: Lab) -> None:
        with pytest.raises(InputError, match="no segment 'rd'"), capture.capture(lab, "rd"):
            pass


class TestEtcd:
    """The store is there for every node and knows what an operator would have told it."""

    def test_every_segment_reaches_it(self, lab: Lab) -> None:
        for endpoint in etcd.endpoints_for(lab, "plum"):
            url = f"{endpoint}/version"
            fetch = f"import urllib.request as r; print(r.urlopen('{url}', timeout=5).status)"
            assert said(lab, "plum", f'python3 -c "{fetch}"') == "200"
        assert etcd.endpoints_for(lab, "plum") == ["http://172.31.1.1:2379", "http://[fd00:b1::1]:2379"]

    def test_its_records_outlive_a_restart(self, lab: Lab) -> None:
        etcd.put(lab, {"policies/x": {"some": "policy"}})
        etcd.stop_etcd(lab)
        assert lab.process(etcd.ROLE, etcd.NAME) is None
        etcd.stop_etcd(lab)
        with pytest.raises(PermanentError, match="cannot write to etcd"):
            etcd.put(lab, {"policies/y": {}})
        etcd.start_etcd(lab)
        etcd.start_etcd(lab)
        etcd.put(lab, {"policies/z": {}})
        database = lab.folder / "etcd"
        assert list(database.iterdir()) == []  # a tmpfs that only the lab sees
        found = said(lab, "underlay", f"grep -ac meshfabric/v1/lab/state {database}/data/member/snap/db")
        assert int(found) > 0

    def test_what_an_operator_tells_is_complete(self, lab: Lab) -> None:
        records = etcd.first_records(lab)
        assert records["config"] == {"prefixes": ["10.64.0.0/16", "fd6d:6600::/48"]}
        assert records["allocations/plum"] == {"blocks": ["10.64.2.0/24", "fd6d:6600:0:2::/64"]}
        assert records["grants/pear"] == {"labels": {"*": ["*"]}, "pools": []}


class TestGuest:
    """A guest is joined to its tap by a cable that passes large segments whole."""

    @pytest.fixture(autouse=True)
    def addresses(self, lab: Lab) -> Iterator[None]:
        said(lab, "pear", "ip address add 10.99.0.1/24 dev tap-guest")
        said(lab, "pear/guest", "ip link set eth0 up; ip address add 10.99.0.2/24 dev eth0")
        yield
        said(lab, "pear", "ip address flush dev tap-guest")
        said(lab, "pear/guest", "ip address flush dev eth0")

    def test_the_guest_is_reached_by_its_cable_only(self, lab: Lab) -> None:
        assert pings(lab, "pear/guest", "10.99.0.1")
        cable = lab.process(workloads.CABLE_ROLE, "guest")
        assert cable is not None
        cable.kill()
        assert is_silent(lab, "pear/guest", "10.99.0.1")
        workloads.start_cable(lab, lab.topology.workload("pear", "guest"))
        assert pings(lab, "pear/guest", "10.99.0.1")

    def test_segments_pass_whole(self, lab: Lab) -> None:
        size, program = 20_000_000, "import socket as s, sys; "
        listen = "l = s.create_server(('10.99.0.1', 5000)); print(flush=True); c, _ = l.accept(); "
        count = "print(sum(iter(lambda: len(c.recv(1 << 20)), 0)))"
        send = f"c = s.create_connection(('10.99.0.1', 5000)); c.sendall(bytes({size}))"
        before = self._received(lab)
        argv = process.enter(build.target(lab, "pear"), ["python3", "-c", program + listen + count])
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            receiver.stdout.readline()
            said(lab, "pear/guest", f'python3 -c "{program + send}"')
            assert int(receiver.stdout.read()) == size
        assert self._received(lab) - before < size / 1448 / 3  # the MTU allows 1448 bytes of TCP each

    @staticmethod
    def _received(lab: Lab) -> int:
        return int(said(lab, "pear", "cat /sys/class/net/tap-guest/statistics/rx_packets"))


class TestLife:
    """Labs come and go whole."""

    def test_two_labs_of_the_same_description_live_side_by_side(self, lab: Lab) -> None:
        with raised(fresh_name()) as other:
            underlay.cut(other, "pear", "up0")
            assert underlay.cuts(lab) == []
            assert pings(lab, "pear", PLUM_RED)
            assert {lab.name, other.name} <= set(state.names())

    def test_down_leaves_nothing(self) -> None:
        name = fresh_name()
        with raised(name) as lab:
            processes = remembered(lab)
            assert len(processes) == 7
            netns = {os.stat(f"/proc/{each.pid}/ns/net").st_ino for each in processes.values()}
            assert build.down(name) is True
            assert [who for who, each in processes.items() if each.alive] == []
            assert not lab.folder.exists()
            assert not _namespaces() & netns
            assert str(lab.folder) not in Path("/proc/mounts").read_text()
        assert build.down(name) is False

    def test_a_killed_init_takes_all_along_and_down_cleans_up(self) -> None:
        with raised(fresh_name()) as lab:
            processes = remembered(lab)
            lab.init.kill()
            assert [who for who, each in processes.items() if each.alive] == []
            with pytest.raises(PermanentError, match="is dead"):
                state.load(lab.name)
            assert build.down(lab.name) is True
            assert not lab.folder.exists()

    def test_up_refuses_a_running_lab_and_makes_way_over_a_dead_one(self) -> None:
        with raised(fresh_name()) as lab:
            with pytest.raises(PermanentError, match="was raised only half and still runs"):
                build.up(topology(), lab.name)
            assert lab.init.alive
            lab.init.kill()
            with pytest.raises(_Enough):
                build.up(topology(), lab.name, _stop_at("node plum"))
            assert not lab.folder.exists()

    @pytest.mark.parametrize(
        "step", ["segments red, blue", "node plum", "vm guest on pear", "etcd", "prefixes"]
    )
    @pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
    def test_whatever_stops_up_leaves_nothing(self, step: str, kind: type[BaseException]) -> None:
        name, seen = fresh_name(), []

        def progress(text: str) -> None:
            found = state.find(name)
            seen.extend([found.init] if found else [])
            if text.startswith(step):
                raise kind

        with pytest.raises(kind):
            build.up(topology(), name, progress)
        assert not state.folder_of(name).exists()
        assert [each for each in seen if each.alive] == []

    def test_keep_leaves_what_stands(self) -> None:
        name = fresh_name()
        try:
            with pytest.raises(_Enough):
                build.up(topology(), name, _stop_at("node plum"), keep=True)
            assert status.labs()[state.names().index(name)]["state"] == "half-raised"
            assert state.load(name).process("node", "pear") is not None
        finally:
            assert build.down(name) is True

    def test_an_init_that_was_not_told_to_go_ends_with_its_starter(self, tmp_path: Path) -> None:
        source, go = os.pipe()
        init = process.spawn(underlay.HELD_INIT, tmp_path / "log", new=("pid",), stdin=source)
        os.close(source)
        assert init.alive
        os.close(go)
        assert init.wait(DEADLINE_S)

    def test_only_one_at_a_time_raises_or_ends_a_lab(self) -> None:
        name = fresh_name()
        with state.locked(name):
            with pytest.raises(TemporaryError, match="by another process"), state.locked(name):
                pass
            with pytest.raises(TemporaryError, match="by another process"):
                build.down(name)
        assert not state.folder_of(name).exists()

    def test_a_missing_program_is_named_with_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(tools.ETCD_VARIABLE, "/nowhere/etcd")
        with pytest.raises(
            PermanentError, match=r"/nowhere/etcd is not installed \(apt install etcd-server\)"
        ):
            build.up(topology(), fresh_name())


class TestProcess:
    """A process is known by pid and start time."""

    def test_a_stranger_with_the_same_pid_is_left_alone(self, tmp_path: Path) -> None:
        ours = process.spawn(["sleep", "infinity"], tmp_path / "log")
        try:
            stranger = Process(ours.pid, ours.start + 1)
            assert not stranger.alive
            assert stranger.signal(signal.SIGKILL) is False
            stranger.kill()
            assert ours.alive
        finally:
            ours.kill()
        assert not ours.alive
        ours.kill()

    def test_what_cannot_be_started_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(PermanentError, match=r"cannot start /nowhere/x: .*No such file"):
            process.spawn(["/nowhere/x"], tmp_path / "log")

    def test_output_goes_to_the_log(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        for word in ("one", "two"):
            ended = process.spawn(["sh", "-c", f"echo {word}; echo bad >&2; exec sleep infinity"], log)
            until(lambda: "bad" in log.read_text().split("\n")[-2:])
            ended.kill()
        assert log.read_text().split() == ["one", "bad", "two", "bad"]


class _Enough(Exception):
    """Stops an `up`."""


def _stop_at(step: str) -> Callable[[str], None]:
    def progress(text: str) -> None:
        if text.startswith(step):
            raise _Enough

    return progress


def _namespaces() -> set[int]:
    """The network namespaces that a living process is in."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            found.add(path.stat().st_ino)
    return found
