"""`meshfabric policy`: who may talk to whom.

What is in force on this node is asked of the agent; what is to be in force is
written to etcd (`verbs`, and `operator`, imported only then: gRPC is slow to import).
"""

from typing import Annotated

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_rows
from meshfabric.cli.diff import diff_policies
from meshfabric.cli.documents import (
    File,
    check,
    policies_in,
    read_file,
    warn_of_expired,
    warn_of_nobody,
)
from meshfabric.cli.exits import DeniedError
from meshfabric.cli.output import Format, Output, print_rows
from meshfabric.cli.reach import WAIT_S, Options, Timeout, Wait, find, with_options
from meshfabric.cli.table import Column
from meshfabric.model.policy import reaches_outside
from meshfabric.model.policytext import read_policy

policy_app = typer.Typer()

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

    warn_of_expired(check(file, lambda text: list(map(read_policy, policies_in(text, file))), describe))


policy_app.command("diff")(diff_policies)


@policy_app.command("apply")
@with_options
def apply_policies(
    file: File,
    options: Options,
    force: Force = False,
    wait: Wait = False,
    timeout: Timeout = WAIT_S,
) -> None:
    """Write the policies of a file to etcd: all of them, or none if one is wrong.

    Repeating it changes nothing. Policies that the file does not name stay. Refused if hosts could
    no longer reach each other as they can now, or their own workloads, unless told to --force it.
    """
    policies = policies_in(read_file(file), file)
    read = [read_policy(policy) for policy in policies]
    warn_of_expired(read)
    from meshfabric.cli import operator, verbs
    from meshfabric.cli.cutoff import refuse_cutoff

    reach = find(options)
    if any(map(reaches_outside, read)):
        try:
            config = operator.run(reach, lambda etcd: operator.config(etcd, reach.fabric))
            warn_of_nobody(read, config)
        except DeniedError as error:  # whoever may write policies need not be let read it
            typer.echo(f"warning: whether peers by address are outside is not known: {error.what}", err=True)
    guard, wait_s = None if force else refuse_cutoff, timeout if wait else None
    verbs.apply(reach, operator.POLICY, policies, guard, wait_s)


@policy_app.command("show")
@with_options
def show_policy(name: Name, options: Options, output: Output = Format.YAML) -> None:
    """One policy as it was written, in YAML unless told otherwise; `-o table` says it in words."""
    from meshfabric.cli import operator, verbs
    from meshfabric.cli.words import describe

    verbs.show(find(options), operator.POLICY, name, output, lambda policy: describe(read_policy(policy)))


@policy_app.command("delete")
@with_options
def delete_policy(name: Name, options: Options, force: Force = False) -> None:
    """Take a policy out of etcd; one that is not there is no error. Refused as by `apply`."""
    from meshfabric.cli import operator, verbs
    from meshfabric.cli.cutoff import refuse_cutoff

    verbs.delete(find(options), operator.POLICY, name, None if force else refuse_cutoff)
