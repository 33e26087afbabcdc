"""A lab drawn in text: segments as thick lines, nodes as boxes below them (pure).

    red   ━━━━┯━━━━━━━━━━━━━━━━━━━━━━━━┯━━━━
    blue  ━━━━│━━━┯━━━━━━━━━━━━━━━━━━━━│━━━┯
              │   │                    │   │
            ┌─┴───┴────────────┐     ┌─┴───┴───
            │ up0 up1          │

A line that passes a segment without touching it has no tee; one that is cut has
a cross. `svg` draws the same for a browser.
"""

from collections.abc import Collection, Iterator, Sequence

from meshfabric.lab.records import Node, Topology, Workload
from meshfabric.model.labels import format_labels, make_labels

WIDTH = 110
"""Columns of a drawing unless told; nodes that do not fit go into a further row."""
CUT, WHOLE = "╳", "│"
WORKLOAD_SIGNS = {"pod": "●", "vm": "▣"}
_GAP = 3
"""Columns between two boxes."""

Cuts = Collection[tuple[str, str]]
"""(node, uplink) pairs that are cut."""


def text(topology: Topology, width: int = WIDTH, cuts: Cuts = ()) -> str:
    """The drawing, lines of at most `width` columns unless a single box is wider; ends in a newline."""
    margin = max(len(segment.name) for segment in topology.segments) + 2
    boxes = [_Box(topology, node) for node in topology.nodes]
    parts = [_title(topology)]
    parts += ["\n".join(_row(topology, row, margin, cuts)) for row in _rows(boxes, width - margin)]
    return "\n\n".join([*parts, "\n".join(_legend(topology))]) + "\n"


def chunks(widths: Sequence[int], gap: int, room: int) -> list[list[int]]:
    """Positions of boxes in as few rows as fit into `room`, all rows of about the same number."""
    rows = 1
    while True:
        size = -(-len(widths) // rows)
        split = [list(range(len(widths)))[i : i + size] for i in range(0, len(widths), size)]
        if size == 1 or all(sum(widths[i] + gap for i in row) - gap <= room for row in split):
            return split
        rows += 1


class _Box:
    """A node's box: its lines, and the columns in which its uplinks leave it upwards."""

    def __init__(self, topology: Topology, node: Node) -> None:
        self.node = node
        self.stems: list[tuple[int, str, str]] = []  # column, segment, uplink
        inside = [_names(node), f"{node.name}  {node.kind}", *_facts(topology, node)]
        self.width = max(map(len, inside)) + 4
        column = 2
        for uplink in node.uplinks:
            self.stems.append((column, uplink.segment, uplink.name))
            column += len(uplink.name) + 1
        self.lines = [self._lid(), *(f"│ {line.ljust(self.width - 4)} │" for line in inside), self._floor()]

    def _lid(self) -> str:
        stems = {column for column, _, _ in self.stems}
        inner = "".join("┴" if i in stems else "─" for i in range(1, self.width - 1))
        return f"┌{inner}┐"

    def _floor(self) -> str:
        return f"└{'─' * (self.width - 2)}┘"


def _title(topology: Topology) -> str:
    return f"fabric {topology.fabric}   {'   '.join(topology.prefixes)}"


def _legend(topology: Topology) -> Iterator[str]:
    """A line for each segment: what the drawing has no room for."""
    wide = max(len(segment.name) for segment in topology.segments)
    for segment in topology.segments:
        facts = [*segment.subnets, f"mtu {segment.mtu}", *filter(None, [str(segment.impairment)])]
        yield f"{segment.name.ljust(wide)}  {'   '.join(facts)}"


def _names(node: Node) -> str:
    return " ".join(uplink.name for uplink in node.uplinks)


def _facts(topology: Topology, node: Node) -> Iterator[str]:
    yield from node.blocks
    if node.labels:
        yield format_labels(make_labels(node.labels))
    workloads = topology.workloads_of(node.name)
    wide = max((len(workload.name) for workload in workloads), default=0)
    for workload in workloads:
        yield _fact(workload, wide)


def _fact(workload: Workload, wide: int) -> str:
    labels = format_labels(make_labels(workload.labels))
    return f"{WORKLOAD_SIGNS[workload.kind]} {workload.name.ljust(wide)}  {labels}".rstrip()


def _rows(boxes: list[_Box], room: int) -> list[list[_Box]]:
    return [[boxes[i] for i in row] for row in chunks([box.width for box in boxes], _GAP, room)]


def _row(topology: Topology, row: list[_Box], margin: int, cuts: Cuts) -> Iterator[str]:
    stems = list(_stems(row, cuts))
    length = sum(box.width + _GAP for box in row) - _GAP
    names = [segment.name for segment in topology.segments]
    for i, name in enumerate(names):
        passing = {column: WHOLE for column, segment, _ in stems if segment in names[:i]}
        landing = {column: "┯" for column, segment, _ in stems if segment == name}
        yield name.ljust(margin) + _line("━", {**passing, **landing}, length)
    yield (" " * margin + _line(" ", {column: sign for column, _, sign in stems}, length)).rstrip()
    height = max(len(box.lines) for box in row)
    for i in range(height):
        cells = [box.lines[i] if i < len(box.lines) else " " * box.width for box in row]
        yield (" " * margin + (" " * _GAP).join(cells)).rstrip()


def _stems(row: list[_Box], cuts: Cuts) -> Iterator[tuple[int, str, str]]:
    """Column in the row, segment and sign of every uplink."""
    left = 0
    for box in row:
        for column, segment, uplink in box.stems:
            yield left + column, segment, CUT if (box.node.name, uplink) in cuts else WHOLE
        left += box.width + _GAP


def _line(fill: str, signs: dict[int, str], length: int) -> str:
    return "".join(signs.get(column, fill) for column in range(length))
