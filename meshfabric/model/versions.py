"""Versions of the policy language: the `min_version` of records, and what is new in each.

An agent refuses a record that is newer than it, and keeps the one before
(`store.checks`). What an older agent would misread is written with the version
that tells it so (`policytext.stamped`).
"""

FIRST = 1
TIERS = 2
"""Tiers, priorities, actions, defaults, expiry, entities and nodes."""
OUTSIDE = 3
"""Peers outside of the fabric, names of ports, types of ICMP, audit, rules whose first match holds."""
LANGUAGE = 3
"""The newest, which this agent speaks."""
