"""`meshfabric policy diff`: what policies would change, before anything is applied."""

from typing import Annotated, Any

import typer

from meshfabric.api.client import call
from meshfabric.api.messages import Simulate
from meshfabric.cli.ask import SOCKET, Socket
from meshfabric.cli.documents import policies_in, read_file, warn_of_expired
from meshfabric.cli.exits import Code
from meshfabric.cli.output import Format, Output, encode, print_rows, working
from meshfabric.cli.table import Column, Row, columns_of
from meshfabric.model.errors import InputError
from meshfabric.model.policytext import PolicyText, read_policy

TIMEOUT_S = 120.0
DENIED = {"denied": "red"}
COLUMNS = (
    Column("from", "FROM", wraps=True, split=" | "),
    Column("to", "TO", wraps=True, split=" | "),
    Column("ports", "WHAT", wraps=True, split=", "),
    Column("before", "BEFORE", spare=1, styles=DENIED),
    Column("after", "AFTER", styles=DENIED),
    Column("direction", "DIRECTION", spare=3),
    Column("before_by", "BEFORE BY", spare=3, wraps=True),
    Column("after_by", "AFTER BY", wraps=True),
    Column("senders", "SENDERS", spare=2, right=True),
    Column("receivers", "RECEIVERS", spare=2, right=True),
    Column("flows", "FLOWS", right=True),
    Column("sender_examples", "SUCH AS", spare=4, split=", "),
    Column("receiver_examples", "TO SUCH AS", spare=4, split=", "),
)
FLOWS = (
    *columns_of("from source to destination protocol"),
    Column("answered", "ANSWERED", spare=1),
    Column("after", "AFTER", styles=DENIED),
)


def diff_policies(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]", help="YAML, several documents if you like; - reads stdin."),
    ] = None,
    delete: Annotated[
        list[str] | None, typer.Option("--delete", metavar="NAME", help="As if this policy were deleted.")
    ] = None,
    socket: Socket = SOCKET,
    output: Output = Format.TABLE,
) -> None:
    """Say who could no longer talk to whom, or could then, and which flows of this node it is about.

    Nothing is applied. The agent compares the policies in force with those that would be, for all
    workloads of the fabric that it knows; it shows up to 500 such changes, what is cut first, and up to
    100 flows of this node one by one. Exit code 0 if nothing would change, 1 if something would.
    """
    policies = [policy for file in files or () for policy in policies_in(read_file(file), file)]
    if not policies and not delete:
        raise InputError("neither a file nor a policy to delete", remedy="give a FILE or --delete NAME")
    warn_of_expired(map(read_policy, policies))
    told = _ask(socket, policies, delete or [])
    _warn(told)
    if output is Format.TABLE:
        _print(told)
    else:
        typer.echo(encode(told, output))
    raise typer.Exit(Code.FOUND if told["changes"] else Code.OK)


def _ask(socket: Any, policies: list[PolicyText], delete: list[str]) -> dict[str, Any]:
    with working("comparing"):
        told: dict[str, Any] = call(socket, Simulate(policies, delete), TIMEOUT_S)
    return told


def _warn(told: dict[str, Any]) -> None:
    if not told["connected"]:
        what = "the agent does not reach etcd: it compares with what it knew last"
        typer.echo(f"warning: {what}", err=True)
    for name in told["absent"]:
        typer.echo(f"warning: there is no policy {name} in force here to delete", err=True)


def _print(told: dict[str, Any]) -> None:
    print_rows(told["changes"], COLUMNS, Format.TABLE, "change")
    _tell_more(told["changes"], told["changes_total"], "changes")
    if told["flows"]:
        typer.echo()
        print_rows(told["flows"], FLOWS, Format.TABLE, "flows")
        _tell_more(told["flows"], told["flows_total"], "flows")


def _tell_more(shown: list[Row], total: int, what: str) -> None:
    if total > len(shown):
        typer.echo(f"(and {total - len(shown)} more {what})")
