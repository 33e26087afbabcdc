"""The datapath needs no agent: whatever becomes of that, no packet is dropped and nothing forgotten."""

import signal
import time

import pytest

from meshfabric.lab import agents
from meshfabric.lab.state import Lab
from tests.features import requires
from tests.lab.kernel import kept, numbers
from tests.lab.places import ECHO_PORT, SILENCE_S, Echo, connects
from tests.lab.policies import policy
from tests.lab.streams import Flow, flowing
from tests.lab.whole import address, agent, told, until, wait_ready, wait_whole

pytestmark = requires("capabilities")

NODES = ("kube1", "kube2")
FLOWS = (
    Flow("kube1/web", "kube2/db"),
    Flow("kube2/cache", "kube1/client", 6),
    Flow("vm1/guest1", "kube1/web"),
    Flow("kube1", "metal1", 6),
    Flow("metal1", "kube1"),
    Flow("kube1/web", "kube2/db", 4, "tcp"),
    Flow("kube2/db", "kube1/client", 6, "tcp"),
)
ABSENT_S = 1.5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_ends_and_starts_again_loses_nothing(fabric: Lab, number: int) -> None:
    before = {node: (kept(fabric, node), numbers(fabric, node)) for node in NODES}
    with flowing(fabric, *FLOWS) as streams:
        until(streams.all_pass)
        for node in NODES:
            agents.kill_agent(fabric, node, number)
        time.sleep(ABSENT_S)
        for node in NODES:
            agents.start_agent(fabric, node)
        for node in NODES:
            wait_ready(fabric, node)
        wait_whole(fabric)
    streams.assert_nothing_lost()
    assert {node: (kept(fabric, node), numbers(fabric, node)) for node in NODES} == before
    assert [told(fabric, node)["drift_repaired"] for node in NODES] == [0, 0]


def test_an_agent_that_hangs_loses_nothing(fabric: Lab) -> None:
    with flowing(fabric, *FLOWS) as streams:
        until(streams.all_pass)
        for node in NODES:
            agents.kill_agent(fabric, node, signal.SIGSTOP)
        time.sleep(ABSENT_S)
        for node in NODES:
            agents.kill_agent(fabric, node, signal.SIGCONT)
        wait_whole(fabric)
    streams.assert_nothing_lost()


def test_the_same_agent_again_and_again(fabric: Lab) -> None:
    """Killed at whatever point of its start: the next one takes over what there is."""
    before = kept(fabric, "kube1")
    with flowing(fabric, *FLOWS) as streams:
        until(streams.all_pass)
        for moment_s in (0.3, 0.6, 0.9, 1.2):
            agents.kill_agent(fabric, "kube1")
            agents.start_agent(fabric, "kube1")
            time.sleep(moment_s)
        wait_ready(fabric, "kube1")
        wait_whole(fabric)
    streams.assert_nothing_lost()
    assert kept(fabric, "kube1") == before


def test_policies_hold_while_nobody_is_there(fabric: Lab) -> None:
    """New flows too are judged by what the maps say."""
    db = address(fabric, "kube2/db")
    with (
        Echo(fabric, "kube2/db"),
        policy(fabric, "web", "app=db", ingress=[{"from": ["app=web"], "ports": [f"tcp/{ECHO_PORT}"]}]),
    ):
        agents.kill_agent(fabric, "kube2")
        assert connects(fabric, "kube1/web", db)
        assert not connects(fabric, "kube1/client", db, answer_s=SILENCE_S)
        agents.start_agent(fabric, "kube2")
        wait_ready(fabric, "kube2")
        assert connects(fabric, "kube1/web", db)
        assert not connects(fabric, "kube1/client", db, answer_s=SILENCE_S)


def test_a_new_process_is_another_process(fabric: Lab) -> None:
    """What the tests above rest on."""
    before = agent(fabric, "kube1")
    agents.kill_agent(fabric, "kube1")
    assert not before.alive
    assert fabric.process(agents.ROLE, "kube1") is None
    agents.start_agent(fabric, "kube1")
    wait_ready(fabric, "kube1")
    assert agent(fabric, "kube1") != before
