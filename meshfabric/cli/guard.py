"""`meshfabric guard`: the boot guard by hand; `meshfabric.guard` does it.

Exit code 1 of `status` is for whoever watches: no guard is up, or a part of one is missing.
"""

from pathlib import Path
from typing import Annotated

import typer

from meshfabric.cli.exits import FoundError
from meshfabric.cli.output import Format, Output, print_rows
from meshfabric.cli.table import Column
from meshfabric.model.errors import InputError

guard_app = typer.Typer()

FILE = Path("/etc/meshfabric/guard.yaml")
File = Annotated[Path, typer.Option("--file", metavar="FILE", help="The fabric and its prefixes.")]
COLUMNS = (
    Column("fabric", "FABRIC"),
    Column("where", "WHERE"),
    Column("way", "WAY"),
    Column("match", "DROPS"),
    Column("packets", "PACKETS", right=True),
    Column("bytes", "BYTES", right=True),
    Column("present", "PRESENT"),
)


@guard_app.command()
def up(file: File = FILE) -> None:
    """Keep the fabric's packets off all devices but its own, from now on.

    What is up already is replaced from one packet to the next. Nothing but `guard down` takes it away.
    """
    from meshfabric.guard import install

    guard = install.read(file)
    install.up(guard)
    typer.echo(f"the guard of fabric {guard.fabric} is up for {', '.join(guard.prefixes)}")


@guard_app.command()
def down(
    fabric: Annotated[str, typer.Option("--fabric", metavar="NAME", help="Whose guard.")],
    yes: Annotated[bool, typer.Option("--yes", help="It is meant: nothing asks again.")] = False,
) -> None:
    """Take a guard away: the fabric's packets may then leave in clear, should all else fail too."""
    if not yes:
        raise InputError(
            "this takes the last wall away", place="guard down", remedy="say --yes if it is meant"
        )
    from meshfabric.guard import install

    gone = install.down(fabric)
    typer.echo(f"the guard of fabric {fabric} is down" if gone else f"fabric {fabric} had no guard")


@guard_app.command()
def status(output: Output = Format.TABLE) -> None:
    """Each rule of the guards with what it has dropped, and their routes.

    Exit code 1 if no guard is up, or a part of one is missing.
    """
    from meshfabric.guard import observed

    parts = observed.status()
    print_rows([part._asdict() for part in parts], COLUMNS, output, "guard")
    if not parts:
        raise FoundError("no guard is up", remedy="meshfabric guard up")
    if not all(part.present for part in parts):
        raise FoundError("parts of a guard are missing", remedy="meshfabric guard up")


@guard_app.command()
def render(file: File = FILE) -> None:
    """Print what `guard up` would give to nftables, and the routes; needs no root and changes nothing."""
    from meshfabric.guard import install, ruleset

    guard = install.read(file)
    typer.echo(ruleset.render(guard), nl=False)
    for route in ruleset.routes(guard):
        typer.echo(f"# ip route add {route}")
