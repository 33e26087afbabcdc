"""Rates as people write them, `20mbit` or `1.5gbit`: decimal units of bits a second, as tc has them."""

import re
from decimal import Decimal

from meshfabric.model.errors import InputError

RateText = str | int | float
"""A number alone is read so that it can be refused in words: it may be meant in bits, bytes or thousands."""

UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
LEAST_RATE, GREATEST_RATE = 8 * 10**3, 10**12
"""bit/s: below, a packet of full size takes longer than a second; above are no devices."""
RATE_FORM = "write 20mbit or 1.5gbit; the units are bit, kbit, mbit and gbit"

_RATE = re.compile(r"([0-9]{1,13}(?:\.[0-9]{1,9})?)([kmg]?bit)")


def parse_rate(given: RateText, place: str = "") -> int:
    """bit/s; raises `InputError`."""
    if not isinstance(given, str):
        raise InputError(f"{given} has no unit", place=place, remedy=RATE_FORM)
    match = _RATE.fullmatch(given.strip().lower())
    if match is None:
        raise InputError(f"cannot read rate {given!r}", place=place, remedy=RATE_FORM)
    rate = int(Decimal(match[1]) * UNITS[match[2]])
    if not LEAST_RATE <= rate <= GREATEST_RATE:
        remedy = f"{format_rate(LEAST_RATE)} to {format_rate(GREATEST_RATE)}"
        raise InputError(f"rate {given!r} out of range", place=place, remedy=remedy)
    return rate


def format_rate(rate: int) -> str:
    """`1.5gbit`; parses to the same rate."""
    unit = next(unit for unit in reversed(UNITS) if rate >= UNITS[unit])
    return f"{(Decimal(rate) / UNITS[unit]).normalize():f}{unit}"
