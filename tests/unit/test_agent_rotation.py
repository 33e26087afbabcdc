"""The agent's part of a rotation: what is on the disk when, and what is decided while etcd is away."""

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from meshfabric.agent import rotation
from meshfabric.agent.rotation import KEYRING_FILE, Rotation
from meshfabric.kernel.lane import Lane
from meshfabric.model.errors import TemporaryError
from meshfabric.model.keyring import FIRST, NONE, Keyring
from meshfabric.model.node import Link, RotationRecord
from meshfabric.model.settings import RotationSettings, UplinkSettings
from meshfabric.model.world import Event, Kind, World
from meshfabric.observe.events import Events
from meshfabric.reconcile.loop import Loop
from tests.fakes.targets import FakeGenerations, FakeTarget
from tests.strategies import full, full_record
from tests.strategies import settings as settings_of
from tests.vocabulary import TUNNELS

EVEN = ("mfwg00", "mfwg01", "mfwg10", "mfwg11")
ODD = ("mfwg00b", "mfwg11b")
MOVED = Keyring((0, 1), 1, 1)
OTHERS = ("n2", "n3", "n4")
AWAY_S = 1000.0


class Seen(NamedTuple):
    """A path as far as it matters here."""

    node: str
    generation: int
    answers: bool


class Store:
    """Whether etcd answers."""

    connected = listed = True


class Stage:
    """A node whose kernel and others do as they are told."""

    def __init__(self, folder: Path) -> None:
        self.settings = replace(
            settings_of((UplinkSettings("up0", "eth0", "red"),)),
            state_dir=folder,
            rotation=RotationSettings(grace_s=0.0, away_s=AWAY_S),
        )
        self.store, self.paths_up, self.now_s = Store(), set[tuple[str, int]](), 10_000.0
        self.forgotten: list[str] = []
        self.begin()

    def begin(self, keys: tuple[str, ...] = EVEN) -> None:
        """A run of the agent, which finds these keys."""
        self.events, target = Events(), FakeTarget()
        self.loop = Loop(World(self.settings), [target], FakeGenerations(target))
        self.loop.synced = True
        self.rotation = Rotation(
            self.loop,
            self.store,  # type: ignore[arg-type]  # a fake, as are the two below
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            Lane("test"),
            self.events,
            lambda: self.now_s,
        )
        kept = [event for event in full() if event.kind is not Kind.KEY and event.key not in TUNNELS]
        self.loop.feed([self.rotation.recall([(key, f"{key}=") for key in keys])])
        self.loop.feed([*kept, *(Event(Kind.KEY, key, f"{key}=") for key in keys)])
        self.loop.feed([Event(Kind.ALIVE, name, True) for name in OTHERS])

    def paths(self, tunnels: dict[str, Any]) -> list[Seen]:
        """In the readings' stead."""
        return [Seen(node, generation, True) for node, generation in sorted(self.paths_up)]

    def forget_key(self, device: str) -> None:
        """In the tunnels' stead."""
        self.forgotten.append(device)

    @property
    def keyring(self) -> Keyring:
        return self.loop.world.own_keys

    @property
    def noted(self) -> dict[str, Any]:
        """What is on the disk."""
        found: dict[str, Any] = json.loads((self.settings.state_dir / KEYRING_FILE).read_text())
        return found

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.rotation.look())

    def ask_for(self, epoch: int) -> None:
        self.loop.feed([Event(Kind.ROTATION, "", RotationRecord(epoch))])

    def hear(self, keyring: Keyring, *names: str) -> None:
        """Others tell of their keys."""
        records = [replace(full_record(name), keyring=keyring) for name in names or OTHERS]
        self.loop.feed([Event(Kind.NODE, record.name, record) for record in records])


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(rotation, "CLOSING_S", 0.0)
    return Stage(tmp_path)


def test_nothing_happens_until_another_epoch_is_due(stage: Stage) -> None:
    stage.look(3)
    assert stage.keyring == FIRST
    assert not (stage.settings.state_dir / KEYRING_FILE).exists()
    assert stage.rotation.told() == {"epoch": 0, "due": None, "under_way": False, "waiting_for": []}


