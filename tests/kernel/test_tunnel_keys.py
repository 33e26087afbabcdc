"""The key files behind tunnels, as the plan's target keeps them."""

import os
import stat
import time
from pathlib import Path

from meshfabric.kernel.lane import Lane
from meshfabric.kernel.tunnels import Tunnels
from meshfabric.kernel.wireguard import Backend, ensure_key


def of(state: Path) -> Tunnels:
    return Tunnels(Backend("kernel"), "mfwg", state, lambda *_: None, lambda *_: None, Lane("test"))


def test_keys_of_both_generations_are_found_told_by_age_and_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    public = {name: ensure_key(folder / f"{name}.key") for name in ("mfwg00", "mfwg00b")}
    (folder / "mfwg00.log").write_text("wireguard-go said something")
    tunnels = of(tmp_path)
    assert dict(tunnels.keys()) == public
    os.utime(folder / "mfwg00.key", (1000, 1000))
    made = tunnels.made_s()
    assert made.keys() == public.keys()
    assert made["mfwg00"] == 1000
    assert abs(made["mfwg00b"] - time.time()) < 60
    for _ in range(2):
        tunnels.forget_key("mfwg00")
        assert [file.name for file in folder.glob("*.key")] == ["mfwg00b.key"]
    assert stat.S_IMODE((folder / "mfwg00b.key").stat().st_mode) == 0o600
    assert dict(tunnels.keys()) == {"mfwg00b": public["mfwg00b"]}


def test_without_any_key_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert (of(tmp_path).keys(), of(tmp_path).made_s()) == ([], {})
