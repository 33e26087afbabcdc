"""`meshfabric lab`: a whole fabric on this machine, for trying things out.

Owns arguments and printing; `meshfabric.lab` does the work. Progress goes to
stderr, so that stdout is only what was asked for.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from meshfabric.cli.exits import Code
from meshfabric.cli.output import Format, Output, print_object, print_rows
from meshfabric.cli.table import Column
from meshfabric.lab import build, impair, render, state, status, svg, tools, topology, underlay
from meshfabric.lab.impairment import Impairment, check_impairment
from meshfabric.lab.process import enter
from meshfabric.lab.records import Topology
from meshfabric.model.errors import InputError, MeshfabricError
from meshfabric.model.labels import format_labels, make_labels

lab_app = typer.Typer(help="A whole fabric on this machine, to try things.", no_args_is_help=True)

File = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="The lab's description in YAML; the built-in one without it."),
]
Name = Annotated[
    str, typer.Option("--name", "-n", envvar="MESHFABRIC_LAB", metavar="NAME", help="Which lab.")
]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="A node of the lab.")]
UplinkName = Annotated[str, typer.Argument(metavar="UPLINK", help="An uplink of that node.")]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BUILT_IN = "default.yaml"
GOOD = {"ready": "green", "attached": "green", "running": "green"}
BAD = {"dead": "red", "silent": "red", "unplugged": "red", "half-raised": "yellow", "starting": "yellow"}
LAB_COLUMNS = (
    Column("lab", "LAB"),
    Column("state", "STATE", styles={**GOOD, **BAD}),
    Column("nodes", "NODES", right=True),
    Column("workloads", "WORKLOADS", right=True),
)
NODE_COLUMNS = (
    Column("node", "NODE"),
    Column("kind", "KIND", spare=2),
    Column("agent", "AGENT", styles={**GOOD, **BAD}),
    Column("uplinks", "UPLINKS", split=", "),
    Column("addresses", "ADDRESSES", split=", "),
    Column("blocks", "BLOCKS", spare=3, split=", "),
    Column("pid", "PID", spare=4, right=True),
)
SEGMENT_COLUMNS = (
    Column("segment", "SEGMENT"),
    Column("subnets", "SUBNETS", split=", "),
    Column("mtu", "MTU", right=True),
    Column("impaired", "IMPAIRED", split=", "),
    Column("etcd", "ETCD", spare=1),
    Column("ports", "PORTS", spare=2, split=", "),
)
WORKLOAD_COLUMNS = (
    Column("workload", "WORKLOAD"),
    Column("kind", "KIND", spare=1),
    Column("state", "STATE", styles={**GOOD, **BAD}),
    Column("addresses", "ADDRESSES", split=", "),
    Column("labels", "LABELS", split=",", show=lambda labels: format_labels(make_labels(labels or {}))),
)


@lab_app.command("up")
def up(
    file: File = None,
    name: Name = state.DEFAULT_NAME,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave what stands if it fails, with its logs.")
    ] = False,
) -> None:
    """Raise a lab: nodes, segments, etcd, agents and workloads. Nothing is left if it fails."""
    described = _read(file)
    began = time.monotonic()
    with _ends_as_interrupt(), _progress() as progress:
        lab = build.up(described, name, progress, keep=keep)
    took_s = time.monotonic() - began
    typer.echo(f"lab {lab.name}: {len(described.nodes)} nodes, ready in {took_s:.1f} s", err=True)
    typer.echo(f"try: meshfabric lab exec {_example(described)} -- ip address", err=True)


@lab_app.command("down")
def down(
    name: Name = state.DEFAULT_NAME,
    everything: Annotated[bool, typer.Option("--all", help="Every lab of this machine.")] = False,
) -> None:
    """End a lab and remove every trace of it, also of one that crashed. Absent is fine."""
    for each in state.names() if everything else [name]:
        typer.echo(f"lab {each}: {'ended' if build.down(each) else 'there was none'}", err=True)


@lab_app.command("demo")
def demonstrate(
    name: Name = "demo",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up afterwards.")] = False,
) -> None:
    """Raise the built-in lab, prove on it what the fabric does, and end it. Exits 1 if a proof fails."""
    from meshfabric.cli.demo import show
    from meshfabric.lab.demo import paced

    with _ends_as_interrupt():
        holds = show(paced(_read(None)), name, keep=keep)
    raise typer.Exit(Code.OK if holds else Code.FOUND)


@lab_app.command("list")
def list_labs(output: Output = Format.TABLE) -> None:
    """Every lab of this machine."""
    print_rows(status.labs(), LAB_COLUMNS, output, "labs")


@lab_app.command("status")
def show_status(name: Name = state.DEFAULT_NAME, output: Output = Format.TABLE) -> None:
    """How a lab is: its nodes and their agents, segments and workloads."""
    seen = status.overview(state.load(name))
    if output is not Format.TABLE:
        print_object(seen, (), output)
        return
    typer.echo(f"lab {seen['lab']}   fabric {seen['fabric']}   etcd {seen['etcd']}{_halfness(seen)}")
    for key, columns in (
        ("nodes", NODE_COLUMNS),
        ("segments", SEGMENT_COLUMNS),
        ("workloads", WORKLOAD_COLUMNS),
    ):
        typer.echo()
        print_rows(seen[key], columns, output, key)


@lab_app.command("render")
def draw(
    file: File = None,
    name: Name = state.DEFAULT_NAME,
    svg_file: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write an SVG there (- for stdout) instead.")
    ] = None,
    width: Annotated[int, typer.Option("--width", min=20, help="Columns of the text.")] = render.WIDTH,
) -> None:
    """Draw a lab: the one in FILE, else the running one with its cuts, else the built-in one."""
    described, cut = _drawn(file, name)
    if svg_file is None:
        typer.echo(render.text(described, width, cut), nl=False)
    elif str(svg_file) == "-":
        typer.echo(svg.svg(described, cut), nl=False)
    else:
        _write(svg_file, svg.svg(described, cut))


@lab_app.command("cut")
def cut_uplink(node: NodeName, uplink: UplinkName, name: Name = state.DEFAULT_NAME) -> None:
    """Let an uplink drop everything, both ways, while its carrier stays up."""
    underlay.cut(state.load(name), node, uplink)


@lab_app.command("heal")
def heal_uplink(node: NodeName, uplink: UplinkName, name: Name = state.DEFAULT_NAME) -> None:
    """Undo a cut."""
    underlay.heal(state.load(name), node, uplink)


@lab_app.command("impair")
def impair_segment(
    segment: Annotated[str, typer.Argument(metavar="SEGMENT", help="A segment of the lab.")],
    delay_ms: Annotated[float, typer.Option("--delay-ms", help="One way, from node to node.")] = 0.0,
    jitter_ms: Annotated[float, typer.Option("--jitter-ms", help="More or less of the delay.")] = 0.0,
    loss_percent: Annotated[float, typer.Option("--loss-percent", help="Of the frames, at random.")] = 0.0,
    rate_mbit: Annotated[float, typer.Option("--rate-mbit", help="To each node; 0: no limit.")] = 0.0,
    black_hole_mtu: Annotated[
        int, typer.Option("--black-hole-mtu", help="Larger packets vanish without a word; 0: none.")
    ] = 0,
    name: Name = state.DEFAULT_NAME,
) -> None:
    """Delay, lose and slow down what crosses a segment, from now on. What is left out is none."""
    given = Impairment(delay_ms, jitter_ms, loss_percent, rate_mbit, black_hole_mtu)
    check_impairment(given, lambda key: f"--{key.replace('_', '-')}")
    state.load(name)
    with state.locked(name):
        lab = impair.impair(state.load(name), segment, given)
    typer.echo(f"segment {segment}: {impair.shown(lab, segment) or 'good'}", err=True)


@lab_app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    where: Annotated[
        str, typer.Argument(metavar="NODE[/WORKLOAD]", help="A node, a workload on it, or `underlay`.")
    ],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="What to run there.")],
    name: Name = state.DEFAULT_NAME,
) -> None:
    """Run a command on a node, in a workload or beside the segments; its exit code is ours."""
    process = build.target(state.load(name), where)
    argv = enter(process, command)
    sys.stdout.flush()
    # The command takes our place: terminal, signals and exit code are its own.
    os.execvpe(argv[0], argv, {**os.environ, "PATH": tools.search_path(), "debian_chroot": where})


def _read(file: Path | None) -> Topology:
    if file is None:
        return topology.read(topology.default_text(), BUILT_IN)
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except OSError as cause:
        raise InputError(f"cannot be read: {cause.strerror}", place=str(file)) from cause
    except UnicodeDecodeError as cause:
        raise InputError("not UTF-8 text", place=str(file), remedy="is it YAML?") from cause
    return topology.read(text, str(file))


def _drawn(file: Path | None, name: str) -> tuple[Topology, list[tuple[str, str]]]:
    if file:
        return _read(file), []
    try:
        lab = state.load(name)
        return lab.topology, underlay.cuts(lab)
    except (MeshfabricError, PermissionError):
        return _read(None), []


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as cause:
        raise InputError(f"cannot be written: {cause.strerror}", place=str(path)) from cause


def _example(described: Topology) -> str:
    workloads = [f"{workload.node}/{workload.name}" for workload in described.workloads]
    return [*workloads, described.nodes[0].name][0]


def _halfness(seen: dict[str, Any]) -> str:
    return "" if seen["ready"] else "   raised only half: meshfabric lab down"


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal, a line for each step elsewhere."""
    if not sys.stderr.isatty():
        yield lambda step: typer.echo(f"  {step}", err=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("checking this machine") as shown:
        yield shown.update


@contextlib.contextmanager
def _ends_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end us as Ctrl-C does, so that what was begun is cleaned up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in old:
            signal.signal(each, signal.SIG_IGN)  # a second one must not stop the cleaning up
        raise KeyboardInterrupt

    old = {number: signal.signal(number, interrupt) for number in ENDING}
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(Code.INTERRUPTED) from None
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
