"""Real etcd servers for tests: started in a folder of their own, disturbed in every way, killed by pid.

Owns processes, ports and certificates; the tests own what is asked of them.
A test module says `pytest_plugins = ["tests.etcd"]`; its tests run once for each
etcd found: the one in PATH, and 3.5 from MESHFABRIC_ETCD35 or build/deb/usr/bin/etcd.

Each test process uses a loopback address of its own (127.x.y.z from its pid), so
that two runs cannot meet; servers die with the test process (pdeathsig).

PYTEST_DONT_REWRITE: test modules import from here as well as use it as a plugin.
"""

import functools
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from meshfabric.store.settings import CALL_DEADLINE_S, Settings
from tests.patience import DEADLINE_S, PATIENCE

POLL_S = 0.01
HEARTBEAT_MS = 10
ELECTION_MS = 50
CALM = ("--heartbeat-interval=50", "--election-timeout=500")  # for members that must not lose each other
CALL_S = 3.0 * PATIENCE  # for tests with hung servers: short, yet longer than a healthy one may stand still
FIRST_PORT = 20000  # below the ports that the kernel gives to others
LAST_PORT = 32000
REPOSITORY = Path(__file__).parent.parent


class Certificates(NamedTuple):
    """PEM files: one authority, a server's and a client's pair signed by it."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path


def binaries() -> dict[str, str]:
    """The etcd servers to test against, by a name for the test's title."""
    newer = os.environ.get("MESHFABRIC_ETCD35", str(REPOSITORY / "build/deb/usr/bin/etcd"))
    found = {"installed": shutil.which("etcd"), "etcd35": newer if os.access(newer, os.X_OK) else None}
    return {name: path for name, path in found.items() if path}


def own_address() -> str:
    """A loopback address that no other process of this host uses."""
    pid = os.getpid()
    return f"127.{1 + (pid >> 16)}.{(pid >> 8) & 255}.{pid & 255}"


def free_port(address: str) -> int:
    """A port nobody listens on at `address`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in range(FIRST_PORT + os.getpid() % 1000, LAST_PORT):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            if port not in _given:
                _given.add(port)
                return port
    raise RuntimeError(f"no free port at {address}")


_given: set[int] = set()


class Server:
    """One etcd member with its data folder; it can be stopped, frozen, and thrown back in time."""

    def __init__(
        self,
        binary: str,
        folder: Path,
        *arguments: str,
        address: str = "",
        certificates: Certificates | None = None,
    ) -> None:
        self.binary, self.folder, self.arguments = binary, folder, arguments
        self.address = address or own_address()
        self.certificates = certificates
        self.client_port, self.peer_port = free_port(self.address), free_port(self.address)
        self.metrics_port = free_port(self.address)
        self.token, self.cluster = "first", ""
        self.disturbed = False
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def endpoint(self) -> str:
        """The client URL."""
        return self._url(self.client_port, "https" if self.certificates else "http")

    @property
    def peer(self) -> str:
        """The peer URL."""
        return self._url(self.peer_port)

    @property
    def name(self) -> str:
        """The member's name."""
        return self.folder.name

    def settings(self, timeout_s: float = CALL_DEADLINE_S, **others: str) -> Settings:
        """Settings of a client of this server alone."""
        return Settings((self.endpoint,), timeout_s=timeout_s, **others)

    def start(self) -> "Server":
        """Start, with the data that is there, and wait until it serves."""
        self.launch()
        self.wait()
        self.disturbed = False
        return self

    def launch(self) -> None:
        """Start without waiting (members of a cluster wait for each other)."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", self.binary, *self._flags()], stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Wait until it serves; shows its log if it never does."""
        deadline = time.monotonic() + DEADLINE_S
        while not self._healthy():
            if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Kill it, frozen or not; a stopped one stays stopped."""
        self.disturbed = True
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop its process without ending it: its sockets stay open and nothing answers."""
        assert self._process
        self.disturbed = True
        self._process.send_signal(signal.SIGSTOP)

    def back_up(self) -> None:
        """Keep a copy of the data of a stopped server."""
        shutil.copytree(self.folder / "data", self.folder / "backup", dirs_exist_ok=True)

    def restore(self) -> None:
        """Give a stopped server the data of `back_up` again."""
        shutil.rmtree(self.folder / "data")
        shutil.copytree(self.folder / "backup", self.folder / "data")

    def forget(self) -> None:
        """Make a stopped server the first of a new, empty cluster with another id."""
        shutil.rmtree(self.folder / "data")
        self.token += "-again"

    def ctl(self, *arguments: str) -> str:
        """What etcdctl answers."""
        flags = ["--endpoints", self.endpoint]
        if self.certificates:
            flags += ["--cacert", str(self.certificates.ca), "--cert", str(self.certificates.client_cert)]
            flags += ["--key", str(self.certificates.client_key)]
        environment = {"PATH": os.environ["PATH"], "ETCDCTL_API": "3"}
        done = subprocess.run(
            ["etcdctl", *flags, *arguments], check=True, capture_output=True, text=True, env=environment
        )
        return done.stdout

    def calls(self, method: str) -> int:
        """How many calls of a gRPC method were answered since the start, refused ones included."""
        counted = [line for line in self._fetch("metrics").splitlines() if f'grpc_method="{method}"' in line]
        return int(sum(float(line.split()[-1]) for line in counted if line.startswith("grpc_server_handled")))

    def version(self) -> str:
        """What the server program says of itself."""
        return subprocess.run([self.binary, "--version"], check=True, capture_output=True, text=True).stdout

    def enable_auth(self, user: str = "node", password: str = "right") -> None:
        """Auth on: root/root may everything, `user` only read and write keys that begin with /mine/."""
        self.ctl("user", "add", "root:root")
        self.ctl("user", "grant-role", "root", "root")
        self.ctl("user", "add", f"{user}:{password}")
        self.ctl("role", "add", "own")
        self.ctl("role", "grant-permission", "own", "readwrite", "/mine/", "--prefix")
        self.ctl("user", "grant-role", user, "own")
        self.ctl("auth", "enable")

    def _flags(self) -> list[str]:
        flags = {
            "name": self.name,
            "data-dir": str(self.folder / "data"),
            "listen-client-urls": self.endpoint,
            "advertise-client-urls": self.endpoint,
            "listen-peer-urls": self.peer,
            "initial-advertise-peer-urls": self.peer,
            "initial-cluster": self.cluster or f"{self.name}={self.peer}",
            "initial-cluster-token": self.token,
            "listen-metrics-urls": self._url(self.metrics_port),
            "heartbeat-interval": str(HEARTBEAT_MS),
            "election-timeout": str(ELECTION_MS),
            "bcrypt-cost": "4",
        }
        if self.certificates:
            flags["trusted-ca-file"] = str(self.certificates.ca)
            flags["cert-file"] = str(self.certificates.server_cert)
            flags["key-file"] = str(self.certificates.server_key)
        return [f"--{name}={value}" for name, value in flags.items()] + [
            *self.arguments,
            *_haste(self.binary),
        ]

    def _healthy(self) -> bool:
        try:
            return '"true"' in self._fetch("health")
        except OSError:
            return False

    def _fetch(self, page: str) -> str:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self._url(self.metrics_port)}/{page}", timeout=DEADLINE_S) as answer:
            text: str = answer.read().decode()
        return text

    def _url(self, port: int, scheme: str = "http") -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{scheme}://{host}:{port}"


