"""Maps of another build: their entries move into maps of another shape while programs write both."""

import struct
import threading
from pathlib import Path

import pytest

from meshfabric.kernel.bpf import Map, MapType
from meshfabric.kernel.lane import Lane
from meshfabric.kernel.loader import Datapath, load
from meshfabric.kernel.maps import Generations
from tests.kernel.cell import BPFFS
from tests.kernel.conftest import Compile

PINS = BPFFS / "fabric"
BY_DATAPATH = '__attribute__((btf_decl_tag("written by the datapath")))'
A_COPY = '__attribute__((btf_decl_tag("a copy")))'
ENTRIES = 2000
RUNS = 20_000

FLOW = "__u64 seen; __u32 place[2]; __u8 answered;"
WIDER = "__u8 answered; __u32 added; __u64 place[2]; __u32 seen;"
COUNTER = "__u64 packets; __u64 bytes;"
TURNED = "__u64 bytes; __u32 errors; __u64 packets;"

OLD = struct.Struct("=QIIB7x")
NEW = struct.Struct("=B3xI2QI4x")


def source(flow: str = FLOW, counter: str = COUNTER, *, kind: str = "LRU_HASH", size: int = 4096) -> str:
    """Two programs' worth of C: a packet makes the flow of its mark (if there is none) and is counted."""
    return f"""
struct flow {{ {flow} }};
struct counter {{ {counter} }};
struct {{ __uint(type, BPF_MAP_TYPE_{kind}); __type(key, __u32); __type(value, struct flow);
	__uint(max_entries, {size}); }} flows SEC(".maps") {BY_DATAPATH};
struct {{ __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __type(key, __u32); __type(value, struct counter);
	__uint(max_entries, 4); }} reasons SEC(".maps") {BY_DATAPATH};
struct {{ __uint(type, BPF_MAP_TYPE_ARRAY); __type(key, __u32); __type(value, struct flow);
	__uint(max_entries, 8); }} recent SEC(".maps") {A_COPY};
struct {{ __uint(type, BPF_MAP_TYPE_HASH); __type(key, __u32); __type(value, struct flow);
	__uint(max_entries, 8); }} settings SEC(".maps");
SEC("tc") int note(struct __sk_buff *skb)
{{
	__u32 key = 1, mark = skb->len;
	struct flow flow = {{.seen = 7}};
	struct counter *counter = bpf_map_lookup_elem(&reasons, &key);
	bpf_map_update_elem(&flows, &mark, &flow, BPF_NOEXIST);
	bpf_map_lookup_elem(&recent, &key);
	bpf_map_lookup_elem(&settings, &key);
	if (counter) {{
		counter->packets++;
		counter->bytes += skb->len;
	}}
	return 0;
}}
"""


def flow(number: int) -> bytes:
    return OLD.pack(number, number + 1, number + 2, number % 2)


def numbered(count: int, first: int = 1000) -> list[tuple[bytes, bytes]]:
    return [(struct.pack("=I", number), flow(number)) for number in range(first, first + count)]


def counted(datapath: Datapath, packets_at: int, bytes_at: int) -> tuple[int, int]:
    """The sums over the CPUs."""
    values = datapath.maps["reasons"].percpu(struct.pack("=I", 1))
    found = [
        tuple(struct.unpack_from("=Q", value, at)[0] for at in (packets_at, bytes_at)) for value in values
    ]
    return sum(packets for packets, _ in found), sum(size for _, size in found)


def note(datapath: Datapath, runs: int = 1, size: int = 64) -> None:
    """Let the program see a packet of this size, which is its flow's key, so many times."""
    datapath.programs["note"].test_run(bytes(size), repeat=runs)


@pytest.fixture
def before(compile_bpf: Compile) -> Path:
    return compile_bpf(source())


@pytest.fixture
def after(compile_bpf: Compile) -> Path:
    return compile_bpf(source(WIDER, TURNED, size=8192))


def pins() -> set[str]:
    return {pin.name for pin in (PINS / "maps").iterdir()}


