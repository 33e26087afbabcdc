"""The pair of programs that a device of the fabric carries, seen from the device."""

from meshfabric.model.node import Link
from meshfabric.model.plan import Attachment, Entries, Table


def program_entries(link: Link, role: str) -> Entries:
    """`role` is workload, overlay or uplink: the object that `from_<role>` and `to_<role>` are in."""
    return {
        (Table.PROGRAMS, (link.name, "ingress")): Attachment(f"from_{role}", link.index),
        (Table.PROGRAMS, (link.name, "egress")): Attachment(f"to_{role}", link.index),
    }
