"""Policies and classes out of the files that a person names, each error with its place."""

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from meshfabric.cli.exits import FoundError
from meshfabric.model.classtext import ClassText
from meshfabric.model.errors import InputError
from meshfabric.model.networks import lies_in
from meshfabric.model.node import FabricRecord
from meshfabric.model.policy import Entity, Policy, cidrs_of, in_force
from meshfabric.model.policytext import PolicyText

STDIN = "-"
UNENFORCED = ("workload", "path", "tcp")
"""Of a class."""

Text = TypeVar("Text", PolicyText, ClassText)
Checked = TypeVar("Checked")
File = Annotated[
    str, typer.Argument(metavar="FILE", help="YAML, several documents if you like; - reads stdin.")
]


def read_file(file: str) -> str:
    """The text of a file or of stdin; raises `InputError`."""
    try:
        return sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as cause:
        raise InputError("no UTF-8 text", place=file) from cause
    except OSError as cause:
        raise InputError(f"cannot read it: {cause.strerror}", place=file) from cause


def check(
    file: str, read: Callable[[str], list[Checked]], describe: Callable[[Checked], str]
) -> list[Checked]:
    """Say what is in a file, in words; raises `FoundError` if it is wrong."""
    text = read_file(file)
    try:
        found = read(text)
    except InputError as error:
        raise FoundError(error.what, place=error.place, remedy=error.remedy) from error
    typer.echo("\n\n".join(map(describe, found)))
    return found


def policies_in(text: str, file: str) -> list[PolicyText]:
    """The policies of a file, one at least; raises `InputError`."""
    from meshfabric.config import read_policies

    return _some(read_policies, text, file, "policy")


def classes_in(text: str, file: str) -> list[ClassText]:
    """The traffic classes of a file, one at least; raises `InputError`."""
    from meshfabric.config import read_classes

    return _some(read_classes, text, file, "class")


def warn_of_expired(policies: Iterable[Policy]) -> None:
    """Say on stderr what counts as absent from the start."""
    now = datetime.now(UTC)
    for policy in policies:
        living = in_force(policy, now)
        if living is None:
            typer.echo(f"warning: {policy.name} has expired: it counts as absent", err=True)
        elif living != policy:
            count = len(policy.rules) - len(living.rules)
            what = f"{count} of its {len(policy.rules)} rules"
            typer.echo(f"warning: {policy.name}: {what} expired and count as absent", err=True)


def warn_of_nobody(policies: Iterable[Policy], config: FabricRecord | None) -> None:
    """Say on stderr which peers by address no packet can come from."""
    prefixes = [ip_network(text) for text in config.prefixes] if config else []
    for policy in policies:
        for cidr in cidrs_of(policy):
            if any(lies_in(cidr.network, prefix) for prefix in prefixes):
                what = f"{cidr.network} is in the fabric, where labels tell who is who: it covers nobody"
                typer.echo(f"warning: {policy.name}: {what}", err=True)
        servers = any(Entity.KUBE_APISERVER in (rule.peers or ()) for rule in policy.rules)
        if servers and not (config and config.kube_apiservers):
            what = "the fabric's config names no kube_apiservers: that entity covers nobody"
            typer.echo(f"warning: {policy.name}: {what}", err=True)


def warn_of_unenforced(classes: Iterable[ClassText]) -> None:
    """Say on stderr what a node keeps and shows, and does not act upon."""
    for one in classes:
        found = [field for field in UNENFORCED if getattr(one, field) is not None]
        if found:
            typer.echo(f"warning: {one.name}: nothing enforces {', '.join(found)} yet", err=True)


def _some(read: Callable[[str, str], list[Text]], text: str, file: str, noun: str) -> list[Text]:
    place = "stdin" if file == STDIN else file
    found = read(text, place)
    if not found:
        raise InputError(f"no {noun} in it", place=place, remedy="begin with name: and select:")
    return found
