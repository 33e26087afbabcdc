"""Questions to the agent of this node, over its unix socket."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from meshfabric.api.client import call
from meshfabric.api.messages import Ask
from meshfabric.cli.table import Row
from meshfabric.model.errors import InputError

SOCKET = Path("/run/meshfabric/agent.sock")
SOCKET_VARIABLE = "MESHFABRIC_SOCKET"

Socket = Annotated[
    Path, typer.Option("--socket", envvar=SOCKET_VARIABLE, metavar="PATH", help="The agent's unix socket.")
]
Listing = Literal[
    "nodes",
    "endpoints",
    "paths",
    "switches",
    "uplinks",
    "keys",
    "policies",
    "audits",
    "classes",
    "drops",
    "features",
]


def ask_rows(socket: Path, subject: Listing) -> list[Row]:
    """A listing of the agent."""
    rows: list[Row] = call(socket, Ask(subject))
    return rows


def ask_object(socket: Path, subject: Literal["status", "fabric", "plan"]) -> dict[str, Any]:
    """Something that the agent tells of itself."""
    told: dict[str, Any] = call(socket, Ask(subject))
    return told


def pick(rows: list[Row], key: str, name: str) -> list[Row]:
    """The rows whose `key` is `name`; raises `InputError` that says what there is instead."""
    found = [row for row in rows if row.get(key) == name]
    if not found:
        there = ", ".join(sorted({str(row.get(key)) for row in rows})) or "none"
        raise InputError(f"no {key} {name!r} here", remedy=f"there is: {there}")
    return found
