"""`meshfabric endpoint`: who has which address, and attaching workloads of this node by hand."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from meshfabric.api.client import call
from meshfabric.api.messages import Attach, Attached, Detach
from meshfabric.cli.ask import SOCKET, Socket, ask_rows
from meshfabric.cli.output import Format, Output, print_object, print_rows
from meshfabric.cli.table import Column
from meshfabric.model.errors import InputError
from meshfabric.model.labels import make_labels
from meshfabric.model.portnames import port_labels

endpoint_app = typer.Typer()

POD_DEVICE = "eth0"
COLUMNS = (
    Column("address", "ADDRESS"),
    Column("workload", "WORKLOAD"),
    Column("kind", "KIND", spare=1),
    Column("node", "NODE"),
    Column("labels", "LABELS", split=","),
    Column("identity", "IDENTITY", spare=2, right=True),
    Column("local", "LOCAL", spare=3),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The workload's name, namespace/name for a pod.")]


@endpoint_app.command("list")
def list_endpoints(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """Every address in use, on all nodes."""
    print_rows(ask_rows(socket, "endpoints"), COLUMNS, output, "endpoints")


@endpoint_app.command()
def attach(
    name: Name,
    netns: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A pod: its network namespace, /run/netns/... or /proc/..."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"The interface to make in it, {POD_DEVICE} if not given."),
    ] = None,
    tap: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="A VM: its tap, which exists already.")
    ] = None,
    mac: Annotated[
        str, typer.Option(metavar="MAC", help="A VM: its interface's, if it cannot take the one printed.")
    ] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label; may be repeated.")
    ] = None,
    port: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PORT", help="A port's name, http=tcp/8080; may be repeated."),
    ] = None,
    socket: Socket = SOCKET,
    output: Output = Format.TABLE,
) -> None:
    """Make a workload of this node part of the fabric; repeating it changes nothing.

    Give either --netns or --tap. Prints what the workload has to know.
    """
    labels, ports = _labels(label or []), _pairs(port or [], "--port", "no port, write http=tcp/8080")
    port_labels(ports, "--port")
    request = msgspec.structs.replace(_request(name, netns, device, tap, mac, labels), ports=ports)
    attached = msgspec.convert(call(socket, request), Attached)
    print_object(msgspec.to_builtins(attached), _facts(attached), output)


@endpoint_app.command()
def detach(name: Name, socket: Socket = SOCKET) -> None:
    """Take a workload out of the fabric; one that is not there is no error."""
    call(socket, Detach(name))
    typer.echo(f"{name}: detached")


def _request(
    name: str, netns: Path | None, device: str | None, tap: str | None, mac: str, labels: dict[str, str]
) -> Attach:
    if netns and not tap and not mac:
        return Attach(name, "pod", labels, device or POD_DEVICE, str(netns.absolute()))
    if tap and not netns and not device:
        return Attach(name, "vm", labels, tap, mac=mac)
    raise typer.BadParameter("give --netns, with --device if you like, or --tap, with --mac if you must")


def _labels(given: list[str]) -> dict[str, str]:
    return dict(make_labels(_pairs(given, "--label", "no label, write KEY=VALUE"), "--label"))


def _pairs(given: list[str], option: str, wrong: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        key, equal, value = text.partition("=")
        if not equal:
            raise typer.BadParameter(f"{text!r} is {wrong}")
        if pairs.get(key, value) != value:
            raise InputError(f"two values for {key}", place=option, remedy=f"{pairs[key]} or {value}")
        pairs[key] = value
    return pairs


def _facts(attached: Attached) -> list[tuple[str, str]]:
    return [
        ("addresses", ", ".join(attached.addresses)),
        ("routes", ", ".join(attached.routes)),
        ("gateways", f"{', '.join(attached.gateways)} at {attached.gateway_mac}"),
        ("device", f"{attached.device}, MAC {attached.mac}, MTU {attached.mtu}"),
    ]
