"""WireGuard devices, keys and peers, by the kernel's own WireGuard or by wireguard-go.

A device is made once with `wg syncconf`; afterwards peers change one by one, and
an endpoint is written only when the caller gives one, so that what WireGuard
learned by roaming stays. Private keys live in files (0600) and travel by
standard input. `wireguard_go` owns the process behind a userspace device,
`links` the device, the agent decides which devices and peers there are.
"""

import base64
import contextlib
import errno
import os
import socket
import stat
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from meshfabric.kernel import features, links, tool, wireguard_go
from meshfabric.kernel.fault import fault
from meshfabric.model.errors import PermanentError, TemporaryError, UnsupportedError
from meshfabric.model.settings import WireGuardKind

KEY_BYTES = 32
KEY_MODE = 0o600
FOLDER_MODE = 0o700
_CHOICE = "wireguard: kernel"
_ABSENT = "(none)"
_OFF = "off"
_DEVICE_FIELDS = 5


@dataclass(frozen=True)
class Backend:
    """What runs the devices: the kernel, or the wireguard-go at `binary`.

    `strict`: an operator chose it, so that devices of the other kind are not kept though they work.
    """

    kind: Literal["kernel", "userspace"]
    binary: Path | None = None
    strict: bool = False


@dataclass(frozen=True)
class Peer:
    """A peer as wanted. `endpoint` is "192.0.2.1:51820" or "[2001:db8::1]:51820"; None leaves what is known.

    `allowed_ips` is the whole list, with prefix lengths; a `keepalive_s` of 0 is off.
    """

    public_key: str
    endpoint: str | None
    allowed_ips: tuple[str, ...]
    keepalive_s: int = 0


@dataclass(frozen=True)
class PeerState:
    """A peer as observed; `last_handshake_s` is Unix time, 0 when there was none."""

    endpoint: str | None
    allowed_ips: tuple[str, ...]
    last_handshake_s: int
    rx_bytes: int
    tx_bytes: int
    keepalive_s: int


@dataclass(frozen=True)
class DeviceState:
    """A device as observed; `public_key` is "" and `mark` 0 when there is none."""

    port: int
    mark: int
    public_key: str
    peers: dict[str, PeerState] = field(default_factory=dict)


def choose_backend(
    wireguard_go_path: Path | None = None, choice: WireGuardKind = WireGuardKind.AUTO
) -> Backend:
    """What an operator chose; else the kernel where it makes WireGuard devices, and wireguard-go elsewhere.

    The binary is the configured one, else what MESHFABRIC_WIREGUARD_GO names, else
    the one in PATH. Raises UnsupportedError when there is none, or not what was chosen.
    """
    strict = choice is not WireGuardKind.AUTO
    if choice is not WireGuardKind.USERSPACE:
        module = features.wireguard_module()
        if module.present:
            return Backend("kernel", strict=strict)
        if strict:
            remedy = "load the module wireguard (modprobe wireguard), or set wireguard: auto"
            raise UnsupportedError("this kernel makes no WireGuard devices", place=_CHOICE, remedy=remedy)
    binary = tool.find("wireguard-go", wireguard_go_path, tool.WIREGUARD_GO_ENV)
    return Backend("userspace", binary, strict)


def ensure_key(path: Path) -> str:
    """The public key of the private key in the file, which is generated if it is absent (mode 0600).

    Raises PermanentError when the file holds no key: a key is never replaced.
    """
    if not path.exists():
        _generate(path)
    if stat.S_IMODE(path.stat().st_mode) != KEY_MODE:
        path.chmod(KEY_MODE)
    return tool.run(["wg", "pubkey"], _read_key(path), secret=True).strip()


def ensure_device(
    backend: Backend, name: str, key_file: Path, port: int, mark: int, mtu: int, logs: Path | None = None
) -> bool:
    """A device with this key, UDP port, firewall mark and MTU; True when it is new or was restored.

    A new or restored device has no peers: set them all. A new one is down, so
    that programs can be attached first. `logs` is the folder of wireguard-go's
    log files (by default beside the keys). Raises TemporaryError when another
    program has the port.
    """
    public_key = ensure_key(key_file)
    folder = logs or key_file.parent
    made = _make(backend, name, folder)
    links.set_mtu(name, mtu)
    state = observe_device(name)
    if not state.public_key:
        demand_free(name, port)
        interface = f"PrivateKey = {_read_key(key_file)}\nListenPort = {port}\nFwMark = {mark:#x}\n"
        tool.run(["wg", "syncconf", name, "/dev/stdin"], f"[Interface]\n{interface}", secret=True)
        made = True
    elif (state.public_key, state.port, state.mark) != (public_key, port, mark):
        if state.port != port:
            demand_free(name, port)
        values = ["private-key", str(key_file), "listen-port", str(port), "fwmark", f"{mark:#x}"]
        tool.run(["wg", "set", name, *values])
    return made


def drop_other(backend: Backend, name: str) -> bool:
    """Remove the device if it is of the kind that an operator chose against; False when it is not.

    Its key file stays: a device made in its place is the same one to its peers.
    """
    existing = links.find(name)
    other = "tun" if backend.kind == "kernel" else "wireguard"
    if not backend.strict or existing is None or existing.kind != other:
        return False
    return delete_device(name)


def delete_device(name: str) -> bool:
    """Remove the device and the process behind it; False when there was neither."""
    stopped = wireguard_go.stop(name)
    return links.delete(name) or stopped


