"""What is said over the agent's unix socket: one JSON object a line, a request and its reply.

The CLI, the lab and later the CNI plugin speak it; `server` answers from the
agent, `client` asks. A request names itself in `type`; a reply is `Reply` with
either `result` or `error`.
"""

from typing import Any, Literal

import msgspec

from meshfabric.model.policytext import PolicyText

LINE_LIMIT = 1 << 20
"""Bytes of one request."""


class Attach(msgspec.Struct, tag="attach", tag_field="type", frozen=True):
    """Make a workload part of the fabric; repeating it with the same content changes nothing.

    `netns` is the path of a pod's network namespace as the agent sees it and
    `device` the interface to make in it; for a VM `netns` is empty and `device`
    is the existing tap on the node. Addresses are chosen from the node's blocks.
    `mac` is what the guest's interface has, where it cannot take the one that
    the answer gives. `bridged`: a pod's interface will be a port of a bridge in
    the pod (KubeVirt's bridge binding), and so needs link addresses. `ports` by
    name, as `tcp/8080`, are what policies mean by `tcp/http`.
    """

    name: str
    kind: Literal["pod", "vm"]
    labels: dict[str, str]
    device: str
    netns: str = ""
    mac: str = ""
    bridged: bool = False
    ports: dict[str, str] = {}


class Detach(msgspec.Struct, tag="detach", tag_field="type", frozen=True):
    """Take a workload out of the fabric; an absent one is no error."""

    name: str


class Ask(msgspec.Struct, tag="ask", tag_field="type", frozen=True):
    """Read one listing of the agent: rows or one object, as the CLI prints it."""

    subject: Literal[
        "status",
        "nodes",
        "endpoints",
        "paths",
        "switches",
        "uplinks",
        "keys",
        "policies",
        "audits",
        "classes",
        "drops",
        "fabric",
        "features",
        "plan",
    ]


class Release(msgspec.Struct, tag="release", tag_field="type", frozen=True):
    """Let a held mass removal through (see `store.registry`)."""


class Simulate(msgspec.Struct, tag="simulate", tag_field="type", frozen=True):
    """Tell what would change if these policies were written and those deleted; changes nothing."""

    policies: list[PolicyText]
    delete: list[str] = []


class Drain(msgspec.Struct, tag="drain", tag_field="type", frozen=True):
    """Take uplinks of this node last from now on; `force`: also if they are the only way to some node."""

    uplinks: list[str]
    force: bool = False


class Undrain(msgspec.Struct, tag="undrain", tag_field="type", frozen=True):
    """Take uplinks as before they were drained."""

    uplinks: list[str]


class Passing(msgspec.Struct, tag="passing", tag_field="type", frozen=True):
    """Tell what passes over an uplink's tunnels beside probes; takes a second."""

    uplink: str


Request = Attach | Detach | Ask | Release | Simulate | Drain | Undrain | Passing


class Attached(msgspec.Struct, frozen=True):
    """What a workload has to know of its attachment.

    `addresses` are with prefix length (/32, /128), `routes` the fabric's
    prefixes to be sent to the gateways, `mtu` in bytes. `mac` is all zeros where
    the interface has no link address.
    """

    addresses: list[str]
    routes: list[str]
    gateways: list[str]
    gateway_mac: str
    device: str
    mac: str
    mtu: int


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """`error` is empty on success; `permanent` says whether asking again can help."""

    result: Any = None
    error: str = ""
    permanent: bool = True
