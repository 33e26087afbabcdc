"""Skips for want of a kernel's feature: exactly when the probe says so, told at the end."""

from collections.abc import Callable

import pytest

from meshfabric.kernel.features import Feature
from tests.features import Needs

pytest_plugins = ["pytester"]

HEAD = "import pytest\nfrom tests.features import requires\n"
SEEN = [
    Feature("capabilities", True, "all", True),
    Feature("tcx", True, "a link attaches", True, "6.6"),
    Feature("netkit", False, "operation not supported", False, "6.7"),
    Feature("fq", False, "no such queue; not even as a leaf", False, "3.12"),
    Feature("wg", False, "no such program", True),
]
WITHOUT_ROOT = [Feature("capabilities", False, "Operation not permitted", True)]
NETKIT = "lacks netkit (Linux 6.7 or newer): operation not supported"
FQ = "fq (Linux 3.12 or newer): no such queue; not even as a leaf"

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Runs a text of tests where the probe says `seen` and these features are demanded."""

    def ran(text: str, *demanded: str, seen: list[Feature] = SEEN) -> pytest.RunResult:
        asked: list[None] = []

        def probe() -> list[Feature]:
            asked.append(None)
            return seen

        pytester.makepyfile(HEAD + text)
        options = ("-ra", "--strict-markers", "-p", "no:cacheprovider", "-p", "no:asyncio")
        done = pytester.runpytest_inprocess(*options, plugins=[Needs(probe, frozenset(demanded))])
        assert len(asked) <= 1, "once a session"
        return done

    return ran


def said(done: pytest.RunResult) -> str:
    return done.stdout.str() + done.stderr.str()


def test_what_is_there_runs_and_what_is_absent_is_skipped_with_the_probes_words(run: Run) -> None:
    done = run(
        "@requires('tcx')\ndef test_one(): pass\n"
        "@requires('netkit')\ndef test_two(): assert False\n"
        "@requires('tcx', 'netkit', 'fq')\ndef test_three(): assert False\n"
    )
    done.assert_outcomes(passed=1, skipped=2)
    assert f": {NETKIT}\n" in said(done)
    assert f": {NETKIT}; {FQ}\n" in said(done)


def test_a_module_and_a_class_require_for_all_that_is_in_them(run: Run) -> None:
    run("pytestmark = requires('netkit')\ndef test_one(): assert False\n").assert_outcomes(skipped=1)
    run(
        "@requires('tcx')\nclass TestAll:\n"
        "    def test_one(self): pass\n"
        "    @requires('fq')\n    def test_two(self): assert False\n"
    ).assert_outcomes(passed=1, skipped=1)


def test_nothing_is_made_for_a_test_that_is_skipped(run: Run) -> None:
    done = run(
        "@pytest.fixture(scope='session')\ndef lab(): raise AssertionError('made')\n"
        "@requires('netkit')\ndef test_one(lab): pass\n"
    )
    done.assert_outcomes(skipped=1)


@pytest.mark.parametrize("scope", ["function", "session"])
def test_a_fixture_and_a_running_test_ask_at_once(run: Run, scope: str) -> None:
    done = run(
        f"@pytest.fixture(scope={scope!r})\ndef lab():\n    requires('netkit')\n    assert False\n"
        "def test_one(lab): pass\n"
        "def test_two():\n    requires('tcx')\n    requires('fq')\n    assert False\n"
    )
    done.assert_outcomes(skipped=2)


def test_the_session_ends_with_what_was_missing_and_where_that_runs(run: Run) -> None:
    done = run(
        "@pytest.mark.parametrize('each', range(3))\n@requires('netkit')\ndef test_one(each): pass\n"
        "@requires('netkit', 'fq')\ndef test_two(): pass\n"
        "@requires('wg')\ndef test_three(): pass\n"
        "def test_four(): pytest.skip('it rains')\n"
    )
    done.assert_outcomes(skipped=6)
    done.stdout.fnmatch_lines(
        [
            "*= kernel features =*",
            "fq (Linux 3.12 or newer) is missing: 1 test skipped, they run with: make test-vm KERNEL=...",
            "netkit (Linux 6.7 or newer) is missing: 4 tests skipped, they run with: make test-vm KERNEL=...",
            "wg is missing: 1 test skipped, they run where it is installed",
            "1 test skipped for another reason: it rains",
        ],
        consecutive=True,
    )


def test_a_session_without_skips_says_nothing_and_asks_nothing(run: Run) -> None:
    def never() -> list[Feature]:
        raise AssertionError("probed")

    assert "kernel features" not in said(run("@requires('tcx')\ndef test_one(): pass\n"))
    Needs(never, frozenset()).pytest_sessionstart()


@pytest.mark.parametrize(
    "place", ["@requires('netkitt')\ndef test_one(): pass\n", "def test_one(): requires('netkitt')\n"]
)
def test_an_unknown_name_is_an_error(run: Run, place: str) -> None:
    done = run(place)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(**{"errors" if place.startswith("@") else "failed": 1})
    assert "the probe knows no netkitt, but capabilities, fq, netkit, tcx, wg" in said(done)


def test_a_mark_without_a_name_is_an_error(run: Run) -> None:
    assert "name at least one feature" in said(run("@requires()\ndef test_one(): pass\n"))


def test_what_is_demanded_fails_instead_of_being_skipped(run: Run) -> None:
    text = (
        "@requires('netkit')\ndef test_one(): pass\n"
        "@requires('tcx', 'fq')\ndef test_two(): pass\n"
        "@pytest.fixture\ndef lab(): requires('fq', 'netkit')\n"
        "def test_three(lab): pass\n"
    )
    done = run(text, "netkit", "tcx")
    done.assert_outcomes(errors=2, skipped=1)
    assert f"{NETKIT}: MESHFABRIC_DEMAND demands netkit" in said(done)


def test_a_demand_that_nobody_can_probe_for_ends_the_session(run: Run) -> None:
    done = run("def test_one(): pass\n", "netkitt")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "MESHFABRIC_DEMAND: nobody can probe for netkitt here" in said(done)


def test_without_root_all_is_skipped_for_that(run: Run) -> None:
    done = run(
        "@requires('capabilities')\ndef test_one(): pass\n@requires('netkit')\ndef test_two(): pass\n",
        seen=WITHOUT_ROOT,
    )
    done.assert_outcomes(skipped=2)
    assert "capabilities is missing: 2 tests skipped, they run as root" in said(done)
    assert run("def test_one(): pass\n", "netkit", seen=WITHOUT_ROOT).ret == pytest.ExitCode.USAGE_ERROR
