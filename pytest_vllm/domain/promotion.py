"""What forbids that the image of a run is promoted: pure rules over its record and its registry."""

from __future__ import annotations

import datetime as dt
import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.promotion_waivers import waiver_refusals
from pytest_vllm.domain.refusal import AGAIN, Refusal
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import Decision, decide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vllm.domain.checks import Check, CheckResult
    from pytest_vllm.domain.record import Rules, RunRecord

SKEW = dt.timedelta(minutes=5)
"""By how much the clock of the host that ran may be ahead of ours."""
_GOOD = (Outcome.PASS, Outcome.NOT_APPLICABLE, Outcome.WAIVED)
_RESTS_ON = ("profile", "suite", "compose")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN = 5
_DURATION = re.compile(r"([0-9]{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_age(text: str, *, what: str) -> dt.timedelta:
    """Read a duration such as `12h`, `7d` or `2w`.

    Raises:
        TargetError: It is none, or nothing.
    """
    match = _DURATION.fullmatch(text)
    if match is None or not int(match[1]):
        raise TargetError(
            f"{what}: {one_line(text)!r} is no duration",
            advice="write a number and m, h, d or w, such as 12h or 7d",
        )
    return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})


def evidence_refusals(
    record: RunRecord,
    *,
    now: dt.datetime,
    max_age: dt.timedelta,
    catalogue: Sequence[Check] = (),
    suites: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Refusal, ...]:
    """Say all that the record of a run holds against a promotion.

    Args:
        record: The run.
        now: The time, with its zone.
        max_age: How long ago the run may have begun.
        catalogue: All checks of the installed version, where it is the version that ran; else
            empty.
        suites: SHA-256 of each installed suite by the name of its material, where `catalogue` is
            given; else empty.
    """
    checks = (*_checks(record, catalogue), *_levels(record, catalogue))
    return (
        *_verdict(record, bad=bool(checks)),
        *_rules(record.rules),
        *checks,
        *waiver_refusals(record, now.astimezone(dt.UTC).date()),
        *_materials(record),
        *_suites(record, suites),
        *_age(record, now, max_age),
    )


def _verdict(record: RunRecord, *, bad: bool) -> Iterator[Refusal]:
    """Look at the verdict, and draw it again from what it was drawn from.

    Args:
        record: The run.
        bad: Whether a check is refused already, which says the same in more words.
    """
    verdict = record.verdict
    if verdict.decision is not Decision.PROMOTE:
        why = one_line(verdict.reasons[0]) if verdict.reasons else "no reason is given"
        yield Refusal(
            message=f"the verdict of the run is {verdict.decision}: {why}",
            cure="mend what report.html shows, and run the acceptance again",
        )
        return
    again = decide(record.results, failure=record.failure, complete=True)
    if again.decision is not Decision.PROMOTE and not bad:
        yield Refusal(
            message=f"the run says {verdict.decision}, and what it holds makes {again.decision}: "
            f"{one_line(again.reasons[0])}",
            cure=AGAIN,
        )


def _rules(rules: Rules | None) -> Iterator[Refusal]:
    if rules is None:
        yield Refusal(
            message="the run does not say by which rules it was judged, as those of older versions",
            cure=AGAIN,
        )
        return
    wanted = {"complete = true": rules.complete, "pinned-image = true": rules.pinned_image}
    missing = [rule for rule, there in wanted.items() if not there]
    if missing:
        yield Refusal(
            message=f"the run was judged by profile {one_line(rules.profile)}, which lacks "
            f"{' and '.join(missing)}",
            cure="run with --vllm-profile=promote, or with a profile of your own that has both "
            "rules in its [verdict]",
        )
    elif not rules.required:
        yield Refusal(
            message="the run required no check at all, although its profile says complete = true",
            cure=AGAIN,
        )


def _checks(record: RunRecord, catalogue: Sequence[Check]) -> Iterator[Refusal]:
    results: dict[str, list[CheckResult]] = {}
    for result in record.results:
        results.setdefault(result.check.id, []).append(result)
    required = tuple(dict.fromkeys(record.rules.required)) if record.rules else ()
    yield from _missing(required, results, record.deselected, by="profile of the run")
    musts = (check.id for check in catalogue if check.level is Level.MUST and not check.optional)
    unknown = tuple(name for name in musts if name not in required)
    yield from _missing(unknown, results, record.deselected, by="installed pytest-vllm")
    bad = [
        f"{result.name} ({result.outcome})"
        for result in record.results
        if result.outcome not in _GOOD
        and (result.check.level is Level.MUST or result.check.id in required)
    ]
    if bad:
        have = "check has" if len(bad) == 1 else "checks have"
        yield Refusal(
            message=f"{len(bad)} MUST {have} not passed: {_listed(bad)}",
            cure="see report.html for what each of them saw, and run the acceptance again",
        )


