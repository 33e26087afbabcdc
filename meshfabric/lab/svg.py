"""A lab drawn as SVG: segments as coloured bars, nodes as cards below them (pure).

        ▬▬▬▬▬●▬▬▬▬▬▬▬▬▬▬▬▬▬▬●▬▬▬▬▬▬▬   segment red
        ▬▬▬▬▬│▬▬●▬▬▬▬▬▬▬▬▬▬▬│▬▬●▬▬▬▬   segment blue
         ┌───┴──┴──┐    ┌───┴──┴──┐
         │ card    │    │ card    │     kind, blocks, labels, workloads as chips

Sizes are in SVG user units (one CSS pixel). The same topology gives the same
bytes. Text is measured by estimate, as no font is at hand here: widths leave room.
"""

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from meshfabric.lab.records import Node, Topology, Workload
from meshfabric.lab.render import Cuts, chunks
from meshfabric.model.labels import format_labels, make_labels
from meshfabric.model.node import NodeKind

MARGIN, GAP = 32, 28
CARD_WIDTH, CARD_HEAD, CARD_ROUND, CARD_PAD = 268, 56, 10, 16
LINE, CHIP, CHIP_GAP = 19, 44, 8
BAR_HEIGHT, BAR_STEP, BAR_PAD, STEM = 26, 40, 14, 46
ROW_GAP, TITLE, LEGEND = 40, 62, 22
ROOM = 1240
"""Widest row of cards."""
DOT, HALO, WIRE = 5, 8, 3
SMALL_ADVANCE, BAR_ADVANCE, CHIP_ADVANCE, NAME_ADVANCE = 6.7, 9, 9, 11
"""Estimated widths of a character: small monospaced text, names of segments, workloads and nodes."""

SEGMENT_COLOURS = ("#d9485f", "#3b7dd8", "#2f9e6e", "#c77d1f", "#8257c9", "#1f93a6", "#a8477f", "#6b7f2b")
KIND_COLOURS = {NodeKind.VM: "#6c4fb3", NodeKind.METAL: "#4a5568", NodeKind.KUBERNETES: "#2563b8"}
CUT_COLOUR = "#111827"
_STYLE = """
text { font-family: 'DejaVu Sans', Verdana, sans-serif; fill: #1f2937; }
.title { font-size: 20px; font-weight: bold; }
.quiet { font-size: 13px; fill: #5b6472; }
.bar { font-size: 13px; font-weight: bold; fill: #ffffff; }
.name { font-size: 17px; font-weight: bold; fill: #ffffff; }
.kind { font-size: 12px; fill: #ffffff; opacity: 0.85; }
.mono { font-family: 'DejaVu Sans Mono', Menlo, monospace; font-size: 11px; fill: #3d4653; }
.port { font-family: 'DejaVu Sans Mono', Menlo, monospace; font-size: 11px; fill: #5b6472; }
.chip { font-size: 13px; font-weight: bold; }
"""


class _Stem(NamedTuple):
    """An uplink's line: where it leaves the card, and the segment's number."""

    x: float
    segment: int
    name: str
    cut: bool


def svg(topology: Topology, cuts: Cuts = ()) -> str:
    """The drawing as an SVG document."""
    rows = chunks([CARD_WIDTH] * len(topology.nodes), GAP, ROOM)
    cards_left = MARGIN + _gutter(topology)
    width = cards_left + max(map(len, rows)) * (CARD_WIDTH + GAP) - GAP + MARGIN
    body = list(_head(topology, width))
    top = MARGIN + max(TITLE, len(topology.segments) * LEGEND + BAR_PAD)
    for row in rows:
        nodes = [topology.nodes[i] for i in row]
        body += _bars(topology, top, width)
        body += _row(topology, nodes, cards_left, top, cuts)
        top += _row_height(topology, nodes) + ROW_GAP
    return _document(width, top - ROW_GAP + MARGIN, topology, body)


def _document(width: int, height: int, topology: Topology, body: list[str]) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img">',
        f"<title>fabric {escape(topology.fabric)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" rx="14" fill="#f7f8fa"/>',
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _gutter(topology: Topology) -> int:
    """Room for the segments' names at the left of every wire."""
    return max(len(segment.name) for segment in topology.segments) * BAR_ADVANCE + 2 * BAR_PAD


