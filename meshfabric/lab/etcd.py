"""The store of a lab: one etcd beside the segments, and the records that an operator would write.

Owns etcd's life and its first records; `seed` writes them from inside the
underlay's namespace. The data is on a tmpfs that ends with the lab, so that
syncing costs nothing and stopping etcd loses nothing.
"""

import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from meshfabric.kernel import netns
from meshfabric.lab import tools
from meshfabric.lab.process import Process, enter, last_line, run, spawn
from meshfabric.lab.state import Lab
from meshfabric.model.errors import PermanentError, TemporaryError

ROLE, NAME = "etcd", "etcd"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.02
_LOOPBACK = "127.0.0.1"
_HEALTH_TIMEOUT_S = 1.0
_QUOTA_BYTES = 256 << 20
_SEED_TIMEOUT_S = 120.0


def start_etcd(lab: Lab) -> None:
    """Start etcd, or start it again on the data it had; returns when it answers. Running is fine."""
    if lab.process(ROLE, NAME):
        return
    data = lab.folder / "etcd"
    mounted = f'mountpoint -q "{data}" || mount -n -t tmpfs -o mode=0700 etcd "{data}"'
    run(lab.init, ["sh", "-euc", mounted])
    argv = [tools.find("etcd"), *_flags(lab, data)]
    process = spawn(
        argv, lab.log(ROLE, NAME), into=lab.init, join=("pid", "mnt", "net"), env=tools.environment()
    )
    lab.remember(ROLE, NAME, process)
    _wait_ready(lab, process)


def stop_etcd(lab: Lab, number: int = signal.SIGTERM) -> None:
    """Stop etcd and keep its data; absent is fine."""
    process = lab.process(ROLE, NAME)
    if process is None:
        return
    process.signal(number)
    if not process.wait(STOP_TIMEOUT_S):
        process.kill()


def endpoints_for(lab: Lab, node: str) -> list[str]:
    """Where a node reaches etcd: one URL for each segment that it is plugged into."""
    segments = {uplink.segment: None for uplink in lab.topology.node(node).uplinks}
    return [_url(lab, str(lab.topology.own_addresses(segment)[0].ip)) for segment in segments]


def local_endpoint(lab: Lab) -> str:
    """Where etcd is reached from inside the underlay's namespace."""
    return _url(lab, _LOOPBACK)


def put(lab: Lab, records: Mapping[str, object]) -> None:
    """Write records as an operator would: keys below the fabric's `state/`, values as JSON.

    Raises what the store says.
    """
    order = {"endpoint": local_endpoint(lab), "fabric": lab.topology.fabric, "records": dict(records)}
    argv = [sys.executable, "-m", "meshfabric.lab.seed"]
    done = subprocess.run(
        enter(lab.init, argv, ("net",)),
        input=msgspec.json.encode(order),
        capture_output=True,
        env=tools.environment(),
        timeout=_SEED_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise PermanentError(f"cannot write to etcd: {last_line(done.stderr.decode())}")


def first_records(lab: Lab) -> dict[str, object]:
    """What an operator tells a new fabric: its prefixes, and for each node its blocks and grants."""
    records: dict[str, object] = {"config": {"prefixes": list(lab.topology.prefixes)}}
    for node in lab.topology.nodes:
        records[f"allocations/{node.name}"] = {"blocks": list(node.blocks)}
        records[f"grants/{node.name}"] = {"labels": {"*": ["*"]}, "pools": []}
    return records


def _flags(lab: Lab, data: Path) -> list[str]:
    settings = lab.topology.etcd
    addresses = [_LOOPBACK] + [
        str(address.ip)
        for segment in lab.topology.segments
        for address in lab.topology.own_addresses(segment.name)
    ]
    clients = ",".join(_url(lab, address) for address in addresses)
    peer = f"http://{_LOOPBACK}:{settings.port + 1}"
    flags = {
        "name": NAME,
        "data-dir": str(data / "data"),
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{NAME}={peer}",
        "heartbeat-interval": str(settings.heartbeat_ms),
        "election-timeout": str(settings.election_ms),
        "quota-backend-bytes": str(_QUOTA_BYTES),
        "logger": "zap",
        "log-level": "warn",
    }
    return [f"--{key}={value}" for key, value in flags.items()]


def _url(lab: Lab, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{lab.topology.etcd.port}"


def _wait_ready(lab: Lab, process: Process) -> None:
    log = lab.log(ROLE, NAME)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _healthy(lab):
        if not process.alive:
            raise PermanentError(f"etcd ended: {last_line(log.read_text(errors='replace'))}", place=str(log))
        if time.monotonic() > deadline:
            raise TemporaryError(f"etcd is not ready after {START_TIMEOUT_S:.0f} s", remedy=f"see {log}")
        time.sleep(_POLL_S)


def _healthy(lab: Lab) -> bool:
    """Whether etcd answers `GET /health` with a leader elected (etcd, monitoring guide)."""
    link = http.client.HTTPConnection(_LOOPBACK, lab.topology.etcd.port, timeout=_HEALTH_TIMEOUT_S)
    try:
        netns.run(Path(f"/proc/{lab.init.pid}/ns/net"), link.connect)
        link.request("GET", "/health")
        return link.getresponse().status == http.HTTPStatus.OK
    except (TimeoutError, OSError, http.client.HTTPException):
        return False
    finally:
        link.close()
