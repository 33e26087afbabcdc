"""Policies said in words."""

import pytest

from meshfabric.cli.words import describe
from meshfabric.model.policytext import PolicyText, read_policy
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
  tier: normal
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
  tier: normal
  in: not ruled by this policy
  out: only this may leave, and what other policies allow
    tcp/443 to anyone
    anything to nobody
    nothing to workloads with a=b""",
    """\
name: guests
tier: admin
priority: 10
select: kind=guest
min_version: 2
expires: 2026-12-31T23:59:59+02:00
ingress:
  - {action: deny, from: [{entity: host}, {node: n1}], ports: [tcp/22]}
  - {action: pass, from: [{entity: fabric}], expires: 2026-12-24T00:00:00Z}
""": """\
guests is about workloads with kind=guest
  tier: admin, priority 10: before all policies of tier normal
  until: 2026-12-31T21:59:59Z
  in:
    deny tcp/22 from the host of its own node or workloads with meshfabric.io/kind=host, meshfabric.io/node=n1
    pass anything from anyone in the fabric, until 2026-12-24T00:00:00Z
  out: not ruled by this policy""",
    """\
name: loose
select: ""
default: {ingress: allow, egress: deny}
ingress: [{action: deny, ports: [tcp/23]}, {}]
""": """\
loose is about every workload
  tier: normal
  in: anything may come in, but what a rule or another policy denies
    deny tcp/23 from anyone
    allow anything from anyone
  out: nothing may leave, but what other policies allow""",
    """\
name: soon
mode: audit
tier: baseline
priority: 7
select: ""
min_version: 3
first_match: true
ingress: [{action: deny, ports: [tcp/http, icmp/8]}, {}]
""": """\
soon is about every workload
  tier: baseline, priority 7: only where no policy of tier normal selects
  in audit: stops nothing; what it would stop is listed by meshfabric policy audit
  in: the first of these that covers a packet holds
    deny icmp/echo-request, tcp/http from anyone
    allow anything from anyone
  out: not ruled by this policy""",
    """\
name: outside
select: ""
min_version: 3
egress:
  - to: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.0.0/16]}, "::/0", {entity: kube-apiserver}]
    ports: [tcp/443]
  - to: [{entity: world}, {entity: fabric}]
""": """\
outside is about every workload
  tier: normal
  in: not ruled by this policy
  out: only this may leave, and what other policies allow
    tcp/443 to addresses outside of the fabric in 10.0.0.0/8 but 10.1.0.0/16, 10.2.0.0/16"""
    """ or addresses outside of the fabric in ::/0 or the API servers that the fabric's configuration names
    anything to anyone outside of the fabric or anyone in the fabric""",
    """\
name: both
select: ""
ingress: [{action: deny, from: [a=b]}, {ports: [icmp]}]
""": """\
both is about every workload
  tier: normal
  in: only what a rule allows may come in, and what other policies allow
    deny anything from workloads with a=b
    allow icmp from anyone
  out: not ruled by this policy""",
}


@pytest.mark.parametrize(("text", "words"), CASES.items())
def test_words(text: str, words: str) -> None:
    assert describe(read_policy(parse(text, "x.yaml", PolicyText))) == words