def _head(topology: Topology, width: int) -> Iterator[str]:
    """The title, and at the right a legend of the segments."""
    yield _text(MARGIN, MARGIN + 16, "title", f"fabric {topology.fabric}")
    yield _text(MARGIN, MARGIN + 38, "quiet", "fabric addresses  " + "  ·  ".join(topology.prefixes))
    for i, segment in enumerate(topology.segments):
        y, right = MARGIN + 14 + i * LEGEND, width - MARGIN
        impairment = filter(None, [str(segment.impairment)])
        facts = "  ·  ".join([segment.name, *segment.subnets, f"mtu {segment.mtu}", *impairment])
        yield _text(right - 22, y, "quiet", facts, anchor="end")
        yield f'<rect x="{right - 14}" y="{y - 11}" width="14" height="14" rx="4" fill="{_colour(i)}"/>'


def _row_height(topology: Topology, nodes: list[Node]) -> int:
    bars = len(topology.segments) * BAR_STEP
    return bars + STEM + max(_card_height(topology, node) for node in nodes)


def _row(topology: Topology, nodes: list[Node], left: int, top: int, cuts: Cuts) -> Iterator[str]:
    """Wires over the bars, with a halo where they only pass and a dot where they land; then the cards."""
    cards_top = top + len(topology.segments) * BAR_STEP + STEM
    for i, node in enumerate(nodes):
        card_left = left + i * (CARD_WIDTH + GAP)
        for stem in _stems(topology, node, card_left, cuts):
            yield from _wire(stem, top, cards_top)
        yield from _card(topology, node, card_left, cards_top)


def _bars(topology: Topology, top: int, width: int) -> Iterator[str]:
    for i, segment in enumerate(topology.segments):
        y = top + i * BAR_STEP
        yield (
            f'<rect x="{MARGIN}" y="{y}" width="{width - 2 * MARGIN}" height="{BAR_HEIGHT}"'
            f' rx="{BAR_HEIGHT // 2}" fill="{_colour(i)}"/>'
        )
        yield _text(MARGIN + BAR_PAD, y + 18, "bar", segment.name)


def _stems(topology: Topology, node: Node, left: int, cuts: Cuts) -> Iterator[_Stem]:
    names = [segment.name for segment in topology.segments]
    step = CARD_WIDTH / (len(node.uplinks) + 1)
    for i, uplink in enumerate(node.uplinks, 1):
        cut = (node.name, uplink.name) in cuts
        name = _fitted(uplink.name, step - HALO)
        yield _Stem(left + i * step, names.index(uplink.segment), name, cut)


def _wire(stem: _Stem, top: int, bottom: int) -> Iterator[str]:
    y = top + stem.segment * BAR_STEP + BAR_HEIGHT / 2
    colour = _colour(stem.segment)
    below = y + BAR_HEIGHT / 2
    dashed = ' stroke-dasharray="3 5"' if stem.cut else ""
    yield f'<path d="M{stem.x:g} {below:g}V{bottom}" stroke="#f7f8fa" stroke-width="{HALO}"/>'
    yield f'<path d="M{stem.x:g} {y:g}V{bottom}" stroke="{colour}" stroke-width="{WIRE}"{dashed}/>'
    yield f'<circle cx="{stem.x:g}" cy="{y:g}" r="{DOT}" fill="#ffffff" stroke="{colour}" stroke-width="2"/>'
    yield _text(stem.x + 7, bottom - 8, "port", stem.name)
    if stem.cut:
        yield from _cross(stem.x, bottom - STEM / 2)


def _cross(x: float, y: float) -> Iterator[str]:
    yield (
        f'<path d="M{x - 6:g} {y - 6:g}L{x + 6:g} {y + 6:g}M{x - 6:g} {y + 6:g}L{x + 6:g} {y - 6:g}"'
        f' stroke="{CUT_COLOUR}" stroke-width="3" stroke-linecap="round"/>'
    )


def _card_height(topology: Topology, node: Node) -> int:
    lines = len(_facts(node)) * LINE
    chips = len(topology.workloads_of(node.name)) * (CHIP + CHIP_GAP)
    return CARD_HEAD + CARD_PAD + lines + chips + CARD_PAD - 6


