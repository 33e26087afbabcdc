"""`meshfabric uplink`: this node's ways out, and how traffic is moved off one before it is taken down.

The agent of this node takes the order. That the others have followed is read from
what they report to etcd, as `policy apply --wait` does (`orders`, imported only then:
gRPC is slow to import).
"""

import time
from typing import Annotated, Any

import typer

from meshfabric.api.client import TIMEOUT_S, call
from meshfabric.api.messages import Drain, Passing, Undrain
from meshfabric.cli.ask import SOCKET, Socket, ask_object, ask_rows
from meshfabric.cli.output import Format, Output, print_rows, size, working
from meshfabric.cli.reach import Options, find, with_options
from meshfabric.cli.table import Column
from meshfabric.model.errors import TemporaryError

uplink_app = typer.Typer()

WAIT_S = 60
QUIET_BYTES = 512
"""A second, beside probes: those that were under way while it was counted. A flow that sends is more."""


def _names(value: Any) -> str:
    return ", ".join(value or ()) or "nobody"


COLUMNS = (
    Column("uplink", "UPLINK"),
    Column("device", "DEVICE"),
    Column("segment", "SEGMENT", spare=1),
    Column("relay", "RELAY", spare=4),
    Column("state", "STATE", styles={"up": "green", "down": "bold red", "missing": "bold red"}),
    Column("draining", "DRAINING", styles={"yes": "yellow"}),
    Column("addresses", "ADDRESSES", split=", "),
    Column("mtu", "MTU", spare=3, right=True),
    Column("cost", "COST", spare=2, right=True),
    Column("paths", "PATHS"),
    Column("carries", "CARRIES TRAFFIC TO", show=_names),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The uplink's name, as in uplink list.")]
Timeout = Annotated[int, typer.Option(metavar="SECONDS", help="How long to wait.")]


@uplink_app.command("list")
def list_uplinks(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """The uplinks of this node, what is drained of them, and to whom each carries traffic."""
    print_rows(ask_rows(socket, "uplinks"), COLUMNS, output, "uplinks")


@uplink_app.command("drain")
@with_options
def drain_uplink(
    name: Name,
    options: Options,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it is the only way that works to some node.")
    ] = False,
    timeout: Timeout = WAIT_S,
) -> None:
    """Move all traffic off an uplink of this node, both ways, without losing a packet.

    Returns when every other node that is alive has followed and nothing but probes passes. The order
    holds, also over restarts, until `undrain`; where nothing else works the uplink is still taken.
    """
    deadline = time.monotonic() + timeout
    new = call(options.socket, Drain([name], force=force))
    typer.echo(f"{name}: draining" if new else f"{name}: was told to drain before")
    with working("waiting until every other node has followed"):
        see_followed(options, [name], deadline - time.monotonic())
        _see_quiet(options, name, deadline)
    typer.echo(f"{name}: nothing but probes passes; it can be taken down")


@uplink_app.command("undrain")
def undrain_uplink(name: Name, socket: Socket = SOCKET) -> None:
    """Use an uplink of this node as before it was drained."""
    new = call(socket, Undrain([name]))
    typer.echo(f"{name}: in use again" if new else f"{name}: was not drained")


def see_followed(options: Options, names: list[str], timeout_s: float) -> None:
    """Wait until every other living node has applied our record, and tell."""
    from meshfabric.cli import operator, orders

    reach = find(options)
    node = str(ask_object(options.socket, "fabric")["node"])
    try:
        nodes = operator.run(
            reach, lambda etcd: orders.await_drained(etcd, reach.fabric, node, names, max(timeout_s, 0))
        )
    except TemporaryError as error:
        what = f"this node drains {', '.join(names)}, but whether the others do is not known: {error.what}"
        raise TemporaryError(what, place=error.place, remedy="repeat it; the order stands") from error
    typer.echo(f"in force on {nodes} other node{'' if nodes == 1 else 's'}")


def _see_quiet(options: Options, name: str, deadline: float) -> None:
    """Return once nothing but probes passes for a second.

    Raises `TemporaryError` that names the nodes with which more does.
    """
    while True:
        told = call(options.socket, Passing(name), TIMEOUT_S)
        busy = [row for row in told["nodes"] if max(row["received"], row["sent"]) > QUIET_BYTES]
        if not busy:
            return
        if time.monotonic() > deadline:
            what = f"traffic still passes: {', '.join(map(_still, busy))}"
            remedy = "the order stands; repeat it, and see meshfabric path list there"
            raise TemporaryError(what, place=f"uplink {name}", remedy=remedy)


def _still(row: dict[str, Any]) -> str:
    away = "" if row["alive"] else ", whose agent is away"
    return f"{row['node']}{away} ({size(row['received'])}/s in, {size(row['sent'])}/s out)"
