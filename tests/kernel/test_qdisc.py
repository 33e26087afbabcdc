"""The queues of uplinks in the real kernel: what it took by itself becomes fq, what an operator set stays."""

import asyncio
import subprocess

import pytest

from meshfabric.kernel import features, links, qdisc
from meshfabric.kernel.features import Feature
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.qdisc import OUR_MQ, ROOT, Decision, Graft, Qdisc, Queues, decide
from meshfabric.model.errors import TemporaryError
from meshfabric.model.plan import Change, FairQueue, Table
from tests.features import requires

UPLINK, CARD = "up0", "card0"
QUEUES = 3
HTB = ("qdisc add dev {dev} root handle 1: htb", "class add dev {dev} parent 1: classid 1:1 htb rate 1gbit")
PRESENT, ABSENT = Feature("fq", True, "here", False), Feature("fq", False, "no such queue", False)


class Uplink:
    """A veth as an uplink, and the target with what it told."""

    def __init__(self, name: str = UPLINK) -> None:
        links.ensure_veth(name, f"{name}-far")
        self._take(name)

    def _take(self, name: str) -> None:
        links.set_up(name)
        found = links.find(name)
        assert found is not None
        self.name, self.index = name, found.index
        self.told: list[tuple[str, str]] = []
        self.wanted = FairQueue(self.index)
        self._lane = Lane("netlink")
        self.paced: list[bool] = []
        self.target = Queues(
            lambda what, detail: self.told.append((what, detail)),
            lambda device, paced: self.paced.append(paced),
            self._lane,
        )

    def tc(self, words: str) -> None:
        """What an operator types."""
        subprocess.run(["tc", *words.format(dev=self.name).split()], check=True)

    def there(self) -> list[Qdisc]:
        return qdisc.observe(self.name, self.index)

    def round(self) -> None:
        """As the loop does: apply what is missing or different."""
        asyncio.run(self._round(None))

    def differs(self) -> bool:
        """Whether a drift check would find anything."""
        return asyncio.run(self._seen()) != {self.name: self.wanted}

    def forget(self) -> None:
        """The uplink is not to be ours any more."""
        asyncio.run(self._round(Change(Table.QUEUES, self.name, None, self.wanted)))

    def close(self) -> None:
        self._lane.close()

    async def _round(self, change: Change | None) -> None:
        wish = Change(Table.QUEUES, self.name, self.wanted)
        if change or await self._seen() != {self.name: self.wanted}:
            await self.target.apply([change or wish])

    async def _seen(self) -> dict[str, FairQueue]:
        return dict(await self.target.observe(Table.QUEUES))


class Card(Uplink):
    """The same with several queues, as network cards have them."""

    def __init__(self) -> None:
        queues = f"numtxqueues {QUEUES} numrxqueues {QUEUES}"
        command = f"ip link add {CARD} {queues} type veth peer name far0 {queues}"
        subprocess.run(command.split(), check=True)
        self._take(CARD)


def kinds(there: list[Qdisc]) -> list[tuple[str, int]]:
    return [(one.kind, one.parent) for one in there]


def test_a_device_that_is_down_shows_no_queue() -> None:
    links.ensure_veth(UPLINK, "far0")
    found = links.find(UPLINK)
    assert found is not None
    assert qdisc.observe(UPLINK, found.index) == []


def test_a_veth_has_none_that_anybody_chose() -> None:
    uplink = Uplink()
    assert uplink.there() == [Qdisc("noqueue", 0, ROOT)]
    uplink.tc("qdisc add dev {dev} clsact")
    assert uplink.there() == [Qdisc("noqueue", 0, ROOT)]
    uplink.close()


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (HTB, "htb 1:"),
        (("qdisc add dev {dev} root handle 7: pfifo limit 100",), "pfifo 7:"),
        (("qdisc add dev {dev} root handle 2: tbf rate 1gbit burst 64k latency 50ms",), "tbf 2:"),
    ],
)
def test_what_an_operator_set_is_left_alone_and_told_once(
    words: tuple[str, ...], kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "fq", lambda: PRESENT)
    uplink = Uplink()
    for each in words:
        uplink.tc(each)
    before = uplink.there()
    for _ in range(3):
        uplink.round()
    assert not uplink.differs()
    assert uplink.there() == before
    assert uplink.told == [("queue left alone", f"{UPLINK}: an operator set {kept}, so there is no fq")]
    assert uplink.paced == []
    uplink.close()


