"""From pytest's reports to results of checks, in the process that ran the test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.observation import Observation
from pytest_vllm.domain.record import to_plain
from pytest_vllm.domain.text import one_line
from pytest_vllm.plugin.marks import read_check, read_needs
from pytest_vllm.plugin.options import PERFORMANCE, SUITES
from pytest_vllm.plugin.skips import (
    SHARED,
    AfterStop,
    CapabilityMissing,
    NotAlone,
    NotApplicable,
    NotRun,
    Tolerated,
)
from pytest_vllm.plugin.state import NOT_RUN_REASON, STATE, failure_text

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_vllm.domain.checks import Check
    from pytest_vllm.domain.server import ServerInfo
    from pytest_vllm.plugin.ahead import Attempt
    from pytest_vllm.plugin.state import RunState

LIVENESS = "liveness"
"""The suite whose cases run after the other suites, one each."""
UNSHARED = (PERFORMANCE, "memory")
"""Suites that look at the server as a whole: nobody else may load it or its host meanwhile."""
CHECK = pytest.StashKey["Check | None"]()
ATTEMPT: pytest.StashKey[Attempt] = pytest.StashKey()
"""A check that runs before its turn."""

_MESSAGE_LIMIT = 4000
_EXCHANGES_KEPT = 6
_NOT_THE_SERVER = (HostError, TargetError, NameError, ImportError)
"""Exceptions in the call of a check that say nothing about the server."""


class OutcomePlugin:
    """Gate each check before it runs and attach what it came to to its reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._state: RunState = config.stash[STATE]
        self._has_company = hasattr(config, "workerinput")

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Read the check once, so that a malformed one is an error of the collection."""
        item.stash[CHECK] = read_check(item)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out the suites that were not asked for, and put the others in order."""
        _refuse_shared_ids(items)
        wanted = self._state.target.suites
        out = [item for item in items if self._is_unwanted(item)]
        if out:
            config.hook.pytest_deselected(items=out)
            items[:] = [item for item in items if item not in out]
        if not wanted:
            items[:] = [item for item in items if not _is_left_out(item)]
        items[:] = _in_order(items)

    def _is_unwanted(self, item: pytest.Item) -> bool:
        """Tell whether a check is of a suite that the user left out."""
        check, wanted = item.stash[CHECK], self._state.target.suites
        if check is None:
            return False
        if wanted and check.suite not in {*wanted, LIVENESS}:
            return True
        ours = item.path.parent == SUITES
        return ours and check.suite == PERFORMANCE and self._state.loads is None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Report a failed start once, and skip what cannot or need not run."""
        if not uses_server(item):
            return
        state = self._state
        if state.failure is not None:
            if state.reports_failure:
                state.reports_failure = False
                pytest.fail(failure_text(state.failure), pytrace=False)
            raise NotRun(NOT_RUN_REASON)
        if state.gone and not _was_under_way(item, state.gone_at):
            raise NotRun(f"not run: {state.gone}")
        if self._has_company and (suite := _alone_suite(item)):
            asked_by = state.measuring_asked_by if suite == PERFORMANCE else ""
            if asked_by:
                raise NotRun(f"not run: {SHARED}, for {asked_by} asks for figures")
            raise NotAlone
        capability = unmet_capability(item, state)
        if capability is not None and state.server is not None:
            self._refuse(capability, state.server)

    def _refuse(self, capability: str, server: ServerInfo) -> NoReturn:
        reason = server.absent.get(capability, f"the server has no capability {capability!r}")
        if capability in self._state.profile.capabilities:
            raise CapabilityMissing(
                f"the profile declares {capability!r}, but the server lacks it: {reason}",
                pytrace=False,
            )
        raise NotApplicable(reason)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach the result so far; extra attributes of a report travel with it under xdist."""
        report = yield
        check = item.stash.get(CHECK, None)
        if check is not None:
            vars(report)["vllm"] = _describe(item, call, report, check)
            if check.level is Level.INFO and report.failed and report.when == "call":
                report.outcome, report.longrepr = "passed", None  # seen, and judged by nobody
        return report


