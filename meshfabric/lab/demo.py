"""The main job, proved on a running lab: each proof prints its figures as it happens.

    reach      every kind of workload reaches every other, IPv4 and IPv6
    transfer   1 GB by TCP, compared by hash
    policy     what a policy forbids is dropped, under its name, and nothing else
    outage     agents killed and etcd stopped under traffic: nothing is lost
    cut        one uplink cut silently: traffic goes on over the other
    clear      what went over the wires meanwhile: no fabric address in clear

Owns what is proved and in which order; `measure` has the measurements, `build`
the lab.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import yaml
from msgspec.structs import replace

from meshfabric.api.client import call
from meshfabric.api.messages import Ask
from meshfabric.lab import agents, etcd, measure, underlay
from meshfabric.lab.build import run
from meshfabric.lab.capture import Capture, capture
from meshfabric.lab.process import last_line
from meshfabric.lab.records import Topology
from meshfabric.lab.state import Lab
from meshfabric.lab.status import addresses
from meshfabric.model.errors import PermanentError, TemporaryError

TRANSFER_BYTES = 1 << 30
BEFORE_S, AFTER_S = 1.0, 2.0  # of a stream, around what is done to it
CUT_LIMIT_MS = 1000.0
PROBE_MS = 10
"""Faster than the default: how soon a cut can be noticed is what is shown."""
POLICY = "demo-db"
POLICY_PORT, OTHER_PORT = 7443, 7444
DEADLINE_S = 15.0
POLL_S = 0.05

Say = Callable[[str], None]

HOSTS_AND_PODS = ("vm1", "vm1/guest1", "metal1", "kube1/web", "kube1/client", "kube2/db")


class Proof(NamedTuple):
    """One line of the summary."""

    name: str
    holds: bool
    figure: str


def proofs(lab: Lab, say: Say) -> Iterator[Proof]:
    """All proofs in order; each is yielded as soon as it is known."""
    with contextlib.ExitStack() as stack:
        captures = {one.name: stack.enter_context(capture(lab, one.name)) for one in lab.topology.segments}
        yield reach(lab, say)
        for family in (4, 6):
            yield transfer(lab, family, say)
        yield policy(lab, say)
        yield outage(lab, say)
        yield from cut(lab, say)
        yield from (clear(name, one, say) for name, one in captures.items())


def address(lab: Lab, where: str, family: int = 4) -> str:
    """A workload's fabric address."""
    return next(one for one in addresses(lab, where) if (":" in one) == (family == 6))


def reach(lab: Lab, say: Say) -> Proof:
    """Every ordered pair of hosts, guests and pods, both families, by ping."""
    pairs = [(a, b, family) for a in HOSTS_AND_PODS for b in HOSTS_AND_PODS if a != b for family in (4, 6)]
    failed, times = [], []
    for source, sink, family in pairs:
        rtt_ms = measure.ping(lab, source, address(lab, sink, family))
        if rtt_ms is None:
            failed.append(f"{source} to {sink} by IPv{family}")
        else:
            times.append(rtt_ms)
            if family == 4 and sink == "kube1/web":
                say(f"{source:>12} -> {sink}  {address(lab, sink)}  {rtt_ms:.2f} ms")
    figure = (
        f"{len(times)} of {len(pairs)} pairs, median {sorted(times)[len(times) // 2]:.2f} ms"
        if times
        else "none"
    )
    return Proof("VM, metal and pods reach each other", not failed, "; ".join([figure, *failed[:3]]))


def transfer(lab: Lab, family: int, say: Say) -> Proof:
    """1 GB from a pod to a pod of another node."""
    say(f"kube1/web -> kube2/db  {TRANSFER_BYTES >> 20} MiB by TCP over IPv{family}")
    got = measure.transfer(lab, "kube1/web", "kube2/db", address(lab, "kube2/db", family), TRANSFER_BYTES)
    verdict = "equal" if got["intact"] else "DIFFERS"
    figure = f"{got['mbit_s']:.0f} Mbit/s, sha256 {got['sha256'][:12]}... {verdict}"
    return Proof(f"1 GB by TCP over IPv{family}, encrypted", got["intact"], figure)


def policy(lab: Lab, say: Say) -> Proof:
    """A policy lets web speak to db on one port: the port next to it, and others, are dropped by name."""
    document = {
        "name": POLICY,
        "select": "app=db",
        "ingress": [{"from": ["app=web"], "ports": [f"tcp/{POLICY_PORT}"]}],
    }
    with _policy(lab, document):
        before = _drops(lab, "kube2")
        allowed = _connects(lab, "kube1/web", POLICY_PORT)
        refused = [_connects(lab, "kube1/web", OTHER_PORT), _connects(lab, "kube1/client", POLICY_PORT)]
        dropped = _drops(lab, "kube2") - before
    say(
        f"web -> db:{POLICY_PORT} {_word(allowed)}; web -> db:{OTHER_PORT} {_word(refused[0])};"
        f" client -> db:{POLICY_PORT} {_word(refused[1])}"
    )
    after = _connects(lab, "kube1/client", OTHER_PORT)
    holds = allowed and not any(refused) and dropped > 0 and after
    return Proof(
        "a policy takes effect, and its end too", holds, f"{dropped} packets dropped as policy_ingress"
    )


