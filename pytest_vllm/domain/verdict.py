"""From results to a verdict: PROMOTE, REJECT or INCONCLUSIVE, with reasons."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Check, CheckResult, Level, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.finding import Diagnosis

PREFLIGHT = "preflight"
"""Phase of a start that was not tried, because the look before it found what forbids it."""
_REASONS_SHOWN = 5


class Decision(StrEnum):
    """What to do with the image."""

    PROMOTE = "PROMOTE"
    REJECT = "REJECT"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """0 promote, 1 reject, 75 no verdict (a CI may retry without blaming the image)."""
        return {Decision.PROMOTE: 0, Decision.REJECT: 1, Decision.INCONCLUSIVE: 75}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision and why.

    Attributes:
        decision: PROMOTE, REJECT or INCONCLUSIVE.
        reasons: Sentences, the weightiest first.
    """

    decision: Decision
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailure:
    """Why there was no server to test.

    Attributes:
        kind: `launch` when the image, the model or the arguments are at fault, `host` when the
            host or the network is, `target` when the user's input is.
        message: One-line cause.
        advice: What to do next.
        phase: Last start-up phase reached.
        exit_code: The server's exit status, `None` while it ran.
        tail: Last log lines, oldest first.
        diagnosis: What the log and the end of the server say, `None` when it never started.
        others: What else would fit, the likeliest first.
    """

    kind: str
    message: str
    advice: str = ""
    phase: str = ""
    exit_code: int | None = None
    tail: tuple[str, ...] = ()
    diagnosis: Diagnosis | None = None
    others: tuple[Diagnosis, ...] = ()


def decide(  # noqa: PLR0913 - all that a verdict hangs on
    results: Sequence[CheckResult],
    *,
    required: Sequence[Check] = (),
    failure: StartFailure | None = None,
    died: str = "",
    interrupted: str = "",
    other_failures: int = 0,
    only_attached: bool = False,
    complete: bool = False,
    waived: str = "",
    idle_waivers: Sequence[str] = (),
) -> Verdict:
    """Judge a run.

    A failed MUST check rejects, and so does a server that ended by itself. Else a MUST check in
    ERROR or NOT_RUN, a required check without any result, an interruption or a host failure leaves
    it open. Else the image is promoted, provided that at least one MUST check passed.

    Args:
        results: Results of all cases that ran.
        required: Checks that must have a result (the catalogue under profile `promote`).
        failure: Why the server never became ready, if so.
        died: How the server ended in the middle of the run, empty while it lived.
        interrupted: What ended the run early, empty if nothing did.
        other_failures: How many tests that are no checks failed; who adds them means them.
        only_attached: Whether the server is somebody else's: checks that look behind its API may
            then be not run.
        complete: Whether every MUST check has to have a result (profile `promote`). Else what an
            attached server does not show, what takes longer than a default run allows, and what
            needs the server alone where xdist's workers share it, is named and does not hold up
            the verdict.
        waived: What failed and is waived, in words.
        idle_waivers: Waivers that waived nothing, a sentence each. Where every MUST check has to
            have a result, they leave the verdict open: the image is not to blame for them.

    Returns:
        The verdict; its reasons are never empty.
    """
    not_run = [] if complete else [r for r in results if r.outcome is Outcome.NOT_RUN]
    put_off = [result for result in not_run if result.out_of_time]
    launched = [result for result in not_run if only_attached and result.check.launched]
    unseen = [result for result in launched if result not in put_off]
    put_up_with = [*unseen, *put_off]
    must = [r for r in results if r.check.level is Level.MUST and r not in put_up_with]
    failed = [result for result in must if result.outcome is Outcome.FAIL]
    if failure is not None and failure.kind == "launch":
        return _verdict(Decision.REJECT, [f"the server did not start: {failure.message}"])
    if failed or died or other_failures:
        reasons = [died] if died else []
        if other_failures:
            reasons.append(f"failed tests that are no checks: {other_failures}")
        return _verdict(Decision.REJECT, [*reasons, *(_reason(result) for result in failed)])
    excused = {result.check.id for result in put_up_with}
    required = [check for check in required if check.id not in excused]
    open_points = _open_points(must, required=required, failure=failure, interrupted=interrupted)
    if complete and failure is None and not interrupted:
        open_points += idle_waivers  # of a run without an end nobody can say what was needed
    if open_points:
        return _verdict(Decision.INCONCLUSIVE, [*open_points, *_each_reason(put_off)])
    passed = Counter(result.outcome for result in results)[Outcome.PASS]
    noun = "check" if passed == 1 else "checks"
    but = " but what is waived" if waived else ""
    reasons = [f"{passed} {noun} passed, no MUST check failed{but}"]
    reasons += [f"waived: {waived}"] if waived else []
    warned = [r for r in results if r.check.level is Level.SHOULD and r.outcome is Outcome.FAIL]
    reasons += [f"SHOULD {_reason(result)}" for result in warned]
    if unseen:
        were, look = ("check was", "it looks") if len(unseen) == 1 else ("checks were", "they look")
        reasons.append(
            f"{len(unseen)} {were} not run, for {look} behind the API of a server that is "
            f"only attached to: {_listed([result.name for result in unseen])}"
        )
    reasons += _each_reason(put_off, with_level=True)
    return _verdict(Decision.PROMOTE, reasons)


