"""Where etcd is and who we are to it: options shared by the commands that write as an operator.

What no option says is asked of the agent of this node. The agent's certificate
is used, too, where no other is given; its password never leaves the agent.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from meshfabric.cli.ask import SOCKET, Socket, ask_object
from meshfabric.model.errors import TemporaryError

WAIT_S = 30

Wait = Annotated[bool, typer.Option("--wait", help="Wait until every node that is alive has applied it.")]
Timeout = Annotated[int, typer.Option(metavar="SECONDS", help="How long to wait.")]


class Options(NamedTuple):
    """The options as given; every field is one of the command line."""

    etcd: Annotated[
        str | None,
        typer.Option(
            metavar="URL[,URL]", envvar="MESHFABRIC_ETCD", help="etcd's endpoints; else the agent's."
        ),
    ] = None
    fabric: Annotated[
        str | None,
        typer.Option(metavar="NAME", envvar="MESHFABRIC_FABRIC", help="The fabric; else the agent's."),
    ] = None
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Authority of etcd's certificates (PEM).")
    ] = None
    cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Your certificate (PEM).")] = None
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key (PEM).")] = None
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Your etcd user.")] = None
    password_file: Annotated[Path | None, typer.Option(metavar="FILE", help="The password of that user.")] = (
        None
    )
    socket: Socket = SOCKET


class Reach(NamedTuple):
    """All that it takes to write: the fabric, and etcd as `store.settings.Settings` names it."""

    fabric: str
    endpoints: tuple[str, ...]
    ca: str
    cert: str
    key: str
    user: str
    password_file: str


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command each of `Options` as an option of its own; it gets them together as `options`."""
    own = inspect.signature(command)
    shared = list(inspect.signature(Options).parameters.values())
    kept = [parameter for parameter in own.parameters.values() if parameter.name != "options"]

    def called(**given: Any) -> None:
        options = Options(**{field: given.pop(field) for field in Options._fields})
        command(**given, options=options)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*kept, *shared]]
    called.__signature__ = own.replace(parameters=named)  # type: ignore[attr-defined]  # any function may have one (PEP 362)
    return called


def find(options: Options) -> Reach:
    """Where to write; asks the agent unless the options say fabric and endpoints."""
    told = {} if options.etcd and options.fabric else _agent(options)
    own = options if options.cert or options.key else None
    return Reach(
        fabric=options.fabric or told["fabric"],
        endpoints=tuple(options.etcd.split(",")) if options.etcd else tuple(told["etcd"]),
        ca=str(options.ca or told.get("ca", "")),
        cert=str(own.cert or "" if own else told.get("cert", "")),
        key=str(own.key or "" if own else told.get("key", "")),
        user=options.user or "",
        password_file=str(options.password_file or ""),
    )


def _agent(options: Options) -> dict[str, Any]:
    try:
        return ask_object(options.socket, "fabric")
    except TemporaryError as error:
        error.remedy = "start it, or give --etcd and --fabric"
        raise
