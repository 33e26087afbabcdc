"""Names of the store's keys, both ways (pure).

    /meshfabric/v1/<fabric>/state/config
                                  allocations/<node>            written by operators
                                  grants/<node>
                                  policies/<name>
                                  classes/<name>
                                  revoked/<node>
                                  rotation
                                  nodes/<node>                  written by that node
                                  nodes/<node>/alive            (on its lease)
                                  endpoints/<node>/<address>
    /meshfabric/v1/<fabric>/report/<node>                       watched by nobody

What stands in the records is `store.checks`' business. Reading is strict: one
spelling for each name and address, so that no two keys mean the same thing.
"""

from enum import Enum
from typing import NamedTuple

from meshfabric.model.addresses import Address, format_address, parse_address
from meshfabric.model.errors import InputError
from meshfabric.model.names import NAME, check_name

ROOT = "/meshfabric/v1"
ALIVE = "alive"
SHOWN_CHARACTERS = 200
"""Longest piece of somebody's text that is kept or shown."""


class RecordKind(Enum):
    """What a key is about; the value is its folder below `state/`."""

    CONFIG = "config"
    ALLOCATION = "allocations"
    GRANT = "grants"
    REVOKED = "revoked"
    POLICY = "policies"
    CLASS = "classes"
    ROTATION = "rotation"
    NODE = "nodes"
    ALIVE = "nodes/alive"
    ENDPOINT = "endpoints"


SINGLE = (RecordKind.CONFIG, RecordKind.ROTATION)
"""Keys that are a folder's name and no more: there is one of each."""
NAMED = {
    kind.value: kind
    for kind in (
        RecordKind.ALLOCATION,
        RecordKind.GRANT,
        RecordKind.REVOKED,
        RecordKind.POLICY,
        RecordKind.CLASS,
        RecordKind.NODE,
    )
}
"""Folders whose keys are just a name."""
DOCUMENTS = {RecordKind.POLICY: "policy", RecordKind.CLASS: "class"}
"""What people write, and what they call one; other keys begin with a node's name."""


class Located(NamedTuple):
    """A parsed key. `name` is the node, policy or class; `address` only of endpoints."""

    kind: RecordKind
    name: str = ""
    address: Address = b""


class Refusal(NamedTuple):
    """Why a key or record is not taken, in one printable line."""

    why: str


def state_prefix(fabric: str) -> str:
    """What all keys begin with that nodes watch; raises `InputError` for a bad fabric name."""
    return f"{ROOT}/{check_name(fabric, 'fabric')}/state/"


def report_key(fabric: str, node: str) -> str:
    """Where a node tells how it fares."""
    return f"{ROOT}/{check_name(fabric, 'fabric')}/report/{check_name(node, 'node')}"


def listing_ranges(fabric: str) -> tuple[str, ...]:
    """The prefixes to list, together everything below `state/` that is known.

    What others are checked against comes first, so that a listing in this
    order makes nothing wait; any other order ends in the same world.
    """
    state = state_prefix(fabric)
    order = ("config", "rotation", "allocations/", "grants/", "revoked/", "policies/", "classes/")
    return tuple(state + folder for folder in (*order, "nodes/", "endpoints/"))


def config_key(fabric: str) -> str:
    """The key of what the fabric is."""
    return full_key(fabric, Located(RecordKind.CONFIG))


def rotation_key(fabric: str) -> str:
    """The key of the epoch that tunnel keys should be of."""
    return full_key(fabric, Located(RecordKind.ROTATION))


def allocation_key(fabric: str, node: str) -> str:
    """The key of a node's address blocks."""
    return full_key(fabric, Located(RecordKind.ALLOCATION, node))


def grant_key(fabric: str, node: str) -> str:
    """The key of what a node may use."""
    return full_key(fabric, Located(RecordKind.GRANT, node))


def policy_key(fabric: str, name: str) -> str:
    """The key of a policy."""
    return full_key(fabric, Located(RecordKind.POLICY, name))


def revoked_key(fabric: str, node: str) -> str:
    """The key of the tombstone that cuts a node off."""
    return full_key(fabric, Located(RecordKind.REVOKED, node))


def node_key(fabric: str, node: str) -> str:
    """The key of what a node says of itself."""
    return full_key(fabric, Located(RecordKind.NODE, node))


def alive_key(fabric: str, node: str) -> str:
    """The key that hangs on a node's lease."""
    return full_key(fabric, Located(RecordKind.ALIVE, node))


def endpoint_key(fabric: str, node: str, address: Address) -> str:
    """The key of an address in use."""
    return full_key(fabric, Located(RecordKind.ENDPOINT, node, address))


def full_key(fabric: str, located: Located) -> str:
    """The key that parses to `located`; raises `InputError` for a bad name."""
    if located.kind not in SINGLE:
        check_name(located.name, DOCUMENTS.get(located.kind, "node"))
    return state_prefix(fabric) + path_of(located)


def path_of(located: Located) -> str:
    """The key below `state/`, as people meet it."""
    kind, name, address = located
    if kind is RecordKind.ENDPOINT:
        return f"endpoints/{name}/{format_address(address)}"
    if kind is RecordKind.ALIVE:
        return f"nodes/{name}/{ALIVE}"
    return f"{kind.value}/{name}" if name else kind.value


def parse_key(fabric: str, key: bytes | str) -> Located | Refusal:
    """A key as the store has it; `Refusal` for anything that a builder here would not have made."""
    head = f"{ROOT}/{fabric}/state/"
    try:
        text = key.decode() if isinstance(key, bytes) else key
    except UnicodeDecodeError:
        return Refusal("the key is no UTF-8")
    if not text.startswith(head):
        return Refusal(f"the key is not below {head}")
    folder, *names = text[len(head) :].split("/")
    if not names and folder in {kind.value for kind in SINGLE}:
        return Located(RecordKind(folder))
    if not names or not NAME.fullmatch(names[0]):
        return Refusal("the key holds no valid name")
    return _below(folder, names)


def _below(folder: str, names: list[str]) -> Located | Refusal:
    if folder == RecordKind.ENDPOINT.value and len(names) == 2:
        return _endpoint(*names)
    if folder == RecordKind.NODE.value and names[1:] == [ALIVE]:
        return Located(RecordKind.ALIVE, names[0])
    if folder in NAMED and len(names) == 1:
        return Located(NAMED[folder], names[0])
    return Refusal("this agent knows no such key (is it for a newer one?)")


def _endpoint(node: str, text: str) -> Located | Refusal:
    try:
        address = parse_address(text)
    except InputError:
        return Refusal("the key ends in no IP address")
    if format_address(address) != text:
        return Refusal(f"the address in the key is to be written {format_address(address)}")
    return Located(RecordKind.ENDPOINT, node, address)


def printable(text: str) -> str:
    """Somebody's text on one line of bounded length, with nothing that moves a terminal's cursor."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: SHOWN_CHARACTERS + 1])
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}..."
