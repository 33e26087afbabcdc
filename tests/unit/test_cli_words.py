"""Policies said in words."""

import pytest

from meshfabric.cli.words import describe
from meshfabric.model.policy import PolicyText, read_policy
from meshfabric.model.yamltext import parse

CASES = {
    """\
name: web-to-db
select: app=db
ingress:
  - from: [app=web, "tier in (gold, silver)"]
    ports: [tcp/5432, udp/8000-8100, icmp]
  - from: [{}]
egress: []
""": """\
web-to-db is about workloads with app=db
  in: only this may come in, and what other policies allow
    icmp, tcp/5432, udp/8000-8100 from workloads with app=web or workloads with tier in (gold, silver)
    anything from every workload
  out: nothing may leave, but what other policies allow""",
    """\
name: open
select: ""
egress: [{ports: [tcp/443]}, {to: []}, {to: [a=b], ports: []}]
""": """\
open is about every workload
  in: not ruled by this policy
  out: only this may leave, and what other policies allow
    tcp/443 to anyone
    anything to nobody
    nothing to workloads with a=b""",
}


@pytest.mark.parametrize(("text", "words"), CASES.items())
def test_words(text: str, words: str) -> None:
    assert describe(read_policy(parse(text, "x.yaml", PolicyText))) == words
