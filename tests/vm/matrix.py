"""`python -m tests.vm.matrix [--brief] KERNEL...`: what has to hold on every kernel, and a summary.

For each kernel a VM asks `meshfabric doctor` what there is, which must be what the
table here says, neither less nor more. Then the chosen tests run, each share of them
in a VM of its own, all at once. What the table promises is demanded of them too: a
test that would be skipped for one of these features fails. A junit.xml for each share
is left in build/vm/KERNEL.

What fails in a file or two is tried once more in a VM that has the machine for itself: emulation is
slow enough for processes to stall. The summary names each such test; what fails twice fails the run.

What the whole suite last skipped on this machine runs, too, whether it was chosen or not. With
--brief nothing else does but a fabric's life in one lab: the rest passed on this machine's own kernel.
"""

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import NamedTuple

from meshfabric.kernel.tool import WIREGUARD_GO_ENV
from meshfabric.lab import tools
from meshfabric.model.errors import MeshfabricError, PermanentError
from tests.features import DEMAND_ENV
from tests.shares import (
    HEADINGS,
    PYTEST,
    REPORTS,
    Tally,
    failed,
    failures_told,
    is_worth_another_try,
    side_by_side,
    skipped,
    tally,
)
from tests.vm import kernels, machine
from tests.vm.__main__ import end_with_parent
from tests.vm.kernels import CHECKOUT
from tests.vm.qemu import Size

EVERYWHERE = frozenset({
    "attach", "batch", "bpf", "bpffs", "btf", "capabilities", "clsact", "delay", "fq", "ipv6", "libbpf",
    "memlock", "netem", "nftables", "redirect_peer", "tun", "vxlan", "wg", "wireguard", "wireguard-go",
})  # fmt: skip
PRESENT = {
    "6.1": EVERYWHERE,
    "6.12": EVERYWHERE | {"tcx", "netkit"},
    "newest": EVERYWHERE | {"tcx", "netkit"},
}
"""What each kernel has, by the doctor's names. What is not in here, it has not."""

CORE = (
    "tests/lab/test_reach.py::test_everyone_pings_everyone",
    "tests/lab/test_reach.py::test_everyone_speaks_tcp_and_udp_with_everyone",
    "tests/lab/test_policy.py::test_a_policy_that_selects_denies_what_it_does_not_allow",
    "tests/lab/test_policy.py::test_a_revocation_cuts_the_established_connection_and_no_other",
    "tests/lab/test_fail_closed.py::test_the_wires_carry_wireguard_and_nothing_of_the_fabric",
    "tests/lab/test_fail_closed.py::test_a_tunnels_device_that_is_gone_is_no_way_out",
    "tests/lab/test_agent_life.py::test_an_agent_that_ends_and_starts_again_loses_nothing",
    "tests/lab/test_cut.py::test_traffic_goes_on_over_the_other_uplink_and_comes_back",
)
"""Everyone reaches everyone, policies hold, nothing leaves in clear, agents start again, an uplink is cut."""

SHARES = {
    "kernel": (
        "tests/kernel",
        "tests/packet/test_layout.py",
        "tests/packet/test_live.py",
        "tests/packet/test_live_errors.py",
        "tests/packet/test_live_world.py",
        "tests/packet/test_world.py",
        "tests/packet/test_plain.py",
        "tests/packet/test_token.py",
        "tests/packet/test_token_live.py",
    ),
    "lab": (
        *CORE,
        "tests/lab/test_reach.py::test_a_packet_of_the_full_mtu_passes_whole_and_a_larger_one_never_leaves",
        "tests/lab/test_fail_closed.py::test_what_the_node_puts_on_an_uplink_in_clear_is_dropped_and_counted",
        "tests/lab/test_fail_closed.py::test_what_arrives_on_an_uplink_in_clear_is_dropped_and_counted",
        "tests/lab/test_world.py::test_everyone_speaks_with_the_world_and_no_fabric_address_is_seen",
        "tests/lab/test_world.py::test_the_outside_begins_nothing_unless_a_workload_is_exposed",
        "tests/lab/test_agent_life.py::test_an_agent_that_hangs_loses_nothing",
        "tests/lab/test_failover.py::test_a_full_tunnel_is_no_cut[10 ms-0]",
        "tests/lab/test_upgrade.py::test_flows_move_into_another_layout_and_nothing_is_lost",
        "tests/lab/test_upgrade.py::test_other_programs_with_the_same_maps_lose_nothing",
        "tests/lab/test_impaired.py::TestImpairments::test_a_round_trip_is_delayed_twice_and_one_to_the_store_once",
        "tests/lab/test_impaired.py::test_a_fabric_lives_on_an_impaired_segment[netem]",
        "tests/lab/test_class_wire.py",
        "tests/lab/test_mixed_wireguard.py::test_all_reach_all",
        "tests/lab/test_mixed_wireguard.py::test_megabytes_arrive_as_they_were",
        "tests/lab/test_mixed_wireguard.py::test_tunnels_are_made_anew_by_the_other_kind_and_keep_their_keys",
    ),
}
"""What touches the kernel, packets on the move, and of labs one test for each way that kernels differ."""
LABS = "tests/lab/"
AGAIN = "again"