def _open_points(
    must: Sequence[CheckResult],
    *,
    required: Sequence[Check],
    failure: StartFailure | None,
    interrupted: str,
) -> list[str]:
    points = [] if failure is None else [f"no server to test: {failure.message}"]
    if interrupted:
        points.append(f"the run was ended early: {interrupted}")
    points += [_reason(result) for result in must if result.outcome is Outcome.ERROR]
    seen = {result.check.id for result in must}
    missing = [check.id for check in required if check.level is Level.MUST and check.id not in seen]
    not_run = [result for result in must if result.outcome is Outcome.NOT_RUN]
    missing += [result.name for result in not_run]
    if missing:
        have = "check has" if len(missing) == 1 else "checks have"
        points.append(f"{len(missing)} MUST {have} no result: {_listed(missing)}")
        points += _why(not_run)
    if not points and not any(result.outcome is Outcome.PASS for result in must):
        points.append("no MUST check passed, so nothing was shown")
    return points


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _REASONS_SHOWN} more" if len(names) > _REASONS_SHOWN else ""
    return ", ".join(names[:_REASONS_SHOWN]) + more


def _why(not_run: Sequence[CheckResult]) -> list[str]:
    """Say why checks were not run: each reason once, with the first check that gives it."""
    first: dict[str, CheckResult] = {}
    for result in not_run:
        if result.message.strip():
            first.setdefault(result.message, result)
    return [_reason(result) for result in first.values()][:_REASONS_SHOWN]


def _each_reason(results: Sequence[CheckResult], *, with_level: bool = False) -> list[str]:
    """Say why checks were not run: each reason once, with all checks that give it."""
    by_reason: dict[str, list[CheckResult]] = {}
    for result in results:
        by_reason.setdefault(result.message, []).append(result)
    told = []
    for group in by_reason.values():
        first = group[0]
        if len(group) == 1:
            told.append(f"{first.check.level} {_reason(first)}" if with_level else _reason(first))
            continue
        why = _first_line(first).removeprefix("not run: ")
        if len(group) <= _REASONS_SHOWN:
            which = f"checks were not run ({_listed([result.name for result in group])})"
        else:
            suites = dict.fromkeys(result.check.suite for result in group)
            which = f"checks of {' and '.join(suites)} were not run"
        told.append(f"{len(group)} {which}: {why}")
    return told


def _reason(result: CheckResult) -> str:
    return f"{result.name}: {_first_line(result)}"


def _first_line(result: CheckResult) -> str:
    """Return the first line of what a result says, or the requirement where it says nothing."""
    said = result.message.strip()
    return said.splitlines()[0] if said else result.check.requirement


def _verdict(decision: Decision, reasons: list[str]) -> Verdict:
    return Verdict(decision=decision, reasons=tuple(reasons))
