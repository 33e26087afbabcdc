"""WireGuard devices of two nodes, by whichever backend this machine has.

node a (here)                                      node b (a namespace)
mfwga0  10.9.0.1  mark, table -> mfu0 192.0.2.1 == 192.0.2.2      <- mfwgb0  10.9.0.2
mfwga1  10.9.1.1  mark, table -> mfu1 2001:db8::1 == 2001:db8::2  <- mfwgb1  10.9.1.2
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from meshfabric.kernel import links, netns, tool, wireguard, wireguard_go
from meshfabric.kernel.links import Route
from meshfabric.kernel.wireguard import Backend, Peer
from meshfabric.model.errors import PermanentError, TemporaryError, UnsupportedError
from meshfabric.model.settings import WireGuardKind
from tests.features import requires
from tests.kernel.cell import namespace
from tests.patience import DEADLINE_S

PORT, MARK, TABLE, MTU = 51820, 0x4D460000, 19780, 1380
UNDERLAY = (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2"))


@pytest.fixture
def userspace(wireguard_go: Path | None) -> Backend:
    """wireguard-go, whatever the kernel has itself."""
    requires("wireguard-go", "tun")
    return Backend("userspace", tool.find("wireguard-go", wireguard_go, tool.WIREGUARD_GO_ENV))


@pytest.fixture(params=["kernel", "userspace"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Both, one after the other."""
    if request.param == "userspace":
        found: Backend = request.getfixturevalue("userspace")
        return found
    requires("wireguard")
    return Backend("kernel")


class Node:
    """One end: two uplinks, a device on each."""

    def __init__(self, backend: Backend, side: int, place: Path | None, keys: Path) -> None:
        self.backend, self.side, self.place, self.keys = backend, side, place, keys
        self.devices = [f"mfwg{'ab'[side]}{uplink}" for uplink in (0, 1)]
        self.public = [""] * 2

    def run(self, function: Callable[[], object]) -> None:
        netns.run(self.place, function)

    def ensure(self, uplink: int) -> bool:
        name, key = self.devices[uplink], self.keys / f"{self.devices[uplink]}.key"
        return wireguard.ensure_device(self.backend, name, key, PORT + uplink, MARK + uplink, MTU)

    def set_up(self) -> None:
        """Underlay, devices, and a rule for each uplink's mark."""
        for uplink, name in enumerate(self.devices):
            address = UNDERLAY[uplink][self.side]
            whole = f"{address}/{64 if ':' in address else 24}"
            links.ensure_addresses(f"mfu{uplink}", {whole})
            links.set_up(f"mfu{uplink}")
            assert self.ensure(uplink)
            assert not self.ensure(uplink)
            links.ensure_addresses(name, {f"10.9.{uplink}.{self.side + 1}/24"})
            links.set_up(name)
            links.ensure_routes(TABLE + uplink, self._table(uplink))
            self.public[uplink] = wireguard.ensure_key(self.keys / f"{name}.key")
        links.ensure_rules({MARK + uplink: TABLE + uplink for uplink in (0, 1)})

    def meet(self, other: "Node") -> None:
        for uplink in (0, 1):
            wireguard.set_peer(self.devices[uplink], self.peer(other, uplink))

    def peer(self, other: "Node", uplink: int) -> Peer:
        address = UNDERLAY[uplink][other.side]
        host = f"[{address}]" if ":" in address else address
        allowed = (f"10.9.{uplink}.{other.side + 1}/32",)
        keepalive_s = 0 if self.side else 5  # one begins: initiations that cross are begun again, 5 s later
        return Peer(other.public[uplink], f"{host}:{PORT + uplink}", allowed, keepalive_s)

    def _table(self, uplink: int) -> set[Route]:
        near = "2001:db8::/64" if uplink else "192.0.2.0/24"
        return {Route(near, f"mfu{uplink}"), *(Route(to, unreachable=True) for to in ("0.0.0.0/0", "::/0"))}


@contextlib.contextmanager
def _nodes(backend: Backend, keys: Path) -> Iterator[tuple[Node, Node]]:
    with namespace() as far:
        for uplink in (0, 1):
            links.ensure_veth(f"mfu{uplink}", f"mfu{uplink}", far)
        a, b = Node(backend, 0, None, keys), Node(backend, 1, far, keys)
        for node in (a, b):
            node.run(node.set_up)
        for node, other in ((a, b), (b, a)):
            netns.run(node.place, node.meet, other)
        yield a, b