def test_entries_move_by_the_names_of_their_fields(before: Path, after: Path) -> None:
    with load([before], PINS) as old:
        old.maps["flows"].update_batch(numbered(ENTRIES))
        old.maps["settings"].update_batch(numbered(3))
        with load([after], PINS) as new:
            assert (sorted(new.migrated), new.adopted) == (["flows", "reasons", "settings"], [])
            assert new.rebuilt == {"recent": "it held but copies"}
            assert (new.migrated["flows"].kept, new.migrated["flows"].unfit) == (ENTRIES, 0)
            found = dict(new.maps["flows"].items())
            assert {key: NEW.unpack(value) for key, value in found.items()} == {
                key: (number % 2, 0, number + 1, number + 2, number)
                for number, (key, _) in enumerate(numbered(ENTRIES), 1000)
            }
            assert len(dict(new.maps["settings"].items())) == 3
            with Map.open(PINS / "maps" / "flows") as pinned:
                assert pinned.id == new.maps["flows"].id


def test_what_does_not_fit_is_counted(before: Path, compile_bpf: Compile) -> None:
    with load([before], PINS) as old:
        old.maps["flows"].update_batch(numbered(300))
        old.maps["flows"].update(struct.pack("=I", 7), OLD.pack(1 << 40, 0, 0, 0))
        old.maps["settings"].update_batch(numbered(8))
        smaller = source(WIDER, size=100).replace(
            "max_entries, 8); } settings", "max_entries, 5); } settings"
        )
        with load([compile_bpf(smaller)], PINS) as new:
            flows, settings = new.migrated["flows"], new.migrated["settings"]
            there = len(dict(new.maps["flows"].items()))
            assert (flows.unfit, flows.kept, flows.no_room) == (1, there, 300 - there)
            assert 0 < there <= 100
            assert (settings.kept, settings.no_room, settings.unfit) == (5, 3, 0)
            assert str(settings).endswith("3 found no room")


def test_entries_stay_when_nobody_is_evicted_any_more(before: Path, compile_bpf: Compile) -> None:
    """A least-recently-used hash map becomes a plain one, and back."""
    with load([before], PINS) as old:
        old.maps["flows"].update_batch(numbered(ENTRIES))
        with load([compile_bpf(source(kind="HASH"))], PINS) as new:
            assert "flows" not in new.rebuilt
            assert sorted(new.maps["flows"].items()) == sorted(numbered(ENTRIES))
            with load([before], PINS) as again:
                assert sorted(again.maps["flows"].items()) == sorted(numbered(ENTRIES))


def test_a_map_of_another_type_is_rebuilt_and_says_why(before: Path, compile_bpf: Compile) -> None:
    with load([before], PINS) as old:
        old.maps["flows"].update_batch(numbered(10))
        with load([compile_bpf(source(kind="ARRAY"))], PINS) as new:
            assert new.rebuilt == {"flows": "its type changed from 9 to 2"}
            assert not any(any(value) for _, value in new.maps["flows"].items())
            assert not new.upgrade.under_way
        note(old)
        assert len(dict(old.maps["flows"].items())) == 11, "what runs keeps the map that it was loaded with"


def test_what_is_written_meanwhile_is_brought_along_and_overwrites_nothing(before: Path, after: Path) -> None:
    with load([before], PINS) as old:
        old.maps["flows"].update_batch(numbered(ENTRIES))
        with load([after], PINS) as new:
            key = struct.pack("=I", 1000)
            old.maps["flows"].update(key, OLD.pack(5, 6, 7, 1))
            new.upgrade.refresh()
            assert NEW.unpack(new.maps["flows"].lookup(key) or b"") == (1, 0, 6, 7, 5), "it changed before"
            new.maps["flows"].update(key, NEW.pack(1, 2, 3, 4, 5))
            note(new, size=70)
            old.maps["flows"].update(key, OLD.pack(9, 9, 9, 0))
            old.maps["flows"].update_batch(numbered(ENTRIES, 10_000))
            note(old, size=71)
            new.upgrade.refresh()  # too late for that
            assert new.upgrade.add_missing() == ENTRIES + 1 + 1  # flows, and the counter of `note`
            assert NEW.unpack(new.maps["flows"].lookup(key) or b"") == (1, 2, 3, 4, 5), "the new one's"
            found = dict(new.maps["flows"].items())
            assert len(found) == 2 * ENTRIES + 2
            assert NEW.unpack(found[struct.pack("=I", 10_000)]) == (0, 0, 10_001, 10_002, 10_000)
            assert new.upgrade.add_missing() == 0
            assert {name.split("~")[0] for name in pins() if "~" in name} == {"flows", "reasons"}
            new.upgrade.finish()
            assert pins() == {"flows", "reasons", "recent", "settings"}
            assert not new.upgrade.under_way