def test_a_kernel_without_fq_is_told_of_once_and_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "fq", lambda: ABSENT)
    uplink = Uplink()
    before = uplink.there()
    for _ in range(3):
        uplink.round()
    assert not uplink.differs()
    assert uplink.there() == before
    assert uplink.told == [("no fq", "the uplinks' queues stay as they are: no such queue")]
    assert uplink.paced == []
    uplink.close()


def test_a_device_that_is_gone_is_named() -> None:
    with pytest.raises(TemporaryError, match="device up0: cannot set the queue pfifo_fast: No such device"):
        qdisc.graft(UPLINK, 99, [Graft("pfifo_fast", ROOT)])
    assert qdisc.observe(UPLINK, 99) == []


def test_queues_are_grafted_under_the_leaves_of_a_card() -> None:
    """By the same calls as fq, with a kind that every kernel has."""
    card = Card()
    assert kinds(card.there()) == [("noqueue", ROOT)]
    leaves = [Graft("pfifo_fast", OUR_MQ | number) for number in range(1, QUEUES + 1)]
    qdisc.graft(CARD, card.index, [Graft("mq", ROOT, OUR_MQ), *leaves])
    there = card.there()
    assert kinds(there) == [("mq", ROOT), *(("pfifo_fast", leaf.parent) for leaf in leaves)]
    assert there[0].handle == OUR_MQ
    assert all(one.handle for one in there[1:])
    card.close()


@requires("fq")
def test_what_the_kernel_took_by_itself_becomes_fq() -> None:
    uplink = Uplink()
    uplink.round()
    assert kinds(uplink.there()) == [("fq", ROOT)]
    assert uplink.told == [("queue set", f"{UPLINK}: fq instead of noqueue 0:")]
    made = uplink.there()
    uplink.round()
    assert not uplink.differs()
    assert uplink.there() == made
    assert uplink.paced == [True]
    uplink.forget()
    assert uplink.paced == [True, False]
    uplink.close()


@requires("fq")
def test_fq_of_somebody_else_is_adopted() -> None:
    uplink = Uplink()
    uplink.tc("qdisc add dev {dev} root handle 5: fq limit 5000")
    uplink.round()
    assert uplink.there() == [Qdisc("fq", 0x50000, ROOT)]
    assert (uplink.told, uplink.paced) == ([], [True])
    uplink.close()


@requires("fq")
def test_a_queue_that_went_is_set_again_and_one_that_an_operator_sets_stays() -> None:
    uplink = Uplink()
    uplink.round()
    uplink.tc("qdisc delete dev {dev} root")
    assert uplink.differs()
    uplink.round()
    assert kinds(uplink.there()) == [("fq", ROOT)]
    uplink.tc("qdisc replace dev {dev} root handle 1: htb")
    assert not uplink.differs()
    assert [what for what, _ in uplink.told] == ["queue set", "queue set", "queue left alone"]
    uplink.close()


@requires("fq")
def test_fq_stays_where_it_is_not_wanted_any_more() -> None:
    uplink = Uplink()
    uplink.round()
    made = uplink.there()
    uplink.forget()
    assert uplink.there() == made
    uplink.close()


@requires("fq")
def test_every_queue_of_a_card_becomes_fq() -> None:
    card = Card()
    qdisc.graft(CARD, card.index, [Graft("mq", ROOT, OUR_MQ)])
    assert {one.kind for one in card.there()} > {"mq"}
    card.round()
    assert kinds(card.there()) == [
        ("mq", ROOT),
        *(("fq", OUR_MQ | number) for number in range(1, QUEUES + 1)),
    ]
    assert decide(card.there()) == Decision()
    card.tc("qdisc replace dev {dev} parent 4d46:2 handle 9: pfifo")
    assert not card.differs()
    assert ("queue left alone", f"{CARD}: an operator set pfifo 9:, so there is no fq") in card.told
    card.close()
