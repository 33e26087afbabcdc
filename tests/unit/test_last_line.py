"""What is told of a process that ended, out of all that it wrote."""

import traceback

import pytest

from meshfabric.lab.process import last_line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no output"),
        ("\n  \n", "no output"),
        ("one\n two \n\n", "two"),
    ],
)
def test_the_last_line_that_says_something(text: str, told: str) -> None:
    assert last_line(text) == told


def test_the_error_within_a_group() -> None:
    try:
        raise ExceptionGroup("several", [ValueError("first"), ExceptionGroup("inner", [OSError("it broke")])])
    except ExceptionGroup:
        assert last_line(traceback.format_exc()) == "OSError: it broke"
