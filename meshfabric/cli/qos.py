"""`meshfabric class`: which traffic comes first, and what it may take.

What is in force on this node is asked of the agent; what is to be in force is
written to etcd (`verbs`, imported only then: gRPC is slow to import).
"""

from typing import Annotated, Any

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_rows
from meshfabric.cli.documents import File, check, classes_in, read_file, warn_of_unenforced
from meshfabric.cli.output import Format, Output, print_rows
from meshfabric.cli.reach import WAIT_S, Options, Timeout, Wait, find, with_options
from meshfabric.cli.table import NOTHING, Column
from meshfabric.model.classtext import read_class
from meshfabric.model.dscp import format_dscp
from meshfabric.model.rates import format_rate

class_app = typer.Typer()


def _rate(value: Any) -> str:
    return format_rate(value) if value else NOTHING


def _dscp(value: Any) -> str:
    return NOTHING if value is None else format_dscp(value)


def _matches(value: Any) -> str:
    return " | ".join(value or ()) or NOTHING


COLUMNS = (
    Column("class", "CLASS"),
    Column("number", "NUMBER", spare=5, right=True),
    Column("origin", "ORIGIN", spare=4),
    Column("select", "SELECTS", wraps=True),
    Column("match", "MATCHES", wraps=True, split=" | ", show=_matches),
    Column("priority", "PRIORITY", right=True),
    Column("dscp", "DSCP", show=_dscp),
    Column("guaranteed", "GUARANTEED", spare=1, right=True, show=_rate),
    Column("max", "MAX", spare=1, right=True, show=_rate),
    Column("egress", "EGRESS", spare=2, right=True, show=_rate),
    Column("ingress", "INGRESS", spare=2, right=True, show=_rate),
    Column("prefer", "PATH", spare=3),
    Column("rtt_ms", "RTT MS", spare=6, right=True),
    Column("loss_percent", "LOSS %", spare=6, right=True),
    Column("congestion_control", "CONGESTION CONTROL", spare=7),
    Column("initial_window", "INITIAL WINDOW", spare=7, right=True),
    Column("window_clamp", "WINDOW CLAMP", spare=7, right=True),
    Column("selected", "HERE", right=True),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The class's name.")]


@class_app.command("list")
def list_classes(socket: Socket = SOCKET, output: Output = Format.TABLE) -> None:
    """Every class in force on this node, also those built in, in the order in which a packet's is found.

    HERE counts the workloads of this node all or some of whose packets are in it. Rates are in bit/s in
    JSON and YAML.
    """
    print_rows(ask_rows(socket, "classes"), COLUMNS, output, "classes")


@class_app.command("check")
def check_classes(file: File) -> None:
    """Read a file and say in words what each class is; needs no agent and no etcd.

    Exit code 1 if the file is wrong.
    """
    from meshfabric.cli.classwords import describe

    warn_of_unenforced(
        check(file, lambda text: classes_in(text, file), lambda text: describe(read_class(text)))
    )


@class_app.command("apply")
@with_options
def apply_classes(file: File, options: Options, wait: Wait = False, timeout: Timeout = WAIT_S) -> None:
    """Write the classes of a file to etcd: all of them, or none if one is wrong.

    Repeating it changes nothing. Classes that the file does not name stay; beside those built in there
    may be 12. A class of the name of one built in takes its place, and keeps what it does not say.
    """
    classes = classes_in(read_file(file), file)
    warn_of_unenforced(classes)
    from meshfabric.cli import operator, verbs
    from meshfabric.cli.crowding import refuse_crowd

    verbs.apply(find(options), operator.CLASS, classes, refuse_crowd, timeout if wait else None)


@class_app.command("show")
@with_options
def show_class(name: Name, options: Options, output: Output = Format.YAML) -> None:
    """One class as it was written, in YAML unless told otherwise; `-o table` says it in words."""
    from meshfabric.cli import operator, verbs
    from meshfabric.cli.classwords import describe

    verbs.show(find(options), operator.CLASS, name, output, lambda text: describe(read_class(text)))


@class_app.command("delete")
@with_options
def delete_class(name: Name, options: Options) -> None:
    """Take a class out of etcd; one that is not there is no error.

    One built in is then again as it is built in. Who sent in another sends in the next that selects him.
    """
    from meshfabric.cli import operator, verbs

    verbs.delete(find(options), operator.CLASS, name, None)
