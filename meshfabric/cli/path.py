"""`meshfabric path`: the tunnels to other nodes, and which of them carries traffic."""

from typing import Annotated, Any

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_rows, pick
from meshfabric.cli.output import Format, Output, print_rows, size, span
from meshfabric.cli.table import Column

path_app = typer.Typer()


def _ms(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ago(value: Any) -> str:
    return "never" if value is None else f"{span(value)} ago"


COLUMNS = (
    Column("node", "NODE"),
    Column("device", "DEVICE", spare=2),
    Column("local", "LOCAL"),
    Column("remote", "REMOTE"),
    Column("segment", "SEGMENT", spare=3),
    Column("endpoint", "ENDPOINT", spare=1),
    Column("encryption", "ENCRYPTION", spare=2, styles={"off": "bold red"}),
    Column("generation", "GEN", spare=6, right=True),
    Column("state", "STATE", styles={"up": "green", "down": "bold red", "new": "yellow"}),
    Column("active", "ACTIVE", styles={"yes": "bold"}),
    Column("mtu", "MTU", spare=1, right=True),
    Column("rtt_ms", "RTT MS", right=True, show=_ms),
    Column("jitter_out_ms", "JITTER OUT", spare=5, right=True, show=_ms),
    Column("jitter_back_ms", "JITTER BACK", spare=5, right=True, show=_ms),
    Column("sent", "SENT", spare=5, right=True),
    Column("heard", "HEARD", spare=5, right=True),
    Column("lost_out", "LOST OUT", spare=5, right=True),
    Column("lost_back", "LOST BACK", spare=5, right=True),
    Column("flaps", "FLAPS", spare=4, right=True),
    Column("handshake_s", "HANDSHAKE", spare=6, show=_ago),
    Column("rx_bytes", "RECEIVED", spare=7, right=True, show=size),
    Column("tx_bytes", "TRANSMITTED", spare=7, right=True, show=size),
)


@path_app.command("list")
def list_paths(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """Every path of this node; SENT, HEARD and LOST count probes, JITTER is in ms each way."""
    print_rows(ask_rows(socket, "paths"), COLUMNS, output, "paths")


@path_app.command("show")
def show_paths(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node at the other end.")],
    socket: Socket = SOCKET,
    output: Output = Format.TABLE,
) -> None:
    """The paths to one node."""
    print_rows(pick(ask_rows(socket, "paths"), "node", name), COLUMNS, output, "paths")