OUT = CHECKOUT / "build" / "vm"
TEST_TIMEOUT_S = 600
DOCTOR = Size(timeout_s=120.0)
TESTS_TIMEOUT_S = 3600.0
PATIENCE_ENV, PATIENCE = "MESHFABRIC_TEST_PATIENCE", "6"
"""Python is so much slower in there, and more when this machine is busy."""
MINUTE_S = 60.0


class Outcome(NamedTuple):
    """How it went on a kernel."""

    kernel: str
    complaints: list[str]
    failures: list[str]
    tally: Tally
    took_s: float

    @property
    def is_good(self) -> bool:
        return not self.complaints


def main() -> int:
    """1 when anything is not as it has to be."""
    end_with_parent()
    parser = ArgumentParser(prog="tests.vm.matrix")
    parser.add_argument("--brief", action="store_true", help="only what was skipped, and a lab")
    parser.add_argument("kernels", nargs="*", default=[kernels.DEFAULT])
    given = parser.parse_args()
    missed = skipped(sorted(REPORTS.glob("junit-*.xml")), CHECKOUT)
    tests = chosen(missed, brief=given.brief)
    compile_here(tests)
    outcomes = [outcome(kernel, tests) for kernel in given.kernels]
    print("\n".join(summary(outcomes)), flush=True)
    return 0 if all(one.is_good for one in outcomes) else 1


def chosen(missed: list[str], *, brief: bool) -> dict[str, list[str]]:
    """The tests of each share: those of `SHARES`, and what was missed if it is none of them."""
    if brief:
        kernel = [test for test in missed if not test.startswith(LABS)]
        return {"lab": list(CORE)} | ({"kernel": kernel} if kernel else {})
    listed = {share: list(tests) for share, tests in SHARES.items()}
    for test in missed:
        tests = listed["lab" if test.startswith(LABS) else "kernel"]
        if not any(_is_of(test, one) for one in tests):
            tests.append(test)
    return listed


def _is_of(test: str, chosen: str) -> bool:
    """Whether one test is what was chosen: that one, of its variants, or in its file or folder."""
    return test.startswith(chosen) and test[len(chosen) :][:1] in ("", "[", ":", "/")


