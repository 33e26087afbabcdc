"""`meshfabric store`: what the agent does with what etcd says."""

import typer

from meshfabric.api.client import call
from meshfabric.api.messages import Release
from meshfabric.cli.ask import SOCKET, Socket

store_app = typer.Typer()


@store_app.command()
def release(socket: Socket = SOCKET) -> None:
    """Let a removal through that this node holds back, because it would remove much at once.

    `meshfabric status` shows what is held.
    """
    call(socket, Release())
    typer.echo("released")
