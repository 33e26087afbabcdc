"""Policies of a lab, put into its store and waited for."""

import contextlib
from collections.abc import Iterator
from typing import Any

from meshfabric.lab.state import Lab
from tests.lab.store import Store
from tests.lab.whole import names, until


@contextlib.contextmanager
def policy(lab: Lab, name: str, select: str, **rules: Any) -> Iterator[None]:
    """A policy in force on every node while the context lasts; `rules` are `ingress` and `egress`."""
    everywhere(lab, Store(lab).put(f"policies/{name}", {"name": name, "select": select, **rules}))
    try:
        yield
    finally:
        if Store(lab).get(f"policies/{name}") is not None:
            everywhere(lab, Store(lab).delete(f"policies/{name}"))


def everywhere(lab: Lab, revision: int) -> None:
    """Wait until every node says that it has applied all up to a revision of the store."""
    store = Store(lab)
    until(lambda: all(store.reported(node) >= revision for node in names(lab)))
