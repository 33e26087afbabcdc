"""The guard's file, its mistakes, and the text that it becomes; the kernel's part is in tests/kernel."""

import re
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from meshfabric.cli.app import app
from meshfabric.cli.exits import Code
from meshfabric.compiler.wireguard import UNREACHABLE_METRIC
from meshfabric.guard import install, ruleset
from meshfabric.guard.file import NEVER, Guard, parse
from meshfabric.kernel import nft, tool
from meshfabric.kernel.routes import PROTOCOL
from meshfabric.model.errors import InputError, PermanentError, UnsupportedError
from meshfabric.model.settings import DatapathSettings

TEXT = """\
fabric: prod
prefixes:
  - 10.64.0.0/16
  - fd6d:6600::/48
devices: [br-local, "vnet*"]
"""
GUARD = Guard("prod", ("10.64.0.0/16", "fd6d:6600::/48"), "mf", ("br-local", "vnet*"))


def test_the_file_says_what_to_keep_off() -> None:
    assert parse(TEXT, "guard.yaml") == GUARD


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("fabric: prod", "fabric: Prod"), "guard.yaml:1: fabric 'Prod' is no valid name"),
        (("fabric: prod\n", ""), "guard.yaml:1: .*fabric"),
        (("10.64.0.0/16", "10.64.0.1/16"), "guard.yaml:3: '10.64.0.1/16' is no prefix"),
        (("fd6d:6600::/48", "10.64.7.0/24"), r"guard.yaml:4: 10.64.7.0/24 overlaps 10.64.0.0/16 \(leave one"),
        (("10.64.0.0/16", "0.0.0.0/0"), r"guard.yaml:3: 0.0.0.0/0 holds unspecified addresses \(0.0.0.0/8\)"),
        (("fd6d:6600::/48", "fe80::/64"), "guard.yaml:4: fe80::/64 holds link-local addresses"),
        (("fd6d:6600::/48", "64:ff9b::/96"), "guard.yaml:4: 64:ff9b::/96 holds reserved addresses"),
        (("devices: [br-local", "devices: [br local"), "guard.yaml:5: 'br local' is no name of a device"),
        (('"vnet*"', '"*"'), r"guard.yaml:5: '\*' is no name of a device"),
        (('"vnet*"', "'a\" accept'"), "guard.yaml:5: .* is no name of a device"),
        (
            ("devices: [br-local", "devices: [averyverylongname"),
            "guard.yaml:5: 'averyverylongname' is no name",
        ),
        (
            ("devices:", "device_prefix: MF\ndevices:"),
            r"guard.yaml:5: device_prefix 'MF' \(1 to 6 lower-case",
        ),
        (("devices:", "device:"), r"guard.yaml:5: device: unknown key \(did you mean 'devices'\?\)"),
    ],
)
def test_a_mistake_has_its_line(edit: tuple[str, str], said: str) -> None:
    assert edit[0] in TEXT
    with pytest.raises(InputError) as refused:
        parse(TEXT.replace(*edit, 1), "guard.yaml")
    assert re.match(said, str(refused.value)), refused.value


def test_a_fabric_without_prefixes_is_none() -> None:
    with pytest.raises(InputError, match=r"guard.yaml:2: no prefixes"):
        parse("fabric: prod\nprefixes: []\n", "guard.yaml")


@pytest.mark.parametrize(
    ("device", "passes"),
    [
        *((name, True) for name in ("lo", "mfwg00", "mf", "vnet7", "br-local")),
        *((name, False) for name in ("lo0", "eth0", "m", "vne", "br-local2", "wg-mf")),
    ],
)
def test_which_devices_are_the_fabrics(device: str, passes: bool) -> None:
    assert GUARD.passes(device) is passes


def test_the_device_prefix_is_the_agents_unless_it_is_said() -> None:
    assert parse(TEXT, "guard.yaml").device_prefix == DatapathSettings().prefix
    assert parse(TEXT + "device_prefix: zz\n", "guard.yaml").passes("zzwg00")


def test_the_ruleset_replaces_the_one_that_is_there() -> None:
    """Of each table: that there is one, that it is empty, and what is in it; in one transaction."""
    heads = [line for line in ruleset.render(GUARD).splitlines() if "table" in line]
    assert heads == [
        line.format(f"{family} meshfabric-guard-prod")
        for family in ("inet", "bridge")
        for line in ("table {}", "flush table {}", "table {} {{")
    ]


