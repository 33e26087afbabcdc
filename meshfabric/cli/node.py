"""`meshfabric node`: the machines of the fabric as this node knows them."""

from typing import Annotated

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_rows, pick
from meshfabric.cli.output import Format, Output, facts_of, print_object, print_rows
from meshfabric.cli.table import Column

node_app = typer.Typer()

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


@node_app.command("list")
def list_nodes(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """Every node, with its addresses and how many paths to it are up."""
    print_rows(ask_rows(socket, "nodes"), COLUMNS, output, "nodes")


@node_app.command("show")
def show_node(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")],
    socket: Socket = SOCKET,
    output: Output = Format.TABLE,
) -> None:
    """All that is known of one node."""
    (row,) = pick(ask_rows(socket, "nodes"), "node", name)
    print_object(row, facts_of(row, COLUMNS), output)
