"""The root command: which nouns there are, and how every error ends.

A noun's module is imported when its command is run, not to list it: the help
and `meshfabric status` must not pay for gRPC, YAML or the lab.
"""

from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

import meshfabric
from meshfabric.cli import shortcut
from meshfabric.cli.exits import Code, report
from meshfabric.model.errors import MeshfabricError

PROGRAM = "meshfabric"


class Late(NamedTuple):
    """A command that is imported when it is run: a Typer or a function of `meshfabric.cli.<module>`."""

    module: str
    attribute: str
    help: str


COMMANDS = {
    "status": Late("status", "status", "How this node and the fabric are."),
    "node": Late("node", "node_app", "The nodes of the fabric."),
    "endpoint": Late("endpoint", "endpoint_app", "Workloads and their addresses."),
    "path": Late("path", "path_app", "The tunnels to other nodes, and which of them carries traffic."),
    "uplink": Late("uplink", "uplink_app", "This node's ways out, and how traffic is moved off one."),
    "key": Late("key", "key_app", "The keys of the tunnels, and their rotation."),
    "policy": Late("policy", "policy_app", "Who may talk to whom."),
    "class": Late("qos", "class_app", "Which traffic comes first, and what it may take."),
    "drop": Late("drop", "drop_app", "Packets that were dropped, by reason."),
    "doctor": Late("doctor", "doctor", "Whether this machine has what meshfabric needs."),
    "guard": Late("guard", "guard_app", "What keeps the fabric's packets off other devices, from boot on."),
    "detach": Late("detach", "detach", "Take the fabric off this node, with its guard; keys and state stay."),
    "store": Late("store", "store_app", "What the agent does with what etcd says."),
    "agent": Late("agent", "agent", "Run the agent of this node."),
    "lab": Late("lab", "lab_app", "A whole fabric on this machine, to try things."),
}


class Root(TyperGroup):
    """Lists `COMMANDS` without importing them; turns our errors into a line and an exit code."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: TyperCommand(name, help=late.help) for name, late in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the parent does, with the real command instead of the one for listing."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        """As the parent does; no error that a person may meet shows a traceback."""
        try:
            return super().invoke(ctx)
        except MeshfabricError as error:
            raise typer.Exit(report(error)) from error


def load(name: str) -> Any:
    """The command `name` of `COMMANDS`, imported."""
    late, holder = COMMANDS[name], typer.Typer(add_completion=False)
    noun = getattr(import_module(f"meshfabric.cli.{late.module}"), late.attribute)
    if isinstance(noun, typer.Typer):
        holder.add_typer(noun, name=name, help=late.help, no_args_is_help=True)
    else:
        holder.command(name)(noun)
    return typer.main.get_group(holder).commands[name]


shortcut.install()
app = typer.Typer(cls=Root, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {meshfabric.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """One encrypted, policed and routed network for VMs, bare metal and Kubernetes nodes."""


def run() -> int:
    """Run the command in `sys.argv` and return its exit code."""
    # Not app(): that puts typer's excepthook in place, and a bug would be shown by it.
    try:
        typer.main.get_command(app).main(prog_name=PROGRAM)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else Code.OK
    return Code.OK
