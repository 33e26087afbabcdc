"""`meshfabric drop`: why packets were dropped on this node."""

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_rows
from meshfabric.cli.output import Format, Output, print_rows
from meshfabric.cli.table import Column

drop_app = typer.Typer()

COLUMNS = (
    Column("reason", "REASON"),
    Column("packets", "PACKETS", right=True),
    Column("bytes", "BYTES", right=True),
    Column("meaning", "MEANING", wraps=True),
)


@drop_app.command("list")
def list_drops(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """Every reason for dropping, counted since the agent's programs were first attached."""
    print_rows(ask_rows(socket, "drops"), COLUMNS, output, "reasons")
