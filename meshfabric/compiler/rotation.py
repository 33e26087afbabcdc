"""How a node comes from one epoch of its tunnel keys to the next, losing no packet (pure).

    one generation --another epoch is due--> both --everyone has left the old one--> closing --> one
                                              |                                         |
         tunnels of the new one are preferred as soon as they work      nobody sends by old ones any more

Nobody leads. Each node tells the others its keyring, and does what follows from
theirs: it makes new keys when the epoch that is due asks for the other
generation, tells that it needs the old ones to nobody any more (`taken`), and
gives them up when everybody has told that. Two nodes share a generation all the
while; that is why epochs count by their parity only:

- A node that missed an even number of epochs keeps its keys until the next one.
- The next keys are made only when no living node has old ones of their
  generation left: they would be joined, and taken for new.
- If, however, others went on to newer keys of the generation that a node is
  leaving, it turns round: what it just made is what they give up. So it does if
  it alone has begun, by a clock that was ahead and is no more.
- What others began while it was due is followed, also when the next epoch is due.

Time enters from outside: how long everyone has to be content before keys go, and
how long nodes that are not alive are waited for (`agent.rotation`).
"""

from collections.abc import Iterable
from typing import NamedTuple

from meshfabric.compiler.paths import pairs
from meshfabric.model.keyring import GENERATIONS, Keyring, generation_of
from meshfabric.model.node import RotationRecord
from meshfabric.model.world import World


class Peer(NamedTuple):
    """Another node as this one sees it. `needs_old`: traffic to it has no other way than tunnels of the
    generation that is not preferred.
    """

    name: str
    alive: bool
    keyring: Keyring
    needs_old: bool


def due(rotation: RotationRecord | None, now_s: float) -> int | None:
    """The epoch that keys should be of; None if nobody ever asked for any."""
    if rotation is None:
        return None
    periods = int(now_s - rotation.since_s) // rotation.every_s if rotation.every_s else 0
    return rotation.epoch + max(periods, 0)


def peers(world: World, needing_old: Iterable[str]) -> list[Peer]:
    """The nodes that tunnels lead to, or would if they had keys."""
    needing = set(needing_old)
    return [
        Peer(name, name in world.alive, record.keyring, name in needing)
        for name, record in sorted(world.nodes.items())
        if name in world.allocations and pairs(world, name)
    ]


def turn(mine: Keyring, wanted: int | None, others: list[Peer], *, leftover: bool) -> Keyring:
    """The keyring after what may be done now, but for giving keys up.

    `leftover`: there are keys, on the disk or in a device, of a generation that was given up.
    """
    if not mine.generations:
        return _first(wanted, others)
    if is_under_way(mine):
        return mine if mine.closing else _midway(mine, wanted, others)
    epoch = following(mine, wanted, others)
    if epoch is not None and not leftover and not blocking(mine, others):
        return _begun(mine, epoch)
    return mine


def following(mine: Keyring, wanted: int | None, others: list[Peer]) -> int | None:
    """The epoch that comes after the only one that there is, if any is due or under way with the others.

    A clock or a record that was set back does not make epochs fall.
    """
    newest = mine.newest or 0
    if wanted is None:
        return None
    if generation_of(wanted) != mine.preferred:
        return max(wanted, newest + 1)
    begun = (peer.keyring for peer in others if peer.alive and peer.keyring.preferred != mine.preferred)
    epochs = [keyring.epochs[keyring.preferred] or 0 for keyring in begun]
    return max((epoch for epoch in epochs if newest < epoch <= wanted), default=None)


def blocking(mine: Keyring, others: list[Peer]) -> list[str]:
    """Living nodes that still have older keys of the generation that is next."""
    there = 1 - mine.preferred
    newest = mine.newest or 0
    return [
        peer.name
        for peer in others
        if peer.alive and (epoch := peer.keyring.epochs[there]) is not None and epoch <= newest
    ]


def holding(mine: Keyring, others: list[Peer], *, dead_count: bool) -> list[str]:
    """Who needs keys that this node would give up: those who told so, and those whom it cannot reach else.

    `dead_count`: nodes that are not alive do, too.
    """
    concerned = (peer for peer in others if peer.alive or dead_count)
    return [peer.name for peer in concerned if peer.needs_old or peer.keyring.taken != mine.preferred]


def closing(mine: Keyring) -> Keyring:
    """The keyring once nothing is to be sent by old tunnels; they are heard by for a while yet."""
    return Keyring(mine.epochs, mine.preferred, mine.taken, closing=True)


def without_old(mine: Keyring) -> Keyring:
    """The keyring once the old keys are given up."""
    kept = mine.epochs[mine.preferred]
    epochs = (None, kept) if mine.preferred else (kept, None)
    return Keyring(epochs, mine.preferred, mine.preferred)


def is_under_way(mine: Keyring) -> bool:
    """Whether there are keys of both generations."""
    return len(mine.generations) == GENERATIONS


def _first(wanted: int | None, others: list[Peer]) -> Keyring:
    """Of a node without any key: what is due, else what the others take; yet what every living one has."""
    living = [peer.keyring for peer in others if peer.alive and peer.keyring.generations]
    taken = [keyring.epochs[keyring.taken] or 0 for keyring in living]
    epoch = max(taken, default=0) if wanted is None else wanted
    elsewhere = [keyring.epochs[1 - generation_of(epoch)] for keyring in living]
    shared = all(keyring.epochs[generation_of(epoch)] is not None for keyring in living)
    theirs = [one for one in elsewhere if one is not None]
    return _only(epoch if shared or len(theirs) < len(living) else max(theirs))


def _only(epoch: int) -> Keyring:
    generation = generation_of(epoch)
    return Keyring((None, epoch) if generation else (epoch, None), generation, generation)


def _begun(mine: Keyring, epoch: int) -> Keyring:
    epochs = (mine.epochs[0], epoch) if generation_of(epoch) else (epoch, mine.epochs[1])
    return Keyring(epochs, generation_of(epoch), mine.taken)


def _midway(mine: Keyring, wanted: int | None, others: list[Peer]) -> Keyring:
    newest = max(range(GENERATIONS), key=lambda generation: mine.epochs[generation] or 0)
    back = _others_went_on(mine, newest, others) or _is_called_off(mine, newest, wanted, others)
    preferred = 1 - newest if back else newest
    turned = Keyring(mine.epochs, preferred, mine.taken)
    if preferred != mine.preferred:
        return turned  # what is needed is to be seen anew
    settled = not any(peer.alive and peer.needs_old for peer in others)
    return Keyring(mine.epochs, preferred, preferred) if settled else turned


def _others_went_on(mine: Keyring, newest: int, others: list[Peer]) -> bool:
    mine_epoch = mine.epochs[newest] or 0
    theirs = (peer.keyring.epochs[1 - newest] for peer in others if peer.alive)
    return any(epoch is not None and epoch > mine_epoch for epoch in theirs)


def _is_called_off(mine: Keyring, newest: int, wanted: int | None, others: list[Peer]) -> bool:
    """Nobody else has begun, and what was begun is not due yet: by a clock that was ahead."""
    begun = any(peer.alive and newest in peer.keyring.generations for peer in others)
    return wanted is not None and wanted < (mine.epochs[newest] or 0) and not begun
