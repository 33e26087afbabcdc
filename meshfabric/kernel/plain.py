"""The plan's `plain_devices` table: devices of tunnels without encryption, for trusted segments.

That a device exists comes by the link monitor; it is set up only when its programs
are in place (`programs`). It stays when the agent ends, and is adopted by the next one.
"""

from collections.abc import Iterable, Sequence

from meshfabric.kernel import links, vxlan
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.vxlan import VxlanState
from meshfabric.kernel.wireguard import demand_free
from meshfabric.model.names import is_plain_device
from meshfabric.model.plan import Change, Key, PlainDevice, Table, Value


class PlainDevices:
    """A target of the reconcile loop for the devices whose names begin with a fabric's `prefix`."""

    tables = (Table.PLAIN_DEVICES,)

    def __init__(self, prefix: str, lane: Lane) -> None:
        self._prefix, self._lane = prefix, lane
        self._made: dict[str, PlainDevice] = {}

    async def observe(self, table: Table) -> Iterable[tuple[Key, Value]]:
        """What this run made and still is as made; anything else counts as different."""
        states = await self._lane.run(self._states)
        return [(name, self._seen(name, state)) for name, state in states.items()]

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make, change or delete devices."""
        for change in changes:
            name = str(change.key)
            if change.value is None:
                await self._lane.run(links.delete, name)
                self._made.pop(name, None)
            else:
                await self._lane.run(self._ensure, name, change.value)
                self._made[name] = change.value

    def _states(self) -> dict[str, VxlanState]:
        found = vxlan.observe_vxlan()
        return {name: state for name, state in found.items() if is_plain_device(self._prefix, name)}

    def _seen(self, name: str, state: VxlanState) -> Value:
        made = self._made.get(name)
        same = made is not None and state == VxlanState(made.port, made.mtu, ours=True)
        return made if same else ()

    def _ensure(self, name: str, device: PlainDevice) -> None:
        if not any(state.port == device.port for state in self._states().values()):
            demand_free(name, device.port)  # the kernel would say so only when the device is set up
        vxlan.ensure_vxlan(name, device.port, device.vni)
        links.set_mtu(name, device.mtu)
        links.ensure_sysctls(name, links.FABRIC_SYSCTLS)