def _demand_ping(uplink: int) -> None:
    """The far end answers, now or soon: the first handshake may take a moment."""
    deadline = time.monotonic() + DEADLINE_S
    command = ["ping", "-n", "-c", "1", "-W", "1", f"10.9.{uplink}.2"]
    while subprocess.run(command, capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, f"no answer over uplink {uplink}"


def test_two_nodes_reach_each_other_over_both_uplinks(backend: Backend, tmp_path: Path) -> None:
    with _nodes(backend, tmp_path) as (a, b):
        for uplink in (0, 1):
            _demand_ping(uplink)
            state = wireguard.observe()[a.devices[uplink]]
            peer = state.peers[b.public[uplink]]
            wanted = a.peer(b, uplink)
            assert (state.port, state.mark) == (PORT + uplink, MARK + uplink)
            assert state.public_key == a.public[uplink]
            assert (peer.endpoint, peer.allowed_ips, peer.keepalive_s) == (
                wanted.endpoint,
                wanted.allowed_ips,
                5,
            )
            assert abs(peer.last_handshake_s - time.time()) < DEADLINE_S
            assert peer.rx_bytes > 0
            link = links.find(a.devices[uplink])
            assert link is not None
            assert link.mtu == MTU


def test_a_tunnel_never_wanders_to_another_uplink(backend: Backend, tmp_path: Path) -> None:
    with _nodes(backend, tmp_path) as (a, b):
        _demand_ping(0)
        links.ensure_routes(TABLE, {Route("0.0.0.0/0", unreachable=True)})
        before = wireguard.observe()[a.devices[0]].peers[b.public[0]].rx_bytes
        sent = subprocess.run(
            ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "10.9.0.2"], capture_output=True, check=False
        )
        assert sent.returncode != 0
        assert wireguard.observe()[a.devices[0]].peers[b.public[0]].rx_bytes == before


def test_an_endpoint_that_is_not_given_stays(backend: Backend, tmp_path: Path) -> None:
    key = wireguard.ensure_key(tmp_path / "other.key")
    wireguard.ensure_device(backend, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)
    first = Peer(key, "192.0.2.7:7", ("10.1.0.0/24", "fd00:1::/64"), 5)
    wireguard.set_peer("mfwg00", first)
    wireguard.set_peer("mfwg00", replace(first, endpoint=None, allowed_ips=("10.2.0.0/24",), keepalive_s=0))
    peer = wireguard.observe()["mfwg00"].peers[key]
    assert (peer.endpoint, peer.allowed_ips, peer.keepalive_s) == ("192.0.2.7:7", ("10.2.0.0/24",), 0)


