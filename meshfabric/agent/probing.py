"""Who probes: the kernel, as long as its token is seen to come round, else the agent itself."""

from collections.abc import Callable, Coroutine
from typing import Any

from meshfabric.agent.readings import Readings
from meshfabric.model.names import loop_devices
from meshfabric.model.plan import Table
from meshfabric.model.settings import Settings
from meshfabric.probe.prober import Prober, Target
from meshfabric.probe.starter import Starter
from meshfabric.reconcile.loop import Loop

Note = Callable[[str, str], None]


class Probing:
    """The prober and the starter, of which one works at a time; `aim` when the plan may have changed."""

    def __init__(self, settings: Settings, loop: Loop, readings: Readings, note: Note) -> None:
        self._loop, self._readings, self._note = loop, readings, note
        self._device, _ = loop_devices(settings.datapath.prefix)
        self._prober = Prober(settings.probe.interval_ms)
        self._starter = Starter(settings.probe.idle_ms, self._into, self._ticks, self._tell)

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """To be run until cancelled."""
        return [self._prober.run(), self._starter.run()]

    def aim(self) -> None:
        """Let the prober ask anew what is to be probed by it."""
        self._prober.aim(self._targets)

    def _into(self) -> str:
        """Where the token is begun, once the whole of its loop is in force."""
        planned = any(True for _ in self._loop.plan.entries(Table.LOOP))
        return self._device if planned and self._loop.in_force else ""

    def _ticks(self) -> int:
        return self._readings.token().ticks

    def _targets(self) -> list[Target]:
        """Nothing where the kernel does it."""
        return [] if self._starter.works else self._readings.probe_targets()

    def _tell(self) -> None:
        if self._starter.works:
            self._note("probes by the kernel", "they go on without the agent")
        else:
            self._note("probes by the agent", "the token of the kernel's own does not come round")
        self.aim()
