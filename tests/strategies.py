"""Worlds and sequences of events, out of what `vocabulary` has.

Everything here keeps the promises that `store.checks` and `agent.workloads` make to the
world: slots and addresses that exist, no device or address for two workloads.
"""

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from ipaddress import ip_network
from itertools import product
from typing import Any

from hypothesis import strategies as st

from meshfabric.model.addresses import parse_address
from meshfabric.model.classtext import PRIORITIES as PRIORITIES_OF_CLASSES
from meshfabric.model.classtext import (
    ClassText,
    MatchText,
    PathText,
    UplinkText,
    WorkloadText,
    read_class,
)
from meshfabric.model.keyring import GENERATIONS, Keyring
from meshfabric.model.node import (
    Allocation,
    Endpoint,
    Link,
    NodeKind,
    NodeRecord,
    RotationRecord,
    Tunnel,
    Uplink,
    Workload,
)
from meshfabric.model.policy import Policy
from meshfabric.model.policytext import (
    DefaultText,
    EgressText,
    IngressText,
    PolicyText,
    read_policy,
)
from meshfabric.model.qos import BULK, DEFAULT, TrafficClass
from meshfabric.model.settings import Encryption, EtcdSettings, Settings, UplinkSettings, WorldMode
from meshfabric.model.versions import LANGUAGE
from meshfabric.model.world import Event, Kind, World
from tests.vocabulary import (
    ADDRESSES,
    APISERVERS,
    CARRIED,
    CLASS_NAMES,
    CLASS_PORTS,
    DEVICES,
    DSCPS,
    EXPOSED,
    HEARD,
    LABEL_SETS,
    LOCAL,
    MTUS,
    NAMED_PORTS,
    NODES,
    PATHS,
    PEERS,
    PLAIN_PORTS,
    PORT_BASE,
    PORTS,
    PREFIXES,
    PRIORITIES,
    RELAYED,
    SEGMENTS,
    SELECTORS,
    SELF,
    SLOTS,
    TUNNELS,
    UPLINK_ADDRESSES,
)

label_sets = st.sampled_from(LABEL_SETS)
selectors = st.sampled_from(sorted(SELECTORS))


def settings(
    uplinks: tuple[UplinkSettings, ...], world: WorldMode = WorldMode.OFF, relay_mbit: int = 0
) -> Settings:
    """The configuration of node `SELF` with these uplinks."""
    etcd = EtcdSettings(("http://192.0.2.1:2379",))
    return Settings("lab", SELF, NodeKind.VM, etcd, uplinks, world=world, relay_mbit=relay_mbit)


def all_settings() -> st.SearchStrategy[Settings]:
    """None, one or two uplinks in two segments, with or without gateways and relays; with or without a
    world, a relay or none.
    """
    gateways = st.sampled_from([(), ("192.0.2.254",), ("192.0.2.254", "2001:db8::fe")])
    segment, cost = st.sampled_from(SEGMENTS), st.integers(0, 2)
    direct = st.tuples(st.sampled_from(Encryption), st.just(""))
    ways = direct | st.tuples(st.just(Encryption.ON), st.sampled_from(NODES[1:]))
    one = st.tuples(segment, cost, gateways, ways, st.sampled_from([0, 100]))

    def uplinks(given: list[Any]) -> tuple[UplinkSettings, ...]:
        return tuple(
            UplinkSettings(
                f"up{slot}",
                f"eth{slot}",
                segment,
                cost,
                gateways,
                encryption=encryption,
                relay=relay,
                capacity=capacity,
            )
            for slot, (segment, cost, gateways, (encryption, relay), capacity) in enumerate(given)
        )

    few = st.lists(one, max_size=2).map(uplinks)
    return st.builds(settings, few, st.sampled_from(WorldMode), st.sampled_from([0, 100]))


def links(device: str) -> st.SearchStrategy[Link]:
    """A device as it may be seen, also after it was made anew; no two have one index."""
    index = DEVICES.index(device) + 1
    return st.builds(
        partial(Link, device),
        index=st.sampled_from([index, index + 100]),
        mac=st.just("02:00:00:00:00:01"),
        mtu=st.sampled_from(MTUS),
        up=st.booleans(),
        addresses=st.lists(st.sampled_from(UPLINK_ADDRESSES), max_size=3, unique=True).map(tuple),
    )