def compile_here(tests: dict[str, list[str]]) -> None:
    """What each VM would have to compile anew; raises when a chosen test is not there."""
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "meshfabric", "tests"], cwd=CHECKOUT, check=True
    )
    collect = [*PYTEST, "--collect-only", "-qq", *(one for share in tests.values() for one in share)]
    done = subprocess.run(collect, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermanentError(f"the chosen tests cannot be collected:\n{done.stdout}{done.stderr}")


def outcome(kernel: str, tests: dict[str, list[str]]) -> Outcome:
    """Everything about a kernel; a VM that dies is a complaint like others."""
    begun = time.monotonic()
    out = OUT / kernel
    out.mkdir(parents=True, exist_ok=True)
    for share in (*SHARES, AGAIN):
        _junit(out, share).unlink(missing_ok=True)
    complaints: list[str] = []
    for step in (examine, partial(test, tests)):
        try:
            complaints += step(kernel, out)
        except MeshfabricError as error:
            complaints.append(str(error))
    reports = [_junit(out, share) for share in SHARES]
    failures = failures_told(reports, _junit(out, AGAIN), CHECKOUT)
    return Outcome(kernel, complaints, failures, tally(reports), time.monotonic() - begun)


def examine(kernel: str, out: Path) -> list[str]:
    """What the doctor finds otherwise than the table says."""
    _headline(kernel, "meshfabric doctor")
    said = bytearray()
    program = str(Path(sys.executable).with_name("meshfabric"))
    env = {WIREGUARD_GO_ENV: tools.find("wireguard-go")}
    asked = [program, "doctor", "--output", "json"]
    status = machine.run(asked, kernel, size=DOCTOR, env=env, stdout=said.extend)
    (out / "doctor.json").write_bytes(said)
    found = {row["feature"]: row for row in json.loads(said or b"[]")}
    for row in found.values():
        print(f"  {'has' if row['present'] else 'has not':8}{row['feature']:15}{row['detail']}", flush=True)
    wrong = compare({name for name, row in found.items() if row["present"]}, PRESENT[kernel])
    return wrong + ([f"doctor: exit status {status}"] if status else [])


def compare(present: set[str], wanted: frozenset[str]) -> list[str]:
    """Complaints of the difference, both ways."""
    lacks, gained = sorted(wanted - present), sorted(present - wanted)
    return [f"doctor: this kernel should have {name}" for name in lacks] + [
        f"doctor: this kernel should not have {name}, or the table is old" for name in gained
    ]


def test(chosen: dict[str, list[str]], kernel: str, out: Path) -> list[str]:
    """Complaints of the chosen tests."""
    _headline(kernel, "tests")
    commands = {share: _command(kernel, _junit(out, share), tests) for share, tests in chosen.items()}
    told = {
        DEMAND_ENV: ",".join(sorted(PRESENT[kernel])),
        PATIENCE_ENV: os.environ.get(PATIENCE_ENV, PATIENCE),
    }
    statuses = side_by_side(commands, CHECKOUT, **told)
    tests = failed((_junit(out, share) for share in SHARES), CHECKOUT)
    if is_worth_another_try(tests, statuses, ("tests/",)):
        statuses = side_by_side({AGAIN: _command(kernel, _junit(out, AGAIN), list(tests))}, CHECKOUT, **told)
    return [f"{share} tests: exit status {status}" for share, status in statuses.items() if status]


def _command(kernel: str, junit: Path, tests: list[str]) -> list[str]:
    """Tests in a VM; what came of them lands there."""
    report = f"--junitxml=/out/{junit.name}"
    pytest = [*PYTEST, report, f"--timeout={TEST_TIMEOUT_S}", "--durations=10", *tests]
    vm = ["--kernel", kernel, "--timeout", str(TESTS_TIMEOUT_S), "--out", str(junit.parent)]
    return [sys.executable, "-m", "tests.vm", *vm, "--", *pytest]


def _junit(out: Path, share: str) -> Path:
    return out / f"junit-{share}.xml"


def summary(outcomes: list[Outcome]) -> list[str]:
    """The lines that end the run: a table, then every complaint and every reason for a skip."""
    lines = ["", f"{'KERNEL':8}{'LINUX':22}{HEADINGS}{'MINUTES':>8}", *map(_row, outcomes)]
    for one in outcomes:
        told = (*one.tally.reasons, *one.failures, *one.complaints)
        lines += [f"{one.kernel}: {what}" for what in told]
    return lines


def _row(one: Outcome) -> str:
    minutes = one.took_s / MINUTE_S
    return f"{one.kernel:8}{_release(one.kernel):22}{one.tally.figures}{minutes:8.1f}"


def _release(kernel: str) -> str:
    try:
        return kernels.find(kernel).release
    except MeshfabricError:
        return "-"


def _headline(kernel: str, what: str) -> None:
    print(f"== {kernel}, {_release(kernel)}: {what}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MeshfabricError as error:
        sys.exit(f"matrix: {error}")
