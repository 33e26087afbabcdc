"""The units in deploy/systemd: when the guard comes, and what the agent's end leaves alone."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
GUARD, AGENT = "meshfabric-guard.service", "meshfabric-agent.service"
FIREWALL = "nftables.service.d/meshfabric.conf"
LINE = re.compile(r"(\w+)=(.*)")

Unit = dict[str, list[str]]


def unit(name: str) -> Unit:
    """Section and key, as "Unit.After", with the words of all its lines (systemd.syntax(7))."""
    found: Unit = {}
    section = ""
    for line in (FOLDER / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, line
            found.setdefault(f"{section}.{match[1]}", []).extend(match[2].split())
    return found


def test_the_guard_comes_before_any_network() -> None:
    """systemd.special(7): firewalls order themselves before network-pre.target, and pull it in."""
    guard = unit(GUARD)
    assert guard["Unit.DefaultDependencies"] == ["no"], "else it would wait for sysinit.target"
    assert "network-pre.target" in guard["Unit.Before"]
    assert guard["Unit.Wants"] == ["network-pre.target"]
    assert {"shutdown.target"} == set(guard["Unit.Conflicts"]) & set(guard["Unit.Before"])
    assert guard["Install.WantedBy"] == ["sysinit.target"]
    assert "/etc/meshfabric" in guard["Unit.RequiresMountsFor"]


def test_nobody_takes_the_guard_away_but_by_hand() -> None:
    guard = unit(GUARD)
    assert (guard["Service.Type"], guard["Service.RemainAfterExit"]) == (["oneshot"], ["yes"])
    assert guard["Service.ExecStart"] == guard["Service.ExecReload"] == ["/usr/bin/meshfabric", "guard", "up"]
    assert not [key for key in guard if "Stop" in key]


def test_the_guard_comes_again_when_all_rules_were_flushed() -> None:
    """Debian's nftables.service does that at each start, reload and stop; a guard that fails fails alone."""
    assert "nftables.service" in unit(GUARD)["Unit.After"]
    assert unit(FIREWALL) == {
        f"Service.{key}": ["-/usr/bin/meshfabric", "guard", "up"]
        for key in ("ExecStartPost", "ExecReload", "ExecStopPost")
    }


def test_the_agent_comes_after_its_guard_and_not_without() -> None:
    agent = unit(AGENT)
    assert agent["Unit.Requires"] == [GUARD]
    assert GUARD in agent["Unit.After"]


def test_the_agents_end_is_nobody_elses() -> None:
    agent = unit(AGENT)
    assert agent["Service.KillMode"] == ["process"], "wireguard-go goes on"
    assert agent["Service.OOMPolicy"] == ["continue"]
    assert agent["Service.RuntimeDirectoryPreserve"] == ["yes"]
    assert (agent["Service.Restart"], agent["Unit.StartLimitIntervalSec"]) == (["always"], ["0"])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """With a program that is there in the place of ours."""
    (tmp_path / FIREWALL).parent.mkdir()
    for name in (GUARD, AGENT, FIREWALL):
        text = (FOLDER / name).read_text()
        assert text.count("/usr/bin/meshfabric ")
        (tmp_path / name).write_text(text.replace("/usr/bin/meshfabric ", "/bin/true "))
    (tmp_path / "nftables.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    units = [str(tmp_path / name) for name in (GUARD, AGENT, "nftables.service")]
    command = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "meshfabric" in line]
    assert (ours, done.returncode) == ([], 0)