def records(name: str) -> st.SearchStrategy[NodeRecord]:
    """What a node may say of itself; its keys are its own and change now and then."""
    number = NODES.index(name)
    tunnel = st.tuples(st.sampled_from(SLOTS), st.sampled_from(SLOTS), st.sampled_from("xy"))
    tunnels = [
        st.lists(tunnel, max_size=9, unique_by=lambda one: one[:2]).map(partial(_tunnels, name, generation))
        for generation in range(GENERATIONS)
    ]
    addresses = st.sampled_from([(), (f"192.0.2.{number}",), (f"2001:db8::{number}",)])
    both = st.just((f"192.0.2.{number}", f"2001:db8::{number}"))
    uplinks = st.lists(
        st.tuples(
            st.sampled_from(SLOTS),
            st.sampled_from(SEGMENTS),
            addresses | both,
            st.sampled_from(MTUS),
            st.integers(0, 2),
            st.tuples(st.sampled_from(PLAIN_PORTS), st.just(""))
            | st.tuples(st.just(0), st.sampled_from(NODES).filter(lambda relay: relay != name)),
        ),
        max_size=3,
        unique_by=lambda one: one[0],
    ).map(lambda given: tuple(_uplink(*fields) for fields in given))
    return st.builds(
        partial(NodeRecord, name, NodeKind.METAL),
        uplinks=uplinks,
        tunnels=tunnels[0],
        odd_tunnels=tunnels[1],
        keyring=keyrings,
        relayed=st.sampled_from([{}, RELAYED, dict(list(RELAYED.items())[1:])]),
    )


def _tunnels(name: str, generation: int, given: list[tuple[int, int, str]]) -> tuple[Tunnel, ...]:
    base, mark = PORT_BASE + 64 * generation, "b" * generation
    return tuple(
        Tunnel(near, far, f"{name}-{near}{far}{mark}{key}=", base + 8 * near + far)
        for near, far, key in given
    )


def _keyring(even: int | None, odd: int | None, preferred: int, taken: int, closing: bool) -> Keyring:
    return Keyring((even, odd), preferred, taken, closing)


keyrings = st.builds(
    _keyring,
    st.sampled_from([None, 0, 2, 4]),
    st.sampled_from([None, 1, 3]),
    st.integers(0, 1),
    st.integers(0, 1),
    st.booleans(),
)
"""Any two epochs, also in states that no rotation comes to."""


def _uplink(
    slot: int, segment: str, addresses: tuple[str, ...], mtu: int, cost: int, way: tuple[int, str] = (0, "")
) -> Uplink:
    plain_port, relay = way
    return Uplink(slot, f"up{slot}", segment, addresses, mtu, cost, plain_port=plain_port, relay=relay)


def allocation(name: str) -> Allocation:
    """The blocks of a node: one of each family."""
    number = NODES.index(name) + 1
    blocks = (ip_network(f"10.1.{number}.0/24"), ip_network(f"fd00:{number}::/64"))
    return Allocation(blocks, tuple(parse_address(str(block[1])) for block in blocks))


def allocations(name: str) -> st.SearchStrategy[Allocation]:
    """A node's blocks, or only the IPv4 one."""
    whole = allocation(name)
    return st.sampled_from([whole, Allocation(whole.blocks[:1], whole.addresses[:1])])


def workloads(name: str) -> st.SearchStrategy[Workload]:
    """A local workload with some of its addresses."""
    kind, device, addresses = LOCAL[name]
    some = st.lists(st.sampled_from(addresses), unique=True).map(lambda few: tuple(map(parse_address, few)))
    mac = f"02:6d:66:01:00:{sorted(LOCAL).index(name):02x}"
    return st.builds(Workload, st.just(name), st.just(kind), label_sets, some, st.just(device), st.just(mac))


def endpoints() -> st.SearchStrategy[Endpoint]:
    """An address' holder on any node, this one included."""
    return st.builds(Endpoint, st.sampled_from(NODES), st.just("shop/c"), st.just("pod"), label_sets)


def policy_texts(name: str = "p") -> st.SearchStrategy[PolicyText]:
    """A document of any tier with at least one direction, empty lists included; nothing expires."""
    normal, ranked = ("allow", "allow", "deny"), ("allow", "deny")
    mode, order = st.sampled_from(["enforce", "enforce", "audit"]), st.booleans()
    plain = _documents(name, normal, 0, tier=st.just("normal"), mode=mode, default=st.none() | defaults())
    ordered = {"priority": priorities, "mode": mode, "first_match": order}
    admin = _documents(name, (*ranked, "pass"), 1, tier=st.just("admin"), **ordered)
    baseline = _documents(name, ranked, 1, tier=st.just("baseline"), **ordered)
    return plain | plain | admin | baseline


priorities = st.sampled_from(PRIORITIES)


def defaults() -> st.SearchStrategy[DefaultText]:
    """What a document says of the rest."""
    verdict = st.sampled_from([None, "allow", "deny"])
    return st.builds(DefaultText, verdict, verdict)


