"""Names that people choose, and names that the fabric derives from them."""

import re

from meshfabric.model.errors import InputError

NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")  # RFC 1123 label, dots allowed
WORKLOAD = re.compile(r"[a-z0-9](?:[a-z0-9./-]{0,251}[a-z0-9])?")  # namespace/name for pods
MAC = re.compile(r"[0-9a-f][02468ace](?::[0-9a-f]{2}){5}")  # of one interface, not of a group (IEEE 802, 8.2)
IFNAMSIZ = 15
DEVICE_PREFIX_LENGTH = 6
DEVICE_PREFIX = re.compile(rf"[a-z][a-z0-9]{{0,{DEVICE_PREFIX_LENGTH - 1}}}")

GUARD_TABLE = "meshfabric-guard-"  # and the fabric: a guard's tables in nftables

GATEWAY_MAC = "02:6d:66:00:00:01"
GATEWAY4 = "169.254.1.1"
GATEWAY4_ROUTE = GATEWAY4 + "/32"
GATEWAY6 = "fe80::6d66"


def check_name(text: str, what: str, place: str = "") -> str:
    """The name itself, or `InputError`."""
    if not NAME.fullmatch(text):
        remedy = "lower-case letters, digits, dots and dashes, at most 63"
        raise InputError(f"{what} {text!r} is no valid name", place=place, remedy=remedy)
    return text


def check_device_prefix(text: str, what: str, place: str = "") -> str:
    """How the names of a fabric's devices begin, itself, or `InputError`."""
    if not DEVICE_PREFIX.fullmatch(text):
        remedy = f"1 to {DEVICE_PREFIX_LENGTH} lower-case letters and digits, a letter first"
        raise InputError(f"{what} {text!r}", place=place, remedy=remedy)
    return text


def guard_table(fabric: str) -> str:
    """The name of the boot guard's tables in nftables: `meshfabric-guard-prod`."""
    return GUARD_TABLE + fabric


def tunnel_device(prefix: str, local: int, remote: int, generation: int = 0) -> str:
    """The WireGuard device between local uplink and remote slot: `mfwg01`; of generation 1 `mfwg01b`."""
    return f"{prefix}wg{local}{remote}{'b' if generation else ''}"


def plain_device(prefix: str, local: int, remote: int) -> str:
    """The device between local uplink and remote slot that does not encrypt: `mfpl01`."""
    return f"{prefix}pl{local}{remote}"


def is_plain_device(prefix: str, device: str) -> bool:
    """Whether a device has the name of a tunnel without encryption."""
    return re.fullmatch(rf"{re.escape(prefix)}pl[0-7]{{2}}", device) is not None


def twin_device(device: str) -> str:
    """The device of the same tunnel with keys of the other generation."""
    return device[:-1] if tunnel_generation(device) else f"{device}b"


def is_tunnel_device(prefix: str, device: str) -> bool:
    """Whether a device has the name of one of the fabric's WireGuard tunnels."""
    return re.fullmatch(rf"{re.escape(prefix)}wg[0-7]{{2}}b?", device) is not None


def tunnel_generation(device: str) -> int:
    """The generation of the keys of a tunnel's device, 0 or 1."""
    return int(device.endswith("b"))


def pod_device(prefix: str, number: int) -> str:
    """The node's side of a pod's pair: `mfp17`."""
    return f"{prefix}p{number}"


def is_pod_device(prefix: str, device: str) -> bool:
    """Whether a device has the name of the node's side of a pod's pair."""
    number = device.removeprefix(f"{prefix}p")
    return number != device and number.isdecimal()


def host_devices(prefix: str) -> tuple[str, str]:
    """The pair of the host workload: the one with the addresses, the one with the programs."""
    return f"{prefix}host0", f"{prefix}host1"


def loop_devices(prefix: str) -> tuple[str, str]:
    """The pair that the probes' token goes round in: the one it leaves by, the one it comes in by."""
    return f"{prefix}tick0", f"{prefix}tick1"


def workload_mac(number: int) -> str:
    """A locally administered MAC for workload `number` (1 .. 4095) of a node."""
    return f"02:6d:66:01:{number >> 8:02x}:{number & 0xFF:02x}"
