"""`meshfabric detach`: hands over to `meshfabric.agent.detach`, and prints what that has done."""

from pathlib import Path
from typing import Annotated

import typer

from meshfabric.cli.agent import CONFIG
from meshfabric.model.errors import InputError


def detach(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The agent's configuration.")
    ] = CONFIG,
    yes: Annotated[bool, typer.Option("--yes", help="It is meant: nothing asks again.")] = False,
) -> None:
    """Take the fabric off this node, with its guard; keys and state stay.

    The break-glass, for when nothing else helps. Stop the agent first. Workloads are cut off; a new agent
    is the same node again, and pods have to be attached anew.
    """
    if not yes:
        what = "this cuts every workload of this node off"
        raise InputError(what, place="detach", remedy="say --yes if it is meant")
    from meshfabric.agent.detach import detach

    found = False
    for line in detach(config):
        found = True
        typer.echo(line)
    typer.echo("detached" if found else "there was nothing to detach")
