"""Before classes are written: is there a number for each of them?"""

from collections.abc import Sequence

from meshfabric.model.classtext import ClassText
from meshfabric.model.errors import PermanentError
from meshfabric.model.qos import BUILT_IN, MAX_OWN
from meshfabric.store import keys
from meshfabric.store.client import Etcd


async def refuse_crowd(etcd: Etcd, fabric: str, texts: Sequence[ClassText], deleted: Sequence[str]) -> None:
    """Raises `PermanentError` if there were more classes than nodes have numbers for."""
    there = await own_classes(etcd, fabric)
    wanted = (there | {text.name for text in texts}) - {*deleted, *BUILT_IN}
    if len(wanted) > MAX_OWN:
        what = f"there would be {len(wanted)} classes beside those built in, and nodes take {MAX_OWN}"
        remedy = f"meshfabric class delete one of {', '.join(sorted(there))}"
        raise PermanentError(what, place="classes", remedy=remedy)


async def own_classes(etcd: Etcd, fabric: str) -> set[str]:
    """The names of the classes in etcd that are not built in."""
    found = set()
    async for page in etcd.scan(f"{keys.state_prefix(fabric)}{keys.RecordKind.CLASS.value}/".encode()):
        for entry in page.entries:
            located = keys.parse_key(fabric, entry.key)
            if isinstance(located, keys.Located):
                found.add(located.name)
    return found - BUILT_IN.keys()
