"""Addresses for workloads: never one that means something else, and reused as late as possible."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.addresses import Address, format_address, parse_address
from meshfabric.model.errors import PermanentError
from meshfabric.store.ipam import choose


def pick(blocks: list[str], taken: set[str] = frozenset(), last: str = "") -> str:  # type: ignore[assignment]  # an empty set that nobody changes
    """`choose` in text."""
    networks = [ip_network(block) for block in blocks]
    addresses = set(map(parse_address, taken))
    return format_address(choose(networks, addresses, parse_address(last) if last else None))


def test_the_first_is_after_the_nodes_own() -> None:
    assert pick(["10.1.0.0/24"]) == "10.1.0.2"
    assert pick(["fd00:1::/64"]) == "fd00:1::2"


def test_the_lowest_free_after_the_last() -> None:
    assert pick(["10.1.0.0/24"], {"10.1.0.7"}, "10.1.0.6") == "10.1.0.8"
    assert pick(["fd00:1::/64"], {"fd00:1::8"}, "fd00:1::ffff:ffff:ffff:ffff") == "fd00:1::2"


def test_round_at_the_end_and_never_the_broadcast_address() -> None:
    assert pick(["10.1.0.0/29"], set(), "10.1.0.6") == "10.1.0.2"
    assert pick(["10.1.0.0/29"], {"10.1.0.2"}, "10.1.0.7") == "10.1.0.3"
    assert pick(["fd00:1::/125"], {f"fd00:1::{i}" for i in range(2, 7)}) == "fd00:1::7"


def test_the_next_block_follows() -> None:
    blocks = ["10.1.0.0/30", "10.9.0.0/30", "10.8.0.4/31"]
    given_out: list[str] = []
    for _ in range(5):
        given_out.append(pick(blocks, set(given_out), given_out[-1] if given_out else ""))
    assert given_out == ["10.1.0.2", "10.9.0.1", "10.9.0.2", "10.8.0.4", "10.8.0.5"]
    with pytest.raises(PermanentError, match=r"no address is free in 10\.1\.0\.0/30, .*another block"):
        pick(blocks, set(given_out))


def test_a_last_one_from_elsewhere_means_the_beginning() -> None:
    assert pick(["10.1.0.0/24"], set(), "10.7.0.9") == "10.1.0.2"


def test_no_block_has_no_address() -> None:
    with pytest.raises(PermanentError, match="no block"):
        pick([])


@given(
    st.lists(
        st.sampled_from(["10.1.0.0/29", "10.2.0.0/30", "10.3.0.0/31", "10.4.0.9/32"]), unique=True, min_size=1
    ).filter(lambda blocks: blocks[0].endswith(("29", "30"))),
    st.lists(st.integers(0, 9), max_size=40),
)
def test_every_address_is_given_once_before_any_comes_again(blocks: list[str], returns: list[int]) -> None:
    """Against a list of what a person would write down as usable."""
    networks = [ip_network(block) for block in blocks]
    usable: list[Address] = []
    for i, network in enumerate(networks):
        few = network.num_addresses < 4
        hosts = list(network) if few else list(network)[1:-1]
        usable += [parse_address(str(one)) for one in hosts[i == 0 :]]
    taken: list[Address] = []
    last = None
    for step in [*returns, *range(40)]:
        if len(taken) == len(usable):
            taken.pop(step % len(taken))
        chosen = choose(networks, set(taken), last)
        start = usable.index(last) + 1 if last is not None else 0
        order = usable[start:] + usable[:start]
        assert chosen == next(one for one in order if one not in taken)
        taken.append(chosen)
        last = chosen
