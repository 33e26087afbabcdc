"""`meshfabric doctor`: what this machine can do, and what to do about what it cannot.

Trying is the business of `kernel.features`; here is what to do next.
"""

from pathlib import Path
from typing import Any

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_rows
from meshfabric.cli.exits import FoundError
from meshfabric.cli.output import Format, Output, print_rows
from meshfabric.cli.table import Column, Row
from meshfabric.model.errors import TemporaryError

COLUMNS = (
    Column("feature", "FEATURE"),
    Column("present", "PRESENT"),
    Column("needed", "NEEDED"),
    Column("since", "SINCE LINUX", spare=1),
    Column("detail", "DETAIL", wraps=True),
)
REMEDIES = {
    "capabilities": "run as root, or give the process CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_BPF",
    "libbpf": "install the package libbpf1",
    "wg": "install the package wireguard-tools",
    "wireguard-go": "install the package wireguard-go, 20231211 or newer, or a kernel with WireGuard",
    "attach": "boot Linux 6.6 or newer, or load the modules sch_ingress and cls_bpf",
    "delay": "load the module sch_fq, sch_tbf or sch_htb: without it probes end with the agent",
    "tun": "load the module tun (modprobe tun), or make /dev/net/tun",
    "memlock": "raise the limit of locked memory: LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited",
    "ipv6": "boot without ipv6.disable=1",
}


def doctor(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """Whether this machine has what meshfabric needs.

    Works without an agent, too. Exit code 1 if something needed is missing.
    """
    rows = _told(socket)
    print_rows(rows, COLUMNS, output, "features")
    missing = [row for row in rows if row["needed"] and not row["present"]]
    for row in missing:
        typer.echo(f"{row['feature']} is missing: {remedy(row)}", err=True)
    if missing:
        names = ", ".join(str(row["feature"]) for row in missing)
        raise FoundError(f"this machine lacks {names}", remedy="see above")
    typer.echo("this machine has all that is needed", err=True)


def remedy(row: Row) -> str:
    """What to do about a missing feature."""
    since = f"boot Linux {row['since']} or newer with it built in" if row["since"] else "see the detail above"
    return REMEDIES.get(str(row["feature"]), since)


def _told(socket: Path) -> list[Row]:
    try:
        return ask_rows(socket, "features")
    except TemporaryError:
        typer.echo("no agent answers: this was tried now, by the command itself", err=True)
    from meshfabric.kernel.features import probe

    return [_row(feature) for feature in probe()]


def _row(feature: Any) -> Row:
    return {
        "feature": feature.name,
        "present": feature.present,
        "needed": feature.needed,
        "since": feature.since_kernel,
        "detail": feature.detail,
    }
