"""The plan's `queues` table: fq on the uplinks, so that packets leave when their time has come.

    what is there                            what is done
    noqueue, pfifo_fast, fq_codel, no handle   fq as the root
    mq, no handle                              mq with our handle, fq under each of its leaves
    mq of somebody's                           fq under each leaf that the kernel filled by itself
    fq, whoever made it                        adopted
    anything else                              an operator's: left alone, and told

A queue without a handle is what the kernel took by itself. fq keeps the bandwidth
fair between flows and holds a packet back until `skb->tstamp` (EDT, Linux 4.20),
on which pacing relies. What was set stays when the agent ends or is told `qdisc:
keep`: an uplink without it would be no better.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from meshfabric.kernel import features, rtnl
from meshfabric.kernel.lane import Lane
from meshfabric.model.plan import Change, FairQueue, Key, Table, Value

FQ, MQ = "fq", "mq"
TAKEN_BY_THE_KERNEL = frozenset({"noqueue", "pfifo_fast", "fq_codel"})
"""Kinds of queues that are as good as none, if they have no handle."""
ROOT = 0xFFFFFFFF
MAJOR = 0xFFFF0000
INGRESS = 0xFFFF0000
OUR_MQ = 0x4D460000
"""The handle that we give to mq: leaves of one without cannot be named."""
OTHERWISE = FairQueue(0)  # differs from all that is wanted

Tell = Callable[[str, str], None]
Pace = Callable[[str, bool], None]


class Qdisc(NamedTuple):
    """A queue of a device; `handle` is 0 where the kernel made it by itself, `parent` ROOT or a class."""

    kind: str
    handle: int
    parent: int

    def __str__(self) -> str:
        """As tc shows it: `htb 1:`."""
        return f"{self.kind} {self.handle >> 16:x}:"


class Graft(NamedTuple):
    """One thing to do: this kind at that parent; a `handle` of 0 lets the kernel choose."""

    kind: str
    parent: int
    handle: int = 0


class Decision(NamedTuple):
    """What is to be done to a device, in order, and what of an operator's is left alone."""

    grafts: tuple[Graft, ...] = ()
    kept: tuple[Qdisc, ...] = ()


def decide(there: Sequence[Qdisc]) -> Decision:
    """How the queues of a device come to be fq; nothing of a device that has none (it is down)."""
    root = next((one for one in there if one.parent == ROOT), None)
    if root is None:
        return Decision()
    if root.kind == MQ:
        return _decide_leaves(root, there)
    return _decide_one(root)


def is_paced(there: Sequence[Qdisc]) -> bool:
    """Whether every packet leaves the device when its time has come: by fq alone."""
    return bool(there) and decide(there) == Decision()


def observe(device: str, ifindex: int) -> list[Qdisc]:
    """The queues that packets leave the device by, its root first."""
    with rtnl.session(f"device {device}", "list its queues") as route:
        found = [_qdisc(message) for message in route.get_qdiscs() if message["index"] == ifindex]
    leaving = [one for one in found if one.parent == ROOT or one.parent & MAJOR != INGRESS]
    return sorted(leaving, key=lambda one: (one.parent != ROOT, one.parent))


def graft(device: str, ifindex: int, wanted: Iterable[Graft]) -> None:
    """Put these queues where they belong, in order; packets in those that they replace are lost."""
    for one in wanted:
        with rtnl.session(f"device {device}", f"set the queue {one.kind}") as route:
            route.tc("modules").setdefault(one.kind, _Plain)
            route.tc("replace", one.kind, index=ifindex, handle=one.handle, parent=one.parent)


class Queues:
    """A target of the reconcile loop; `tell` notes an event, `pace` takes in whether packets leave a device
    when their time has come, first and whenever that changes.
    """

    tables = (Table.QUEUES,)

    def __init__(self, tell: Tell, pace: Pace, lane: Lane) -> None:
        self._tell, self._pace, self._lane = tell, pace, lane
        self._paced: dict[str, bool] = {}
        self._wanted: dict[str, FairQueue] = {}
        self._told: dict[str, str] = {}
        self._lacking: bool | None = None

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """The uplinks that this run was told of: as wanted where there is nothing to do."""
        return [(device, await self._seen(device, wanted)) for device, wanted in self._wanted.items()]

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the queues of these devices fq where they may be; one that is not wanted stays as it is."""
        for change in changes:
            if change.value is None:
                self._wanted.pop(change.key, None)
                self._note_paced(change.key, False)
                continue
            self._wanted[change.key] = change.value
            if not await self._lacks():
                await self._make(change.key, change.value.ifindex)

    async def _seen(self, device: str, wanted: FairQueue) -> FairQueue:
        if await self._lacks():
            return wanted
        there = await self._lane.run(observe, device, wanted.ifindex)
        decision = decide(there)
        self._tell_kept(device, decision)
        self._note_paced(device, is_paced(there))
        return OTHERWISE if decision.grafts else wanted

    async def _make(self, device: str, ifindex: int) -> None:
        there = await self._lane.run(observe, device, ifindex)
        decision = decide(there)
        self._tell_kept(device, decision)
        if decision.grafts:
            await self._lane.run(graft, device, ifindex, decision.grafts)
            self._tell("queue set", f"{device}: fq instead of {there[0]}")
            there = await self._lane.run(observe, device, ifindex)
        self._note_paced(device, is_paced(there))

    def _note_paced(self, device: str, paced: bool) -> None:
        if self._paced.get(device, False) != paced:
            self._paced[device] = paced
            self._pace(device, paced)

    def _tell_kept(self, device: str, decision: Decision) -> None:
        kept = ", ".join(map(str, decision.kept))
        if kept != self._told.get(device, ""):
            self._told[device] = kept
            if kept:
                self._tell("queue left alone", f"{device}: an operator set {kept}, so there is no fq")

    async def _lacks(self) -> bool:
        """Whether the kernel has no fq; found out once, and told."""
        if self._lacking is None:
            fq = await self._lane.run(features.fq)
            self._lacking = not fq.present
            if self._lacking:
                self._tell("no fq", f"the uplinks' queues stay as they are: {fq.detail}")
        return self._lacking


class _Plain:
    """What pyroute2 has to know of a kind of queue that is made without options: where it goes."""

    parent = ROOT


def _decide_one(one: Qdisc) -> Decision:
    if one.kind == FQ:
        return Decision()
    if one.handle == 0 and one.kind in TAKEN_BY_THE_KERNEL:
        return Decision((Graft(FQ, one.parent),))
    return Decision(kept=(one,))


def _decide_leaves(root: Qdisc, there: Sequence[Qdisc]) -> Decision:
    """Each leaf for itself; leaves of an mq without a handle get one that has."""
    leaves = [one for one in there if one.parent != ROOT and one.parent & MAJOR == root.handle]
    each = [_decide_one(leaf) for leaf in leaves]
    kept = tuple(one for decision in each for one in decision.kept)
    grafts = tuple(one for decision in each for one in decision.grafts)
    if root.handle or not grafts:
        return Decision(grafts, kept)
    return Decision(tuple(_with_a_handle(grafts)), kept)


def _with_a_handle(grafts: Iterable[Graft]) -> Iterator[Graft]:
    yield Graft(MQ, ROOT, OUR_MQ)
    for one in grafts:
        yield one._replace(parent=OUR_MQ | one.parent)


def _qdisc(message: Any) -> Qdisc:
    return Qdisc(message.get_attr("TCA_KIND"), message["handle"], message["parent"])
