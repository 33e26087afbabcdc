"""Policies out of the files that a person names, each error with its place."""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

import typer

from meshfabric.model.errors import InputError
from meshfabric.model.networks import lies_in
from meshfabric.model.node import FabricRecord
from meshfabric.model.policy import Entity, Policy, cidrs_of, in_force
from meshfabric.model.policytext import PolicyText

STDIN = "-"

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


def policies_in(text: str, file: str) -> list[PolicyText]:
    """The policies of a file, one at least; raises `InputError`."""
    from meshfabric.config import read_policies

    place = "stdin" if file == STDIN else file
    policies = read_policies(text, place)
    if not policies:
        raise InputError("no policy in it", place=place, remedy="begin with name: and select:")
    return policies


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
