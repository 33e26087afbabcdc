"""What is done to the queues of an uplink, decided from what is there."""

import pytest

from meshfabric.kernel.qdisc import OUR_MQ, ROOT, Decision, Graft, Qdisc, decide, is_paced

HTB = Qdisc("htb", 0x10000, ROOT)
CAKE = Qdisc("cake", 0x80010000, ROOT)


def mq(handle: int, *leaves: str, leaf_handle: int = 0) -> list[Qdisc]:
    """A network card of several queues."""
    return [
        Qdisc("mq", handle, ROOT),
        *(Qdisc(kind, leaf_handle and leaf_handle + i, handle | i) for i, kind in enumerate(leaves, 1)),
    ]


@pytest.mark.parametrize("kind", ["noqueue", "pfifo_fast", "fq_codel"])
def test_what_the_kernel_took_by_itself_becomes_fq(kind: str) -> None:
    assert decide([Qdisc(kind, 0, ROOT)]) == Decision((Graft("fq", ROOT),))


@pytest.mark.parametrize("handle", [0, 0x80010000])
def test_fq_is_adopted_whoever_made_it(handle: int) -> None:
    assert decide([Qdisc("fq", handle, ROOT)]) == Decision()


@pytest.mark.parametrize(
    "one",
    [
        HTB,
        CAKE,
        Qdisc("cake", 0, ROOT),  # net.core.default_qdisc: an operator's word, too
        Qdisc("pfifo_fast", 0x10000, ROOT),
        Qdisc("fq_codel", 0x80020000, ROOT),
        Qdisc("netem", 0x80020000, ROOT),
    ],
)
def test_what_an_operator_set_is_left_alone_and_told(one: Qdisc) -> None:
    assert decide([one]) == Decision(kept=(one,))


def test_what_is_below_an_operators_queue_is_no_business_of_ours() -> None:
    assert decide([HTB, Qdisc("fq_codel", 0, 0x10010), Qdisc("fq", 0x20000, 0x10020)]) == Decision(
        kept=(HTB,)
    )


def test_a_device_without_queues_is_let_be() -> None:
    """As one that is down: it has none to be seen."""
    assert decide([]) == Decision()


def test_every_leaf_of_mq_becomes_fq_under_a_handle() -> None:
    assert decide(mq(0, "fq_codel", "fq_codel", "pfifo_fast")).grafts == (
        Graft("mq", ROOT, OUR_MQ),
        Graft("fq", OUR_MQ | 1),
        Graft("fq", OUR_MQ | 2),
        Graft("fq", OUR_MQ | 3),
    )


def test_leaves_of_an_mq_with_a_handle_are_replaced_where_they_are() -> None:
    assert decide(mq(0x10000, "fq_codel", "fq")) == Decision((Graft("fq", 0x10001),))


def test_ours_and_the_systems_fq_under_mq_are_adopted() -> None:
    assert decide(mq(OUR_MQ, "fq", "fq", leaf_handle=0x80010000)) == Decision()
    assert decide(mq(0, "fq", "fq")) == Decision()


def test_an_operators_leaf_under_mq_is_left_alone() -> None:
    cake = Qdisc("cake", 0x80010000, 0x10002)
    there = [*mq(0x10000, "pfifo_fast"), cake]
    assert decide(there) == Decision((Graft("fq", 0x10001),), (cake,))


def test_what_was_decided_needs_no_second_decision() -> None:
    """Whatever is there: with the grafts made, there is nothing to do."""
    for there in ([Qdisc("noqueue", 0, ROOT)], mq(0, "fq_codel", "fq_codel"), mq(0x10000, "pfifo_fast")):
        after = {one.parent: one for one in there}
        for i, graft in enumerate(decide(there).grafts):
            if graft.kind == "mq":
                after = {}
            after[graft.parent] = Qdisc(graft.kind, graft.handle or 0x80010000 + (i << 16), graft.parent)
        assert decide(list(after.values())) == Decision()


@pytest.mark.parametrize(
    ("there", "paced"),
    [
        ([Qdisc("fq", 0x10000, ROOT)], True),
        (mq(OUR_MQ, "fq", "fq"), True),
        (mq(OUR_MQ, "fq", "fq_codel"), False),
        ([*mq(0x10000, "fq"), Qdisc("cake", 0x80010000, 0x10002)], False),
        ([Qdisc("noqueue", 0, ROOT)], False),
        ([HTB, Qdisc("fq", 0x20000, 0x10020)], False),
        ([], False),
    ],
    ids=str,
)
def test_packets_wait_for_their_time_where_all_is_fq(there: list[Qdisc], paced: bool) -> None:
    assert is_paced(there) == paced


def test_queues_are_named_as_tc_names_them() -> None:
    assert (str(HTB), str(CAKE), str(Qdisc("noqueue", 0, ROOT))) == ("htb 1:", "cake 8001:", "noqueue 0:")
