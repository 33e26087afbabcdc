"""`meshfabric agent`: hands over to `meshfabric.agent`, which owns everything that happens then."""

from pathlib import Path
from typing import Annotated

import typer

CONFIG = Path("/etc/meshfabric/agent.yaml")


def agent(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The agent's configuration.")
    ] = CONFIG,
) -> None:
    """Run the agent of this node.

    It stays in the foreground until SIGTERM or Ctrl-C, and logs to stderr.
    """
    from meshfabric.agent import run

    run(config)
