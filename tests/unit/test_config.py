"""The agent's configuration and policies as people write them: what is read, and what is said of mistakes."""

import copy
import functools
import operator
from ipaddress import ip_network
from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.config import check_reachable_outside, read_policies, read_settings
from meshfabric.model.errors import InputError
from meshfabric.model.node import NodeKind
from meshfabric.model.settings import DatapathSettings, Queue, UplinkSettings, WireGuardKind

GOOD = """\
fabric: lab
node: rack1.a
kind: metal
state_dir: /var/lib/meshfabric/lab
socket: /run/meshfabric/lab.sock
metrics: "[::1]:9469"
etcd:
  endpoints:
    - https://192.0.2.1:2379
    - https://[2001:db8::1]:2379
    - https://store.example:2379
  ca: /etc/meshfabric/ca.pem
  cert: /etc/meshfabric/node.pem
  key: /etc/meshfabric/node.key
uplinks:
  - name: up0
    device: eth0
    segment: red
    gateways: [192.0.2.254, "2001:db8::fe"]
  - name: up1
    device: eth1
    cost: 10
labels: {tier: gold}
datapath:
  prefix: mf
  port_base: 51820
probe:
  interval_ms: 20
"""
SMALL = """\
fabric: lab
node: a
kind: vm
etcd: {endpoints: ["http://192.0.2.1:2379"]}
uplinks: [{name: up0, device: eth0}]
"""


def fails(text: str) -> str:
    """The one line that is said about the text."""
    with pytest.raises(InputError) as caught:
        read_settings(text, "agent.yaml")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("agent.yaml:")
    return line


def test_everything_is_read() -> None:
    settings = read_settings(GOOD, "agent.yaml")
    assert (settings.fabric, settings.node, settings.kind) == ("lab", "rack1.a", NodeKind.METAL)
    assert settings.state_dir == Path("/var/lib/meshfabric/lab")
    assert settings.uplinks[0].gateways == ("192.0.2.254", "2001:db8::fe")
    assert settings.uplinks[1] == UplinkSettings("up1", "eth1", cost=10)
    assert settings.etcd.cert == "/etc/meshfabric/node.pem"
    assert settings.labels == {"tier": "gold"}
    assert settings.probe.interval_ms == 20


def test_what_runs_tunnels_and_queues_may_be_said() -> None:
    text = SMALL.replace("eth0}", "eth0, qdisc: keep}") + "wireguard: userspace\n"
    settings = read_settings(text, "agent.yaml")
    assert (settings.wireguard, settings.uplinks[0].qdisc) == (WireGuardKind.USERSPACE, Queue.KEEP)
    settings = read_settings(SMALL, "agent.yaml")
    assert (settings.wireguard, settings.uplinks[0].qdisc) == (WireGuardKind.AUTO, Queue.AUTO)


def test_the_rest_has_defaults() -> None:
    settings = read_settings(SMALL, "agent.yaml")
    assert settings.datapath == DatapathSettings()
    assert settings.socket == Path("/run/meshfabric/agent.sock")
    assert settings.metrics == ""


