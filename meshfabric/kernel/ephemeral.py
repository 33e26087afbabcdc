"""Which ports the kernel gives to sockets that ask for any (ip-sysctl: ip_local_port_range)."""

from pathlib import Path

from meshfabric.kernel.fault import fault

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of IPv6 as well
RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


def given_to_sockets(ports: range) -> list[range]:
    """Those that a socket of this network namespace may get, in rows; raises PermanentError."""
    try:
        first, last = map(int, RANGE.read_text().split())
        reserved = _listed(RESERVED.read_text())
    except OSError as cause:
        raise fault(cause, place=str(cause.filename), wanted="read it") from cause
    given = [port for port in ports if first <= port <= last and port not in reserved]
    among = set(given)
    starts = [port for port in given if port - 1 not in among]
    ends = [port for port in given if port + 1 not in among]
    return [range(start, end + 1) for start, end in zip(starts, ends, strict=True)]


def reserve(ports: range) -> list[range]:
    """Keep ports from sockets that ask for any, beside those that are kept already; the rows that were not.

    Of this network namespace, until it ends. A socket that asks for one of them by its number gets it.
    Raises PermanentError.
    """
    given = given_to_sockets(ports)
    try:
        kept = RESERVED.read_text().strip()
        if given:
            RESERVED.write_text(",".join([*filter(None, [kept]), *map(row_text, given)]))
    except OSError as cause:
        raise fault(cause, place=str(RESERVED), wanted="reserve ports") from cause
    return given


def row_text(row: range) -> str:
    """`61000-65535`."""
    return f"{row.start}-{row.stop - 1}"


def _listed(text: str) -> set[int]:
    """`8080,61000-65535` as numbers."""
    rows = [part.partition("-") for part in text.strip().split(",") if part]
    return {port for first, _, last in rows for port in range(int(first), int(last or first) + 1)}
