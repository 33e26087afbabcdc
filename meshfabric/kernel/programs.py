"""The plan's `programs` table: which program sees a device's packets, and the device up only then.

On a netkit pair `from_workload` runs as its twin for the place where it then is: in
the midst of the pod's sending, where a packet cannot go on into another pod at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from meshfabric.kernel import links
from meshfabric.kernel.attach import attach, attached, detach, pin_name, pinned_at
from meshfabric.kernel.bpf import Direction, Program
from meshfabric.kernel.bpf_link import is_netkit
from meshfabric.kernel.lane import Lane
from meshfabric.model.plan import Attachment, Change, Key, Table, Value

DIRECTIONS = {"ingress": Direction.INGRESS, "egress": Direction.EGRESS}
OF_AN_EARLIER_RUN = Attachment("", 0)  # differs from all that is wanted: its program is replaced
UPLINK_PROGRAMS = ("from_uplink", "to_uplink")
ON_NETKIT = {"from_workload": "from_netkit"}


class Programs:
    """A target of the reconcile loop; runs in the lane of netlink, since it sets devices up."""

    tables = (Table.PROGRAMS,)

    def __init__(self, programs: Mapping[str, Program], pins: Path, lane: Lane) -> None:
        self._programs, self._pins, self._lane = programs, pins, lane
        self._ours: dict[str, tuple[Key, Attachment]] = {}

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """What this run attached, and what is pinned from an earlier one."""
        return await self._lane.run(self._observe)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Attach, replace or detach; then set up what carries its programs."""
        await self._lane.run(self._apply, changes)

    def _observe(self) -> list[tuple[Key, Value]]:
        found: list[tuple[Key, Value]] = []
        for name, link in attached(self._pins).items():
            device, direction = pinned_at(name)
            key, ours = self._ours.get(name, ((device, direction.name.lower()), OF_AN_EARLIER_RUN))
            found.append((key, ours if ours.ifindex == link.ifindex else OF_AN_EARLIER_RUN))
        return found

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in sorted(changes, key=_enters, reverse=True):
            device, direction = change.key
            self._one(device, DIRECTIONS[direction], change)
        for device in {change.key[0]: None for change in changes if _guards(change)}:
            links.set_up(device)

    def _one(self, device: str, direction: Direction, change: Change) -> None:
        name = pin_name(device, direction)
        if change.value is None:
            detach(self._pins / name)
            self._ours.pop(name, None)
        else:
            attach(self._program(change.value), change.value.ifindex, direction, self._pins / name)
            self._ours[name] = (change.key, change.value)

    def _program(self, wanted: Attachment) -> Program:
        name = wanted.program
        return self._programs[ON_NETKIT.get(name, name) if is_netkit(wanted.ifindex) else name]


def _enters(change: Change) -> bool:
    """First where packets come in: the same build's programs where they go out may want what these write."""
    return DIRECTIONS[change.key[1]] is Direction.INGRESS


def _guards(change: Change) -> bool:
    """Uplinks are the operator's to set up, and others' to use."""
    return change.value is not None and change.value.program not in UPLINK_PROGRAMS
