"""`meshfabric node`: the machines of the fabric as this node knows them, and how one is cut off."""

from pathlib import Path
from typing import Annotated

import typer

from meshfabric.api.client import call
from meshfabric.api.messages import Drain, Undrain
from meshfabric.cli.ask import SOCKET, Socket, ask_rows, pick
from meshfabric.cli.output import Format, Output, facts_of, print_object, print_rows, working
from meshfabric.cli.reach import Options, Reach, find, with_options
from meshfabric.cli.table import Column
from meshfabric.cli.uplink import see_followed

node_app = typer.Typer()

WAIT_S = 30

COLUMNS = (
    Column("node", "NODE"),
    Column("kind", "KIND", spare=1),
    Column("alive", "ALIVE", styles={"no": "red"}),
    Column("addresses", "ADDRESSES", split=", "),
    Column("blocks", "BLOCKS", spare=3, split=", "),
    Column("uplinks", "UPLINKS", split=", "),
    Column("paths", "PATHS"),
    Column("wireguard", "WIREGUARD", spare=4),
    Column("version", "VERSION", spare=2),
)


Name = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until every other node that is alive has done it.")]
Timeout = Annotated[int, typer.Option(metavar="SECONDS", help="How long to wait.")]


@node_app.command("list")
def list_nodes(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """Every node, with its addresses and how many paths to it are up."""
    print_rows(ask_rows(socket, "nodes"), COLUMNS, output, "nodes")


@node_app.command("show")
def show_node(
    name: Name,
    socket: Socket = SOCKET,
    output: Output = Format.TABLE,
) -> None:
    """All that is known of one node."""
    (row,) = pick(ask_rows(socket, "nodes"), "node", name)
    print_object(row, facts_of(row, COLUMNS), output)


@node_app.command("drain")
@with_options
def drain_node(options: Options, timeout: Timeout = WAIT_S) -> None:
    """Move off this node what others send through it (a relay's packets), without losing any.

    All its uplinks are drained. Returns when every other node that is alive has followed. What its own
    workloads say and hear goes on. The order holds, also over restarts, until `undrain`.
    """
    names = _uplinks(options.socket)
    new = call(options.socket, Drain(names, force=True))
    typer.echo("this node: draining" if new else "this node: was told to drain before")
    with working("waiting until every other node has followed"):
        see_followed(options, names, timeout)


@node_app.command("undrain")
def undrain_node(socket: Socket = SOCKET) -> None:
    """Send through this node as before it was drained, by all its uplinks."""
    new = call(socket, Undrain(_uplinks(socket)))
    typer.echo("this node: in use again" if new else "this node: was not drained")


def _uplinks(socket: Path) -> list[str]:
    return [str(row["uplink"]) for row in ask_rows(socket, "uplinks")]


@node_app.command("revoke")
@with_options
def revoke_node(name: Name, options: Options, wait: Wait = False, timeout: Timeout = WAIT_S) -> None:
    """Cut a node off: no other node has tunnels to it any more, or knows its addresses.

    Its records stay, and so does its tombstone, until it is readmitted. A node that cannot reach
    etcd does not learn of it. Repeating it changes nothing.
    """
    from meshfabric.cli import operator, orders

    reach = find(options)
    revision = operator.run(reach, lambda etcd: orders.revoke(etcd, reach.fabric, name))
    typer.echo(f"{name}: revoked")
    if wait:
        _wait(reach, revision, name, timeout)


@node_app.command("readmit")
@with_options
def readmit_node(name: Name, options: Options, wait: Wait = False, timeout: Timeout = WAIT_S) -> None:
    """Take a revocation back: the node is as before, with the keys that it has.

    If those may have fallen into the wrong hands, first delete keys/ in its state folder.
    """
    from meshfabric.cli import operator, orders

    reach = find(options)
    revision = operator.run(reach, lambda etcd: orders.readmit(etcd, reach.fabric, name))
    typer.echo(f"{name}: {'readmitted' if revision else 'was not revoked'}")
    if wait and revision:
        _wait(reach, revision, name, timeout)


def _wait(reach: Reach, revision: int, name: str, timeout_s: float) -> None:
    from meshfabric.cli import operator, orders

    with working("waiting until every other node has done it"):
        nodes = operator.run(
            reach, lambda etcd: orders.await_revision(etcd, reach.fabric, revision, name, timeout_s)
        )
    typer.echo(f"in force on {nodes} other node{'' if nodes == 1 else 's'} (revision {revision})")
