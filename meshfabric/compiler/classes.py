"""What class the packets of each local workload are of, and what the uplinks are told of each class.

    the classes that select a workload, in their order
        --> its own class: what is said of any packet
        --> rules about conversations (by ports), of which the flow keeps the answer
        --> for each DSCP that some match names: rules about packets that have it

`model.qos` has the order. The datapath looks no further than the longest prefix of
ports, so each rule has the whole answer for what it covers: of all matches that
cover it the first class (as in `cells`: a match that covers a port has a block that
holds it, blocks nest, so the match covers the smallest block around the port too).
For a DSCP that is named the rules say everything, also what holds whatever the DSCP.

The default class is told to an uplink only where that makes a difference: saying
nothing is what costs nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from meshfabric.compiler.cells import EVERYTHING, Block, around, blocks_of
from meshfabric.model.labels import Labels
from meshfabric.model.plan import Entries, Table
from meshfabric.model.qos import DEFAULT, Match, TrafficClass, all_classes, in_order, selects
from meshfabric.model.tables import ANY_DSCP, ClassRule, class_rule_key, class_value, number
from meshfabric.model.world import World

BIT_PER_MBIT = 10**6
ANY_PACKET = (Match(),)


class Classed(NamedTuple):
    """What a workload's entry says of its class, and the entries beside it."""

    number: int
    rules: ClassRule
    entries: Entries


def classes_of(world: World, labels: Labels) -> list[TrafficClass]:
    """Those that select a label set, the first in order first; what no match of theirs is about is of the
    default class, which comes last.
    """
    every = in_order(all_classes(world.classes).values())
    return [*(one for one in every if selects(one, labels)), TrafficClass(DEFAULT, None)]


def classed(world: World, place: int, labels: Labels) -> Classed:
    """How the datapath finds the class of what the workload at `place` sends."""
    ordered = classes_of(world, labels)
    by_port = list(_needed(_winners(ordered, ANY_DSCP)))
    named = sorted({dscp for one in ordered for match in one.matches for dscp in match.dscp or ()})
    said = [(ANY_DSCP, *rule) for rule in by_port if rule[0] != EVERYTHING]
    rules = ClassRule.BY_PORT if said else ClassRule(0)
    for dscp in named:
        said += [(dscp, *rule) for rule in _needed(_winners(ordered, dscp))]
        rules |= ClassRule.BY_DSCP
    if tells_default(world):
        rules |= ClassRule.TELLS_DEFAULT
    entries: Entries = {
        (Table.CLASS_RULES, class_rule_key(place, dscp, *block)): number(world.class_number(name))
        for dscp, block, name in said
    }
    return Classed(world.class_number(dict(by_port)[EVERYTHING]), rules, entries)


def class_entries(world: World) -> Entries:
    """Every class as the uplinks need it."""
    return {
        (Table.CLASSES, number(world.class_number(one.name))): class_value(
            one.priority, one.dscp, one.guaranteed, one.most
        )
        for one in all_classes(world.classes).values()
    }


def tells_default(world: World) -> bool:
    """Whether some uplink treats the default class otherwise than packets of which it was told nothing."""
    scheduled = any(capacity_of(world, slot) for slot in range(len(world.settings.uplinks)))
    return scheduled or bool(all_classes(world.classes)[DEFAULT].dscp)


def lead_of(world: World, slot: int) -> int:
    """The uplink that the device and capacity of one are: others by the same device lead through relays."""
    uplinks = world.settings.uplinks
    direct = (at for at, one in enumerate(uplinks) if one.device == uplinks[slot].device and not one.relay)
    return next(direct, slot)


def capacity_of(world: World, slot: int) -> int:
    """In bit/s what leaves by an uplink is scheduled by; 0: it is not."""
    uplink = world.settings.uplinks[lead_of(world, slot)]
    return uplink.capacity * BIT_PER_MBIT if uplink.device in world.paced else 0


def _winners(ordered: Sequence[TrafficClass], dscp: int) -> dict[Block, str]:
    """The class of each block of ports, for packets with a DSCP, or (ANY_DSCP) as far as ports tell."""
    claims: dict[Block, int] = {}
    for place, one in enumerate(ordered):
        for block in _blocks(one.matches or ANY_PACKET, dscp):
            claims.setdefault(block, place)
    return {
        block: ordered[min(claims[wider] for wider in around(block) if wider in claims)].name
        for block in claims
    }


def _blocks(given: Iterable[Match], dscp: int) -> Iterator[Block]:
    return (
        block
        for match in given
        if match.dscp is None or dscp in match.dscp
        for block in blocks_of(match.ports)
    )


def _needed(winners: dict[Block, str]) -> Iterator[tuple[Block, str]]:
    """Those that say something else than the next wider one."""
    for block, name in winners.items():
        wider = [one for one in around(block) if one in winners and one != block]
        if not wider or winners[wider[0]] != name:
            yield block, name
