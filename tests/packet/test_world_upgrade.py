"""Programs of another build take over, whose flows are laid out otherwise: translations go on."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from meshfabric.kernel import loader
from tests.packet import outside
from tests.packet.abroad import arrive, delivered, guise_of, leave
from tests.packet.arena import BPF_SOURCES, PROGRAMS, Arena, arena
from tests.packet.frames import V4, udp
from tests.packet.outside import NODE, REMOTE, open_to_world
from tests.packet.rig import SIZES, Rig
from tests.packet.world import standard


def built_otherwise(folder: Path) -> list[Path]:
    """The objects, with another field before all others of a flow and of a reverse entry."""
    shutil.copytree(BPF_SOURCES, folder / "bpf")
    header = folder / "bpf" / "include" / "types.h"
    text, count = re.subn(r"struct (flow|nat) \{\n", r"struct \1 {\n\t__u64 added;\n", header.read_text())
    assert count == 2
    header.write_text(text)
    make = ["make", "--silent", "-C", str(folder / "bpf"), f"OUT={folder}"]
    subprocess.run(make, check=True, env=os.environ)
    return [folder / f"{name}.bpf.o" for name in PROGRAMS]


def test_translations_live_through_an_upgrade(place: Arena, tmp_path: Path) -> None:
    ask = udp("alpha", REMOTE[V4], 53)
    with arena() as other, other.load(SIZES, outside.SETTINGS) as before:
        rig = Rig(other, before)
        outside.settle(other)
        rig.reset(open_to_world(standard()))
        guise = guise_of(leave(rig, ask))
        answer = udp(REMOTE[V4], NODE[V4], guise, sport=53)
        objects = built_otherwise(tmp_path)
        with other.run(loader.load, objects, other.pins, SIZES, outside.SETTINGS) as after:
            assert {"flows", "new_flows", "nat", "new_nat"} <= after.migrated.keys()
            after.upgrade.finish()
            rig.programs, rig.maps = after.programs, after.maps
            delivered(arrive(rig, answer))
            assert guise_of(leave(rig, ask)) == guise
