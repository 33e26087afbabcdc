"""`meshfabric status`: one look at this node; what the words mean is the agent's business."""

from collections.abc import Iterator
from typing import Any

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_object
from meshfabric.cli.output import Format, Output, print_object, print_rows, span
from meshfabric.cli.table import Column, columns_of

FAILING = (Column("table", "FAILING"), Column("why", "WHY", wraps=True))
REFUSED = (Column("key", "REFUSED RECORD"), Column("why", "WHY", wraps=True))
EVENTS = (*columns_of("time name"), Column("detail", "DETAIL", wraps=True))
SECTIONS = {"failing": FAILING, "refused": REFUSED, "events": EVENTS}
CLEAR = "bold red"
RELEASE = "meshfabric store release lets it through"


def status(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """How this node and the fabric are."""
    told = ask_object(socket, "status")
    styles = {"encryption": CLEAR} if told["encryption"]["off"] else {}
    print_object(told, _facts(told), output, styles)
    if output is Format.TABLE:
        for key, columns in SECTIONS.items():
            if rows := told.get(key):
                typer.echo()
                print_rows(rows, columns, output, "")


def _facts(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "fabric", told["fabric"]
    yield "node", f"{told['node']} ({told['kind']})"
    yield "agent", f"{_ready(told)}, up {span(told['uptime_s'])}, version {told['version']}"
    yield "store", _store(told["store"])
    yield "nodes", f"{told['nodes']['alive']} of {told['nodes']['known']} alive"
    yield "endpoints", str(told["endpoints"])
    yield "workloads", f"{told['workloads']} on this node"
    yield "policies", str(told["policies"])
    yield "wireguard", f"{told['wireguard']}, MTU {told['mtu']}"
    if told.get("draining"):
        yield "draining", ", ".join(told["draining"])
    yield "encryption", _encryption(told["encryption"]["off"])
    yield "keys", _keys(told["keys"])
    yield "programs", f"attached by {told['attach']}"
    yield "held", f"{told['held']} ({RELEASE})" if told["held"] else "nothing"
    yield "refused", _count(len(told["refused"]), "record")
    yield "repaired", f"{_count(told['drift_repaired'], 'change')} that others made to what is ours"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _encryption(off: list[dict[str, Any]]) -> str:
    named = (
        f"OFF on segment {row['segment']} ({row['uplink']}), to {_count(row['nodes'], 'node')}" for row in off
    )
    return "; ".join(named) or "on"


def _ready(told: dict[str, Any]) -> str:
    return "ready" if told["ready"] else "not ready"


def _keys(keys: dict[str, Any]) -> str:
    rotation = "rotation under way" if keys["under_way"] else ""
    waits = f"waiting for {', '.join(keys['waiting_for'])}" if keys["waiting_for"] else ""
    epoch = "none yet" if keys["epoch"] is None else f"epoch {keys['epoch']}"
    return ", ".join(filter(None, (epoch, rotation, waits)))


def _store(store: dict[str, Any]) -> str:
    connected = "connected" if store["connected"] else "not connected"
    detail = f" ({store['detail']})" if store["detail"] else ""
    return f"{connected}, revision {store['revision']}{detail}"
