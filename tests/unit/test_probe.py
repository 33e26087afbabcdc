"""Probes as another implementation reads them, and what a path's state means."""

import struct

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from meshfabric.model.addresses import parse_address
from meshfabric.model.tables import Fault, Grade, PathState
from meshfabric.probe.health import (
    Health,
    carrying,
    chosen,
    health,
    hold_left_s,
    loss_limit,
    loss_percent,
    patience_ns,
)
from meshfabric.probe.packet import NTP_EPOCH_OFFSET_S, TEST_SIZE, checksum, ntp_time, probe

ENDS = {4: ("10.64.1.1", "10.64.2.1"), 6: ("fd6d::1", "fd6d::2")}
INTERVAL_MS = 50
PATIENCE_MS = 105


def read(family: int, raw: bytes) -> Packet:
    """As scapy sees it."""
    return IP(raw) if family == 4 else IPv6(raw)


@pytest.mark.parametrize("family", [4, 6])
def test_a_probe_is_a_stamp_test_packet(family: int) -> None:
    source, destination = ENDS[family]
    raw = probe(parse_address(source), parse_address(destination), 7, 1_500_000_000)
    seen = read(family, raw)
    assert (seen.src, seen.dst) == (source, destination)
    assert (seen[UDP].sport, seen[UDP].dport) == (50862, 862)
    body = bytes(seen[UDP].payload)
    assert len(body) == TEST_SIZE
    assert int.from_bytes(body[:4], "big") == 7
    assert int.from_bytes(body[4:12], "big") == (NTP_EPOCH_OFFSET_S + 1) << 32 | 1 << 31
    assert body[14:] == bytes(30)


@pytest.mark.parametrize("family", [4, 6])
def test_checksums_are_those_that_scapy_computes(family: int) -> None:
    near, far = map(parse_address, ENDS[family])
    seen = read(family, probe(near, far, 1, 2))
    again = seen.copy()
    del again[UDP].chksum
    if family == 4:
        del again.chksum
    assert bytes(again) == bytes(seen)


@pytest.mark.parametrize("size", [1320, 1397, 8960])
@pytest.mark.parametrize("family", [4, 6])
def test_a_probe_may_be_padded_to_a_size(family: int, size: int) -> None:
    """By one Extra Padding TLV (RFC 8972, 4.1): flag U, type 1, and its length."""
    near, far = map(parse_address, ENDS[family])
    raw, plain = probe(near, far, 7, 2, size), probe(near, far, 7, 2)
    assert len(raw) == size
    padding = raw[len(plain) :]
    assert padding[:4] == struct.pack(">BBH", 0x80, 1, len(padding) - 4)
    assert not any(padding[4:])
    again = read(family, raw)
    del again[UDP].chksum
    assert bytes(again) == raw


def test_the_checksum_is_that_of_the_rfc() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D  # RFC 1071, 3: the sum is ddf2
    assert checksum(b"\x01") == 0xFEFF


def test_ntp_time_has_a_binary_fraction() -> None:
    assert ntp_time(250_000_000) == NTP_EPOCH_OFFSET_S << 32 | 1 << 30


def state(**changes: int) -> PathState:
    """A path over device 5 that was heard often and owes nothing, but for the changes."""
    up = PathState(sent=100, heard=97, answered=97, rtt_us=300, streak=100, ifindex=5)
    return up._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "meaning"),
    [
        ({}, Health.UP),
        ({"ifindex": 6}, Health.NEW),
        ({"heard": 0}, Health.NEW),
        ({"streak": 2}, Health.DOWN),
        ({"unanswered_ns": 1_000_000_000 - PATIENCE_MS * 1_000_000}, Health.UP),
        ({"unanswered_ns": 999_999_999 - PATIENCE_MS * 1_000_000}, Health.DOWN),
        ({"unanswered_ns": 999_999_999 - PATIENCE_MS * 1_000_000, "rtt_peak_us": 27_501}, Health.UP),
        ({"unanswered_ns": 1, "answered": 98}, Health.UP),
        ({"unanswered_ns": 1, "answered": 2**32 - 1, "sent": 2}, Health.DOWN),
        ({"unanswered_ns": 1, "answered": 2**32 - 1, "sent": 2**32 + 1}, Health.UP),
    ],
)
def test_a_path_is_what_the_datapath_takes_it_for(changes: dict[str, int], meaning: Health) -> None:
    assert health(state(**changes), 5, 1_000_000_000, INTERVAL_MS) is meaning


def test_patience_grows_with_queueing() -> None:
    waits = [patience_ns(state(rtt_peak_us=peak), INTERVAL_MS) for peak in (0, 10_000, 100_000)]
    assert waits == [105_000_000, 110_000_000, 250_000_000]


def test_two_probes_by_one_tunnel_are_never_taken_together() -> None:
    """Who joins datagrams of one flow on their way (UDP GRO) wants the same hop limit."""
    for family in ENDS:
        near, far = map(parse_address, ENDS[family])
        hops = [
            read(family, probe(near, far, number, 1)).fields["ttl" if family == 4 else "hlim"]
            for number in (1, 2)
        ]
        assert hops[0] != hops[1]


def test_the_first_path_with_the_least_faults_is_chosen() -> None:
    assert chosen([Grade.SILENT, Grade.SOUND, Grade.SOUND]) == 1
    assert chosen([Grade.SILENT, Grade.SILENT]) == 0
    assert chosen([Fault.HELD, Fault.SLOW | Fault.LOSSY, Fault.LOSSY, Fault.LOSSY]) == 2


FAULTS = {
    Fault.SLOW: Health.SLOW,
    Fault.SLOW | Fault.LOSSY: Health.LOSSY,
    Fault.SLOW | Fault.HELD: Health.HELD,
}


@pytest.mark.parametrize("faults", FAULTS)
def test_the_worst_fault_names_the_state(faults: Fault) -> None:
    assert health(state(faults=faults), 5, 1_000_000_000, INTERVAL_MS) is FAULTS[faults]
    assert health(state(faults=faults, streak=2), 5, 1_000_000_000, INTERVAL_MS) is Health.DOWN


def test_a_path_that_loses_many_is_not_so_soon_taken_for_dead() -> None:
    silent = state(unanswered_ns=1, leniency=1)
    assert health(silent, 5, 1_000_000_000, INTERVAL_MS) is Health.UP
    assert health(silent._replace(sent=101), 5, 1_000_000_000, INTERVAL_MS) is Health.DOWN


def test_a_loss_limit_counts_of_64_probes() -> None:
    assert [loss_limit(percent) for percent in (0, 1, 10, 50, 100)] == [0, 1, 7, 32, 64]
    assert loss_percent(state(missing=0b1011)) == pytest.approx(4.6875)


def test_of_paths_that_share_all_that_are_sound_carry_traffic() -> None:
    assert carrying([Grade.SOUND, Fault.SLOW, Grade.SOUND, Grade.SOUND], 3) == [0, 2]
    assert carrying([Fault.HELD, Grade.SILENT, Grade.SOUND], 2) == [2]
    assert carrying([Grade.SOUND, Grade.SOUND], 1) == [0]


def test_what_is_left_of_a_hold() -> None:
    held = state(faults=Fault.HELD, held_until_ns=3_500_000_000)
    assert hold_left_s(held, 1_000_000_000) == pytest.approx(2.5)
    assert hold_left_s(held, 4_000_000_000) == 0
    assert hold_left_s(held._replace(faults=0), 1_000_000_000) == 0