MISTAKES = [
    ("fabric: lab", "fabric: Lab", 1, "fabric 'Lab' is no valid name"),
    ("node: rack1.a", "node: a/b", 2, "node 'a/b' is no valid name"),
    ("kind: metal", "kind: mettal", 3, "did you mean 'metal'"),
    ("state_dir: /var", "state_dir: var", 4, "state_dir is no absolute path (begin it with /)"),
    ("state_dir: /var/lib/meshfabric/lab", "state_dir: 7", 4, "path"),
    ("socket: /run/meshfabric/lab.sock", f"socket: /{'x' * 107}", 5, "socket has 108 bytes"),
    ('"[::1]:9469"', "9469", 6, 'put it in quotes: "9469"'),
    ('"[::1]:9469"', "localhost", 6, "metrics 'localhost' is no host:port"),
    ('"[::1]:9469"', '"::1:9469"', 6, "no host:port"),
    ('"[::1]:9469"', '"[::zz]:9469"', 6, "no host:port"),
    ('"[::1]:9469"', "localhost:70000", 6, "no host:port"),
    ("https://192.0.2.1:2379", "192.0.2.1:2379", 9, "is no etcd endpoint (write http(s)://host:port"),
    ("https://192.0.2.1:2379", "https://192.0.2.1", 9, "no etcd endpoint"),
    ("https://192.0.2.1:2379", "https://192.0.2.1:0", 9, "no etcd endpoint"),
    ("https://192.0.2.1:2379", "https://192.0.2.1:2379/v3", 9, "no etcd endpoint"),
    ("[2001:db8::1]:2379", "[2001:db8::zz]:2379", 10, "no etcd endpoint"),
    ("https://store.example:2379", "https://192.0.2.1:2379", 11, "given twice"),
    ("https://store.example:2379", "http://192.0.2.9:2379", 8, "mixed"),
    ("ca: /etc", "ca: etc", 12, "etcd.ca is no absolute path"),
    ("  ca: /etc/meshfabric/ca.pem\n", "", 7, "https needs etcd.ca"),
    ("  key: /etc/meshfabric/node.key\n", "", 7, "etcd.cert and etcd.key go together"),
    ("  ca: /etc", "  user: root\n  ca: /etc", 7, "etcd.user and etcd.password_file go together"),
    ("name: up0", "name: up1", 20, "uplink name 'up1' is given twice"),
    ("name: up0", "name: ''", 16, "uplink '' is no valid name"),
    ("device: eth0", "device: eth1", 21, "device 'eth1' is given twice"),
    ("device: eth0", "device: ''", 17, "no device can be called ''"),
    ("device: eth0", "device: a-device-too-long", 17, "at most 15 characters"),
    ("device: eth0", "device: mfwg01", 17, "the fabric's own devices"),
    ("device: eth0", "device: mfwg70b", 17, "the fabric's own devices"),
    ("segment: red", "segment: Red!", 18, "segment 'Red!' is no valid name"),
    ("192.0.2.254", "192.0.2.999", 19, "no IP address"),
    ("192.0.2.254", "0.0.0.0", 19, "no gateway"),
    ("192.0.2.254", "2001:db8::ff", 19, "a second gateway of one family"),
    ("device: eth0", "device: mfpl01", 17, "the fabric's own devices"),
    ("cost: 10", "encryption: of", 22, "unknown encryption 'of' (did you mean 'off'?)"),
    ("cost: 10", "qdisc: leave", 22, "unknown qdisc 'leave' (one of auto, keep)"),
    ("kind: metal", "kind: metal\nwireguard: kernl", 4, "unknown wireguard 'kernl' (did you mean 'kernel'?)"),
    ("cost: 10", "cost: -1", 22, "cost -1 (0 to 1000000)"),
    ("tier: gold", "meshfabric.io/node: b", 23, "the fabric's own (leave it out)"),
    ("tier: gold", "tier: a b", 23, "bad label"),
    ("prefix: mf", "prefix: meshfab", 25, "1 to 6 lower-case letters"),
    ("prefix: mf", "prefix: 0mf", 25, "a letter first"),
    ("port_base: 51820", "port_base: 65409", 26, "datapath.port_base 65409 (1 to 65408)"),
    ("port_base: 51820", "port_base: 0", 26, "datapath.port_base 0"),
    ("port_base: 51820", "port_bass: 1", 26, "did you mean 'port_base'"),
    ("port_base: 51820", "mark_base: 0", 26, "mark_base 0"),
    ("port_base: 51820", f"mark_base: {2**32 - 127}", 26, "mark_base"),
    ("port_base: 51820", "table_base: 250", 26, "the kernel's own routing tables"),
    ("port_base: 51820", "table_base: 255", 26, "the kernel's own routing tables"),
    ("port_base: 51820", "table_base: 2147483641", 26, "table_base"),
    ("port_base: 51820", "flows: 1023", 26, "datapath.flows 1023"),
    ("port_base: 51820", "world_port_base: 1023", 26, "datapath.world_port_base 1023 (1024 to 65535)"),
    ("port_base: 51820", "world_ports: 4537", 26, "datapath.world_ports 4537 (1 to 4536)"),
    ("port_base: 51820", "world_ports: 0", 26, "datapath.world_ports 0"),
    ("port_base: 51820", "world_port_base: 51883", 26, "ports 51883 to 56418 take in those of tunnels"),
    ("port_base: 51820", "port_base: 60937", 24, "keep away from 60937 to 61064"),
    ("kind: metal", "kind: metal\nworld: translated", 4, "did you mean 'translate'?"),
    ("interval_ms: 20", "interval_ms: 0", 28, "probe.interval_ms 0 (1 to 10000)"),
    (
        "interval_ms: 20",
        "interval_ms: 20\nrotation: {grace_s: 0}",
        29,
        "rotation.grace_s 0.0 (1.0 to 86400.0)",
    ),
    ("interval_ms: 20", "interval_ms: 20\nrotation: {away_s: -1}", 29, "rotation.away_s -1.0"),
    ("interval_ms: 20", "interval_ms: 10001", 28, "probe.interval_ms"),
    ("interval_ms: 20", "idle_ms: 49", 28, "probe.idle_ms 49 (50 to 60000)"),
    ("interval_ms: 20", "loss_percent: 101", 28, "probe.loss_percent 101.0 (0 to 100)"),
    ("interval_ms: 20", "rtt_ms: -1", 28, "probe.rtt_ms -1.0 (0 to 60000)"),
    ("interval_ms: 20", "hold_s: 3601", 28, "probe.hold_s 3601.0 (0 to 3600)"),
    ("interval_ms: 20", "idle_ms: 60001", 28, "probe.idle_ms"),
    ("device: eth0", "device: mftick0", 17, "the fabric's own devices"),
]


