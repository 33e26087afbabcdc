"""What a command answers, in the format that was asked for.

JSON and YAML are the rows as they came; tables are the business of `table`.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from meshfabric.cli.table import Column, Row, render, render_facts

INDENT = 2
_PLAIN_START = re.compile(r"[A-Za-z_/*!]")


class Format(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to print it.")]


def print_rows(rows: Sequence[Row], columns: Sequence[Column], output: Format, what: str) -> None:
    """Print a listing; an empty table is `no <what>` on stderr."""
    if output is not Format.TABLE:
        typer.echo(encode(rows, output))
    elif rows:
        typer.echo(render(rows, columns, *terminal()))
    else:
        typer.echo(f"no {what}", err=True)


def print_object(
    shown: Row, facts: Iterable[tuple[str, str]], output: Format, styles: Mapping[str, str] | None = None
) -> None:
    """Print one thing: `shown` as JSON or YAML, or its `facts`, some of them in colours by name."""
    if output is Format.TABLE:
        typer.echo(render_facts(facts, *terminal(), styles))
    else:
        typer.echo(encode(shown, output))


def facts_of(row: Row, columns: Iterable[Column]) -> list[tuple[str, str]]:
    """Every column of one row, for `print_object`."""
    return [(column.title.lower(), column.cell(row, stacked=False)) for column in columns]


def encode(value: Any, output: Format) -> str:
    """JSON or YAML text without a last newline."""
    if output is Format.JSON:
        return msgspec.json.format(msgspec.json.encode(value), indent=INDENT).decode()
    return to_yaml(value)


def to_yaml(value: Any) -> str:
    """YAML text, keys in their order, that YAML 1.1 and 1.2 read alike."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes what one of the two could take for a number."""

    Dumper.add_representer(str, _text)
    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text.removesuffix("...\n").removesuffix("\n")


def _text(dumper: Any, text: str) -> Any:
    style = None if _PLAIN_START.match(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def terminal() -> tuple[int | None, bool]:
    """Width of stdout (None: it is no terminal, and COLUMNS is not set), and whether it has colours."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size(fallback=(0, 0)).columns
    return width or None, colour


def working(what: str) -> AbstractContextManager[Any]:
    """Show that something takes its time while the context lasts, if a person looks on."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)


def size(count: Any) -> str:
    """Bytes for people: `1.5 MiB`."""
    if count is None:
        return "-"
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def span(seconds: Any) -> str:
    """A time for people: `3 h 2 min`."""
    if seconds is None:
        return "-"
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