def test_allowed_ips_are_not_written_again(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WireGuard takes all of a peer's out before it puts them in again: packets were lost in between."""
    keys = [wireguard.ensure_key(tmp_path / f"{n}.key") for n in range(3)]
    wireguard.ensure_device(backend, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)
    first, second, third = (
        Peer(key, f"192.0.2.{n}:7", (f"10.1.{n}.0/24", f"fd00:{n}::/64"), 5) for n, key in enumerate(keys, 1)
    )
    wireguard.set_peers("mfwg00", [first, second, third])
    ran: list[list[str]] = []
    run = tool.run

    def recorded(argv: list[str], text: str = "") -> str:
        ran.append([*argv, text])
        return run(argv, text)

    monkeypatch.setattr(tool, "run", recorded)
    turned = replace(first, allowed_ips=first.allowed_ips[::-1], endpoint=None)
    moved = replace(second, endpoint="192.0.2.9:9", keepalive_s=0)
    grown = replace(third, allowed_ips=("10.9.0.0/24",))
    wireguard.set_peers("mfwg00", [turned])
    assert [argv[1] for argv in ran] == ["show"], "it is as it should be"
    wireguard.set_peers("mfwg00", [turned, moved, grown])
    assert [argv[1] for argv in ran] == ["show", "show", "addconf", "set"]
    assert [key in ran[2][-1] for key in keys] == [False, False, True]
    assert [key in ran[3] for key in keys] == [False, True, False]
    peers = wireguard.observe_device("mfwg00").peers
    assert peers[keys[1]].allowed_ips == second.allowed_ips
    assert (peers[keys[1]].endpoint, peers[keys[1]].keepalive_s) == ("192.0.2.9:9", 0)
    assert (peers[keys[2]].endpoint, peers[keys[2]].allowed_ips) == (third.endpoint, ("10.9.0.0/24",))


def test_peers_come_together_and_go_one_by_one(backend: Backend, tmp_path: Path) -> None:
    wireguard.ensure_device(backend, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)
    keys = [wireguard.ensure_key(tmp_path / f"{n}.key") for n in range(20)]
    wireguard.set_peers("mfwg00", [Peer(key, None, (f"10.1.{n}.0/24",)) for n, key in enumerate(keys)])
    assert set(wireguard.observe()["mfwg00"].peers) == set(keys)
    for _ in range(2):
        wireguard.remove_peer("mfwg00", keys[0])
        assert set(wireguard.observe()["mfwg00"].peers) == set(keys[1:])
    wireguard.set_peers("mfwg00", [])
    assert len(wireguard.observe()["mfwg00"].peers) == len(keys) - 1


def test_a_device_is_brought_back_to_what_is_wanted(backend: Backend, tmp_path: Path) -> None:
    key = tmp_path / "mfwg00.key"
    wireguard.ensure_device(backend, "mfwg00", key, PORT, MARK, MTU)
    peer = wireguard.ensure_key(tmp_path / "other.key")
    wireguard.set_peer("mfwg00", Peer(peer, None, ("10.1.0.0/24",)))
    key.unlink()
    assert not wireguard.ensure_device(backend, "mfwg00", key, PORT + 7, MARK + 7, MTU - 100)
    state = wireguard.observe_device("mfwg00")
    assert (state.port, state.mark, state.public_key) == (PORT + 7, MARK + 7, wireguard.ensure_key(key))
    assert set(state.peers) == {peer}


def test_a_new_device_stays_down(backend: Backend, tmp_path: Path) -> None:
    wireguard.ensure_device(backend, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)
    link = links.find("mfwg00")
    assert link is not None
    assert not link.up


def test_a_port_in_use_is_worth_another_try(backend: Backend, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.bind(("::", PORT))
        with pytest.raises(TemporaryError, match=f"device mfwg00: UDP port {PORT} is in use"):
            wireguard.ensure_device(backend, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)
    assert wireguard.ensure_device(backend, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)


def test_a_deleted_device_leaves_nothing(backend: Backend, tmp_path: Path) -> None:
    wireguard.ensure_device(backend, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)
    assert wireguard.delete_device("mfwg00")
    assert not wireguard.delete_device("mfwg00")
    assert links.find("mfwg00") is None
    assert wireguard.observe() == {}
    assert wireguard_go.process("mfwg00") == 0


def test_a_killed_wireguard_go_is_restored_on_its_device(userspace: Backend, tmp_path: Path) -> None:
    with _nodes(userspace, tmp_path) as (a, b):
        _demand_ping(0)
        before = links.find(a.devices[0])
        _kill(wireguard_go.process(a.devices[0]))
        assert not wireguard_go.answers(a.devices[0])
        lamed = links.find(a.devices[0])
        assert before is not None
        assert lamed is not None
        assert (lamed.index, lamed.up, lamed.carrier) == (before.index, True, False)
        assert a.ensure(0)
        assert links.find(a.devices[0]) == before
        assert links.observe_addresses(a.devices[0]) == {"10.9.0.1/24"}
        wireguard.set_peer(a.devices[0], a.peer(b, 0))
        _demand_ping(0)
        _demand_ping(1)


def _kill(process: int) -> None:
    watch = os.pidfd_open(process)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)  # here the test is process 1, to which orphans go
    os.close(watch)


def test_wireguard_go_outlives_the_agent(userspace: Backend, tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from meshfabric.kernel import wireguard;"
        f"wireguard.ensure_device(wireguard.Backend('userspace', Path({str(userspace.binary)!r})), 'mfwg00',"
        f"Path({str(tmp_path / 'mfwg00.key')!r}), {PORT}, {MARK}, {MTU});"
        "os.killpg(0, signal.SIGKILL)"
    )
    agent = subprocess.run([sys.executable, "-c", code], start_new_session=True, check=False)
    assert agent.returncode == -signal.SIGKILL
    process = wireguard_go.process("mfwg00")
    assert process
    assert not wireguard.ensure_device(userspace, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)
    assert wireguard_go.process("mfwg00") == process
    assert wireguard_go.stop("mfwg00")
    assert not wireguard_go.stop("mfwg00")


def test_a_device_of_wireguard_go_stays_when_the_kernel_learns_it(userspace: Backend, tmp_path: Path) -> None:
    key = tmp_path / "mfwg00.key"
    wireguard.ensure_device(userspace, "mfwg00", key, PORT, MARK, MTU)
    process = wireguard_go.process("mfwg00")
    assert not wireguard.ensure_device(Backend("kernel"), "mfwg00", key, PORT, MARK, MTU)
    assert wireguard_go.process("mfwg00") == process


def test_a_hanging_wireguard_go_is_named(
    userspace: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wireguard.ensure_device(userspace, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)
    process = wireguard_go.process("mfwg00")
    monkeypatch.setattr(wireguard_go, "UAPI_TIMEOUT_S", 0.2)
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(
        TemporaryError, match=rf"device mfwg00: wireguard-go hangs \(kill process {process}\)"
    ):
        wireguard.ensure_device(userspace, "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU)


def test_a_binary_that_fails_is_told_with_its_words(tmp_path: Path) -> None:
    broken = tmp_path / "wireguard-go"
    broken.write_text("#!/bin/sh\necho no luck today >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(TemporaryError, match=r"wireguard-go ended: no luck today \(see .*mfwg00\.log\)"):
        wireguard.ensure_device(
            Backend("userspace", broken), "mfwg00", tmp_path / "mfwg00.key", PORT, MARK, MTU
        )


def test_the_binary_is_found_where_it_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = partial(wireguard.choose_backend, choice=WireGuardKind.USERSPACE)
    made = {}
    for folder in ("set", "named", "path"):
        made[folder] = tmp_path / folder / "wireguard-go"
        made[folder].parent.mkdir()
        made[folder].touch(0o755)
    monkeypatch.setenv("PATH", str(made["path"].parent))
    monkeypatch.delenv("MESHFABRIC_WIREGUARD_GO", raising=False)
    assert choose().binary == made["path"]
    monkeypatch.setenv("MESHFABRIC_WIREGUARD_GO", str(made["named"]))
    assert choose().binary == made["named"]
    assert choose(made["set"]).binary == made["set"]
    with pytest.raises(UnsupportedError, match="install the package wireguard-go"):
        choose(tmp_path / "absent" / "wireguard-go")


def test_a_key_is_made_once_for_root_alone(tmp_path: Path) -> None:
    os.umask(0)
    path = tmp_path / "keys" / "mfwg00.key"
    public = wireguard.ensure_key(path)
    text = path.read_text()
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert wireguard.ensure_key(path) == public
    assert path.read_text() == text
    assert [entry.name for entry in path.parent.iterdir()] == ["mfwg00.key"]
    path.chmod(0o644)
    wireguard.ensure_key(path)
    assert path.stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("text", ["", "short", "A" * 44, "é" * 44])
def test_a_file_without_a_key_is_never_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mfwg00.key"
    path.write_text(text)
    with pytest.raises(PermanentError, match=r"mfwg00\.key: the file holds no WireGuard key \(restore it"):
        wireguard.ensure_key(path)
    assert path.read_text() == text


def test_no_argument_and_no_log_shows_a_private_key(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    seen = tmp_path / "arguments"
    _record_calls_of("wg", tmp_path / "bin", seen)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    key = tmp_path / "mfwg00.key"
    for _ in range(2):
        wireguard.ensure_device(backend, "mfwg00", key, PORT, MARK, MTU)
    public = wireguard.ensure_key(key)
    wireguard.set_peer("mfwg00", Peer(public, None, ("10.1.0.0/24",)))
    wireguard.observe()
    said = seen.read_text() + _all_arguments() + caplog.text + _logs(tmp_path)
    assert "syncconf mfwg00" in said
    assert "mfwg00" in _all_arguments() or backend.kind == "kernel"
    assert key.read_text().strip() not in said


def _record_calls_of(program: str, folder: Path, seen: Path) -> None:
    """A script before the real program in PATH, which notes the arguments."""
    real = subprocess.check_output(["which", program], text=True).strip()
    folder.mkdir()
    script = folder / program
    script.write_text(f'#!/bin/sh\necho "$@" >>{seen}\nexec {real} "$@"\n')
    script.chmod(0o755)


def _all_arguments() -> str:
    return "\n".join(
        path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
    )


def _logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*.log"))