@pytest.mark.parametrize(("old", "new", "line", "said"), MISTAKES)
def test_a_mistake_gets_one_line_with_its_place(old: str, new: str, line: int, said: str) -> None:
    assert old in GOOD
    message = fails(GOOD.replace(old, new, 1))
    assert message.startswith(f"agent.yaml:{line}: "), message
    assert said in message, message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[{name: up0, device: eth0}]", "[]", "0 uplinks (1 to 8 are possible)"),
        (
            "[{name: up0, device: eth0}]",
            str([{"name": f"up{i}", "device": f"eth{i}"} for i in range(9)]),
            "9 uplinks",
        ),
        ('["http://192.0.2.1:2379"]', "[]", "no etcd endpoint"),
        ('["http://192.0.2.1:2379"]', '["http://192.0.2.1:2379"], ca: /x', "etcd.ca is of no use with http"),
    ],
)
def test_mistakes_in_a_short_file(old: str, new: str, said: str) -> None:
    assert said in fails(SMALL.replace(old, new))


def test_eight_uplinks_are_possible() -> None:
    uplinks = [{"name": f"up{i}", "device": f"eth{i}"} for i in range(8)]
    text = SMALL.replace("[{name: up0, device: eth0}]", str(uplinks))
    assert len(read_settings(text, "agent.yaml").uplinks) == 8


@pytest.mark.parametrize("endpoint", ["https://10.1.2.3:2379", "https://[fd00::5]:2379"])
def test_etcd_is_not_reached_through_the_fabric(endpoint: str) -> None:
    settings = read_settings(GOOD.replace("https://192.0.2.1:2379", endpoint), "agent.yaml")
    prefixes = [ip_network("10.0.0.0/8"), ip_network("fd00::/16")]
    with pytest.raises(InputError, match=r"^etcd.endpoints\[0\]: .* a prefix of the fabric .*underlay"):
        check_reachable_outside(settings, prefixes)
    check_reachable_outside(settings, [ip_network("172.16.0.0/12")])


def test_gateways_are_not_in_the_fabric() -> None:
    settings = read_settings(GOOD, "agent.yaml")
    with pytest.raises(InputError, match=r"^uplinks\[0\].gateways: 2001:db8::fe lies in 2001:db8::f0/124"):
        check_reachable_outside(settings, [ip_network("2001:db8::f0/124")])


RAW = yaml.safe_load(GOOD)
PLACES = [
    (holder, key)
    for holder in ((), ("etcd",), ("uplinks", 0), ("datapath",), ("probe",))
    for key in functools.reduce(operator.getitem, holder, RAW)
]


@given(
    st.sampled_from(PLACES),
    st.recursive(st.none() | st.integers() | st.text(max_size=6), lambda inner: st.lists(inner, max_size=2)),
)
@hypothesis.settings(deadline=None)
def test_any_value_anywhere_is_read_or_refused(
    place: tuple[tuple[str | int, ...], str], value: object
) -> None:
    holder, key = place
    raw = copy.deepcopy(RAW)
    functools.reduce(operator.getitem, holder, raw)[key] = value
    try:
        settings = read_settings(yaml.safe_dump(raw), "agent.yaml")
    except InputError as error:
        what = str(error)
    else:
        what = f"agent.yaml {settings.fabric}"
    assert what.startswith("agent.yaml")


POLICIES = """\
name: web-to-db
select: app=db
ingress:
  - from: [app=web]
    ports: [tcp/5432]
---
# the second
name: quiet
select: {app: cron}
egress: []
"""


