"""Names of people and of the fabric: what is refused, and that nothing outgrows the kernel."""

import re
from itertools import product

import pytest

from meshfabric.model.errors import InputError
from meshfabric.model.names import (
    DEVICE_PREFIX_LENGTH,
    IFNAMSIZ,
    WORKLOAD,
    check_name,
    host_devices,
    is_plain_device,
    plain_device,
    pod_device,
    tunnel_device,
    workload_mac,
)
from meshfabric.model.node import MAX_SLOTS
from meshfabric.model.tables import FIRST_NODE

LONGEST_PREFIX = "m" * DEVICE_PREFIX_LENGTH


@pytest.mark.parametrize("text", ["a", "node-1", "a.b-c", "1", "n" * 63])
def test_good_names_are_returned(text: str) -> None:
    assert check_name(text, "node") == text


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a_b", "a b", "a/b", "a\n", "ä", "n" * 64, ".", "a."])
def test_bad_names_are_named(text: str) -> None:
    with pytest.raises(InputError) as error:
        check_name(text, "node", "lab.yaml:7")
    remedy = "lower-case letters, digits, dots and dashes, at most 63"
    assert str(error.value) == f"lab.yaml:7: node {text!r} is no valid name ({remedy})"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "good"), [("shop/web-1", True), ("vm", True), ("/a", False), ("A", False)])
def test_workloads_may_have_a_namespace(text: str, good: bool) -> None:
    assert bool(WORKLOAD.fullmatch(text)) == good


def test_device_names_fit_and_are_unlike() -> None:
    tunnels = [tunnel_device(LONGEST_PREFIX, *slots) for slots in product(range(MAX_SLOTS), repeat=2)]
    pods = [pod_device(LONGEST_PREFIX, number) for number in range(1, FIRST_NODE)]
    clear = [plain_device(LONGEST_PREFIX, *slots) for slots in product(range(MAX_SLOTS), repeat=2)]
    names = [*tunnels, *clear, *pods, *host_devices(LONGEST_PREFIX)]
    assert all(is_plain_device(LONGEST_PREFIX, name) == (name in clear) for name in names)
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= IFNAMSIZ
    assert (tunnel_device("mf", 0, 1), pod_device("mf", 17)) == ("mfwg01", "mfp17")
    assert host_devices("mf") == ("mfhost0", "mfhost1")


def test_macs_are_unlike_unicast_and_local() -> None:
    macs = [workload_mac(number) for number in range(1, FIRST_NODE)]
    assert len(set(macs)) == len(macs)
    assert all(re.fullmatch("02:6d:66:01:[0-9a-f]{2}:[0-9a-f]{2}", mac) for mac in macs)
