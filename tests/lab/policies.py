"""Policies of a lab, put into its store and waited for."""

import contextlib
from collections.abc import Iterator
from typing import Any

from meshfabric.lab.state import Lab
from tests.lab.store import Store
from tests.lab.whole import everywhere as everywhere


@contextlib.contextmanager
def policy(lab: Lab, name: str, select: str, **rules: Any) -> Iterator[None]:
    """A policy in force on every node while the context lasts; `rules`: the other fields of its record."""
    everywhere(lab, Store(lab).put(f"policies/{name}", {"name": name, "select": select, **rules}))
    try:
        yield
    finally:
        if Store(lab).get(f"policies/{name}") is not None:
            everywhere(lab, Store(lab).delete(f"policies/{name}"))
