"""A lab's etcd by hand, over its JSON gateway: none of the product's own client, and no process to start.

etcd listens in the underlay's namespace; a socket made there by a thread may be
used from here.
"""

import base64
import http.client
import json
from pathlib import Path
from typing import Any

from meshfabric.kernel import netns
from meshfabric.lab import etcd, process
from meshfabric.lab.state import Lab
from tests.patience import DEADLINE_S

LOOPBACK = "127.0.0.1"
EARLY = "early"


class Store:
    """Keys are written below the fabric's `state/` unless they begin with a slash."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._root = f"/meshfabric/v1/{lab.topology.fabric}/"

    def put(self, key: str, value: object) -> int:
        """Write a value, bytes as they are and anything else as JSON; the revision that has it."""
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return _revision(self._call("put", key=self._key(key), value=_coded(raw)))

    def delete(self, key: str) -> int:
        """Remove a key; the revision that lacks it."""
        return _revision(self._call("deleterange", key=self._key(key)))

    def get(self, key: str) -> bytes | None:
        """What a key holds."""
        found = self._call("range", key=self._key(key)).get("kvs", [])
        return _decoded(found[0].get("value", "")) if found else None

    def everything(self) -> dict[str, bytes]:
        """All that etcd holds, of whomever."""
        rows = self._call("range", key=_coded(b"\0"), range_end=_coded(b"\0")).get("kvs", [])
        return {_decoded(row["key"]).decode(): _decoded(row.get("value", "")) for row in rows}

    def compact(self) -> None:
        """Forget all history."""
        self._call("compaction", revision=self.revision(), physical=True)

    def revision(self) -> int:
        """The newest revision."""
        return _revision(self._call("range", key=_coded(b"none")))

    def reported(self, node: str) -> int:
        """The revision up to which a node has applied everything, as it last told."""
        report = self.get(f"{self._root}report/{node}")
        return int(json.loads(report)["revision"]) if report else 0

    def tidy(self) -> None:
        """Remove whatever is below `state/` that neither the lab nor its agents would write."""
        own = {node.name for node in self._lab.topology.nodes}
        state = f"{self._root}state/"
        for key in self.everything():
            folder, _, rest = key.removeprefix(state).partition("/")
            known = folder in ("allocations", "grants", "nodes", "endpoints") and rest.split("/")[0] in own
            if key.startswith(state) and folder != "config" and not known:
                self.delete(key)

    def version(self) -> str:
        """Of the server: 3.4.23."""
        return str(self._ask("GET", "/version", "")["etcdserver"])

    def _key(self, key: str) -> str:
        return _coded((key if key.startswith("/") else f"{self._root}state/{key}").encode())

    def _call(self, method: str, **body: object) -> dict[str, Any]:
        return self._ask("POST", f"/v3/kv/{method}", json.dumps(body))

    def _ask(self, verb: str, path: str, body: str) -> dict[str, Any]:
        link = http.client.HTTPConnection(LOOPBACK, self._lab.topology.etcd.port, timeout=DEADLINE_S)
        netns.run(Path(f"/proc/{self._lab.init.pid}/ns/net"), link.connect)
        try:
            link.request(verb, path, body, {"Content-Type": "application/json"})
            answer = link.getresponse()
            said = answer.read()
            assert answer.status == http.HTTPStatus.OK, said
            found: dict[str, Any] = json.loads(said)
            return found
        finally:
            link.close()


def back_up(lab: Lab, name: str) -> None:
    """Keep what etcd holds now, aside."""
    etcd.stop_etcd(lab)
    _in_folder(lab, f"cp -a data {name}")
    etcd.start_etcd(lab)


def restore(lab: Lab, name: str) -> None:
    """Stop etcd and start it again on what was kept under this name; nothing was: on nothing."""
    etcd.stop_etcd(lab)
    _in_folder(lab, f"rm -rf data; test ! -e {name} || cp -a {name} data")
    etcd.start_etcd(lab)


def _in_folder(lab: Lab, script: str) -> None:
    """The folder is a mount that only the lab sees."""
    process.run(lab.init, ["sh", "-euc", f'cd "{lab.folder / "etcd"}"; {script}'])


def _revision(answer: dict[str, Any]) -> int:
    return int(answer["header"]["revision"])


def _coded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)