def test_policies_are_read_in_order() -> None:
    policies = read_policies(POLICIES, "p.yaml")
    assert [policy.name for policy in policies] == ["web-to-db", "quiet"]
    assert read_policies("# nothing\n", "p.yaml") == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tcp/5432", "tcp/0", "p.yaml:4: ingress[0]: port 'tcp/0' out of range"),
        ("app=db", "(", "p.yaml:2: select: cannot read selector"),
        ("name: quiet", "name: Quiet", "p.yaml:8: name: policy 'Quiet' is no valid name"),
        ("name: quiet", "name: web-to-db", "p.yaml:8: policy 'web-to-db' is given twice (first in p.yaml:1)"),
        ("egress: []", "description: x", "p.yaml:8: a policy needs ingress or egress"),
        ("egress: []", "egres: []", "p.yaml:10: egres: unknown key (did you mean 'egress'?)"),
    ],
)
def test_a_mistake_in_a_policy_has_its_line(old: str, new: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_policies(POLICIES.replace(old, new), "p.yaml")
    assert str(caught.value).startswith(said)


def test_encryption_is_switched_off_by_one_word_and_for_one_uplink() -> None:
    """`off` is a truth value to YAML 1.1; here it is the word, with quotes and without."""
    for word in ("off", "'off'", '"off"'):
        text = GOOD.replace("cost: 10", f"encryption: {word}")
        assert [uplink.encryption for uplink in read_settings(text, "agent.yaml").uplinks] == ["on", "off"]
    assert read_settings(GOOD, "agent.yaml").trusted_slots == ()
    assert read_settings(text, "agent.yaml").trusted_slots == (1,)


def test_its_port_and_marks_are_wanted_only_where_encryption_is_off() -> None:
    last = GOOD.replace("port_base: 51820", "port_base: 65408\n  world_ports: 1024")
    assert read_settings(last, "agent.yaml").datapath.port_base == 65408
    with pytest.raises(InputError, match="1 to 65407"):
        read_settings(last.replace("cost: 10", "encryption: off"), "agent.yaml")
    marks = GOOD.replace("port_base: 51820", f"mark_base: {2**32 - 128}")
    assert read_settings(marks, "agent.yaml").datapath.mark_base == 2**32 - 128
    with pytest.raises(InputError, match="mark_base"):
        read_settings(marks.replace("cost: 10", "encryption: off"), "agent.yaml")


RELAYED = """cost: 10
  - {name: up2, device: eth0, segment: red, relay: gate, gateways: [192.0.2.254, '2001:db8::fe']}"""


def test_a_relay_is_reached_by_a_device_that_is_there_anyway() -> None:
    settings = read_settings(GOOD.replace("cost: 10", RELAYED), "agent.yaml")
    assert [(uplink.device, uplink.relay) for uplink in settings.uplinks] == [
        ("eth0", ""),
        ("eth1", ""),
        ("eth0", "gate"),
    ]
    assert not settings.relay_ports


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("relay: gate", "relay: rack1.a", "agent.yaml:23: a node is no relay of its own"),
        ("relay: gate", "relay: Gate", "node 'Gate'"),
        ("relay: gate", "relay: gate, encryption: off", "agent.yaml:23: no encryption, and a relay"),
        ("device: eth0, segment: red, relay", "device: eth2, relay", "nothing leads by eth2 to the relay"),
        ("segment: red, relay", "segment: blue, relay", "segment is not as that of up0"),
        ("relay: gate", "relay: gate, qdisc: keep", "qdisc is not as that of up0"),
        (", gateways: [192.0.2.254, '2001:db8::fe']", "", "gateways is not as that of up0"),
        ("relay: gate", "cost: 1", "device 'eth0' is given twice"),
    ],
)
def test_a_mistake_with_a_relay_has_its_line(old: str, new: str, said: str) -> None:
    assert old in RELAYED
    assert said in fails(GOOD.replace("cost: 10", RELAYED.replace(old, new)))


def test_ports_of_a_relay_keep_away_from_all_others() -> None:
    relay = GOOD + "relay_mbit: 100\n"
    assert read_settings(relay, "agent.yaml").relay_ports == range(16384, 32768)
    for base, said in (
        (40000, "take in those of tunnels"),
        (48000, "take in those of tunnels"),
        (49153, "1024 to 49152"),
    ):
        text = relay.replace("  port_base", f"  relay_port_base: {base}\n  port_base")
        assert said in fails(text)
    far = relay.replace(
        "  port_base: 51820", "  relay_port_base: 40000\n  port_base: 20000\n  world_port_base: 56000"
    )
    assert "take in those of the world" in fails(far)
    assert "relay_mbit -1" in fails(relay.replace("relay_mbit: 100", "relay_mbit: -1"))