def _documents(
    name: str, actions: tuple[str, ...], least: int, **more: st.SearchStrategy[Any]
) -> st.SearchStrategy[PolicyText]:
    peers = st.none() | st.lists(st.sampled_from(PEERS), max_size=2)
    ports = st.none() | st.lists(st.sampled_from([*sorted(PORTS), *NAMED_PORTS]), max_size=2)
    action = st.sampled_from(actions)
    ingress = st.lists(st.builds(IngressText, peers, ports, action), min_size=least, max_size=3)
    egress = st.lists(st.builds(EgressText, peers, ports, action), min_size=least, max_size=3)
    either = st.tuples(ingress, st.none()) | st.tuples(st.none(), egress) | st.tuples(ingress, egress)
    return st.builds(
        lambda select, both, **rest: PolicyText(name, select, both[0], both[1], min_version=LANGUAGE, **rest),
        selectors,
        either,
        **more,
    )


def policies(name: str = "p") -> st.SearchStrategy[Policy]:
    """The same, checked."""
    return policy_texts(name).map(read_policy)


def class_texts(name: str) -> st.SearchStrategy[ClassText]:
    """A document of a class that workloads may be in."""
    rates = st.sampled_from([None, "8kbit", "20mbit"])
    ports = st.lists(st.sampled_from(CLASS_PORTS), min_size=1, max_size=2)
    marks: st.SearchStrategy[list[int | str]] = st.lists(
        st.sampled_from([*DSCPS, "af41"]), min_size=1, max_size=2
    )
    match = st.builds(MatchText, ports) | st.builds(MatchText, st.none() | ports, marks)
    return st.builds(
        partial(ClassText, name),
        select=st.none() | selectors,
        match=st.none() | st.lists(match, min_size=1, max_size=2),
        priority=st.none() | st.integers(*PRIORITIES_OF_CLASSES),
        dscp=st.sampled_from([None, 0, "af41", "ef"]),
        uplink=st.none() | st.builds(UplinkText, rates, st.sampled_from([None, "80mbit"])),
        workload=st.none() | st.builds(WorkloadText, rates, rates),
        path=st.none() | st.builds(PathText, st.sampled_from([None, "fastest", "cheapest"])),
    )


def classes(name: str) -> st.SearchStrategy[TrafficClass]:
    """The same, checked."""
    return class_texts(name).map(read_class)


def prefixes() -> st.SearchStrategy[tuple[object, ...]]:
    """The fabric's prefixes."""
    return st.lists(st.sampled_from(PREFIXES), max_size=3, unique=True).map(
        lambda few: tuple(map(ip_network, few))
    )


def apiservers() -> st.SearchStrategy[tuple[object, ...]]:
    """Some of the API servers' addresses."""
    return st.lists(st.sampled_from(APISERVERS), unique=True).map(lambda few: tuple(map(ip_network, few)))


def exposed() -> st.SearchStrategy[tuple[object, ...]]:
    """What of the fabric the world may see."""
    return st.lists(st.sampled_from(EXPOSED), unique=True).map(lambda few: tuple(map(ip_network, few)))


def _happenings(
    kind: Kind, keys: Iterable[Hashable], values: Callable[[Any], st.SearchStrategy[Any]]
) -> st.SearchStrategy[Event]:
    """Events of one kind: three times in four something is set."""
    strategies = [
        st.builds(Event, st.just(kind), st.just(key), st.one_of(*3 * [values(key)], st.none()))
        for key in keys
    ]
    return st.one_of(*strategies)


KINDS: dict[Kind, st.SearchStrategy[Event]] = {
    kind: _happenings(kind, keys, values)
    for kind, keys, values in [
        (Kind.PREFIXES, [""], lambda key: prefixes()),
        (Kind.APISERVERS, [""], lambda key: apiservers()),
        (Kind.EXPOSED, [""], lambda key: exposed()),
        (Kind.ALLOCATION, NODES, allocations),
        (Kind.NODE, NODES, records),
        (Kind.ALIVE, NODES, lambda key: st.just(True)),
        (Kind.REVOKED, NODES[1:], lambda key: st.just(True)),
        (Kind.POLICY, ["p", "q", "r", "s"], policies),
        (Kind.CLASS, [*CLASS_NAMES, BULK, DEFAULT], classes),
        (Kind.ENDPOINT, ADDRESSES, lambda key: endpoints()),
        (Kind.WORKLOAD, LOCAL, workloads),
        (Kind.LINK, DEVICES, links),
        (Kind.KEY, TUNNELS, lambda key: st.sampled_from([f"{key}-x=", f"{key}-y="])),
        (Kind.KEYRING, [""], lambda key: keyrings),
        (Kind.ROTATION, [""], lambda key: st.builds(RotationRecord, st.integers(0, 9))),
        (Kind.DRAINING, ["up0", "up1"], lambda key: st.just(True)),
        (Kind.HEARD, PATHS, lambda key: st.sampled_from(HEARD)),
        (Kind.CARRIED, PATHS, lambda key: st.sampled_from(CARRIED)),
        (Kind.PACED, ["eth0", "eth1"], lambda key: st.just(True)),
    ]
}  # fmt: skip