def test_counters_keep_their_sums_while_both_count(before: Path, after: Path) -> None:
    with load([before], PINS) as old:
        note(old, RUNS)
        with load([after], PINS) as new:
            assert counted(new, 16, 0) == (RUNS, RUNS * 64)
            note(old, RUNS)
            new.upgrade.refresh()
            counting = [threading.Thread(target=note, args=(each, RUNS * 10)) for each in (old, new)]
            for thread in counting:
                thread.start()
            while any(thread.is_alive() for thread in counting):
                new.upgrade.add_missing()
            for thread in counting:
                thread.join()
            new.upgrade.add_missing()
            assert counted(new, 16, 0) == (22 * RUNS, 22 * RUNS * 64)


def test_an_upgrade_that_was_interrupted_is_gone_on_with(before: Path, after: Path) -> None:
    with load([before], PINS) as old:
        old.maps["flows"].update_batch(numbered(ENTRIES))
        load([after], PINS).close()
        old.maps["flows"].update_batch(numbered(5, 10_000))
        with load([after], PINS) as new:
            assert new.migrated == {}
            assert new.upgrade.under_way
            new.upgrade.refresh()
            assert new.upgrade.add_missing() == 5
            new.upgrade.finish()
        with load([after], PINS) as later:
            assert not later.upgrade.under_way
            assert len(dict(later.maps["flows"].items())) == ENTRIES + 5


def test_a_second_upgrade_before_the_first_is_finished(
    before: Path, after: Path, compile_bpf: Compile
) -> None:
    """Devices may run programs of both earlier builds."""
    with load([before], PINS) as old, load([after], PINS) as middle:
        old.maps["flows"].update_batch(numbered(5))
        middle.maps["flows"].update(struct.pack("=I", 5), NEW.pack(1, 2, 3, 4, 5))
        with load([compile_bpf(source("__u64 seen;"))], PINS) as new:
            assert new.migrated["flows"].kept == 1
            assert new.upgrade.add_missing() == 5
            note(middle, size=70)
            note(old, size=71)
            assert new.upgrade.add_missing() >= 2
            assert len(dict(new.maps["flows"].items())) == 5 + 1 + 2
            new.upgrade.finish()
        assert pins() == {"flows", "reasons", "recent", "settings"}


def test_a_failed_load_leaves_what_was_there(before: Path, compile_bpf: Compile) -> None:
    broken = source(WIDER).replace("return 0;", "return *(int *)(long)skb->mark;")
    with load([before], PINS) as old:
        ids = {name: one.id for name, one in old.maps.items()}
    with pytest.raises(Exception, match="invalid mem access"):
        load([compile_bpf(broken)], PINS)
    assert pins() == set(ids)
    for name, number in ids.items():
        with Map.open(PINS / "maps" / name) as pinned:
            assert pinned.id == number


def test_generations_of_a_map_that_is_gone_do_not_come_true_again() -> None:
    with Map.create(MapType.ARRAY, 4, 4, 64) as counts:
        generations = Generations(counts, Lane("maps"))
        generations.begin_anew()
        first = dict(counts.items())
        assert len(set(first.values())) > 60
        generations.begin_anew()
        assert sum(first[key] == value for key, value in counts.items()) < 4
