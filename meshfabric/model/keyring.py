"""Which tunnel keys a node has, and which of them its traffic takes.

WireGuard forgets its sessions when a device gets another key, and of one device
an address belongs to one peer. So keys are not replaced: a node makes devices
with new keys beside the old ones, and takes those away when nobody uses them any
more. Two generations suffice; keys of even epochs are of generation 0, of odd
ones of generation 1, so that two nodes that are an epoch apart still know which
of their devices belong together.

What becomes of a keyring is decided in `compiler.rotation`.
"""

import msgspec

GENERATIONS = 2
MAX_EPOCH = (1 << 53) - 1  # what every JSON reader keeps (RFC 8259, 6)


class Keyring(msgspec.Struct, frozen=True):
    """`epochs` by generation, None where a node has no keys of it.

    The datapath takes tunnels of the generation `preferred` where they work; `taken` is what a node
    tells the others: to nobody does it need the other generation any more. `closing`: it is about to
    give that up, and neither side sends by its tunnels from here on.
    """

    epochs: tuple[int | None, int | None] = (0, None)
    preferred: int = 0
    taken: int = 0
    closing: bool = False

    @property
    def generations(self) -> tuple[int, ...]:
        """Those that there are keys of."""
        return tuple(generation for generation, epoch in enumerate(self.epochs) if epoch is not None)

    @property
    def open(self) -> tuple[int, ...]:
        """Generations whose tunnels may be sent by."""
        return (self.preferred,) if self.closing else self.generations

    @property
    def newest(self) -> int | None:
        """The highest epoch; None without any key."""
        return max((epoch for epoch in self.epochs if epoch is not None), default=None)


FIRST = Keyring()
"""Of a node that never rotated, also of one that does not know how to."""
NONE = Keyring((None, None))
"""Of a node that is yet to learn what the others have."""


def generation_of(epoch: int) -> int:
    """0 or 1."""
    return epoch % GENERATIONS