@functools.cache
def _haste(binary: str) -> list[str]:
    """The flag that spares the disk, where the program has it."""
    described = subprocess.run([binary, "--help"], capture_output=True, text=True, check=False)
    return ["--unsafe-no-fsync"] if "--unsafe-no-fsync" in described.stdout + described.stderr else []


def make_certificates(folder: Path) -> Certificates:
    """An authority and two pairs by the openssl command; the client's common name is "node"."""
    folder.mkdir()
    pem = Certificates(
        *(folder / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key"))
    )
    _issue(folder / "ca.key", pem.ca, "/CN=authority")
    for key, cert, subject in (
        (pem.server_key, pem.server_cert, "/CN=server"),
        (pem.client_key, pem.client_cert, "/CN=node"),
    ):
        signer = ["-CA", str(pem.ca), "-CAkey", str(folder / "ca.key")]
        _issue(key, cert, subject, *signer, "-addext", f"subjectAltName=IP:{own_address()}")
    return pem


def _issue(key: Path, cert: Path, subject: str, *more: str) -> None:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "1"]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-keyout", key, "-out", cert, "-subj", subject, *more],
        check=True,
        capture_output=True,
    )


StartEtcd = Callable[..., Server]


@pytest.fixture(scope="module", params=list(binaries().values()), ids=list(binaries()))
def etcd_binary(request: pytest.FixtureRequest) -> str:
    """The path of one etcd server program; a test that uses it runs once for each."""
    path: str = request.param
    return path


@pytest.fixture(scope="module")
def etcd_server(etcd_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of a module share and must leave running; each takes a prefix of its own."""
    server = Server(etcd_binary, tmp_path_factory.mktemp("etcd") / "shared")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def start_etcd(etcd_binary: str, tmp_path: Path) -> Iterator[StartEtcd]:
    """Start servers of the test's own: `start_etcd(*flags, address=…, certificates=…)`."""
    started: list[Server] = []

    def start(*arguments: str, address: str = "", certificates: Certificates | None = None) -> Server:
        folder = tmp_path / f"member{len(started)}"
        server = Server(etcd_binary, folder, *arguments, address=address, certificates=certificates)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def three_members(etcd_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Three members for `etcd_cluster`."""
    folder = tmp_path_factory.mktemp("etcd")
    members = [Server(etcd_binary, folder / f"member{number}", *CALM) for number in range(3)]
    for member in members:
        member.cluster = ",".join(f"{other.name}={other.peer}" for other in members)
    try:
        for member in members:
            member.launch()
        for member in members:
            member.wait()
        yield members
    finally:
        for member in members:
            member.stop()


@pytest.fixture
def etcd_cluster(three_members: list[Server]) -> Iterator[list[Server]]:
    """A cluster of three that run; what a test stops or freezes is started again after it."""
    yield three_members
    for member in three_members:
        if member.disturbed:
            member.stop()
            member.start()