def test_every_hook_looks_before_translation_or_after_it() -> None:
    """Packets of the host: in by prerouting and input, out by output and postrouting, through by forward."""
    text = ruleset.render(GUARD)
    hooks = re.findall(r"hook (\w+) priority (-?\d+); policy accept;\n((?:    jump \w+\n)+)", text)
    assert [(hook, int(priority), re.findall(r"others_(\w+)", jumps)) for hook, priority, jumps in hooks] == [
        ("prerouting", -310, ["in"]),
        ("input", -310, ["in"]),
        ("forward", -310, ["in", "out"]),
        ("output", -310, ["out"]),
        ("postrouting", 310, ["out"]),
        ("forward", -310, ["in", "out"]),
        ("input", -310, ["in"]),
        ("output", -310, ["out"]),
    ]


@pytest.mark.parametrize(("way", "device"), [("in", "iifname"), ("out", "oifname")])
def test_what_is_not_excepted_is_dropped(way: str, device: str) -> None:
    chain = ruleset.render(GUARD).partition(f"chain by_others_{way} {{\n")[2].partition("  }\n")[0]
    assert [line.strip() for line in chain.splitlines()] == [
        *(f'{device} "{name}" return' for name in ("lo", "mf*", "br-local", "vnet*")),
        *(f"ip {side} 10.64.0.0/16 counter drop" for side in ("saddr", "daddr")),
        *(f"ip6 {side} fd6d:6600::/48 counter drop" for side in ("saddr", "daddr")),
    ]


def test_the_routes_lie_beneath_the_agents_and_are_not_the_agents() -> None:
    assert ruleset.routes(GUARD) == [
        f"unreachable {prefix} metric 8192 proto 110" for prefix in ("10.64.0.0/16", "fd6d:6600::/48")
    ]
    assert ruleset.ROUTE_METRIC > UNREACHABLE_METRIC
    assert ruleset.ROUTE_PROTOCOL != PROTOCOL


NETWORKS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)).map(
        lambda drawn: str(ip_network((drawn[0] >> (32 - drawn[1]) << (32 - drawn[1]), drawn[1])))
    ),
    min_size=1,
    max_size=6,
)


@given(NETWORKS)
def test_what_is_taken_is_taken_whole(prefixes: list[str]) -> None:
    """Any list of prefixes is refused, or all of them and nothing else is dropped, by every chain."""
    try:
        guard = parse(f"fabric: f\nprefixes: {prefixes}\n", "guard.yaml")
    except InputError:
        given = [ip_network(prefix) for prefix in prefixes]
        pairs = [(a, b) for i, a in enumerate(given) for b in given[:i]]
        never = [ip_network(one) for one in NEVER if "." in one]
        assert any(a.overlaps(b) for a, b in pairs) or any(a.overlaps(b) for a in given for b in never)
        return
    for side in ("saddr", "daddr"):
        found = re.findall(rf"    ip {side} (\S+) counter drop\n", ruleset.render(guard))
        assert sorted(found) == sorted(4 * prefixes)


def test_rendering_needs_nobody(tmp_path: Path) -> None:
    file = tmp_path / "guard.yaml"
    file.write_text(TEXT)
    result = CliRunner().invoke(app, ["guard", "render", "--file", str(file)])
    assert result.exit_code == Code.OK
    assert result.stdout.startswith(ruleset.render(GUARD))
    assert result.stdout.endswith("# ip route add unreachable fd6d:6600::/48 metric 8192 proto 110\n")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: cannot read it: No such file"):
        install.read(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="binary: cannot read it: it is no UTF-8 text"):
        install.read(tmp_path / "binary")


@pytest.mark.parametrize("command", [["guard", "down", "--fabric", "prod"], ["detach"]])
def test_taking_it_away_has_to_be_meant(command: list[str]) -> None:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == Code.INPUT
    assert "say --yes if it is meant" in result.stderr


def test_what_is_no_name_never_comes_to_nft() -> None:
    with pytest.raises(InputError, match="is no valid name"):
        install.down("prod; flush ruleset")


def test_to_detach_wants_the_agents_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["detach", "--yes", "--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == Code.INPUT
    assert "none.yaml: cannot read it: No such file" in result.stderr


def test_without_nft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match=r"nft: no such program.*install the package nftables"):
        nft.apply("")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("netlink: Error: cache initialization failed: Operation not permitted", "run as root"),
        (
            "x:1:1-2: Error: Could not process rule: Operation not supported\ntable x\n^^",
            "CONFIG_NF_TABLES_INET",
        ),
        (
            "x:2:3-4: Error: syntax error, unexpected string\ntable foo\n      ^^^",
            "^nft -f -: syntax error, unex",
        ),
    ],
)
def test_a_refusal_is_one_line_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, wanted: str
) -> None:
    """A program that says what nft says: kernels that refuse are not at hand."""
    script = tmp_path / "nft"
    script.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(PermanentError, match=wanted) as refused:
        nft.apply("")
    assert "\n" not in str(refused.value)


def test_the_last_line_is_the_complaint_of_others(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"sh -c .*: second$"):
        tool.run(["sh", "-c", "echo first >&2; echo second >&2; exit 1"])
