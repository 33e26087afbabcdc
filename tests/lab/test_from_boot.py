"""From boot to shutdown, whatever happens in between: no wire ever carries a packet of the fabric in clear.

Every node but one is led astray all the time: its routes lead the fabric's prefixes
into the underlay, where whatever was let go would be seen. Hosts and pods speak
without a pause. What each stretch proves, it proves by packets that were held back.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from meshfabric.lab import agents, etcd
from meshfabric.lab.capture import capture
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.guarded import booted, dropped, guard, led_astray, stray
from tests.lab.places import Echo, connects
from tests.lab.store import Store
from tests.lab.whole import address, names, put_in_place, resume, until, wait_ready, wait_whole

pytestmark = requires("capabilities", "nftables")

ASTRAY, AWAY = ("vm1", "metal1", "kube1"), "kube2"
PACKETS = 200
"""At least so many are held back by a node before a stretch counts."""
PAUSE_S = 0.01


def own_addresses(lab: Lab, node: str) -> list[str]:
    """A node's addresses as its blocks have them, whether anybody holds them yet or not."""
    return [str(ip_network(block)[1]) for block in lab.topology.node(node).blocks]


@contextlib.contextmanager
def speaking(lab: Lab) -> Iterator[None]:
    """Every host speaks to every other one, all the time."""
    over = threading.Event()

    def speak() -> None:
        while not over.wait(PAUSE_S):
            for node in ASTRAY:
                for far in names(lab):
                    for to in own_addresses(lab, far) if far != node else ():
                        stray(lab, node, to)

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        yield
    finally:
        over.set()
        speaker.join()


@contextlib.contextmanager
def silence(lab: Lab) -> Iterator[None]:
    """Fails at its end if anything of the fabric was seen in clear, of all that was said meanwhile."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(capture(lab, one.name)) for one in lab.topology.segments]
        yield
        assert [wire.in_clear() for wire in wires if wire.counts().fabric] == []


def wait_held_back(lab: Lab) -> None:
    """Wait until the guard of every node that is led astray has held back some more."""
    before = {node: dropped(lab, node) for node in ASTRAY}
    until(lambda: all(dropped(lab, node) - before[node] > PACKETS for node in ASTRAY))


@pytest.fixture
def lab() -> Iterator[Lab]:
    requires("nftables")
    with booted() as lab:
        yield lab


def works(lab: Lab) -> None:
    """Everything is attached, well, and reaches what is far."""
    for workload in lab.topology.workloads:
        put_in_place(lab, workload)
    wait_whole(lab)
    with Echo(lab, f"{AWAY}/db"):
        assert connects(lab, "kube1/web", address(lab, f"{AWAY}/db"))


def test_nothing_is_ever_in_clear(lab: Lab) -> None:
    store = Store(lab)
    with contextlib.ExitStack() as stack:
        for node in ASTRAY:
            stack.enter_context(led_astray(lab, node))
        stack.enter_context(silence(lab))
        stack.enter_context(speaking(lab))

        wait_held_back(lab)  # nothing but the guard

        etcd.stop_etcd(lab)
        for node in names(lab):
            agents.start_agent(lab, node)
        wait_held_back(lab)  # agents that have not heard from the store

        etcd.start_etcd(lab)
        for node in names(lab):
            wait_ready(lab, node)
        works(lab)

        agents.kill_agent(lab, AWAY)
        gone = {
            key: found for key in ("nodes", "allocations", "grants") if (found := store.get(f"{key}/{AWAY}"))
        }
        for key in gone:
            store.delete(f"{key}/{AWAY}")
        wait_held_back(lab)  # a node that nobody knows any more

        for key, record in gone.items():
            store.put(f"{key}/{AWAY}", record)
        resume(lab, AWAY)
        works(lab)

        for number in (signal.SIGKILL, signal.SIGTERM):
            for node in names(lab):
                agents.kill_agent(lab, node, number)
            wait_held_back(lab)  # no agent anywhere
            for node in names(lab):
                resume(lab, node)
        works(lab)

        for node in names(lab):
            agents.kill_agent(lab, node, signal.SIGTERM)
        wait_held_back(lab)  # the last moments of a node that shuts down


def test_what_is_held_back_would_be_seen(lab: Lab) -> None:
    with contextlib.ExitStack() as stack:
        for node in ASTRAY:
            guard(lab, node, "down")
            stack.enter_context(led_astray(lab, node))
        with capture(lab, "red") as wire, speaking(lab):
            until(lambda: wire.counts().fabric > PACKETS)