def test_a_rotation_from_its_beginning_to_its_end(stage: Stage) -> None:
    stage.ask_for(1)
    stage.look()
    assert stage.keyring == Keyring((0, 1), 1, 0)
    stage.paths_up = {(name, 0) for name in OTHERS}
    stage.look(3)
    assert stage.keyring == Keyring((0, 1), 1, 0), "nobody is reached otherwise"
    assert stage.rotation.told()["waiting_for"] == list(OTHERS)
    stage.paths_up |= {(name, 1) for name in OTHERS}
    stage.hear(MOVED, "n2", "n3")
    stage.look(3)
    assert stage.keyring == MOVED
    assert stage.rotation.told()["waiting_for"] == ["n4"]
    stage.hear(MOVED)
    stage.look()
    assert stage.keyring == replace(MOVED, closing=True)
    stage.loop.feed([Event(Kind.KEY, device, f"{device}=") for device in ODD])
    stage.look()
    assert stage.keyring == Keyring((None, 1), 1, 1)
    stage.look()
    assert (sorted(stage.forgotten), set(stage.loop.world.keys)) == (list(EVEN), set(ODD))
    assert [event.name for event in stage.events.last] == [
        "key rotation began",
        "new keys in use",
        "old keys closing",
        "key rotation ended",
    ]
    assert stage.rotation.told() == {"epoch": 1, "due": 1, "under_way": False, "waiting_for": []}


def test_a_key_stays_as_long_as_its_device(stage: Stage) -> None:
    stage.loop.feed([Event(Kind.KEYRING, "", Keyring((None, 1), 1, 1))])
    stage.hear(Keyring((None, 1), 1, 1))
    stage.loop.feed([Event(Kind.LINK, "mfwg00", Link("mfwg00", 7, "", 1420, True))])
    stage.look()
    assert sorted(stage.forgotten) == [*EVEN[1:]]
    stage.ask_for(2)
    stage.look()
    assert stage.keyring == Keyring((None, 1), 1, 1), "its generation is not to be begun before"
    stage.loop.feed([Event(Kind.LINK, "mfwg00")])
    stage.look()
    assert "mfwg00" in stage.forgotten
    assert stage.keyring == Keyring((2, 1), 0, 1)


def test_an_agent_that_was_killed_goes_on_where_it_was(stage: Stage) -> None:
    stage.ask_for(1)
    stage.look()
    noted = stage.keyring
    assert stage.noted["keyring"]["epochs"] == [0, 1]
    stage.begin((*EVEN, *ODD))
    assert stage.keyring == noted
    stage.now_s += AWAY_S / 2
    stage.begin((*EVEN, *ODD))
    assert stage.noted["began_s"] == stage.now_s - AWAY_S / 2, "what is waited for does not begin anew"


def test_a_full_disk_stops_it_before_anything_follows(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise TemporaryError("no space left")

    monkeypatch.setattr(rotation, "write_whole", full_disk)
    stage.ask_for(1)
    with pytest.raises(TemporaryError, match="no space left"):
        stage.look()
    assert stage.keyring == FIRST


@pytest.mark.parametrize("lack", ["connected", "listed"])
def test_nothing_is_decided_while_etcd_is_away(stage: Stage, lack: str) -> None:
    stage.ask_for(1)
    setattr(stage.store, lack, False)
    stage.look(3)
    assert stage.keyring == FIRST


def test_the_dead_are_waited_for_no_longer_than_said(stage: Stage) -> None:
    stage.loop.feed([Event(Kind.ALIVE, "n4")])
    stage.ask_for(1)
    stage.hear(MOVED, "n2", "n3")
    stage.look(4)
    assert stage.keyring == MOVED
    assert stage.rotation.told()["waiting_for"] == ["n4"]
    stage.now_s += AWAY_S
    stage.look(2)
    assert stage.keyring == Keyring((None, 1), 1, 1)


def test_a_revoked_node_is_not_waited_for(stage: Stage) -> None:
    stage.loop.feed([Event(Kind.REVOKED, "n4", True)])
    stage.ask_for(1)
    stage.hear(MOVED, "n2", "n3")
    stage.look(4)
    assert stage.keyring == Keyring((None, 1), 1, 1)


def test_a_new_node_has_no_keys_before_it_knows_which(stage: Stage) -> None:
    stage.begin(())
    assert stage.keyring == NONE
    stage.ask_for(5)
    stage.hear(Keyring((None, 5), 1, 1))
    stage.look()
    assert stage.keyring == Keyring((None, 5), 1, 1)


@pytest.mark.parametrize(
    ("keys", "keyring"),
    {((), NONE), (EVEN, FIRST), (ODD, Keyring((None, 1), 1, 1)), (EVEN + ODD, Keyring((0, 1), 1, 0))},
    ids=str,
)
@pytest.mark.parametrize("text", [None, "", "{", '{"keyring": {"epochs": [0]}}', "\xff"])
def test_without_notes_the_keys_tell(
    stage: Stage, text: str | None, keys: tuple[str, ...], keyring: Keyring
) -> None:
    if text is not None:
        (stage.settings.state_dir / KEYRING_FILE).write_text(text, "latin-1")
    stage.begin(keys)
    assert stage.keyring == keyring
