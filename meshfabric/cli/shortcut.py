"""Arguments without pydantic, where nothing is to be converted.

Typer 0.29 builds a pydantic adapter for every parameter, also for one that was
not given, and importing pydantic takes as long as all else that `meshfabric
status` does (100 ms of 200). Texts, plain paths and choices pass here by
themselves; for the rest, and to complain, typer does as ever. A typer that has
its conversions elsewhere is merely slower.
"""

from enum import Enum
from pathlib import Path
from typing import Any

import typer.core

MISSING = object()


def install() -> None:
    """From now on every parameter in this process is converted by a `Shortcut`."""
    # Typer's stub neither shows this function nor lets a class stand for one.
    typer.core.build_runtime_param = Shortcut  # type: ignore[attr-defined,assignment]


class Shortcut:
    """Stands where typer keeps the conversion of one parameter."""

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The converted value, by typer itself where it takes more than a look."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        converted = _convert(value, self._descriptor)
        return self._typer(value, param, ctx) if converted is MISSING else converted

    def _typer(self, value: Any, param: Any, ctx: Any) -> Any:
        from typer._coercion import build_runtime_param

        return build_runtime_param(self._descriptor).coerce(value, param=param, ctx=ctx)


def _convert(value: Any, descriptor: Any) -> Any:
    kind, info = descriptor.annotation, descriptor.parameter_info
    if kind == list[str] and all(isinstance(item, str) for item in value):
        return list(value)
    if not isinstance(kind, type):
        return MISSING
    if issubclass(kind, Enum):
        return next((member for member in kind if value in (member, member.value)), MISSING)
    if issubclass(kind, Path) and not (info.exists or info.resolve_path):
        return kind(value)
    return value if type(value) is kind else MISSING  # a default, or a text that is to stay one
