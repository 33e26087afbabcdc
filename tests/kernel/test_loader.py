"""Object files that share maps: made once, adopted by the next run; `test_upgrade` changes their shape."""

import logging
import struct
from pathlib import Path

import pytest

from meshfabric.kernel.bpf import Map
from meshfabric.kernel.libbpf import Elf, VerifierError
from meshfabric.kernel.loader import Datapath, load
from meshfabric.model.errors import PermanentError
from tests.kernel.cell import BPFFS
from tests.kernel.conftest import Compile

PINS = BPFFS / "fabric"
PACKET = bytes(64)
KEY = bytes(4)
COUNTERS = """
struct count { __u32 packets; __u32 spare[2]; };
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct count);
} a_long_name_for_counters SEC(".maps");
"""
WIDER = COUNTERS.replace("spare[2]", "spare[4]")
COUNT = """
const volatile __u32 step = 1;
static __u32 runs;
static __always_inline void count(void)
{
	__u32 key = 0;
	struct count zero = {}, *found;
	bpf_map_update_elem(&a_long_name_for_counters, &key, &zero, BPF_NOEXIST);
	found = bpf_map_lookup_elem(&a_long_name_for_counters, &key);
	if (found)
		found->packets += step;
	runs++;
}
"""
INWARD = 'SEC("tc") int inward(struct __sk_buff *skb) { count(); return runs; }'
OUTWARD = (
    'const volatile char word[8];SEC("tc") int outward(struct __sk_buff *skb) { count(); return word[1]; }'
)
LOOPING = 'SEC("tc") int looping(struct __sk_buff *skb) { count(); return *(int *)(long)skb->mark; }'


@pytest.fixture
def inward(compile_bpf: Compile) -> Path:
    return compile_bpf(COUNTERS + COUNT + INWARD)


@pytest.fixture
def outward(compile_bpf: Compile) -> Path:
    return compile_bpf(COUNTERS + COUNT + OUTWARD)


def _packets(datapath: Datapath) -> int:
    value = datapath.maps["a_long_name_for_counters"].lookup(KEY)
    assert value is not None
    return int(struct.unpack_from("=I", value)[0])


def test_files_share_the_maps_that_they_both_name(inward: Path, outward: Path) -> None:
    with load([inward, outward], PINS, {}, {}) as datapath:
        assert sorted(datapath.programs) == ["inward", "outward"]
        assert sorted(datapath.maps) == ["a_long_name_for_counters"]
        assert [datapath.programs[name].test_run(PACKET).retval for name in ("inward", "outward")] == [1, 0]
        assert _packets(datapath) == 2
        assert (datapath.adopted, datapath.migrated, datapath.rebuilt) == ([], {}, {})
    with Map.open(PINS / "maps" / "a_long_name_for_counters") as pinned:
        assert pinned.lookup(KEY) == struct.pack("=III", 2, 0, 0)


def test_variables_are_set_in_every_file_that_has_them(inward: Path, outward: Path) -> None:
    settings = {"step": struct.pack("=I", 100), "word": b"abcdefgh"}
    with load([inward, outward], PINS, {}, settings) as datapath:
        assert datapath.programs["outward"].test_run(PACKET).retval == ord("b")
        datapath.programs["inward"].test_run(PACKET)
        assert _packets(datapath) == 200


def test_the_next_run_adopts_the_entries(inward: Path, outward: Path) -> None:
    for run in range(1, 4):
        with load([inward, outward], PINS, {"a_long_name_for_counters": 9}, {}) as datapath:
            datapath.programs["inward"].test_run(PACKET)
            assert _packets(datapath) == run
            assert datapath.adopted == (["a_long_name_for_counters"] if run > 1 else [])
            assert (datapath.migrated, datapath.rebuilt) == ({}, {})


def test_a_failed_load_leaves_the_pins_as_they_were(compile_bpf: Compile, inward: Path) -> None:
    with load([inward], PINS) as datapath:
        datapath.programs["inward"].test_run(PACKET)
    before = {pin.name: pin.stat().st_ino for pin in (PINS / "maps").iterdir()}
    with pytest.raises(VerifierError):
        load([compile_bpf(WIDER + COUNT + INWARD), compile_bpf(WIDER + COUNT + LOOPING)], PINS)
    assert {pin.name: pin.stat().st_ino for pin in (PINS / "maps").iterdir()} == before
    with load([inward], PINS) as datapath:
        assert _packets(datapath) == 1


def test_a_pin_of_a_crashed_run_is_no_hindrance(inward: Path) -> None:
    with load([inward], PINS) as datapath:
        datapath.maps["a_long_name_for_counters"].pin(PINS / "maps" / "a_long_name_for_counters~new")
        (PINS / "maps" / "a_long_name_for_counters").unlink()
    load([inward], PINS).close()
    assert [pin.name for pin in (PINS / "maps").iterdir()] == ["a_long_name_for_counters"]


def test_the_verifier_gives_one_line_and_keeps_its_log(compile_bpf: Compile) -> None:
    with pytest.raises(VerifierError) as refused:
        load([compile_bpf(COUNTERS + COUNT + LOOPING)], PINS)
    message = str(refused.value)
    assert "prog 'looping'" in message
    assert "R1 invalid mem access 'scalar'" in message
    assert "\n" not in message
    assert len(refused.value.log.splitlines()) > 5
    assert not (PINS / "maps").exists()


def test_files_that_disagree_about_a_map_are_refused(compile_bpf: Compile, outward: Path) -> None:
    with pytest.raises(PermanentError, match=r"declared otherwise in another file: value_size 12 not 20"):
        load([outward, compile_bpf(WIDER + COUNT + INWARD)], PINS)


@pytest.mark.parametrize(
    ("sizes", "settings", "words"),
    [
        ({"nowhere": 1}, {}, "no object file has a map nowhere"),
        ({}, {"stepp": bytes(4)}, "no object file has a variable stepp"),
        ({}, {"step": bytes(5)}, "variable step has 4 bytes, not 5"),
    ],
)
def test_misspelt_names_are_refused(
    inward: Path, sizes: dict[str, int], settings: dict[str, bytes], words: str
) -> None:
    with pytest.raises(PermanentError, match=words):
        load([inward], PINS, sizes, settings)
    assert not PINS.exists()


def test_two_programs_of_one_name_are_refused(compile_bpf: Compile, inward: Path) -> None:
    again = compile_bpf(COUNTERS + COUNT + INWARD + "\n")
    with pytest.raises(PermanentError, match="another file has a program inward already"):
        load([inward, again], PINS)


def test_what_is_no_object_file_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.bpf.o"
    text.write_text("no ELF")
    with pytest.raises(PermanentError, match="not a BPF object"):
        load([text], PINS)
    with pytest.raises(PermanentError, match=r"absent\.o: no such object file"):
        load([tmp_path / "absent.o"], PINS)


def test_libbpf_speaks_to_the_log_only(inward: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "meshfabric.libbpf")
    with Elf(inward) as elf:
        elf.load()
    assert any("inward" in record.getMessage() for record in caplog.records)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
