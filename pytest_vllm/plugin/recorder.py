"""Collects the results of a run in the controller and decides at its end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.checks import CheckResult, Outcome, worst
from pytest_vllm.domain.observation import Observation, Sample
from pytest_vllm.domain.record import read_check, read_result
from pytest_vllm.domain.verdict import Verdict, decide
from pytest_vllm.domain.waivers import waive

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from pytest_vllm.domain.checks import Check
    from pytest_vllm.domain.profile import Waiver
    from pytest_vllm.domain.verdict import StartFailure
    from pytest_vllm.plugin.death import Death

_ABOUT_S = 2.0
"""A server that has lost its engine answers with errors for about a second before it ends."""


@dataclass(slots=True)
class Recorder:
    """The results so far.

    Attributes:
        results: One for each case, in the order in which they came.
        observations: What was seen and not judged, each once.
        samples: Replies for a person to read.
        collected: Checks that were collected and not deselected, by ID.
        deselected: IDs of checks that the user left out.
        interrupted: What ended the run early.
        other_failures: How many tests that are no checks failed.
        uncollected: Files that could not be collected.
        checks_s: How long the checks took all together.
        stopped_by_pytest: Whether pytest itself ended the run, by `--maxfail` or collection errors.
        deferred: Results by check that stay NOT_RUN unless they are judged after the stop.
    """

    results: dict[tuple[str, str], CheckResult] = field(default_factory=dict)
    observations: dict[Observation, None] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    collected: dict[str, Check] = field(default_factory=dict)
    deselected: set[str] = field(default_factory=set)
    interrupted: str = ""
    other_failures: int = 0
    uncollected: list[str] = field(default_factory=list)
    checks_s: float = 0.0
    stopped_by_pytest: bool = False
    deferred: dict[str, CheckResult] = field(default_factory=dict)
    _began: dict[tuple[str, str], float] = field(default_factory=dict)

    def collect(
        self, collected: Sequence[dict[str, Any]], deselected: Sequence[dict[str, Any]]
    ) -> None:
        """Note what a process collected and what it left out, as plain data."""
        for wire in collected:
            check = read_check(wire)
            self.collected[check.id] = check
        self.deselected |= {wire["id"] for wire in deselected}

    def add(self, wire: dict[str, Any]) -> None:
        """Take in what one report says; an outcome may only rise, durations add up.

        Args:
            wire: The result as plain data, what was observed, and when it began.
        """
        result = dict(wire)
        began = result.pop("began")
        waits = result.pop("deferred", False)
        self.observations |= {Observation(**seen): None for seen in result.pop("observations")}
        self.samples += [Sample(**sample) for sample in result.pop("samples")]
        new = read_result(result)
        if waits:
            self.deferred[new.check.id] = new
        key = (new.check.id, new.case)
        old = self.results.get(key)
        if old is None:
            self.results[key], self._began[key] = new, began
            return
        keeps = worst([old.outcome, new.outcome]) is old.outcome
        self._began[key] = self._began[key] if keeps else began
        self.results[key] = replace(
            old if keeps else new, duration_s=old.duration_s + new.duration_s
        )

    def settle(self, check_id: str, outcome: Outcome, message: str) -> None:
        """Give a check that waited for the stop its outcome; one that did not wait keeps its own.

        Args:
            check_id: ID of the check.
            outcome: What it came to.
            message: Why, for anything but PASS.
        """
        waited = self.deferred.pop(check_id, None)
        if waited is not None:
            key = (waited.check.id, waited.case)
            self.results[key] = replace(self.results[key], outcome=outcome, message=message)

    def bury(self, gone: str, *, at: float, death: Death | None) -> None:
        """Tell apart what failed by the end of the server and what only came after it.

        A check that was under way has failed, by the server's own fault: it says why. One that
        began when the server was gone was not run.

        Args:
            gone: How the server ended.
            at: When, in seconds since the epoch.
            death: What is known about it.
        """
        for key, result in self.results.items():
            if result.outcome not in (Outcome.FAIL, Outcome.ERROR):
                continue
            began = self._began[key]
            if began > at:
                self.results[key] = replace(
                    result, outcome=Outcome.NOT_RUN, message=f"not run: {gone}", exchanges=()
                )
            elif death is not None and began + result.duration_s >= at - _ABOUT_S:
                self.results[key] = replace(
                    result,
                    outcome=Outcome.ERROR if death.by_host else result.outcome,
                    message=f"{death.explanation}\n{result.message}",
                )

    def finished(self, waivers: Sequence[Waiver], today: dt.date) -> tuple[CheckResult, ...]:
        """Return the results with waivers applied."""
        return waive(waivers, self.results.values(), today)

    def judge(  # noqa: PLR0913 - all that a verdict hangs on
        self,
        results: Sequence[CheckResult],
        *,
        catalogue: Sequence[Check],
        failure: StartFailure | None,
        gone: str = "",
        death: Death | None = None,
        attached: bool = False,
        waived: str = "",
        idle_waivers: Sequence[str] = (),
    ) -> Verdict:
        """Decide over what ran, what was collected and what the profile requires."""
        by_host = death is not None and death.by_host
        interrupted = self.interrupted or (gone if by_host else "")
        if self.uncollected:
            interrupted = f"errors during the collection of {', '.join(self.uncollected)}"
        required = {check.id: check for check in (*catalogue, *self.collected.values())}
        return decide(
            results,
            required=tuple(required.values()),
            failure=failure,
            died="" if by_host else gone,
            other_failures=self.other_failures,
            interrupted=interrupted,
            only_attached=attached,
            complete=bool(catalogue),
            waived=waived,
            idle_waivers=idle_waivers,
        )
