"""`meshfabric lab demo`: the proofs of `lab.demo` as a person sees them, one after the other.

Owns printing and the lab's life around the proofs; what is proved is `lab.demo`'s.
"""

import time

from rich.console import Console
from rich.table import Table

from meshfabric.lab import build, render
from meshfabric.lab.demo import Proof, address, proofs
from meshfabric.lab.records import Topology
from meshfabric.lab.state import Lab
from meshfabric.model.errors import MeshfabricError

LEAST_WIDTH = 100


def show(topology: Topology, name: str, *, keep: bool) -> bool:
    """Raise, prove, print, end; whether every proof holds."""
    console = Console(highlight=False)
    console = Console(highlight=False, width=max(console.width, LEAST_WIDTH))
    console.print(render.text(topology, console.width), end="")
    began = time.monotonic()
    build.down(name)
    lab = build.up(topology, name, lambda step: console.print(f"  [dim]{step}[/dim]"))
    console.print(f"lab up in {time.monotonic() - began:.1f} s\n")
    try:
        found = _prove(lab, console)
    finally:
        if not keep:
            build.down(name)
    _summary(console, found)
    if keep:
        _try_these(console, lab)
    return bool(found) and all(proof.holds for proof in found)


def _prove(lab: Lab, console: Console) -> list[Proof]:
    found: list[Proof] = []
    try:
        for proof in proofs(lab, lambda text: console.print(f"    [dim]{text}[/dim]")):
            console.print(f"{_mark(proof)} {proof.name}: {proof.figure}")
            found.append(proof)
    except MeshfabricError as error:
        found.append(Proof("the proofs ran to their end", False, str(error)))
    return found


def _summary(console: Console, found: list[Proof]) -> None:
    table = Table(title="What was proved", title_justify="left")
    for column in ("", "PROOF", "MEASURED"):
        table.add_column(column)
    for proof in found:
        table.add_row(_mark(proof), proof.name, proof.figure)
    console.print()
    console.print(table)


def _mark(proof: Proof) -> str:
    return "[green]holds[/green]" if proof.holds else "[red]FAILS[/red]"


def _try_these(console: Console, lab: Lab) -> None:
    console.print("\nThe lab is still up. Try:")
    for command in (
        f"meshfabric lab exec --name {lab.name} kube1/web -- ping -c 3 {address(lab, 'kube2/db')}",
        f"meshfabric lab exec --name {lab.name} kube1 -- meshfabric path list",
        f"meshfabric lab down --name {lab.name}",
    ):
        console.print(f"    {command}", soft_wrap=True)