def _levels(record: RunRecord, catalogue: Sequence[Check]) -> Iterator[Refusal]:
    """Hold the level of each result against what the version that ran gives the check."""
    known = {check.id: check.level for check in catalogue}
    lowered = {
        f"{result.check.id} ({result.check.level})": None
        for result in record.results
        if known.get(result.check.id) is Level.MUST and result.check.level is not Level.MUST
    }
    if lowered:
        are = "check is" if len(lowered) == 1 else "checks are"
        yield Refusal(
            message=f"{len(lowered)} {are} MUST in the installed pytest-vllm, which is the version "
            f"that ran, and less in the run: {_listed(list(lowered))}",
            cure=AGAIN,
        )


def _materials(record: RunRecord) -> Iterator[Refusal]:
    """Look whether the run says what it rests on: a digest of its rules, checks and container."""
    known = {item.kind for item in record.materials if _SHA256.fullmatch(item.sha256)}
    missing = [kind for kind in _RESTS_ON if kind not in known]
    if missing and record.rules is not None:
        yield Refusal(
            message=f"the run has no digest of what it rests on: {', '.join(missing)}",
            cure=AGAIN,
        )


def _suites(record: RunRecord, installed: Mapping[str, str]) -> Iterator[Refusal]:
    """Look whether the bundled suites were the installed ones, and whether each has its digest."""
    if not installed or record.rules is None:
        return
    known = [
        item
        for item in record.materials
        if item.kind == "suite" and item.name in installed and _SHA256.fullmatch(item.sha256)
    ]
    other = {item.name: None for item in known if item.sha256 != installed[item.name]}
    if other:
        yield Refusal(
            message="the run did not use the suites of the installed pytest-vllm, which is the "
            f"version that ran: {_listed(list(other))}",
            cure="install pytest-vllm anew on the host that ran; then run the acceptance again",
        )
    names = dict.fromkeys(
        f"suites/test_{name.partition('.')[0]}.py" for name in record.rules.required
    )
    missing = [name for name in names if name not in {item.name for item in known}]
    if missing:
        yield Refusal(
            message=f"the run has no digest of suites whose checks it required: {_listed(missing)}",
            cure=AGAIN,
        )


def _missing(
    required: Sequence[str],
    results: Mapping[str, Sequence[CheckResult]],
    deselected: Sequence[str],
    *,
    by: str,
) -> Iterator[Refusal]:
    missing = [name for name in required if not results.get(name)]
    if missing:
        have, them = ("check has", "it") if len(missing) == 1 else ("checks have", "them")
        names = [f"{name} (deselected)" if name in deselected else name for name in missing]
        yield Refusal(
            message=f"{len(missing)} {have} no result, but the {by} requires {them}: "
            f"{_listed(names)}",
            cure="run all suites: without -k, -m, --deselect and --vllm-suite",
        )


def _age(record: RunRecord, now: dt.datetime, max_age: dt.timedelta) -> Iterator[Refusal]:
    try:
        started = dt.datetime.fromisoformat(record.started)
    except ValueError:
        started = None
    if started is None or started.tzinfo is None:
        yield Refusal(
            message=f"the run began at {one_line(record.started)!r}, which is no time with a zone",
            cure=AGAIN,
        )
        return
    age = now - started
    if age > max_age:
        yield Refusal(
            message=f"the run is {_days(age)} old, and {_days(max_age)} are allowed",
            cure=f"{AGAIN} (or allow more with --max-age)",
        )
    elif age < -SKEW:
        yield Refusal(
            message=f"the run began {_days(-age)} from now, at {one_line(record.started)}",
            cure="set the clock of this host or of the one that ran; then run the acceptance again",
        )


def _days(length: dt.timedelta) -> str:
    """Write a duration as people say it."""
    hours = length / dt.timedelta(hours=1)
    if hours >= 48:  # noqa: PLR2004 - two days
        return f"{hours / 24:.3g} days"
    return f"{hours:.3g} hours" if hours >= 1 else f"{hours * 60:.3g} minutes"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(one_line(name) for name in names[:_SHOWN]) + more