def set_peer(device: str, peer: Peer) -> None:
    """Add the peer or change what differs; its endpoint only when one is given."""
    set_peers(device, [peer])


def set_peers(device: str, peers: Iterable[Peer]) -> None:
    """The same for many peers in one go; peers that are not named stay as they are.

    AllowedIPs are written only where they are others: WireGuard takes out all that a peer has before it puts
    in the new ones, and what comes by in between is lost.
    """
    wanted = list(peers)
    there = observe_device(device).peers if wanted else {}
    others = [peer for peer in wanted if not _has_allowed_ips(there.get(peer.public_key), peer)]
    if others:
        tool.run(["wg", "addconf", device, "/dev/stdin"], "".join(map(_section, others)))
    changed = [peer for peer in wanted if peer not in others and not _is(there[peer.public_key], peer)]
    if changed:
        tool.run(["wg", "set", device, *(word for peer in changed for word in _words(peer))])


def _has_allowed_ips(state: PeerState | None, peer: Peer) -> bool:
    return state is not None and set(state.allowed_ips) == set(peer.allowed_ips)


def _is(state: PeerState, peer: Peer) -> bool:
    return peer.endpoint in (None, state.endpoint) and peer.keepalive_s == state.keepalive_s


def _words(peer: Peer) -> list[str]:
    endpoint = ["endpoint", peer.endpoint] if peer.endpoint is not None else []
    return ["peer", peer.public_key, *endpoint, "persistent-keepalive", str(peer.keepalive_s or _OFF)]


def remove_peer(device: str, public_key: str) -> None:
    """Forget the peer; an absent one is no error."""
    tool.run(["wg", "set", device, "peer", public_key, "remove"])


def observe() -> dict[str, DeviceState]:
    """All WireGuard devices of this namespace, by name."""
    return _parse(tool.run(["wg", "show", "all", "dump"]))


def observe_device(name: str) -> DeviceState:
    """One device. Raises PermanentError when it is none of WireGuard's."""
    dump = tool.run(["wg", "show", name, "dump"])
    return _parse("".join(f"{name}\t{line}\n" for line in dump.splitlines()))[name]


def _make(backend: Backend, name: str, logs: Path) -> bool:
    if backend.binary is not None:
        return wireguard_go.ensure(backend.binary, name, logs)
    existing = links.find(name)
    if existing is not None and existing.kind == "tun":
        if wireguard_go.answers(name):  # from before the kernel had its module: it works, so it stays
            return False
        links.delete(name)
    return links.ensure_device(name, "wireguard")


def _generate(path: Path) -> None:
    """Write a new key in one step: whoever comes second finds the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_MODE), "w") as file:
            file.write(tool.run(["wg", "genkey"]))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    except OSError as cause:
        raise fault(cause, place=str(path), wanted="write a new key") from cause
    finally:
        fresh.unlink(missing_ok=True)


def _read_key(path: Path) -> str:
    try:
        text = path.read_text().strip()
        whole = len(base64.b64decode(text, validate=True)) == KEY_BYTES
    except (OSError, ValueError) as cause:
        raise _no_key(path) from cause
    if not whole:
        raise _no_key(path)
    return text


def _no_key(path: Path) -> PermanentError:
    remedy = "restore it, or delete it to get a new one, which peers have to learn"
    return PermanentError("the file holds no WireGuard key", place=str(path), remedy=remedy)


def demand_free(name: str, port: int) -> None:
    """wireguard-go keeps silent about a port that it cannot have, so it is asked for beforehand.

    Raises TemporaryError when another program has it.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as trial:
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind(("", port))
        except OSError as cause:
            if cause.errno == errno.EADDRINUSE:
                remedy = "stop the program that has it, or set datapath.port_base"
                what = f"UDP port {port} is in use by another program"
                raise TemporaryError(what, place=f"device {name}", remedy=remedy) from cause
            if cause.errno != errno.EAFNOSUPPORT:
                raise fault(cause, place=f"device {name}", wanted=f"use UDP port {port}") from cause


def _section(peer: Peer) -> str:
    lines = ["[Peer]", f"PublicKey = {peer.public_key}", f"AllowedIPs = {', '.join(peer.allowed_ips)}"]
    if peer.endpoint is not None:
        lines.append(f"Endpoint = {peer.endpoint}")
    lines.append(f"PersistentKeepalive = {peer.keepalive_s or _OFF}")
    return "\n".join(lines) + "\n"


def _parse(dump: str) -> dict[str, DeviceState]:
    """`wg show all dump`: a line of 5 fields for a device, of 9 for each of its peers."""
    found: dict[str, DeviceState] = {}
    for line in dump.splitlines():
        name, *fields = line.split("\t")
        if len(fields) == _DEVICE_FIELDS - 1:
            _, public_key, port, mark = fields
            found[name] = DeviceState(
                int(port), 0 if mark == _OFF else int(mark, 16), _value(public_key) or ""
            )
        else:
            found[name].peers[fields[0]] = _peer_state(fields[2:])
    return found


def _peer_state(fields: list[str]) -> PeerState:
    endpoint, allowed, handshake, received, sent, keepalive = fields
    addresses = tuple(sorted((_value(allowed) or "").split(","))) if _value(allowed) else ()
    seconds = 0 if keepalive == _OFF else int(keepalive)
    return PeerState(_value(endpoint), addresses, int(handshake), int(received), int(sent), seconds)


def _value(text: str) -> str | None:
    return None if text == _ABSENT else text
