"""What a test needs of the kernel: it is skipped when the probe says that this is absent, never else.

    pytestmark = requires("netkit", "fq")      on a module; as a decorator on a test or a class
    requires("netkit")                         in a fixture or a test that runs: at once

`meshfabric.kernel.features.probe` is asked once a session, as root; without root it
tells only that "capabilities" are absent, and everything that requires anything is
skipped for that. A name that the probe does not know is an error. With
MESHFABRIC_DEMAND="netkit,tcx" in the environment, what would be skipped for one of
these fails: so does a machine prove that it has run everything it is there for.

At its end a session tells what was missing, how many tests that took, and where
they run; skips for any other reason are listed beside, so that none is overlooked.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from meshfabric.kernel import features
from meshfabric.kernel.features import Feature
from meshfabric.lab.tools import search_path

MARK = "requires"
DEMAND_ENV = "MESHFABRIC_DEMAND"
ALLOWED = "capabilities"
"""The feature that all others need to be tried at all."""
LACKS, AND = "lacks ", "; "
_SKIPPED = "Skipped: "

Probe = Callable[[], list[Feature]]


class Needs:
    """The plugin: one for a pytest session, which knows by `probe` what this machine has."""

    def __init__(self, probe: Probe, demanded: frozenset[str] = frozenset()) -> None:
        self.under_way = False  # whether a test runs, with its fixtures
        self._probe, self._demanded = probe, demanded
        self._found: dict[str, Feature] = {}

    @property
    def found(self) -> dict[str, Feature]:
        """All that was tried, by name; tried when it is first asked for."""
        if not self._found:
            self._found = {feature.name: feature for feature in self._probe()}
        return self._found

    def check(self, names: tuple[str, ...]) -> None:
        """Skip the test that runs, or fail it where that is demanded or a name is unknown."""
        lacking = self._lacking(names)
        if not lacking:
            return
        reason = LACKS + AND.join(map(sentence, lacking))
        absent = {feature.name for feature in lacking} | (set(names) - self.found.keys())
        demanded = sorted(self._demanded & absent)
        if demanded:
            pytest.fail(f"{reason}: {DEMAND_ENV} demands {', '.join(demanded)}", pytrace=False)
        pytest.skip(reason)

    def _lacking(self, names: tuple[str, ...]) -> list[Feature]:
        self._demand_known(names, "requires")
        untried = set(names) - self.found.keys()  # only without root
        wanted = [ALLOWED] if untried else names
        return [self.found[name] for name in wanted if not self.found[name].present]

    def _demand_known(self, names: frozenset[str] | tuple[str, ...], who: str) -> None:
        unknown = sorted(set(names) - self.found.keys())
        if unknown and self.found[ALLOWED].present:
            known = ", ".join(sorted(self.found))
            pytest.fail(f"{who}: the probe knows no {', '.join(unknown)}, but {known}", pytrace=False)

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", f"{MARK}(*features): skip the test where the probe finds none")
        _sessions.append(self)

    def pytest_unconfigure(self) -> None:
        _sessions.remove(self)

    def pytest_sessionstart(self) -> None:
        if not self._demanded:
            return
        unknown = sorted(self._demanded - self.found.keys())
        if unknown:
            raise pytest.UsageError(f"{DEMAND_ENV}: nobody can probe for {', '.join(unknown)} here")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self.under_way = True
        try:
            return (yield)
        finally:
            self.under_way = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Before any fixture is made."""
        for mark in item.iter_markers(MARK):
            self.check(mark.args)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        reasons = Counter(map(_reason, terminalreporter.getreports("skipped")))
        if not reasons:
            return
        terminalreporter.section("kernel features")
        for line in self.told(reasons):
            terminalreporter.line(line)

    def told(self, reasons: Counter[str]) -> list[str]:
        """The lines of the summary, for so many skips by reason."""
        missing: Counter[str] = Counter()
        others: list[str] = []
        for reason, count in sorted(reasons.items()):
            named = [one.name for one in self.found.values() if _is_for(reason, one)]
            missing.update(dict.fromkeys(named, count))
            others += [] if named else [f"{_tests(count)} skipped for another reason: {reason}"]
        return [_missed(self.found[name], count) for name, count in sorted(missing.items())] + others


_sessions: list[Needs] = []  # more than one only where a test of pytest plugins runs pytest


def requires(*names: str) -> pytest.MarkDecorator:
    """A mark for what needs these features of the kernel; while a test runs they are demanded at once."""
    if not names:
        raise ValueError("requires: name at least one feature, as meshfabric doctor lists them")
    if _sessions and _sessions[-1].under_way:
        _sessions[-1].check(names)
    return pytest.mark.requires(*names)


def sentence(feature: Feature) -> str:
    """What is lacking, since when there is such a thing, and what the probe saw."""
    return f"{title(feature)}: {feature.detail}"


def title(feature: Feature) -> str:
    """Its name and the kernel that brought it."""
    since = f" (Linux {feature.since_kernel} or newer)" if feature.since_kernel else ""
    return feature.name + since


def probe_here() -> list[Feature]:
    """All features of this machine, with the wireguard-go that labs run."""
    wireguard_go = shutil.which("wireguard-go", path=search_path())
    return features.probe(Path(wireguard_go) if wireguard_go else None)


def demanded_here() -> frozenset[str]:
    """The names in MESHFABRIC_DEMAND."""
    return frozenset(filter(None, os.environ.get(DEMAND_ENV, "").replace(",", " ").split()))


def _is_for(reason: str, feature: Feature) -> bool:
    return any(f"{before}{sentence(feature)}" in reason for before in (LACKS, AND))


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped: pytest keeps file, line and reason."""
    place = report.longrepr
    return place[2].removeprefix(_SKIPPED) if isinstance(place, tuple) else str(place)


def _missed(feature: Feature, count: int) -> str:
    if feature.name == ALLOWED:
        where = "they run as root"
    elif feature.since_kernel:
        where = "they run with: make test-vm KERNEL=..."
    else:
        where = "they run where it is installed"
    return f"{title(feature)} is missing: {_tests(count)} skipped, {where}"


def _tests(count: int) -> str:
    return f"{count} test{'s' if count > 1 else ''}"
