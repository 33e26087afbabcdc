"""What `apply`, `show` and `delete` do with documents, of whatever noun they are.

`operator` knows etcd, `documents` reads the files.
"""

from collections.abc import Callable, Sequence

import msgspec
import typer

from meshfabric.cli import operator
from meshfabric.cli.operator import Guard, Noun, Text
from meshfabric.cli.output import Format, encode, working
from meshfabric.cli.reach import Reach


def apply(
    reach: Reach,
    noun: Noun[Text],
    texts: Sequence[Text],
    guard: Guard[Text] | None,
    wait_s: float | None,
) -> None:
    """Write documents, say what became of each, and wait so long for all nodes, if at all."""
    done = operator.run(reach, lambda etcd: operator.apply(etcd, reach.fabric, noun, texts, guard))
    for name, outcome in done.outcomes.items():
        typer.echo(f"{name}: {outcome}")
    if wait_s is not None:
        with working("waiting until it is in force on every node"):
            nodes = operator.run(reach, lambda etcd: operator.wait(etcd, reach.fabric, done, wait_s))
        typer.echo(f"in force on {nodes} node{'' if nodes == 1 else 's'} (revision {done.revision})")


def show(reach: Reach, noun: Noun[Text], name: str, output: Format, describe: Callable[[Text], str]) -> None:
    """One document as it was written, or in words."""
    text = operator.run(reach, lambda etcd: operator.read(etcd, reach.fabric, noun, name))
    if output is Format.TABLE:
        typer.echo(describe(text))
    else:
        typer.echo(encode(msgspec.to_builtins(text), output))


def delete(reach: Reach, noun: Noun[Text], name: str, guard: Guard[Text] | None) -> None:
    """Take a document out of etcd, and say whether it was there."""
    there = operator.run(reach, lambda etcd: operator.delete(etcd, reach.fabric, noun, name, guard))
    typer.echo(f"{name}: {'deleted' if there else 'was not there'}")
