"""Differentiated services code points, six bits of an IP header, by number and by name."""

import re

from meshfabric.model.errors import InputError

DscpText = str | int

LAST_DSCP = 63
DSCP_NAMES = {
    **{f"cs{precedence}": 8 * precedence for precedence in range(8)},  # RFC 2474, 4.2.2
    **{f"af{one}{drop}": 8 * one + 2 * drop for one in range(1, 5) for drop in range(1, 4)},  # RFC 2597, 6
    "ef": 46,  # RFC 3246, 2.7
    "le": 1,  # RFC 8622, 3
}
_NUMBER = re.compile("[0-9]{1,2}")
_BY_NUMBER = {number: name for name, number in DSCP_NAMES.items()}


def parse_dscp(given: DscpText, place: str = "") -> int:
    """`af41`, `EF` or 46; raises `InputError`."""
    word = str(given).strip().lower()
    number = int(word) if _NUMBER.fullmatch(word) else DSCP_NAMES.get(word)
    if number is None or number > LAST_DSCP:
        remedy = f"0 to {LAST_DSCP}, or one of {', '.join(DSCP_NAMES)}"
        raise InputError(f"unknown DSCP {given!r}", place=place, remedy=remedy)
    return number


def format_dscp(number: int) -> str:
    """The name where there is one; parses to the same."""
    return _BY_NUMBER.get(number, str(number))
