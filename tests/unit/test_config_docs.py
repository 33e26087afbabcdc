"""docs/agent.md names every key of the configuration, with the default that it has."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshfabric.model.settings import Settings, UplinkSettings

TEXT = (Path(__file__).parents[2] / "docs" / "agent.md").read_text()
ROW = re.compile(r"^\| (`.+?`) \|(.*?)\| .* \|$", re.MULTILINE)
ROWS = {key.strip("` "): default.strip() for keys, default in ROW.findall(TEXT) for key in keys.split(",")}


def leaves(kind: type[msgspec.Struct], before: str = "") -> dict[str, Any]:
    """Every key of the file, with dots, and its default (`...` where it has none)."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= leaves(field.type, f"{before}{field.name}.")
        else:
            found[before + field.name] = field.default if field.default is not msgspec.NODEFAULT else ...
    return found


KEYS = leaves(Settings) | leaves(UplinkSettings)


def test_the_page_names_every_key_and_no_other() -> None:
    assert ROWS.keys() == KEYS.keys()


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_default_is_the_one_that_holds(key: str) -> None:
    said, default = ROWS[key].strip("`"), KEYS[key]
    if said in ("", "none", "off"):
        assert default in (..., "", (), "off")
    elif isinstance(default, int | float):
        assert float(int(said, 0)) == default
    else:
        assert said == str(default)
