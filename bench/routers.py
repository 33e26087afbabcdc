"""The routers that the fabric is held against: the least configuration in which each reroutes (pure).

    pod ── pod0 (gateway) ── router ══ up0, red, preferred ══ router ── pod0 ── pod
                                    ══ up1, blue ════════════

BIRD and FRR speak BGP with each other over each segment, guarded by BFD; babeld
watches its neighbours by its own hellos. Each announces the pods' prefix of its node.
Nothing is set that an outage could gain by or lose by but the interval; what is not
set is the router's default. Only to save time between two failures they come back
sooner than by default: sessions 3 s after they fell, later than a watch lasts, and
babeld's routes before the half-life of 4 s has passed a few times.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

POD_DEVICE = "pod0"
MULTIPLIER = 3
BACK_AFTER_S = 3
BABELD_COMES_BACK = "smoothing-half-life 1"
"""In s; a route that is lost is not smoothed (babeld(8), -M)."""
FIRST_AS = 65001
MS_PER_S = 1000


class Link(NamedTuple):
    """To the other node over one segment: the device, both underlay addresses."""

    device: str
    near: str
    far: str


class Side(NamedTuple):
    """One node: its number from 0, its pods' prefix and gateway, its links with the preferred first."""

    number: int
    prefix: str
    gateway: str
    links: tuple[Link, ...]


class Command(NamedTuple):
    """A program by its path in its package, its arguments, and the file that is there once it runs.

    `{}` stands for the folder of the router's files.
    """

    program: str
    arguments: str
    ready: str


class Router(NamedTuple):
    """What to write, by file name, and what to run, in this order."""

    title: str
    files: Callable[[Side], Mapping[str, str]]
    commands: Sequence[Command]


_FRR_WORDS = "-f {}/NAME.conf -i {}/NAME.pid --vty_socket {} -z {}/zserv.api -u root -g root --log stdout"
BIRD = (Command("usr/sbin/bird", "-f -c {}/bird.conf -s {}/bird.ctl", "bird.ctl"),)
FRR = (
    Command("usr/lib/frr/zebra", _FRR_WORDS.replace("NAME", "zebra"), "zserv.api"),
    Command("usr/lib/frr/bfdd", _FRR_WORDS.replace("NAME", "bfdd") + " --bfdctl {}/bfdd.sock", "bfdd.vty"),
    Command("usr/lib/frr/bgpd", _FRR_WORDS.replace("NAME", "bgpd"), "bgpd.vty"),
)
BABELD = (Command("usr/sbin/babeld", "-c {}/babeld.conf -S {}/babel.state -I {}/babeld.pid", "babeld.pid"),)


def routers() -> dict[str, Router]:
    """All of them, by the name on the command line."""
    found: dict[str, Router] = {}
    for ms in (50, 10):
        bfd = f"BFD {ms} ms x {MULTIPLIER}"
        found[f"bird-{ms}"] = Router(f"BIRD, {bfd}", partial(bird, ms), BIRD)
    for ms in (50, 10):
        bfd = f"BFD {ms} ms x {MULTIPLIER}"
        found[f"frr-{ms}"] = Router(f"FRR, {bfd}", partial(frr, ms), FRR)
    for ms in (50, 10):
        found[f"babeld-{ms}"] = Router(f"babeld, hello {ms} ms", partial(babeld, ms), BABELD)
    return found


def bird(interval_ms: int, side: Side) -> dict[str, str]:
    """BGP over each link; a higher preference wins."""
    text = f"""\
log stderr all;
router id {side.gateway};
protocol device {{}}
protocol direct {{ ipv4; interface "{POD_DEVICE}"; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol bfd {{ interface "up*" {{ interval {interval_ms} ms; multiplier {MULTIPLIER}; }}; }}
"""
    for rank, link in enumerate(side.links):
        text += f"""\
protocol bgp {link.device} {{
	local {link.near} as {_own_as(side)};
	neighbor {link.far} as {_far_as(side)};
	bfd on;
	connect delay time 1;
	connect retry time {BACK_AFTER_S};
	error wait time {BACK_AFTER_S}, {BACK_AFTER_S};
	ipv4 {{ preference {100 + len(side.links) - rank}; import all; export where source = RTS_DEVICE; }};
}}
"""
    return {"bird.conf": text}


def frr(interval_ms: int, side: Side) -> dict[str, str]:
    """BGP over each link; a higher weight wins."""
    profile = f"""\
bfd
 profile link
  detect-multiplier {MULTIPLIER}
  receive-interval {interval_ms}
  transmit-interval {interval_ms}
"""
    neighbours = "".join(
        f"""\
 neighbor {link.far} remote-as {_far_as(side)}
 neighbor {link.far} bfd profile link
 neighbor {link.far} timers connect {BACK_AFTER_S}
"""
        for link in side.links
    )
    weights = "".join(
        f"  neighbor {link.far} weight {100 + len(side.links) - rank}\n"
        for rank, link in enumerate(side.links)
    )
    bgp = f"""\
router bgp {_own_as(side)}
 bgp router-id {side.gateway}
 no bgp ebgp-requires-policy
{neighbours} address-family ipv4 unicast
  network {side.prefix}
{weights}"""
    return {"zebra.conf": "", "bfdd.conf": profile, "bgpd.conf": bgp}


def babeld(interval_ms: int, side: Side) -> dict[str, str]:
    """A lower cost wins."""
    lines = ["random-id true", "skip-kernel-setup true", "link-detect true", BABELD_COMES_BACK]
    for rank, link in enumerate(side.links, 1):
        hello = interval_ms / MS_PER_S
        lines.append(f"interface {link.device} type wired hello-interval {hello:g} rxcost {96 * rank}")
    lines += [f"redistribute ip {side.prefix} allow", "redistribute local deny", "redistribute deny"]
    return {"babeld.conf": "\n".join(lines) + "\n"}


def _own_as(side: Side) -> int:
    return FIRST_AS + side.number


def _far_as(side: Side) -> int:
    return FIRST_AS + 1 - side.number
