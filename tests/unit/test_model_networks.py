"""Networks and the CIDRs that cover them, against counting addresses one by one."""

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from meshfabric.model.addresses import Network
from meshfabric.model.labels import check_labels
from meshfabric.model.networks import Cidr, Networks, lies_in, network_labels, parse_cidr


def networks_below(text: str, longest: int) -> st.SearchStrategy[Network]:
    """All of it, or a part."""
    whole = ip_network(text)
    lengths = st.integers(whole.prefixlen, longest)
    return lengths.flatmap(lambda length: st.sampled_from(list(whole.subnets(new_prefix=length))))


networks = networks_below("198.51.100.0/28", 32) | networks_below("2001:db8::/124", 128)


@st.composite
def cidrs(draw: st.DrawFn) -> Cidr:
    network = draw(networks)
    inner = draw(st.lists(networks.filter(lambda one: one != network and lies_in(one, network)), max_size=2))
    return parse_cidr(str(network), map(str, inner))


@given(networks, networks)
def test_lying_in_is_having_no_address_elsewhere(one: Network, other: Network) -> None:
    assert lies_in(one, other) == (set(map(str, one)) <= set(map(str, other)))


@given(st.lists(cidrs(), min_size=1, max_size=4), st.data())
def test_members_come_and_go(wanted: list[Cidr], data: st.DataObject) -> None:
    """Asked before they came, while they come and go, and for the first time at the end."""
    known = Networks()
    for cidr in wanted:
        known.use(cidr, 1)
    for cidr in data.draw(st.lists(st.sampled_from(wanted))):
        known.members(cidr)
    there = dict(enumerate({network for cidr in wanted for network in cidr.networks}))
    servers = data.draw(st.lists(st.sampled_from(list(there.values()))))
    for number, network in there.items():
        known.add(number, network)
    known.reach_apiservers(servers)
    for number in data.draw(st.sets(st.sampled_from(list(there)))):
        known.remove(number)
        del there[number]
    for cidr in wanted:
        parts = {number: set(map(str, network)) for number, network in there.items()}
        assert known.members(cidr) == {number for number, part in parts.items() if _has(cidr, part)}
    assert known.of_apiservers == {number for number, network in there.items() if network in servers}


def _has(cidr: Cidr, part: set[str]) -> bool:
    """All of it lies in the CIDR's network, and in none of the exceptions does all of it lie."""
    return part <= set(map(str, cidr.network)) and not any(
        part <= set(map(str, one)) for one in cidr.exceptions
    )


@given(st.lists(cidrs(), max_size=4), networks)
def test_the_smallest_network_around_an_address_tells_all_about_it(named: list[Cidr], where: Network) -> None:
    address = where[0]
    known = {network for cidr in named for network in cidr.networks if address in network}
    around = max(known, key=lambda network: network.prefixlen, default=None)
    for cidr in named:
        of_it = address in cidr.network and not any(address in one for one in cidr.exceptions)
        assert of_it == (around is not None and cidr.covers(around))


@given(networks, networks)
def test_a_network_is_numbered_by_what_can_be_written_down(one: Network, other: Network) -> None:
    check_labels(dict(network_labels(one)))
    assert (network_labels(one) == network_labels(other)) == (one == other)
