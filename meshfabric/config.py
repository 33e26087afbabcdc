"""Files that people write, as checked values: the agent's settings, policies and classes (pure).

`model.yamltext` turns text into the types of `model.settings`, `model.policytext`
and `model.classtext` and knows the line of everything; here is what the values
mean together. Every error is one line with `file:line` and a remedy.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from meshfabric.model.addresses import Address, Network, format_address, is_ipv4, parse_address
from meshfabric.model.classtext import ClassText, read_class
from meshfabric.model.errors import InputError
from meshfabric.model.labels import RESERVED_PREFIX, check_labels
from meshfabric.model.names import (
    IFNAMSIZ,
    check_device_prefix,
    check_name,
    is_plain_device,
    is_tunnel_device,
)
from meshfabric.model.node import MAX_SLOTS
from meshfabric.model.policytext import PolicyText, read_policy, stamped
from meshfabric.model.ports import MAX_PORT
from meshfabric.model.settings import TUNNELS, Encryption, Settings, UplinkSettings
from meshfabric.model.yamltext import Located, locate, locate_documents

LAST_MARK = (1 << 32) - 1
LAST_TABLE = (1 << 31) - 1
KERNEL_TABLES = range(253, 256)
"""default, main and local (rt_tables)."""
FLOWS = (1024, 1 << 24)
INTERVAL_MS = (1, 10_000)
IDLE_MS = 60_000
RTT_MS = 60_000
HOLD_S = 3600
DRIFT_CHECK_S = (0.1, 86_400.0)
GRACE_S = (1.0, 86_400.0)
AWAY_S = (1.0, 31_536_000.0)
MAX_COST = 1_000_000
MAX_CAPACITY = 100_000_000  # Mbit/s
MAX_RELAYED = 1_000_000  # Mbit/s
MAX_SOCKET_BYTES = 107  # sun_path less the final zero (unix(7))

URL = re.compile(r"(https?)://(?:\[([0-9A-Fa-f:.]+)]|([A-Za-z0-9._-]+)):([0-9]{1,5})/?")
URL_FORM = "write http(s)://host:port, an IPv6 address in brackets"
LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]*)]|([A-Za-z0-9._-]*)):([0-9]{1,5})")
DEVICE = re.compile(rf"[^\s/:]{{1,{IFNAMSIZ}}}")  # dev_valid_name() of the kernel
STEP = re.compile("[a-z_]+|[0-9]+")  # of a place: ingress[0], uplink.max

Check = Callable[[Located[Settings]], None]
Text = TypeVar("Text", PolicyText, ClassText)


class Url(NamedTuple):
    """An etcd endpoint taken apart."""

    secure: bool
    host: str
    port: int


def read_settings(text: str, name: str) -> Settings:
    """The agent's configuration; `name` is the file's name in errors. Raises `InputError`."""
    found = locate(text, name, Settings, _hook)
    for check in _CHECKS:
        check(found)
    return found.value


def read_policies(text: str, name: str) -> list[PolicyText]:
    """Every policy in the text, each checked and stamped for the store, no two of the same name.

    Raises `InputError`.
    """
    found = locate_documents(text, name, PolicyText)
    stamps = [replace(one, value=stamped(one.value)) for one in found]
    return _checked(stamps, read_policy, "policy")


def read_classes(text: str, name: str) -> list[ClassText]:
    """Every traffic class in the text, as `read_policies` does it."""
    return _checked(locate_documents(text, name, ClassText), read_class, "class")


def check_reachable_outside(settings: Settings, prefixes: Iterable[Network]) -> None:
    """etcd and gateways are at underlay addresses, never in the fabric: else the way to them would
    lead through what they are needed for. Raises `InputError`; host names cannot be judged here.
    """
    named = [(f"etcd.endpoints[{i}]", _url(text).host) for i, text in enumerate(settings.etcd.endpoints)]
    for i, uplink in enumerate(settings.uplinks):
        named += [(f"uplinks[{i}].gateways", gateway) for gateway in uplink.gateways]
    inside = list(prefixes)
    for place, host in named:
        network = next((one for one in inside if _lies_in(host, one)), None)
        if network is not None:
            what = f"{host} lies in {network}, a prefix of the fabric"
            raise InputError(what, place=place, remedy="give an underlay address, never one of the fabric")


def _hook(type: type, value: Any) -> Any:
    if type is Path and isinstance(value, str):
        return Path(value)
    raise ValueError("expected a path")


def _check_names(found: Located[Settings]) -> None:
    settings = found.value
    check_name(settings.fabric, "fabric", found.at("fabric"))
    check_name(settings.node, "node", found.at("node"))
    check_labels(settings.labels, found.at("labels"))
    for key in settings.labels:
        if key.startswith(RESERVED_PREFIX):
            raise found.error(f"label {key!r} is the fabric's own", "labels", key, remedy="leave it out")


def _check_paths(found: Located[Settings]) -> None:
    settings = found.value
    for field in ("state_dir", "socket", "bpffs"):
        if not getattr(settings, field).is_absolute():
            raise found.error(f"{field} is no absolute path", field, remedy="begin it with /")
    if len(bytes(settings.socket)) > MAX_SOCKET_BYTES:
        what = f"socket has {len(bytes(settings.socket))} bytes"
        raise found.error(what, "socket", remedy=f"the kernel takes at most {MAX_SOCKET_BYTES}")
    for field in ("ca", "cert", "key", "password_file"):
        path = getattr(settings.etcd, field)
        if path and not Path(path).is_absolute():
            raise found.error(f"etcd.{field} is no absolute path", "etcd", field, remedy="begin it with /")


def _check_etcd(found: Located[Settings]) -> None:
    etcd = found.value.etcd
    if not etcd.endpoints:
        raise found.error("no etcd endpoint", "etcd", "endpoints", remedy=URL_FORM)
    urls = [_url(text, found.at("etcd", "endpoints", i)) for i, text in enumerate(etcd.endpoints)]
    _check_once(found, etcd.endpoints, "etcd endpoint", lambda i: ("etcd", "endpoints", i))
    if len({url.secure for url in urls}) > 1:
        raise found.error(
            "http and https endpoints are mixed", "etcd", "endpoints", remedy="use https for all"
        )
    secrets = [field for field in ("ca", "cert", "key") if getattr(etcd, field)]
    if secrets and not urls[0].secure:
        raise found.error(f"etcd.{secrets[0]} is of no use with http", "etcd", secrets[0], remedy="use https")
    if urls[0].secure and not etcd.ca:
        raise found.error(
            "https needs etcd.ca", "etcd", remedy="name the file with the certificate of its CA"
        )
    for one, other in (("cert", "key"), ("user", "password_file")):
        if bool(getattr(etcd, one)) != bool(getattr(etcd, other)):
            raise found.error(
                f"etcd.{one} and etcd.{other} go together", "etcd", remedy="write both or neither"
            )


def _check_uplinks(found: Located[Settings]) -> None:
    uplinks = found.value.uplinks
    if not 1 <= len(uplinks) <= MAX_SLOTS:
        raise found.error(f"{len(uplinks)} uplinks", "uplinks", remedy=f"1 to {MAX_SLOTS} are possible")
    _check_once(found, [uplink.name for uplink in uplinks], "uplink name", lambda i: ("uplinks", i, "name"))
    _check_once(
        found,
        [f"{uplink.device} to {uplink.relay}" if uplink.relay else uplink.device for uplink in uplinks],
        "device",
        lambda i: ("uplinks", i, "device"),
    )
    for i, uplink in enumerate(uplinks):
        check_name(uplink.name, "uplink", found.at("uplinks", i, "name"))
        check_name(uplink.segment, "segment", found.at("uplinks", i, "segment"))
        _check_device(found, uplink.device, i)
        if not 0 <= uplink.cost <= MAX_COST:
            raise found.error(f"cost {uplink.cost}", "uplinks", i, "cost", remedy=f"0 to {MAX_COST}")
        _check_range(found, uplink.capacity, 0, MAX_CAPACITY, "uplinks", i, "capacity")
        _check_gateways(found, uplink.gateways, i)
        if uplink.relay:
            _check_relayed(found, uplink, i)


def _check_relayed(found: Located[Settings], uplink: UplinkSettings, i: int) -> None:
    check_name(uplink.relay, "node", found.at("uplinks", i, "relay"))
    if uplink.relay == found.value.node:
        remedy = "name another node, or leave it out"
        raise found.error("a node is no relay of its own", "uplinks", i, "relay", remedy=remedy)
    if uplink.encryption is Encryption.OFF:
        remedy = "leave it on: a relay hands on encrypted packets only"
        raise found.error("no encryption, and a relay", "uplinks", i, "encryption", remedy=remedy)
    direct = next(
        (one for one in found.value.uplinks if (one.device, one.relay) == (uplink.device, "")), None
    )
    if direct is None:
        remedy = f"describe {uplink.device} by an uplink without relay as well"
        raise found.error(
            f"nothing leads by {uplink.device} to the relay", "uplinks", i, "relay", remedy=remedy
        )
    for field in ("segment", "gateways", "qdisc"):
        if getattr(uplink, field) != getattr(direct, field):
            what = f"{field} is not as that of {direct.name}, which is the same device"
            raise found.error(what, "uplinks", i, field, remedy="write the same")


def _check_device(found: Located[Settings], device: str, i: int) -> None:
    if not DEVICE.fullmatch(device) or device in (".", ".."):
        remedy = f"at most {IFNAMSIZ} characters, no space, / or :"
        raise found.error(f"no device can be called {device!r}", "uplinks", i, "device", remedy=remedy)
    prefix = found.value.datapath.prefix
    ours = rf"{re.escape(prefix)}(host[01]|tick[01]|p[0-9]+)"
    if is_tunnel_device(prefix, device) or is_plain_device(prefix, device) or re.fullmatch(ours, device):
        remedy = "name a device of the underlay, or set another datapath.prefix"
        raise found.error(
            f"{device} is a name of the fabric's own devices", "uplinks", i, "device", remedy=remedy
        )


def _check_gateways(found: Located[Settings], gateways: tuple[str, ...], i: int) -> None:
    families: set[bool] = set()
    for at, text in enumerate(gateways):
        place = found.at("uplinks", i, "gateways", at)
        address = parse_address(text, place)
        if format_address(address) != text or ip_address(text).is_unspecified:
            raise InputError(f"{text!r} is no gateway", place=place, remedy="write 192.0.2.1 or 2001:db8::1")
        if is_ipv4(address) in families:
            raise InputError("a second gateway of one family", place=place, remedy="at most one of each")
        families.add(is_ipv4(address))


def _check_datapath(found: Located[Settings]) -> None:
    datapath = found.value.datapath
    check_device_prefix(datapath.prefix, "datapath.prefix", found.at("datapath", "prefix"))
    _check_range(
        found, datapath.port_base, 1, MAX_PORT - len(found.value.tunnel_ports) + 1, "datapath", "port_base"
    )
    _check_relay(found)
    _check_world_ports(found)
    marks = TUNNELS + (MAX_SLOTS if found.value.trusts else 0)
    _check_range(found, datapath.mark_base, 1, LAST_MARK - marks + 1, "datapath", "mark_base")
    _check_range(found, datapath.table_base, 1, LAST_TABLE - MAX_SLOTS + 1, "datapath", "table_base")
    if set(KERNEL_TABLES) & set(range(datapath.table_base, datapath.table_base + MAX_SLOTS)):
        what = f"datapath.table_base {datapath.table_base} takes in the kernel's own routing tables"
        raise found.error(what, "datapath", "table_base", remedy="8 in a row without 253 to 255")
    _check_range(found, datapath.flows, *FLOWS, "datapath", "flows")
    probe = found.value.probe
    _check_range(found, probe.interval_ms, *INTERVAL_MS, "probe", "interval_ms")
    _check_range(found, probe.idle_ms, probe.interval_ms, IDLE_MS, "probe", "idle_ms")
    _check_range(found, probe.loss_percent, 0, 100, "probe", "loss_percent")
    _check_range(found, probe.rtt_ms, 0, RTT_MS, "probe", "rtt_ms")
    _check_range(found, probe.hold_s, 0, HOLD_S, "probe", "hold_s")
    _check_range(found, found.value.drift_check_s, *DRIFT_CHECK_S, "drift_check_s")
    _check_range(found, found.value.rotation.grace_s, *GRACE_S, "rotation", "grace_s")
    _check_range(found, found.value.rotation.away_s, *AWAY_S, "rotation", "away_s")


def _check_relay(found: Located[Settings]) -> None:
    settings = found.value
    _check_range(found, settings.relay_mbit, 0, MAX_RELAYED, "relay_mbit")
    most = MAX_PORT - len(settings.relay_ports) + 1
    _check_range(found, settings.datapath.relay_port_base, 1024, most, "datapath", "relay_port_base")


def _check_world_ports(found: Located[Settings]) -> None:
    datapath = found.value.datapath
    _check_range(found, datapath.world_port_base, 1024, MAX_PORT, "datapath", "world_port_base")
    most = MAX_PORT - datapath.world_port_base + 1
    _check_range(found, datapath.world_ports, 1, most, "datapath", "world_ports")
    world = range(datapath.world_port_base, datapath.world_port_base + datapath.world_ports)
    tunnels, relayed = found.value.tunnel_ports, found.value.relay_ports
    _check_ports_apart(found, "world_port_base", world, "tunnels", tunnels)
    _check_ports_apart(found, "relay_port_base", relayed, "tunnels", tunnels)
    _check_ports_apart(found, "relay_port_base", relayed, "the world", world)


def _check_ports_apart(found: Located[Settings], field: str, ports: range, others: str, taken: range) -> None:
    if ports and ports.start < taken.stop and taken.start < ports.stop:
        what = f"datapath.{field}: ports {ports.start} to {ports.stop - 1} take in those of {others}"
        remedy = f"keep away from {taken.start} to {taken.stop - 1}"
        raise found.error(what, "datapath", field, remedy=remedy)


def _check_metrics(found: Located[Settings]) -> None:
    text = found.value.metrics
    match = LISTEN.fullmatch(text)
    if text and (not match or not 1 <= int(match[3]) <= MAX_PORT or (match[1] and not _is_address(match[1]))):
        raise found.error(
            f"metrics {text!r} is no host:port", "metrics", remedy="write 127.0.0.1:9469 or [::1]:9469"
        )


_CHECKS: tuple[Check, ...] = (
    _check_names,
    _check_paths,
    _check_datapath,
    _check_uplinks,
    _check_etcd,
    _check_metrics,
)


def _url(text: str, place: str = "") -> Url:
    match = URL.fullmatch(text)
    if not match or not 1 <= int(match[4]) <= MAX_PORT or (match[2] and not _is_address(match[2])):
        raise InputError(f"{text!r} is no etcd endpoint", place=place, remedy=URL_FORM)
    return Url(match[1] == "https", match[2] or match[3], int(match[4]))


def _is_address(text: str) -> bool:
    return _address(text) is not None


def _address(text: str) -> Address | None:
    try:
        return parse_address(text)
    except InputError:
        return None


def _lies_in(host: str, network: Network) -> bool:
    address = _address(host)
    if address is None:
        return False
    return ip_address(format_address(address)) in network


def _check_once(
    found: Located[Settings], values: Iterable[str], what: str, path: Callable[[int], tuple[str | int, ...]]
) -> None:
    seen: Counter[str] = Counter()
    for i, value in enumerate(values):
        if seen[value]:
            raise found.error(f"{what} {value!r} is given twice", *path(i), remedy="each is used once")
        seen[value] += 1


def _check_range(found: Located[Settings], value: float, least: float, most: float, *path: str | int) -> None:
    if not least <= value <= most:
        raise found.error(f"{'.'.join(map(str, path))} {value}", *path, remedy=f"{least} to {most}")


def _checked(documents: Iterable[Located[Text]], read: Callable[[Text], object], noun: str) -> list[Text]:
    """The values of documents that `read` takes, of which no two have the same name."""
    lines: dict[str, str] = {}
    texts = []
    for found in documents:
        _check_document(found, read)
        name = found.value.name
        if name in lines:
            raise found.error(f"{noun} {name!r} is given twice", "name", remedy=f"first in {lines[name]}")
        lines[name] = found.at("name")
        texts.append(found.value)
    return texts


def _check_document(found: Located[Text], read: Callable[[Text], object]) -> None:
    """`read` names the field by its path; here it becomes a line."""
    try:
        read(found.value)
    except InputError as cause:
        path = STEP.findall(cause.place)
        line = found.at(*(int(part) if part.isdecimal() else part for part in path))
        what = f"{cause.place}: {cause.what}" if cause.place else cause.what
        raise InputError(what, place=line, remedy=cause.remedy) from cause
