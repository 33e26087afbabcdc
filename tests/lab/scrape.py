"""A node's metrics as Prometheus would get them: over HTTP, in its text format, read without its library."""

import http.client
import re

from meshfabric.kernel import netns
from meshfabric.lab.agents import METRICS
from meshfabric.lab.state import Lab
from tests.lab.places import namespace
from tests.patience import DEADLINE_S

SAMPLE = re.compile(r"([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? ([0-9.e+-]+|NaN|[+-]Inf)")

Samples = dict[str, dict[str, float]]


def text_of(lab: Lab, node: str, path: str = "/metrics") -> str:
    """The answer to a scrape."""
    host, _, port = METRICS.rpartition(":")
    link = http.client.HTTPConnection(host, int(port), timeout=DEADLINE_S)
    netns.run(namespace(lab, node), link.connect)
    try:
        link.request("GET", path)
        answer = link.getresponse()
        assert answer.status == http.HTTPStatus.OK
        assert answer.getheader("Content-Type", "").startswith("text/plain")
        return answer.read().decode()
    finally:
        link.close()


def scraped(lab: Lab, node: str) -> Samples:
    """Values by name and labels, as written but sorted; every line has to be of the text format."""
    found: Samples = {}
    for line in text_of(lab, node).splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, f"no sample: {line}"
        labels = ",".join(sorted((match[2] or "").split(",")))
        found.setdefault(match[1], {})[labels] = float(match[3])
    return found
