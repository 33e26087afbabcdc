"""When is a loss too large to be believed at once (pure).

A wiped or restored store, a mistyped prefix, a lost folder: all look like a
great many removals in one change. Those are kept back until somebody says that
they are meant.
"""

from collections.abc import Mapping

from meshfabric.model.world import Kind

LARGEST_SHARE = 0.2
"""Of all that is in force of one kind."""
ALWAYS_ALLOWED = {
    Kind.ENDPOINT: 20,
    Kind.NODE: 2,
    Kind.ALLOCATION: 2,
    Kind.POLICY: 10,
    Kind.CLASS: 3,
    Kind.PREFIXES: 0,  # there is one, and all else hangs on it
    Kind.APISERVERS: 0,  # of the same record
    Kind.EXPOSED: 0,
}
"""So many may go whatever share they are; kinds not named here are never kept back."""
NAMES = {
    Kind.ENDPOINT: "endpoints",
    Kind.NODE: "nodes",
    Kind.ALLOCATION: "allocations",
    Kind.POLICY: "policies",
    Kind.CLASS: "classes",
    Kind.PREFIXES: "config",
}
RELEASE = "meshfabric store release"


def too_many(lost: Mapping[Kind, int], known: Mapping[Kind, int]) -> bool:
    """Whether a change that loses so many of so many known, by kind, is kept back as a whole."""
    return any(
        number > ALWAYS_ALLOWED[kind] and number > LARGEST_SHARE * known[kind]
        for kind, number in lost.items()
        if kind in ALWAYS_ALLOWED
    )


def describe(gone: Mapping[Kind, int], known: Mapping[Kind, int]) -> str:
    """One line for what is kept back, and the way out; empty for nothing."""
    parts = [f"{gone[kind]} of {known[kind]} {name}" for kind, name in NAMES.items() if gone.get(kind)]
    if not parts:
        return ""
    what = f"{', '.join(parts)} went missing in the store, or lost their right, at once"
    return f"{what}; they stay in force until the store has them again or `{RELEASE}`"
