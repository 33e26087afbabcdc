"""What is kept of a lab on disk: one folder under /run, one file for each process.

Owns names, paths and the lock; `build` fills the folder, `process` knows what a
process is. The folder is the lab's existence: it is made first and removed last.

    /run/meshfabric-lab/<lab>/   0700; flock on the folder itself: one `up` or `down` at a time
        state.json               the lab init and the complete topology
        processes/<role>.<name>  pid and start time of: node, workload, agent, cable, wire, etcd;
                                 for `attached`, what the agent said of a workload
        logs/                    output of every long-lived process
        etcd/  pins/             a tmpfs and a bpffs that only the lab sees
        wires/<segment>.json     what the segment's cable does, where it has one
        nodes/<node>/            agent.yaml  agent.sock  state/
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from meshfabric.api.messages import Attached
from meshfabric.lab.process import Process
from meshfabric.lab.records import Topology
from meshfabric.model.errors import InputError, PermanentError, TemporaryError

ROOT = Path("/run/meshfabric-lab")
DEFAULT_NAME = "lab"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,22}[a-z0-9]|[a-z0-9]")
_PRIVATE = 0o700


class Lab(msgspec.Struct, frozen=True):
    """A lab that has been raised, at least its first process. `ready` once all of it stands."""

    name: str
    topology: Topology
    init: Process
    ready: bool = False

    @property
    def folder(self) -> Path:
        """The lab's folder."""
        return folder_of(self.name)

    def node_folder(self, node: str) -> Path:
        """Where a node's agent has its files."""
        return self.folder / "nodes" / node

    def socket(self, node: str) -> Path:
        """The socket of a node's agent."""
        return self.node_folder(node) / "agent.sock"

    def log(self, role: str, name: str) -> Path:
        """Where the output of a process goes."""
        return self.folder / "logs" / f"{role}.{name}"

    def save(self) -> None:
        """Write `state.json`, whole or not at all."""
        _write(self.folder / "state.json", msgspec.json.encode(self))

    def remember(self, role: str, name: str, process: Process) -> Process:
        """Keep who does what; the process itself is returned."""
        _write(self._file(role, name), msgspec.json.encode(process))
        return process

    def process(self, role: str, name: str) -> Process | None:
        """The living process of a role (node, workload, agent, cable, etcd), or None."""
        try:
            found = msgspec.json.decode(self._file(role, name).read_bytes(), type=Process)
        except FileNotFoundError:
            return None
        return found if found.alive else None

    def node(self, name: str) -> Process:
        """The init process of a node; `InputError` for an unknown one, `PermanentError` for a dead one."""
        self.topology.node(name)
        return self._alive("node", name)

    def workload(self, node: str, name: str) -> Process:
        """The process that holds a workload's namespace; errors as `node`."""
        self.topology.workload(node, name)
        return self._alive("workload", name)

    def keep_attached(self, workload: str, attached: Attached) -> None:
        """Keep what the agent said of a workload."""
        _write(self._file("attached", workload), msgspec.json.encode(attached))

    def forget_attached(self, workload: str) -> None:
        """Undo `keep_attached`."""
        self._file("attached", workload).unlink(missing_ok=True)

    def attached(self, workload: str) -> Attached | None:
        """What the agent said of a workload when it was attached; None if it is not."""
        try:
            return msgspec.json.decode(self._file("attached", workload).read_bytes(), type=Attached)
        except FileNotFoundError:
            return None

    def _alive(self, role: str, name: str) -> Process:
        found = self.process(role, name)
        if found is None:
            remedy = f"raise the lab again: meshfabric lab down, then up; see {self.log(role, name)}"
            raise PermanentError(f"{role} {name} of lab {self.name} is dead", remedy=remedy)
        return found

    def _file(self, role: str, name: str) -> Path:
        return self.folder / "processes" / f"{role}.{name}"


def check_lab_name(name: str) -> str:
    """The name itself, or `InputError`."""
    if not _NAME.fullmatch(name):
        remedy = "lower-case letters, digits and dashes, at most 24"
        raise InputError(f"lab name {name!r} is no valid name", remedy=remedy)
    return name


def folder_of(name: str) -> Path:
    """The folder of a lab of that name, whether it exists or not."""
    return ROOT / check_lab_name(name)


def names() -> list[str]:
    """The labs that have a folder, sorted."""
    return sorted(path.name for path in ROOT.iterdir() if path.is_dir()) if ROOT.is_dir() else []


def load(name: str) -> Lab:
    """The running lab of that name; `PermanentError` if there is none or its init is dead."""
    lab = find(name)
    if lab is None and name not in names():
        others = ", ".join(names())
        remedy = f"there is: {others}" if others else "raise it: meshfabric lab up"
        raise PermanentError(f"no lab {name!r}", remedy=remedy)
    if lab is None or not lab.init.alive:
        raise PermanentError(f"lab {name!r} is dead", remedy=f"clean up: meshfabric lab down --name {name}")
    return lab


def find(name: str) -> Lab | None:
    """What is kept of a lab, running or dead; None if it never got as far as its first process."""
    try:
        return msgspec.json.decode((folder_of(name) / "state.json").read_bytes(), type=Lab)
    except FileNotFoundError:
        return None
    except PermissionError as cause:
        raise _not_ours(name) from cause
    except msgspec.MsgspecError as cause:
        place = str(folder_of(name) / "state.json")
        remedy = "end the lab's processes by hand and remove the folder"
        raise PermanentError(f"not a lab of this version: {cause}", place=place, remedy=remedy) from cause


@contextlib.contextmanager
def locked(name: str) -> Iterator[Path]:
    """The lab's folder, made if absent, while nobody else raises or ends this lab.

    Raises `TemporaryError` if somebody does. An empty folder is removed at the end.
    """
    folder = folder_of(name)
    try:
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError as cause:
        raise _not_ours(name) from cause
    try:
        _lock(handle, folder)
        try:
            yield folder
        finally:
            _remove_if_empty(folder)
            _remove_if_empty(ROOT)
    finally:
        os.close(handle)


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        current = os.stat(folder).st_ino
    except (BlockingIOError, FileNotFoundError):
        current = None
    # Whoever had the lock may have removed the folder that we opened.
    if current != os.fstat(handle).st_ino:
        what = f"lab {folder.name!r} is being raised or ended by another process"
        raise TemporaryError(what, remedy="wait for it, or use another --name")


def _not_ours(name: str) -> PermanentError:
    return PermanentError(f"lab {name!r} is not ours to touch", remedy="run it as root")


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content)
    draft.replace(path)
