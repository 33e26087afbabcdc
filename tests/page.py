"""A page of the documentation as its tests look at it: examples, tables of fields, what is refused."""

import re
from pathlib import Path

import msgspec


class Page:
    """`examples`: the blocks of YAML, whole."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = (Path(__file__).parents[1] / path).read_text("utf-8")
        self.examples: list[str] = re.findall(r"^```yaml\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)
        self._refused = self.text.partition("## What is refused")[2].partition("## ")[0]

    def fields(self, heading: str, end: str) -> set[str]:
        """The names in the first column of the tables between two lines."""
        part = self.text.partition(f"\n{heading}")[2].partition(f"\n{end}")[0]
        columns = re.findall(r"^\| (`.+?) \|", part, re.MULTILINE)
        return {name for column in columns for name in re.findall("`(.+?)`", column)}

    @property
    def refused_rows(self) -> int:
        """How many rows say that something is refused."""
        return self._refused.count("\n| `")

    def refused(self) -> list[str]:
        """Fragments of documents that are said to be refused: the first column of that chapter's table."""
        return re.findall(r"^\| `(.+?)` \|", self._refused, re.MULTILINE)

    @staticmethod
    def encoded(*kinds: type[msgspec.Struct]) -> set[str]:
        """The fields of records as they are written."""
        return {field.encode_name for kind in kinds for field in msgspec.structs.fields(kind)}
