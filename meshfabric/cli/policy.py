"""`meshfabric policy`: who may talk to whom.

What is in force on this node is asked of the agent; what is to be in force is
written to etcd (`operator`, imported only then: gRPC is slow to import).
"""

from typing import Annotated

import msgspec
import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_rows
from meshfabric.cli.diff import diff_policies
from meshfabric.cli.documents import File, policies_in, read_file, warn_of_expired, warn_of_nobody
from meshfabric.cli.exits import DeniedError, FoundError
from meshfabric.cli.output import Format, Output, encode, print_rows, working
from meshfabric.cli.reach import Options, find, with_options
from meshfabric.cli.table import Column
from meshfabric.model.errors import InputError
from meshfabric.model.policy import reaches_outside
from meshfabric.model.policytext import read_policy

policy_app = typer.Typer()

WAIT_S = 30
COLUMNS = (
    Column("policy", "POLICY"),
    Column("tier", "TIER", spare=1),
    Column("select", "SELECTS", wraps=True),
    Column("direction", "DIRECTION"),
    Column("action", "ACTION"),
    Column("allows", "WHAT", wraps=True),
    Column("expires", "EXPIRES", spare=2),
    Column("selected", "HERE", right=True),
)

AUDITS = (
    Column("last", "LAST"),
    Column("count", "COUNT", right=True),
    Column("direction", "DIRECTION"),
    Column("from", "FROM", wraps=True),
    Column("to", "TO", wraps=True),
    Column("what", "WHAT"),
    Column("policies", "POLICIES", wraps=True),
    Column("first", "FIRST", spare=1),
)

Force = Annotated[bool, typer.Option("--force", help="Though it cuts the fabric's own control traffic.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The policy's name.")]


@policy_app.command("list")
def list_policies(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """Every rule in force on this node; HERE counts the workloads of this node that it is about.

    What has expired is not in force.
    """
    print_rows(ask_rows(socket, "policies"), COLUMNS, output, "policies")


@policy_app.command("audit")
def list_audits(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """What policies in audit would have stopped on this node, the latest first, since the agent was started.

    A row is for one kind of conversation; POLICIES are those in audit that rule it now.
    """
    print_rows(ask_rows(socket, "audits"), AUDITS, output, "audits")


@policy_app.command("check")
def check_policies(file: File) -> None:
    """Read a file and say in words what it does; needs no agent and no etcd.

    Exit code 1 if the file is wrong. What has expired already is said, and is no mistake.
    """
    from meshfabric.cli.words import describe

    text = read_file(file)
    try:
        policies = policies_in(text, file)
        read = [read_policy(policy) for policy in policies]
    except InputError as error:
        raise FoundError(error.what, place=error.place, remedy=error.remedy) from error
    typer.echo("\n\n".join(map(describe, read)))
    warn_of_expired(read)


policy_app.command("diff")(diff_policies)


@policy_app.command("apply")
@with_options
def apply_policies(
    file: File,
    options: Options,
    force: Force = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every node that is alive has applied it.")
    ] = False,
    timeout: Annotated[int, typer.Option(metavar="SECONDS", help="How long to wait.")] = WAIT_S,
) -> None:
    """Write the policies of a file to etcd: all of them, or none if one is wrong.

    Repeating it changes nothing. Policies that the file does not name stay. Refused if hosts could
    no longer reach each other as they can now, or their own workloads, unless told to --force it.
    """
    policies = policies_in(read_file(file), file)
    read = [read_policy(policy) for policy in policies]
    warn_of_expired(read)
    from meshfabric.cli import operator

    reach = find(options)
    if any(map(reaches_outside, read)):
        try:
            config = operator.run(reach, lambda etcd: operator.config(etcd, reach.fabric))
            warn_of_nobody(read, config)
        except DeniedError as error:  # whoever may write policies need not be let read it
            typer.echo(f"warning: whether peers by address are outside is not known: {error.what}", err=True)
    done = operator.run(reach, lambda etcd: operator.apply(etcd, reach.fabric, policies, force=force))
    for name, outcome in done.outcomes.items():
        typer.echo(f"{name}: {outcome}")
    if wait:
        with working("waiting until it is in force on every node"):
            nodes = operator.run(reach, lambda etcd: operator.wait(etcd, reach.fabric, done, timeout))
        typer.echo(f"in force on {nodes} node{'' if nodes == 1 else 's'} (revision {done.revision})")


@policy_app.command("show")
@with_options
def show_policy(name: Name, options: Options, output: Output = Format.YAML) -> None:
    """One policy as it was written, in YAML unless told otherwise; `-o table` says it in words."""
    from meshfabric.cli import operator
    from meshfabric.cli.words import describe

    reach = find(options)
    policy = operator.run(reach, lambda etcd: operator.read(etcd, reach.fabric, name))
    if output is Format.TABLE:
        typer.echo(describe(read_policy(policy)))
    else:
        typer.echo(encode(msgspec.to_builtins(policy), output))


@policy_app.command("delete")
@with_options
def delete_policy(name: Name, options: Options, force: Force = False) -> None:
    """Take a policy out of etcd; one that is not there is no error. Refused as by `apply`."""
    from meshfabric.cli import operator

    reach = find(options)
    there = operator.run(reach, lambda etcd: operator.delete(etcd, reach.fabric, name, force=force))
    typer.echo(f"{name}: {'deleted' if there else 'was not there'}")
