"""docs/cli.md, made from the commands themselves: `python -m meshfabric.cli.reference > docs/cli.md`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from meshfabric.cli import diff, doctor, drop, endpoint, key, node, path, policy, qos
from meshfabric.cli.app import COMMANDS, PROGRAM, load
from meshfabric.cli.exits import DEBUG_VARIABLE, MEANINGS
from meshfabric.cli.reach import Options
from meshfabric.cli.table import Column

HEAD = f"""\
# The command line

Made by `python -m meshfabric.cli.reference > docs/cli.md`; a test compares it with the commands.

Listings take `--output` (`-o`): `table` for people, `json` and `yaml` for programs. JSON and YAML are
the rows as the agent tells them, and their keys are stable. A table in a pipe has one line a row and
every column; in a terminal it is fitted to the width: lists stand one item a line, long texts wrap,
and columns for which there is no room are named below the table.

Errors are one line on stderr, `{PROGRAM}: <where>: <what> (<what to do>)`.
"""
VARIABLES = {
    DEBUG_VARIABLE: "`1` shows the traceback of an error before its line",
    "COLUMNS": "the width to fit tables to, also in a pipe",
    "NO_COLOR": "anything: no colours (they never carry a meaning of their own)",
}
LISTINGS: dict[str, Sequence[Column]] = {
    "node list": node.COLUMNS,
    "endpoint list": endpoint.COLUMNS,
    "path list": path.COLUMNS,
    "key list": key.COLUMNS,
    "policy list": policy.COLUMNS,
    "policy audit": policy.AUDITS,
    "policy diff": diff.COLUMNS,
    "class list": qos.COLUMNS,
    "drop list": drop.COLUMNS,
    "doctor": doctor.COLUMNS,
}


SHARED = ("--socket", "--output", *(f"--{name.replace('_', '-')}" for name in Options._fields))


def render() -> str:
    """The whole reference as Markdown."""
    commands = {name: one for noun in COMMANDS for name, one in _walk(noun, load(noun))}
    parameters = {one.opts[0]: one for command in reversed(commands.values()) for one in command.params}
    shared = {name: parameters[name] for name in SHARED}.values()
    variables = VARIABLES | {one.envvar: one.help for one in parameters.values() if one.envvar}
    parts = [
        HEAD,
        "## Exit codes\n",
        *_table("code", ((str(int(code)), meaning) for code, meaning in MEANINGS.items())),
        "\n## Environment\n",
        *_table("variable", ((f"`{name}`", variables[name]) for name in sorted(variables))),
        "\n## Options of many commands\n",
        *_table("option", ((_name(one), _meaning(one)) for one in shared)),
        *(line for name, one in commands.items() for line in _command(name, one)),
    ]
    return "\n".join(parts) + "\n"


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for each, found in below.items():
        yield from _walk(f"{name} {each}", found)


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    shared = [one for one in command.params if one.opts[0] in SHARED]
    own = [one for one in command.params if one not in shared]
    words = [
        PROGRAM,
        name,
        *map(_argument, arguments),
        *(["[OPTIONS]"] if command.params != arguments else []),
    ]
    yield f"\n## {PROGRAM} {name}\n"
    yield f"    {' '.join(words)}\n"
    yield command.help.strip()
    if columns := LISTINGS.get(name):
        yield f"\nKeys of a row: {_quoted(column.key for column in columns)}."
    if own:
        yield ""
        yield from _table("argument", ((_name(one), _meaning(one)) for one in own))
    if shared:
        yield f"\nAlso takes {_quoted(one.opts[0] for one in shared)}."


def _argument(parameter: Any) -> str:
    shown: str = parameter.metavar + ("..." if parameter.nargs != 1 else "")
    return shown if parameter.required or shown.startswith("[") else f"[{shown}]"


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`"
    value = "" if parameter.is_flag else f" {parameter.metavar or _kind(parameter.type_descriptor)}"
    return f"`{', '.join(parameter.opts)}{value}`"


def _kind(descriptor: Any) -> str:
    if descriptor.choices:
        return "|".join(str(choice.value) for choice in descriptor.choices)
    return str(descriptor.annotation.__name__).upper()


def _meaning(parameter: Any) -> str:
    default = None if parameter.required or parameter.default in (None, False) else parameter.default
    return f"{parameter.help or ''}{'' if default is None else f' Default: `{default}`.'}"


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _table(left: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {left} | meaning |"
    yield "|---|---|"
    for name, meaning in rows:
        yield f"| {_escaped(name)} | {_escaped(meaning)} |"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


if __name__ == "__main__":
    print(render(), end="")
