"""What must not change by a restart: numbers that pinned maps hold, and workloads that run on.

    numbers.json     identities, nodes, workloads and classes by number (`World.pin`)
    workloads.json   what is attached to this node, so that a restart adopts it

Both are small; a file that is broken, or an entry that makes no sense, is left
out with a warning, and what it told is found out or chosen anew.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from meshfabric.model.addresses import Address, parse_address
from meshfabric.model.errors import InputError
from meshfabric.model.labels import Labels, make_labels
from meshfabric.model.names import IFNAMSIZ, NAME, WORKLOAD
from meshfabric.model.portnames import port_labels
from meshfabric.model.qos import FIRST_OWN_NUMBER, LAST_NUMBER
from meshfabric.model.tables import FIRST_NODE, WORLD
from meshfabric.model.world import FIRST_IDENTITY, LAST_IDENTITY, World
from meshfabric.store.files import warn, write_whole
from meshfabric.store.rights import KINDS

VERSION = 1
NUMBERS_LOST = "new numbers are given, and running flows are judged again"
WORKLOADS_LOST = "workloads that run have to be attached again"

_File = TypeVar("_File", "_NumbersFile", "_WorkloadsFile")
_Key = TypeVar("_Key", bound=Hashable)


class Pinned(NamedTuple):
    """The numbers of an earlier run: `world.pin(*pinned)`."""

    identities: list[tuple[Labels, int]]
    nodes: list[tuple[str, int]]
    workloads: list[tuple[str, int]]
    classes: list[tuple[str, int]]


class AttachedWorkload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A workload as it was attached, whether or not its device is there now.

    `labels` and `ports` as given, without the fabric's own; `addresses` without length;
    `device` the node's side, `inner` the name in the pod's namespace `netns`
    (both empty for a VM); `number` 0 where the world's pinned one is meant.
    """

    name: str
    kind: str
    labels: dict[str, str]
    addresses: tuple[str, ...]
    device: str
    mac: str
    netns: str = ""
    inner: str = ""
    number: int = 0
    ports: dict[str, str] = {}


class _NumbersFile(msgspec.Struct):
    version: int
    identities: list[tuple[dict[str, str], int]] = []
    nodes: dict[str, int] = {}
    workloads: dict[str, int] = {}
    classes: dict[str, int] = {}


class _WorkloadsFile(msgspec.Struct):
    version: int
    workloads: list[AttachedWorkload] = []


def save_numbers(path: Path, world: World) -> None:
    """Write down every number given out; raises `TemporaryError`."""
    file = _NumbersFile(
        VERSION,
        [(dict(labels), number) for labels, number in world.identities.items()],  # type: ignore[call-overload]  # label sets are pairs
        *(
            {str(name): number for name, number in numbers.items()}
            for numbers in (world.node_numbers, world.workload_numbers, world.class_numbers)
        ),
    )
    write_whole(path, [msgspec.json.encode(file)])


def load_numbers(path: Path) -> Pinned:
    """The numbers of an earlier run; nothing if there was none, warnings for what makes no sense."""
    file = _read(path, _NumbersFile, NUMBERS_LOST)
    if file is None:
        return Pinned([], [], [], [])
    identities = [
        (labels, number) for pairs, number in file.identities if (labels := _labels(pairs)) is not None
    ]
    pinned = Pinned(
        _sound(identities, FIRST_IDENTITY, LAST_IDENTITY),
        _sound(_named(file.nodes, NAME), FIRST_NODE, WORLD - 1),
        _sound(_named(file.workloads, WORKLOAD), 1, FIRST_NODE - 1),
        _sound(_named(file.classes, NAME), FIRST_OWN_NUMBER, LAST_NUMBER),
    )
    given = len(file.identities) + len(file.nodes) + len(file.workloads) + len(file.classes)
    lost = given - sum(len(taken) for taken in pinned)
    if lost:
        warn(path, f"{lost} entries make no sense", NUMBERS_LOST)
    return pinned


def save_workloads(path: Path, workloads: Iterable[AttachedWorkload]) -> None:
    """Write down what is attached; raises `TemporaryError`."""
    write_whole(path, [msgspec.json.encode(_WorkloadsFile(VERSION, list(workloads)))])


def load_workloads(path: Path) -> list[AttachedWorkload]:
    """What was attached; nothing if nothing was, warnings for what makes no sense."""
    file = _read(path, _WorkloadsFile, WORKLOADS_LOST)
    found: dict[str, AttachedWorkload] = {}
    for workload in file.workloads if file else ():
        fault = _fault(workload, found.values())
        if fault:
            warn(path, f"workload {workload.name!r}: {fault}", "it has to be attached again")
        else:
            found[workload.name] = workload
    return list(found.values())


def _fault(workload: AttachedWorkload, others: Iterable[AttachedWorkload]) -> str:
    """What is wrong with an entry; nothing if it can be adopted."""
    if not WORKLOAD.fullmatch(workload.name) or workload.kind not in KINDS:
        return "no valid name or kind"
    if not 0 < len(workload.device) <= IFNAMSIZ or len(workload.inner) > IFNAMSIZ:
        return f"no device is called {workload.device!r} or {workload.inner!r}"
    if _labels(workload.labels) is None:
        return "no valid labels"
    try:
        port_labels(workload.ports)
        addresses = set(map(parse_address, workload.addresses))
    except InputError as cause:
        return str(cause)
    for other in others:
        if other.name == workload.name or other.device == workload.device:
            return f"{other.name!r} has its name or device"
        if addresses & _addresses(other):
            return f"{other.name!r} has its address"
    return ""


def _addresses(workload: AttachedWorkload) -> set[Address]:
    return set(map(parse_address, workload.addresses))


def _read(path: Path, type: type[_File], then: str) -> _File | None:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=type)
    except FileNotFoundError:
        return None
    except OSError as cause:
        warn(path, f"cannot be read ({cause.strerror})", then)
    except (msgspec.DecodeError, RecursionError, ValueError):
        warn(path, "is damaged", then)
    else:
        if file.version == VERSION:
            return file
        warn(path, f"is of version {file.version}, not {VERSION}", then)
    return None


def _labels(pairs: dict[str, str]) -> Labels | None:
    try:
        return make_labels(pairs)
    except InputError:
        return None


def _named(numbers: dict[str, int], form: re.Pattern[str]) -> list[tuple[str, int]]:
    return [(name, number) for name, number in numbers.items() if form.fullmatch(name)]


def _sound(pairs: list[tuple[_Key, int]], first: int, last: int) -> list[tuple[_Key, int]]:
    """Those within the range whose number and key nobody else has."""
    numbers, keys = _tally(pairs, lambda pair: pair[1]), _tally(pairs, lambda pair: pair[0])
    return [
        (key, number)
        for key, number in pairs
        if first <= number <= last and numbers[number] == 1 and keys[key] == 1
    ]


def _tally(pairs: list[tuple[_Key, int]], of: Callable[[tuple[_Key, int]], Hashable]) -> Counter[Hashable]:
    return Counter(map(of, pairs))