def _in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Put what needs an idle server last, and the liveness of a suite behind its last check."""
    probes = {
        item.callspec.id: item  # type: ignore[attr-defined]
        for item in items
        if (check := item.stash[CHECK]) is not None and check.suite == LIVENESS
    }
    rest = [item for item in items if item not in probes.values()]
    rest.sort(key=_turn)
    ordered: list[pytest.Item] = []
    for item in reversed(rest):
        check = item.stash[CHECK]
        probe = probes.pop(check.suite, None) if check is not None else None
        ordered += [item] if probe is None else [probe, item]
    return ordered[::-1]


def _turn(item: pytest.Item) -> tuple[int, bool]:
    """Return when a test runs; of what is long, loads that are measured come first.

    So their figures do not depend on whether the suite `memory` runs: its soak of thousands of
    requests fills caches and pools.
    """
    check = item.stash[CHECK]
    if check is None:
        return 0, False
    return check.alone + check.long, check.suite != PERFORMANCE


def _refuse_shared_ids(items: list[pytest.Item]) -> None:
    owners: dict[str, str] = {}
    for item in items:
        check = item.stash[CHECK]
        owner = item.nodeid.partition("[")[0]
        if check is not None and owners.setdefault(check.id, owner) != owner:
            raise pytest.UsageError(
                f"two tests share the check ID {check.id!r}: {owners[check.id]} and {owner}\n"
                "  fix: give each check an ID of its own"
            )


def unmet_capability(item: pytest.Item, state: RunState) -> str | None:
    """Return what a test needs and the server lacks, the first such thing; `None` for nothing."""
    if state.server is None:
        return None
    has = state.server.capabilities
    return next((name for name in read_needs(item) if name not in has), None)


def _is_left_out(item: pytest.Item) -> bool:
    """Tell whether a bundled check is of an optional suite that nobody named."""
    check = item.stash[CHECK]
    if check is None or not check.optional or item.path.parent != SUITES:
        return False
    return not any(item.path.name in word for word in item.config.args)


def uses_server(item: pytest.Item) -> bool:
    """Tell whether a test asks for the server, directly or through a fixture."""
    return "vllm_server" in getattr(item, "fixturenames", ())


def _alone_suite(item: pytest.Item) -> str:
    """Return the suite that shares the server with nobody and has this check or this probe."""
    check = item.stash[CHECK]
    if check is None:
        return ""
    suite: str = item.callspec.id if check.suite == LIVENESS else check.suite  # type: ignore[attr-defined]
    return suite if suite in UNSHARED else ""


def _was_under_way(item: pytest.Item, gone_at: float) -> bool:
    """Tell whether a check that runs ahead had begun when the server ended."""
    attempt = item.stash.get(ATTEMPT, None)
    return attempt is not None and attempt.began is not None and attempt.began <= gone_at


def _describe(
    item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport, check: Check
) -> dict[str, Any]:
    outcome, message = _outcome(call, report)
    client = getattr(item, "funcargs", {}).get("vllm")
    seen = list(client.observations) if client is not None and report.when == "call" else []
    if check.level is Level.INFO and outcome is Outcome.FAIL:
        outcome = Outcome.PASS
        seen.append(Observation(name=check.id, value=one_line(message, 300)))
    bad = outcome in (Outcome.FAIL, Outcome.ERROR)
    exchanges = client.exchanges[-_EXCHANGES_KEPT:] if client is not None and bad else []
    samples = client.samples if client is not None and report.when == "call" else []
    callspec = getattr(item, "callspec", None)
    attempt = item.stash.get(ATTEMPT, None) if report.when == "call" else None
    return {
        "observations": [to_plain(observation) for observation in seen],
        "samples": [to_plain(sample) for sample in samples],
        "check": to_plain(check),
        "case": callspec.id if callspec is not None else "",
        "outcome": outcome.value,
        "out_of_time": call.excinfo is not None and isinstance(call.excinfo.value, Tolerated),
        "deferred": call.excinfo is not None and isinstance(call.excinfo.value, AfterStop),
        "message": message[:_MESSAGE_LIMIT],
        "duration_s": report.duration if attempt is None else attempt.duration_s,
        "began": report.start if attempt is None else attempt.began,
        "exchanges": [to_plain(exchange) for exchange in exchanges],
    }


def _outcome(call: pytest.CallInfo[None], report: pytest.TestReport) -> tuple[Outcome, str]:
    error = call.excinfo.value if call.excinfo is not None else None
    if report.passed:
        return Outcome.PASS, ""
    if isinstance(error, NotApplicable):
        return Outcome.NOT_APPLICABLE, str(error)
    if report.skipped:
        return Outcome.NOT_RUN, str(error)
    message = _message(error, report)
    by_server = report.when == "call" or isinstance(error, CapabilityMissing)
    if by_server and not isinstance(error, _NOT_THE_SERVER):
        return Outcome.FAIL, message
    return Outcome.ERROR, message


def _message(error: BaseException | None, report: pytest.TestReport) -> str:
    if error is None:
        return report.longreprtext
    text = str(error).strip()
    if isinstance(error, AssertionError | pytest.fail.Exception | HostError | TargetError):
        return text or report.longreprtext.strip().splitlines()[-1]
    return f"{type(error).__name__}: {text}"
