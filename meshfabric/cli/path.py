"""`meshfabric path`: the tunnels to other nodes, and which of them carries traffic."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_rows, pick
from meshfabric.cli.exits import Code
from meshfabric.cli.output import Format, Output, encode, print_rows, size, span, terminal
from meshfabric.cli.table import Column, Row, render

path_app = typer.Typer()

LIVE_EVERY_S = 0.5
WATCHED = 10  # switches below the paths


def _ms(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: Any) -> str:
    return "-" if value is None else f"{value:.0f}"


def _out(value: Any) -> str:
    return "?" if value is None else f"{value:g} ms"


def _ago(value: Any) -> str:
    return "never" if value is None else f"{span(value)} ago"


def _left(value: Any) -> str:
    return f"{value:.1f}" if value else "-"


STATES = dict.fromkeys(("new", "slow", "lossy", "held"), "yellow") | {"up": "green", "down": "bold red"}
DEVICE, WHY = Column("device", "DEVICE", spare=2), Column("why", "WHY", spare=8)
COLUMNS = (
    Column("node", "NODE"),
    DEVICE,
    Column("local", "LOCAL"),
    Column("remote", "REMOTE"),
    Column("segment", "SEGMENT", spare=3),
    Column("relay", "RELAY", spare=4),
    Column("endpoint", "ENDPOINT", spare=1),
    Column("encryption", "ENCRYPTION", spare=2, styles={"off": "bold red"}),
    Column("generation", "GEN", spare=6, right=True),
    Column("state", "STATE", styles=STATES),
    Column("active", "ACTIVE", styles={"yes": "bold"}),
    Column("held_s", "HELD S", spare=3, right=True, show=_left),
    WHY,
    Column("mtu", "MTU", spare=1, right=True),
    Column("rtt_ms", "RTT MS", right=True, show=_ms),
    Column("jitter_out_ms", "JITTER OUT", spare=5, right=True, show=_ms),
    Column("jitter_back_ms", "JITTER BACK", spare=5, right=True, show=_ms),
    Column("loss_percent", "LOSS %", spare=4, right=True, show=_percent),
    Column("sent", "SENT", spare=5, right=True),
    Column("heard", "HEARD", spare=5, right=True),
    Column("lost_out", "LOST OUT", spare=5, right=True),
    Column("lost_back", "LOST BACK", spare=5, right=True),
    Column("flaps", "FLAPS", spare=4, right=True),
    Column("handshake_s", "HANDSHAKE", spare=6, show=_ago),
    Column("rx_bytes", "RECEIVED", spare=7, right=True, show=size),
    Column("tx_bytes", "TRANSMITTED", spare=7, right=True, show=size),
)
OF_ONE_NODE = tuple(
    column._replace(spare=0, wraps=column == WHY) if column in (DEVICE, WHY) else column for column in COLUMNS
)
SWITCHES = (
    Column("time", "TIME"),
    Column("node", "NODE", spare=3),
    Column("from", "FROM"),
    Column("from_uplinks", "UPLINKS", spare=2),
    Column("to", "TO"),
    Column("to_uplinks", "UPLINKS", spare=2),
    Column("why", "WHY"),
    Column("outage_ms", "OUT", right=True, show=_out),
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
    """The paths to one node, why each is taken or not, and the last switches from one to another.

    OUT is how long packets went where nothing answered: from the last answer there until they took the
    new path.
    """
    paths = pick(ask_rows(socket, "paths"), "node", name)
    switches = [row for row in ask_rows(socket, "switches") if row["node"] == name]
    if output is not Format.TABLE:
        typer.echo(encode({"node": name, "paths": paths, "switches": switches}, output))
        return
    print_rows(paths, OF_ONE_NODE, output, "paths")
    if switches:
        typer.echo()
        print_rows(switches, SWITCHES, output, "switches")


@path_app.command("watch")
def watch_paths(
    name: Annotated[
        str | None, typer.Argument(metavar="NODE", help="The node at the other end; none: all.")
    ] = None,
    socket: Socket = SOCKET,
) -> None:
    """Show the paths as they are now, and each switch as it comes, until Ctrl-C.

    To a pipe or a file: one line for each switch.
    """
    if name:
        pick(ask_rows(socket, "paths"), "node", name)
    try:
        if sys.stdout.isatty():
            _watch_live(socket, name)
        else:
            _watch_lines(socket, name)
    except KeyboardInterrupt:
        raise typer.Exit(Code.INTERRUPTED) from None


def _watch_live(socket: Path, name: str | None) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            paths, switches = _rows(socket, "paths", name), _rows(socket, "switches", name)
            text = render(paths, OF_ONE_NODE if name else COLUMNS, *terminal())
            if switches:
                text += "\n\n" + render(switches[:WATCHED], SWITCHES, *terminal())
            live.update(Text.from_ansi(text), refresh=True)
            time.sleep(LIVE_EVERY_S)


def _watch_lines(socket: Path, name: str | None) -> None:
    """What was before is not told."""
    known = set(map(_identity, _rows(socket, "switches", name)))
    while True:
        time.sleep(LIVE_EVERY_S)
        rows = _rows(socket, "switches", name)
        for row in reversed(rows):
            if _identity(row) not in known:
                typer.echo(_line(row))
        sys.stdout.flush()
        known |= set(map(_identity, rows))


def _rows(socket: Path, subject: Literal["paths", "switches"], name: str | None) -> list[Row]:
    return [row for row in ask_rows(socket, subject) if name in (None, row["node"])]


def _identity(row: Row) -> tuple[object, ...]:
    return row["number"], row["node"], row["from"], row["to"]


def _line(row: Row) -> str:
    ends = f"{_end(row, 'from')} to {_end(row, 'to')}"
    return f"{row['time']} {row['node']}: {ends}, {row['why']}, {_out(row['outage_ms'])} out"


def _end(row: Row, end: str) -> str:
    return f"{row[end]} ({row[f'{end}_uplinks']})" if row[f"{end}_uplinks"] else str(row[end])
