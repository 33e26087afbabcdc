"""`meshfabric key`: the keys of the tunnels, and their rotation.

What this node has is asked of its agent; that others are wanted is written to
etcd (`orders`, imported only then: gRPC is slow to import).
"""

import re
import time
from typing import Annotated, Any

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_rows, pick
from meshfabric.cli.output import Format, Output, facts_of, print_object, print_rows, span, working
from meshfabric.cli.reach import Options, find, with_options
from meshfabric.cli.table import Column
from meshfabric.model.errors import InputError

key_app = typer.Typer()

WAIT_S = 900  # the grace of 3 minutes, and patience for large fabrics
UNITS_S = {"h": 3600, "d": 86_400}
LEAST_S, MOST_S = 3600, 10 * 365 * 86_400
PERIOD = re.compile(r"([0-9]{1,5})([hd])")
OFF = "off"


def _names(value: Any) -> str:
    return ", ".join(value) or "nobody"


COLUMNS = (
    Column("device", "DEVICE"),
    Column("local", "LOCAL"),
    Column("remote", "REMOTE SLOT", right=True),
    Column("generation", "GENERATION", spare=3, right=True),
    Column("epoch", "EPOCH", right=True),
    Column("taken", "TAKEN", styles={"yes": "bold"}),
    Column("age_s", "AGE", show=span),
    Column("peers", "PEERS", spare=1, show=_names),
    Column("moved", "OF THEM MOVED", show=_names),
    Column("public_key", "PUBLIC KEY", spare=5),
)


@key_app.command("list")
def list_keys(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """The key of each tunnel device of this node, and which peers take tunnels of its generation.

    TAKEN is no for keys that this node is about to give up, or has just made.
    """
    print_rows(ask_rows(socket, "keys"), COLUMNS, output, "keys")


@key_app.command("show")
def show_key(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="A tunnel's device, as in key list.")],
    socket: Socket = SOCKET,
    output: Output = Format.TABLE,
) -> None:
    """All that is known of one key; the private one is in the state folder and nowhere else."""
    (row,) = pick(ask_rows(socket, "keys"), "device", device)
    print_object(row, facts_of(row, COLUMNS), output)


@key_app.command("rotate")
@with_options
def rotate_keys(
    options: Options,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every node that is alive has new keys only.")
    ] = False,
    timeout: Annotated[int, typer.Option(metavar="SECONDS", help="How long to wait.")] = WAIT_S,
) -> None:
    """Have every node make new keys for its tunnels, and give up the old ones; no packet is lost.

    Refused while an earlier rotation is under way.
    """
    from meshfabric.cli import operator, orders

    reach = find(options)
    epoch = operator.run(reach, lambda etcd: orders.rotate(etcd, reach.fabric, int(time.time())))
    typer.echo(f"keys of epoch {epoch} are due")
    if wait:
        with working("waiting until every node has new keys only"):
            nodes = operator.run(reach, lambda etcd: orders.await_epoch(etcd, reach.fabric, epoch, timeout))
        typer.echo(f"in force on {nodes} node{'' if nodes == 1 else 's'}")


@key_app.command("schedule")
@with_options
def schedule_keys(
    every: Annotated[str, typer.Argument(metavar="PERIOD", help="Such as 30d or 12h; off ends it.")],
    options: Options,
) -> None:
    """Have keys rotated each time that a period has gone by, for the first time one period from now.

    Each node goes by its own clock; that clocks differ by minutes is harmless.
    """
    from meshfabric.cli import operator, orders

    every_s = _period_s(every)
    reach = find(options)
    operator.run(reach, lambda etcd: orders.schedule(etcd, reach.fabric, every_s, int(time.time())))
    typer.echo(f"keys are rotated every {every}" if every_s else "keys are rotated when told only")


def _period_s(text: str) -> int:
    match = PERIOD.fullmatch(text)
    every_s = int(match[1]) * UNITS_S[match[2]] if match else 0
    if text != OFF and not LEAST_S <= every_s <= MOST_S:
        raise InputError(f"no period {text!r}", remedy="1h to 3650d, or off")
    return every_s
