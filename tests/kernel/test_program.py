"""Programs run on one packet by the kernel's own test-run."""

import pytest

from meshfabric.kernel.bpf import Program, SkbContext
from meshfabric.kernel.libbpf import Elf
from meshfabric.model.errors import PermanentError
from tests.kernel.cell import BPFFS
from tests.kernel.conftest import Compile

PACKET = bytes(range(64))
SOURCE = """
SEC("tc") int touch(struct __sk_buff *skb)
{
	__u8 *data = (void *)(long)skb->data;
	if (data + 2 > (__u8 *)(long)skb->data_end)
		return TC_ACT_SHOT;
	data[0] = 0xee;
	skb->mark += skb->ifindex;
	skb->priority = 7;
	skb->cb[1] = skb->cb[0];
	return TC_ACT_UNSPEC;
}
SEC("tc") int grow(struct __sk_buff *skb)
{
	return bpf_skb_adjust_room(skb, 20, BPF_ADJ_ROOM_NET, 0) ? TC_ACT_SHOT : TC_ACT_OK;
}
"""


def _loaded(compile_bpf: Compile, name: str) -> Program:
    with Elf(compile_bpf(SOURCE)) as elf:
        elf.load()
        return elf.program(name)


def test_a_run_gives_verdict_packet_and_context(compile_bpf: Compile) -> None:
    before = SkbContext(mark=40, ifindex=1, cb=b"abcd" + bytes(16))
    with _loaded(compile_bpf, "touch") as program:
        run = program.test_run(PACKET, ctx=before.pack())
    after = SkbContext.unpack(run.ctx_out)
    assert run.retval == 0xFFFFFFFF
    assert run.data_out == b"\xee" + PACKET[1:]
    assert (after.mark, after.priority, after.ifindex, after.cb[:8]) == (41, 7, 1, b"abcdabcd")


def test_a_packet_may_grow(compile_bpf: Compile) -> None:
    ipv4 = bytes(12) + b"\x08\x00" + PACKET[:50]
    with _loaded(compile_bpf, "grow") as program:
        run = program.test_run(ipv4)
    assert run.retval == 0
    assert len(run.data_out) == len(ipv4) + 20


def test_repeating_measures(compile_bpf: Compile) -> None:
    with _loaded(compile_bpf, "touch") as program:
        assert 0 < program.test_run(PACKET, repeat=1000).duration_ns < 100_000


def test_a_packet_that_is_too_short_is_refused(compile_bpf: Compile) -> None:
    refused = pytest.raises(PermanentError, match="program touch: cannot run it on a packet of 3 bytes")
    with _loaded(compile_bpf, "touch") as program, refused:
        program.test_run(b"abc")


def test_a_pinned_program_is_found_again(compile_bpf: Compile) -> None:
    with _loaded(compile_bpf, "touch") as program:
        program.pin(BPFFS / "programs" / "touch")
        with Program.open(BPFFS / "programs" / "touch") as again, Program.from_id(program.id) as same:
            assert again.id == same.id == program.id
            assert again.name == "touch"
