"""The one door to nftables: the program `nft`, given a whole ruleset as one transaction.

The kernel takes all of a transaction or nothing, and a packet meets the rules from
before it or from after it. What is there is read back as nft's JSON
(libnftables-json(5)). `guard` owns the rules; errors are one line with what to do.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshfabric.kernel import netns, tool
from meshfabric.model.errors import PermanentError
from meshfabric.model.names import GUARD_TABLE

SINCE = "3.14"  # tables for IPv4 and IPv6 alike ("inet")
FAMILIES = ("inet", "bridge")
TRIAL_TABLE = "meshfabric-trial"
ABSENT = "No such file or directory"
_FORBIDDEN = "Operation not permitted"
_UNKNOWN = ("Operation not supported", "Protocol not supported", "Address family not supported", ABSENT)
_TRIAL = """\
table {family} {table} {{
  chain trial {{
    type filter hook forward priority 0
    iifname "mf*" ip saddr 10.0.0.0/8 counter drop
  }}
}}
"""

Listed = Mapping[str, Any]


def apply(ruleset: str) -> None:
    """Give the kernel a ruleset, whole or not at all.

    Raises UnsupportedError without nft, PermanentError when the kernel or its
    privileges do not suffice.
    """
    _run(["nft", "-f", "-"], ruleset)


def tables() -> list[tuple[str, str]]:
    """Family and name of every table of `FAMILIES`, sorted; errors as `apply`."""
    found = [one["table"] for one in _listed("tables") if "table" in one]
    return sorted((one["family"], one["name"]) for one in found if one["family"] in FAMILIES)


def table(family: str, name: str) -> list[Listed]:
    """All objects of a table ({"set": ...}, {"rule": ...}), none if there is no such table."""
    return _listed("table", family, name) if (family, name) in tables() else []


def guards() -> list[str]:
    """The fabrics that have a guard, sorted; also one of which only a part is there."""
    return sorted({name.removeprefix(GUARD_TABLE) for _, name in tables() if name.startswith(GUARD_TABLE)})


def trial() -> str:
    """Make tables and remove them; what doctor says of nftables: which guards are up on this node."""
    for family in FAMILIES:
        apply(_TRIAL.format(family=family, table=TRIAL_TABLE) + f"delete table {family} {TRIAL_TABLE}\n")
    # The process's own namespace: the doctor's thread may be in a throw-away one.
    found = netns.run(Path(f"/proc/{os.getpid()}/ns/net"), guards)
    return f"the guard is up for {', '.join(found)}" if found else "no guard is up"


def _listed(*what: str) -> list[Listed]:
    found: list[Listed] = json.loads(_run(["nft", "-j", "list", *what]) or "{}").get("nftables", [])
    return found


def _run(command: list[str], text: str = "") -> str:
    try:
        return tool.run(command, text)
    except PermanentError as cause:
        if _FORBIDDEN in cause.what:
            remedy = "run as root, with CAP_NET_ADMIN"
            raise PermanentError(cause.what, place="nftables", remedy=remedy) from PermissionError(cause.what)
        if any(one in cause.what for one in _UNKNOWN):
            remedy = "load the module nf_tables, or boot a kernel with CONFIG_NF_TABLES_INET and _BRIDGE"
            raise PermanentError(cause.what, place="nftables", remedy=remedy) from cause
        raise