def events() -> st.SearchStrategy[Event]:
    """Any event: something set, changed or removed, also what never was."""
    return st.one_of(*KINDS.values())


def full() -> list[Event]:
    """A fabric where everything is in place: two uplinks, three other nodes, all workloads."""
    both = (ip_network(PREFIXES[0]), ip_network(PREFIXES[1]))
    return [
        Event(Kind.PREFIXES, "", both),
        Event(Kind.APISERVERS, "", tuple(map(ip_network, APISERVERS[:2]))),
        *(Event(Kind.ALLOCATION, name, allocation(name)) for name in NODES),
        *(Event(Kind.NODE, name, full_record(name)) for name in NODES),
        *(Event(Kind.LINK, device, full_link(device)) for device in DEVICES),
        *(Event(Kind.KEY, device, f"{device}-x=") for device in DEVICES[4:8]),
        *(Event(Kind.WORKLOAD, name, full_workload(name)) for name in LOCAL),
        *(Event(Kind.ENDPOINT, address, _endpoint(turn)) for turn, address in enumerate(ADDRESSES)),
        Event(Kind.POLICY, "p", _policy("p", "app=web", IngressText(["tier"], ["tcp/443"]))),
        Event(Kind.POLICY, "q", _policy("q", "*", IngressText(["app=web"]))),
    ]


def couple() -> list[Event]:
    """The same without n3 and n4: what n2 does makes a difference."""
    return [event for event in full() if event.kind is not Kind.NODE or event.key in NODES[:2]]


def full_record(name: str) -> NodeRecord:
    """Slot 0 in red, slot 1 in blue, a key for every pair of slots."""
    number = NODES.index(name) + 1
    uplinks = tuple(
        _uplink(slot, segment, (f"192.0.2.{16 * slot + number}", f"2001:db8:{slot}::{number}"), 1500, slot)
        for slot, segment in enumerate(SEGMENTS)
    )
    tunnels = tuple(
        Tunnel(near, far, f"{name}-{near}{far}x=", PORT_BASE + 8 * near + far)
        for near, far in product(range(len(SEGMENTS)), repeat=2)
    )
    return NodeRecord(name, NodeKind.METAL, {}, uplinks, tunnels)


def full_link(device: str) -> Link:
    """A device that is up, with addresses if it is an uplink's."""
    addresses = ("192.0.2.7/24", "2001:db8::7/64") if device.startswith("eth") else ()
    return Link(device, DEVICES.index(device) + 1, "02:00:00:00:00:01", 1500, True, addresses)


def full_workload(name: str) -> Workload:
    """A local workload with all its addresses."""
    kind, device, addresses = LOCAL[name]
    number = sorted(LOCAL).index(name)
    own = tuple(map(parse_address, addresses))
    return Workload(name, kind, LABEL_SETS[number], own, device, f"02:6d:66:01:00:{number:02x}")


def _endpoint(turn: int) -> Endpoint:
    return Endpoint(NODES[turn % len(NODES)], "shop/c", "pod", LABEL_SETS[turn % len(LABEL_SETS)])


def _policy(name: str, select: str, *ingress: IngressText) -> Policy:
    return read_policy(PolicyText(name, select, list(ingress)))


def sequences(max_size: int = 25) -> st.SearchStrategy[list[Event]]:
    """Events in any order, with repetitions; to an empty world, a full one, or one with a single peer."""
    some = st.lists(events(), max_size=max_size)
    return some | some.map(lambda more: full() + more) | some.map(lambda more: couple() + more)


def policed(max_size: int = 25) -> st.SearchStrategy[list[Event]]:
    """Sequences of what verdicts depend on."""
    return st.lists(
        st.one_of(
            KINDS[Kind.POLICY],
            KINDS[Kind.POLICY],
            KINDS[Kind.ENDPOINT],
            KINDS[Kind.WORKLOAD],
            KINDS[Kind.WORKLOAD],
            KINDS[Kind.APISERVERS] | KINDS[Kind.PREFIXES],
        ),
        max_size=max_size,
    )


def world_of(given: Settings, happened: list[Event]) -> World:
    """The world after these events."""
    world = World(given)
    for event in happened:
        world.apply(event)
    return world


def worlds() -> st.SearchStrategy[World]:
    """Any world; events are applied to it without a compiler."""
    return st.builds(world_of, all_settings(), sequences())
