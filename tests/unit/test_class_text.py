"""What a document of a traffic class means, what it leaves out, and each mistake in a line."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfabric.config import read_classes
from meshfabric.model.classtext import (
    ClassText,
    MatchText,
    PathText,
    TcpText,
    UplinkText,
    WorkloadText,
    read_class,
)
from meshfabric.model.dscp import DSCP_NAMES, LAST_DSCP, format_dscp, parse_dscp
from meshfabric.model.errors import InputError
from meshfabric.model.labels import parse_selector
from meshfabric.model.ports import parse_ports
from meshfabric.model.qos import BUILT_IN, Match, Prefer, Tcp, TrafficClass
from meshfabric.model.rates import GREATEST_RATE, LEAST_RATE, UNITS, format_rate, parse_rate
from tests.strategies import class_texts

VIDEO = """\
name: video
select: app=video
match:
  - ports: [udp/5000-5100, tcp/443]
  - dscp: [46, af41, EF]
priority: 6
dscp: af41
uplink: {guaranteed: 20mbit, max: 80mbit}
workload:
  egress: 10mbit
  ingress: 1.5gbit
path: {prefer: fastest, rtt_ms: 50, loss_percent: 0.5}
tcp: {congestion_control: bbr, initial_window: 20, window_clamp: 65536}
"""


def test_all_that_a_document_may_say() -> None:
    (text,) = read_classes(VIDEO, "video.yaml")
    ports = (parse_ports("tcp/443"), parse_ports("udp/5000-5100"))
    assert read_class(text) == TrafficClass(
        "video",
        parse_selector("app=video"),
        (Match(ports), Match(None, (34, 46))),
        priority=6,
        dscp=34,
        guaranteed=20_000_000,
        most=80_000_000,
        egress=10_000_000,
        ingress=1_500_000_000,
        prefer=Prefer.FASTEST,
        rtt_ms=50.0,
        loss_percent=0.5,
        tcp=Tcp("bbr", 20, 65536),
    )


def test_what_says_nothing_is_chosen_by_its_label() -> None:
    assert read_class(ClassText("games")) == TrafficClass("games", parse_selector("traffic-class=games"))


def test_what_a_document_of_a_built_in_class_leaves_out_stays() -> None:
    for name, built_in in BUILT_IN.items():
        assert read_class(ClassText(name)) == built_in
        limited = read_class(ClassText(name, dscp=0, uplink=UplinkText(most="2mbit")))
        assert limited == msgspec.structs.replace(built_in, dscp=0, most=2_000_000)
    bulk = read_class(ClassText("bulk", {"app": "backup"}, priority=0))
    assert bulk == msgspec.structs.replace(BUILT_IN["bulk"], select=parse_selector("app=backup"), priority=0)


@given(class_texts("video"))
def test_a_document_keeps_its_shape(text: ClassText) -> None:
    raw = msgspec.json.encode(text)
    assert msgspec.json.decode(raw, type=ClassText) == text
    assert read_class(msgspec.json.decode(raw, type=ClassText)) == read_class(text)


PORTS = MatchText(ports=["tcp/443"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ClassText("Video"), "name: class 'Video' is no valid name"),
        (ClassText("c", "a b"), "select: cannot read selector at 'a b'"),
        (ClassText("c", match=[]), "match: 0 matches (1 to 16, or leave it out)"),
        (ClassText("c", match=17 * [PORTS]), "match: 17 matches"),
        (ClassText("c", match=[PORTS, MatchText()]), "match[1]: neither ports nor dscp (leave match out"),
        (ClassText("c", match=[MatchText(ports=[])]), "match[0].ports: 0 ports"),
        (ClassText("c", match=[MatchText(ports=17 * ["tcp"])]), "match[0].ports: 17 ports"),
        (ClassText("c", match=[MatchText(dscp=[])]), "match[0].dscp: 0 DSCPs"),
        (ClassText("c", match=[MatchText(ports=["tcp/1", "tcp/0"])]), "match[0].ports[1]: port 'tcp/0' out"),
        (ClassText("c", match=[MatchText(ports=["tcp/http"])]), "classes know neither names of ports nor"),
        (ClassText("c", match=[MatchText(ports=["icmp/8"])]), "(write tcp/443, udp/5000-5100 or icmp)"),
        (ClassText("c", match=[MatchText(dscp=["ef", "af44"])]), "match[0].dscp[1]: unknown DSCP 'af44'"),
        (ClassText("c", priority=7), "priority: 7 out of range (0 to 6)"),
        (ClassText("c", priority=-1), "priority: -1 out of range (0 to 6)"),
        (ClassText("c", dscp=64), "dscp: unknown DSCP 64 (0 to 63, or one of cs0, cs1"),
        (ClassText("c", dscp=-1), "dscp: unknown DSCP -1"),
        (ClassText("c", dscp="9" * 5000), "dscp: unknown DSCP '999"),
        (ClassText("c", uplink=UplinkText("20")), "uplink.guaranteed: cannot read rate '20' (write 20mbit"),
        (ClassText("c", uplink=UplinkText(most=20_000)), "uplink.max: 20000 has no unit (write 20mbit or"),
        (ClassText("c", uplink=UplinkText(most="20mbyte")), "uplink.max: cannot read rate '20mbyte'"),
        (ClassText("c", uplink=UplinkText("7kbit")), "rate '7kbit' out of range (8kbit to 1000gbit)"),
        (ClassText("c", uplink=UplinkText("2mbit", "1mbit")), "guaranteed 2mbit is more than max 1mbit"),
        (ClassText("c", workload=WorkloadText("0mbit")), "workload.egress: rate '0mbit' out of range"),
        (ClassText("c", workload=WorkloadText(None, "1001gbit")), "workload.ingress: rate '1001gbit' out of"),
        (ClassText("c", path=PathText("best")), "path.prefer: unknown preference 'best' (one of cheapest, f"),
        (ClassText("c", path=PathText(rtt_ms=60_001)), "path.rtt_ms: 60001 out of range (0 to 60000)"),
        (ClassText("c", path=PathText(rtt_ms=float("nan"))), "path.rtt_ms: nan out of range"),
        (ClassText("c", path=PathText(loss_percent=101)), "path.loss_percent: 101 out of range (0 to 100)"),
        (ClassText("c", tcp=TcpText("Reno")), "tcp.congestion_control: no congestion control is called 'Re"),
        (ClassText("c", tcp=TcpText("")), "tcp.congestion_control: no congestion control is called ''"),
        (ClassText("c", tcp=TcpText("x" * 16)), "tcp.congestion_control: no congestion control"),
        (ClassText("c", tcp=TcpText(initial_window=0)), "tcp.initial_window: 0 out of range (1 to 1000)"),
        (ClassText("c", tcp=TcpText(window_clamp=100)), "tcp.window_clamp: 100 out of range (4096 to "),
        (ClassText("control", "*"), "select: class control is the fabric's own: nobody sets its select"),
        (ClassText("control", priority=3), "nobody sets its priority (set dscp and uplink only)"),
        (ClassText("control", match=[PORTS]), "match: class control is the fabric's own"),
        (ClassText("control", workload=WorkloadText("1mbit")), "workload: class control is the fabric's own"),
        (ClassText("control", path=PathText("fastest")), "path: class control is the fabric's own"),
        (ClassText("control", tcp=TcpText("bbr")), "tcp: class control is the fabric's own"),
    ],
)
def test_a_mistake_is_one_line_with_its_field(text: ClassText, said: str) -> None:
    with pytest.raises(InputError) as error:
        read_class(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tcp/443", "tcp/0", "v.yaml:4: match[0].ports[1]: port 'tcp/0' out of range"),
        ("1.5gbit", "fast", "v.yaml:11: workload.ingress: cannot read rate 'fast'"),
        (
            "priority: 6",
            "priority: high",
            "v.yaml:6: priority: expected a whole number or nothing, got 'high'",
        ),
        ("max: 80mbit", "max: 8e1", "v.yaml:8: uplink.max: 80.0 has no unit"),
        ("egress:", "egres:", "v.yaml:10: workload.egres: unknown key (did you mean 'egress'?)"),
        ("dscp: af41", "dscp: af14", "v.yaml:7: dscp: unknown DSCP 'af14'"),
    ],
)
def test_a_mistake_in_a_file_has_its_line(old: str, new: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_classes(VIDEO.replace(old, new), "v.yaml")
    assert str(caught.value).startswith(said)


def test_no_two_of_a_file_have_one_name() -> None:
    with pytest.raises(InputError, match=r"v.yaml:15: class 'video' is given twice \(first in v.yaml:1\)"):
        read_classes(f"{VIDEO}---\n{VIDEO}", "v.yaml")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("8kbit", 8_000),
        ("8000bit", 8_000),
        ("20mbit", 20_000_000),
        (" 1.5Gbit ", 1_500_000_000),
        ("0.1mbit", 100_000),
        ("1000gbit", 10**12),
    ],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@given(st.integers(LEAST_RATE, GREATEST_RATE) | st.integers(8, 10**6).map(lambda few: few * 1000))
def test_a_rate_reads_back_as_itself(rate: int) -> None:
    assert parse_rate(format_rate(rate)) == rate


def test_a_rate_is_written_short() -> None:
    assert [format_rate(rate) for rate in (8_000, 1_500_000_000, 10**12)] == ["8kbit", "1.5gbit", "1000gbit"]


numbers = st.decimals(allow_nan=False).map(str)


@given(st.text(max_size=12) | st.tuples(numbers, st.sampled_from([*UNITS])).map("".join))
def test_any_text_is_a_rate_or_an_input_error(text: str) -> None:
    assert LEAST_RATE <= (told(parse_rate, text) or LEAST_RATE) <= GREATEST_RATE


def told(parse: Callable[[Any], int], given: str | int) -> int | None:
    """What it is; None where it is told what to write instead."""
    try:
        return parse(given)
    except InputError as error:
        if not error.remedy:
            raise
        return None


def test_every_dscp_reads_back_as_itself() -> None:
    for number in range(LAST_DSCP + 1):
        assert parse_dscp(format_dscp(number)) == parse_dscp(number) == parse_dscp(str(number)) == number
    assert [DSCP_NAMES[name] for name in ("cs1", "af11", "af23", "af41", "ef", "cs6", "le")] == [
        8,  # the tables of RFC 4594, figure 3, and RFC 8622
        10,
        22,
        34,
        46,
        48,
        1,
    ]


@given(st.text(max_size=6) | st.integers())
def test_anything_is_a_dscp_or_an_input_error(text: str | int) -> None:
    assert 0 <= (told(parse_dscp, text) or 0) <= LAST_DSCP