def outage(lab: Lab, say: Say) -> Proof:
    """Every agent killed and etcd stopped under a stream, then both back."""
    nodes = [node.name for node in lab.topology.nodes]
    sink = "kube2/db"
    with measure.stream(lab, "kube1/web", sink, address(lab, sink)) as stream:
        time.sleep(BEFORE_S)
        say("stopping etcd, killing every agent with SIGKILL")
        etcd.stop_etcd(lab)
        for node in nodes:
            agents.kill_agent(lab, node, signal.SIGKILL)
        time.sleep(AFTER_S)
        say("starting the agents while etcd is away")
        for node in nodes:
            agents.start_agent(lab, node)
        for node in nodes:
            agents.wait_ready(lab, node)
        say("starting etcd")
        etcd.start_etcd(lab)
        got = stream.result()
    _until(
        "the agents see etcd again", lambda: all(_status(lab, node)["store"]["connected"] for node in nodes)
    )
    figure = f"{got['lost']} of {got['sent']} packets lost, longest silence {got['silence_ms']:.0f} ms"
    return Proof("agents killed and etcd stopped: nothing lost", got["lost"] == 0, figure)


def paced(topology: Topology) -> Topology:
    """The same lab with probes so fast that a cut costs as little as it can."""
    return replace(topology, probe=replace(topology.probe, interval_ms=PROBE_MS))


def cut(lab: Lab, say: Say) -> Iterator[Proof]:
    """A silent cut of the uplink that carries the traffic; the carrier stays up."""
    node, uplink = "kube1", "up0"
    sink = "kube2/db"
    with measure.stream(lab, "kube1/web", sink, address(lab, sink)) as stream:
        time.sleep(BEFORE_S)
        say(f"cutting {uplink} of {node}, carrier stays up")
        underlay.cut(lab, node, uplink)
        try:
            time.sleep(AFTER_S)
            got = stream.result()
        finally:
            underlay.heal(lab, node, uplink)
    holds = got["silence_ms"] < CUT_LIMIT_MS and got["heard"] > 0
    silence, lost = f"{got['silence_ms']:.0f} ms", f"{got['lost']} of {got['sent']}"
    pace = f"probed each {lab.topology.probe.interval_ms} ms"
    figure = f"{silence} until traffic flowed on the other ({pace}), {lost} packets lost"
    yield Proof("one of two uplinks cut", holds, figure)


def clear(segment: str, seen: Capture, say: Say) -> Proof:
    """What a capture saw of fabric addresses in clear, since before the first proof."""
    counts = seen.counts()
    for packet in seen.in_clear():
        say(f"IN CLEAR on {segment}: {packet}")
    holds = counts.fabric == 0 and counts.encrypted > 0
    figure = (
        f"{counts.fabric} of {counts.total} packets had a fabric address, {counts.encrypted} were WireGuard's"
    )
    return Proof(f"nothing in clear on segment {segment}", holds, figure)


@contextlib.contextmanager
def _policy(lab: Lab, document: Mapping[str, object]) -> Iterator[None]:
    """As an operator would: by the CLI, on a node, waiting until every node has it."""
    _meshfabric(lab, "policy", "apply", "--wait", "-", stdin=yaml.safe_dump(dict(document)))
    try:
        yield
    finally:
        _meshfabric(lab, "policy", "delete", str(document["name"]))
        _until("the policy is gone", lambda: _policies(lab, "kube2") == [])


def _meshfabric(lab: Lab, *arguments: str, stdin: str = "") -> None:
    node = lab.topology.nodes[0].name
    argv = ["env", f"MESHFABRIC_SOCKET={lab.socket(node)}", sys.executable, "-m", "meshfabric", *arguments]
    done = run(lab, node, argv, stdin=stdin)
    if done.returncode:
        raise PermanentError(f"meshfabric {' '.join(arguments)}: {last_line(done.stderr)}")


def _connects(lab: Lab, source: str, port: int) -> bool:
    """Whether a little TCP from `source` reaches db on this port."""
    try:
        got = measure.transfer(lab, source, "kube2/db", address(lab, "kube2/db"), 1, port, connect_s=1.0)
    except TemporaryError:
        return False
    return bool(got["intact"])


def _drops(lab: Lab, node: str) -> int:
    rows = call(lab.socket(node), Ask("drops"))
    return int(next(row["packets"] for row in rows if row["reason"] == "policy_ingress"))


def _policies(lab: Lab, node: str) -> list[str]:
    rows = call(lab.socket(node), Ask("policies"))
    return sorted({row["policy"] for row in rows if not row["policy"].startswith("baseline:")})


def _status(lab: Lab, node: str) -> dict[str, dict[str, object]]:
    status: dict[str, dict[str, object]] = call(lab.socket(node), Ask("status"))
    return status


def _until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TemporaryError(f"waited {DEADLINE_S:.0f} s in vain until {what}")
        time.sleep(POLL_S)


def _word(passes: bool) -> str:
    return "passes" if passes else "dropped"