def _facts(node: Node) -> list[str]:
    labels = [format_labels(make_labels(node.labels))] if node.labels else []
    return [*node.blocks, *labels]


def _card(topology: Topology, node: Node, left: int, top: int) -> Iterator[str]:
    height = _card_height(topology, node)
    colour = KIND_COLOURS[node.kind]
    yield (
        f'<rect x="{left}" y="{top}" width="{CARD_WIDTH}" height="{height}" rx="{CARD_ROUND}"'
        f' fill="#ffffff" stroke="#cfd5de"/>'
    )
    r, right = CARD_ROUND, left + CARD_WIDTH
    yield (
        f'<path d="M{left} {top + CARD_HEAD}V{top + r}a{r} {r} 0 0 1 {r} -{r}H{right - r}'
        f'a{r} {r} 0 0 1 {r} {r}V{top + CARD_HEAD}z" fill="{colour}"/>'
    )
    yield from _icon(node.kind, left + CARD_PAD, top + 14)
    yield _text(
        left + CARD_PAD + 40, top + 26, "name", _fitted(node.name, CARD_WIDTH - CARD_PAD - 56, NAME_ADVANCE)
    )
    yield _text(left + CARD_PAD + 40, top + 44, "kind", node.kind)
    y = top + CARD_HEAD + CARD_PAD + 6
    for fact in _facts(node):
        yield _text(left + CARD_PAD, y, "mono", _fitted(fact, CARD_WIDTH - 2 * CARD_PAD))
        y += LINE
    for workload in topology.workloads_of(node.name):
        yield from _chip(workload, left + CARD_PAD, y - 6)
        y += CHIP + CHIP_GAP


def _chip(workload: Workload, left: int, top: int) -> Iterator[str]:
    """A pod has a round sign, a guest behind its tap a square one and a dashed border."""
    width = CARD_WIDTH - 2 * CARD_PAD
    guest = workload.kind == "vm"
    border = ' stroke-dasharray="5 3"' if guest else ""
    yield (
        f'<rect x="{left}" y="{top}" width="{width}" height="{CHIP}" rx="7"'
        f' fill="#f1f4f8" stroke="#b9c2cf"{border}/>'
    )
    colour = KIND_COLOURS[NodeKind.VM if guest else NodeKind.KUBERNETES]
    corner = 3 if guest else 7
    yield f'<rect x="{left + 12}" y="{top + 15}" width="14" height="14" rx="{corner}" fill="{colour}"/>'
    yield _text(left + 36, top + 19, "chip", _fitted(workload.name, width - 44, CHIP_ADVANCE))
    labels = format_labels(make_labels(workload.labels)) or ("guest behind a tap" if guest else "pod")
    yield _text(left + 36, top + 35, "mono", _fitted(labels, width - 44))


def _icon(kind: NodeKind, x: int, y: int) -> Iterator[str]:
    """A window, a rack or a helm, 28 units square, in white lines."""
    drawn = {
        NodeKind.VM: "M2 4h24v16h-24zM9 26h10M14 20v6M2 9h24",
        NodeKind.METAL: "M3 3h22v9h-22zM3 16h22v9h-22zM8 7.5h.1M8 20.5h.1M14 7.5h7M14 20.5h7",
        NodeKind.KUBERNETES: "M14 2l10.4 6v12l-10.4 6l-10.4 -6v-12zM14 9v-7M14 19v7M9.5 11.5l-5.9 -3.5"
        "M18.5 11.5l5.9 -3.5M9.5 16.5l-5.9 3.5M18.5 16.5l5.9 3.5M14 9l4.5 2.5v5l-4.5 2.5l-4.5 -2.5v-5z",
    }[kind]
    yield (
        f'<path transform="translate({x} {y})" d="{drawn}" fill="none" stroke="#ffffff"'
        f' stroke-width="2" stroke-linecap="round" stroke-linejoin="round"/>'
    )


def _fitted(text: str, room: float, advance: float = SMALL_ADVANCE) -> str:
    most = max(int(room / advance), 1)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(x: float, y: float, style: str, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'


def _colour(segment: int) -> str:
    return SEGMENT_COLOURS[segment % len(SEGMENT_COLOURS)]
