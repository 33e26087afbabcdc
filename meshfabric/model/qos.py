"""Traffic classes, as checked values; `classtext` owns the documents that people write.

A packet's class is that of the workload that sends it: of the classes whose
selector it meets and that match the packet, the first in this order (`in_order`):
those with `matches` before those without, then the higher priority, then the name.
A workload that no class selects sends in `default`.

Four classes are always there. A document of the same name takes the place of one of
them, whose number it keeps.
"""

from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec

from meshfabric.model.labels import Labels, Selector, matches, parse_selector
from meshfabric.model.ports import Ports

DEFAULT, CONTROL, INTERACTIVE, BULK = "default", "control", "interactive", "bulk"
CLASS_LABEL = "traffic-class"
"""By which a workload chooses a class that says nothing else."""
LAST_PRIORITY = 7
FIRST_OWN_NUMBER, LAST_NUMBER = 4, 15
"""Numbers of classes that documents make: four bits cross the encryption."""
MAX_OWN = LAST_NUMBER - FIRST_OWN_NUMBER + 1


class Prefer(Enum):
    """Which of the paths that are sound a class takes: the agent's order, or the shortest round trip."""

    CHEAPEST = "cheapest"
    FASTEST = "fastest"


class Match(msgspec.Struct, frozen=True):
    """Packets of conversations with a server's end on any of the ports (None: any), with any of these DSCPs
    (None: any).
    """

    ports: tuple[Ports, ...] | None = None
    dscp: tuple[int, ...] | None = None


class Tcp(msgspec.Struct, frozen=True):
    """What the TCP sockets of a class are told; "" and 0: nothing. `initial_window` in segments,
    `window_clamp` in bytes.
    """

    congestion_control: str = ""
    initial_window: int = 0
    window_clamp: int = 0


class TrafficClass(msgspec.Struct, frozen=True):
    """A checked document. Rates in bit/s, 0: none is set; `select` None: no workload's, but the fabric's own.

    `guaranteed` and `most` are of each uplink of a node, of all of its workloads together; `egress` and
    `ingress` are the most of each workload alone, wherever it speaks. `rtt_ms` and `loss_percent`, 0: the
    node's own limits hold.
    """

    name: str
    select: Selector | None
    matches: tuple[Match, ...] = ()
    priority: int = 3
    dscp: int = 0
    guaranteed: int = 0
    most: int = 0
    egress: int = 0
    ingress: int = 0
    prefer: Prefer = Prefer.CHEAPEST
    rtt_ms: float = 0.0
    loss_percent: float = 0.0
    tcp: Tcp = Tcp()


def chosen(name: str) -> Selector:
    """Those who choose a class by their label."""
    return parse_selector({CLASS_LABEL: name})


NUMBERS = {DEFAULT: 0, CONTROL: 1, INTERACTIVE: 2, BULK: 3}
BUILT_IN = {
    one.name: one
    for one in (
        TrafficClass(DEFAULT, chosen(DEFAULT)),
        TrafficClass(CONTROL, None, priority=LAST_PRIORITY, dscp=48),  # CS6 (RFC 4594); the fabric's own
        TrafficClass(INTERACTIVE, chosen(INTERACTIVE), priority=5, dscp=34, prefer=Prefer.FASTEST),  # AF41
        TrafficClass(BULK, chosen(BULK), priority=1, dscp=8),  # CS1 (RFC 3662)
    )
}


def all_classes(documents: Mapping[str, TrafficClass]) -> dict[str, TrafficClass]:
    """The built-in ones and those of documents, which may take their place."""
    return BUILT_IN | dict(documents)


def in_order(classes: Iterable[TrafficClass]) -> list[TrafficClass]:
    """As they are asked about a packet: the first that selects its sender and matches it is its class."""
    return sorted(classes, key=lambda one: (not one.matches, -one.priority, one.name))


def selects(one: TrafficClass, labels: Labels) -> bool:
    """Whether all or some of what a workload sends is in the class."""
    return one.select is not None and matches(one.select, labels)


def base_class(classes: Iterable[TrafficClass], labels: Labels) -> str:
    """The name of the class of all that a workload sends but what another's `matches` take."""
    whole = (one for one in in_order(classes) if not one.matches)
    return next((one.name for one in whole if selects(one, labels)), DEFAULT)
