"""What the waivers of a profile are good for: before a run, in it and after it.

A day is one of UTC, like every time in a record. The last day of a waiver counts.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.record import WaiverUse
from pytest_vllm.domain.text import closest, one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.profile import Profile, Waiver

_LONG = dt.timedelta(days=366)
"""Nobody looks again at what is waived for longer."""
_SHOWN = 5
_OPEN = (Outcome.NOT_RUN, Outcome.ERROR)
_GOOD = "the check passed"
_PARTLY = "the check passed where it applies"
_AWAY = "the check did not apply"
_ABSENT = "this run has no result of that check"
_UNKNOWN = "whether the check fails was not found out"


def refuse_expired(profile: Profile, today: dt.date) -> None:
    """Refuse waivers that have expired, where every check counts.

    Args:
        profile: The rules of the run.
        today: The day of the run.

    Raises:
        TargetError: The profile is `complete`, and one of its waivers has expired.
    """
    expired = [waiver for waiver in profile.waivers if waiver.expires < today]
    if not profile.complete or not expired:
        return
    named = ", ".join(f"{waiver.check} (on {waiver.expires})" for waiver in expired[:_SHOWN])
    more = f" and {len(expired) - _SHOWN} more" if len(expired) > _SHOWN else ""
    have = "a waiver has" if len(expired) == 1 else f"{len(expired)} waivers have"
    raise TargetError(
        f"profile {profile.name}: {have} expired, today is {today} (UTC): {named}{more}",
        advice=f"remove its [[waiver]] from {profile.name}, or look at the link again and give it "
        "a later expires",
    )


def refuse_unknown(profile: Profile, known: Collection[str]) -> None:
    """Refuse waivers of checks that do not exist, where every check counts.

    Args:
        profile: The rules of the run.
        known: IDs of all checks there are.

    Raises:
        TargetError: The profile is `complete`, and one of its waivers names no check.
    """
    if not profile.complete:
        return
    for waiver in profile.waivers:
        if waiver.check_id not in known:
            raise TargetError(
                f"profile {profile.name}: {_no_such(waiver.check_id, known)}",
                advice=f"correct key check of that [[waiver]] in {profile.name}; docs/checks.md "
                "lists all IDs",
            )


def _no_such(check: str, known: Collection[str]) -> str:
    return f"there is no check {check} to waive{closest(check, sorted(known), alike=0.6)}"


def waive(
    waivers: Sequence[Waiver], results: Iterable[CheckResult], today: dt.date
) -> tuple[CheckResult, ...]:
    """Return results with what failed and may fail as `waived`; an error is never waived.

    Args:
        waivers: Those of the profile; an expired one counts for nothing.
        results: Results as they came.
        today: The day of the run.
    """
    valid = {waiver.check: waiver for waiver in waivers if waiver.expires >= today}
    return tuple(
        _waived(result, valid.get(result.check.id) or valid.get(result.name)) for result in results
    )


def _waived(result: CheckResult, waiver: Waiver | None) -> CheckResult:
    if waiver is None or result.outcome is not Outcome.FAIL:
        return result
    message = f"waived until {waiver.expires}: {waiver.reason}; {result.message}"
    return replace(result, outcome=Outcome.WAIVED, message=message)


def use_of(
    waivers: Sequence[Waiver], results: Sequence[CheckResult], today: dt.date
) -> tuple[WaiverUse, ...]:
    """Say of each waiver which results it waived, and why it waived none.

    Args:
        waivers: Those of the profile.
        results: What `waive` made of the results.
        today: The day of the run.
    """
    uses = []
    for waiver in waivers:
        covered = [result for result in results if _covers(waiver.check, result)]
        names = tuple(r.name for r in covered if r.outcome is Outcome.WAIVED)
        expired = waiver.expires < today
        uses.append(
            WaiverUse(
                check=waiver.check,
                reason=waiver.reason,
                link=waiver.link,
                expires=waiver.expires.isoformat(),
                waived=names,
                note="" if names else _note(covered, f"it expired on {waiver.expires}" * expired),
            )
        )
    return tuple(uses)


def _covers(check: str, result: CheckResult) -> bool:
    return check in (result.check.id, result.name)


def _note(covered: Sequence[CheckResult], expired: str) -> str:
    """Say why a waiver waived nothing."""
    if expired:
        return expired
    if not covered:
        return _ABSENT
    if any(result.outcome in _OPEN for result in covered):
        return _UNKNOWN
    outcomes = {result.outcome for result in covered}
    if outcomes == {Outcome.NOT_APPLICABLE}:
        return _AWAY
    return _PARTLY if Outcome.NOT_APPLICABLE in outcomes else _GOOD


def idle(
    uses: Sequence[WaiverUse],
    results: Sequence[CheckResult],
    *,
    profile: str,
    known: Collection[str],
) -> tuple[str, ...]:
    """Say in a sentence each which waivers waived nothing.

    Left out are those of a MUST check that was not run or ended in an error, for the verdict is
    open by that already.

    Args:
        uses: What `use_of` found.
        results: The results it was found in.
        profile: Name or path of the profile.
        known: IDs of all checks there are.
    """
    told = []
    for use in uses:
        must = [r for r in results if _covers(use.check, r) and r.check.level is Level.MUST]
        if use.waived or any(result.outcome in _OPEN for result in must):
            continue
        check_id = use.check.partition("[")[0]
        if check_id not in known:
            told.append(f"{_no_such(check_id, known)} (profile {profile})")
        elif use.note in (_ABSENT, _UNKNOWN):
            told.append(f"the waiver of {use.check} was not used: {use.note}")
        else:
            cure = f"remove it from profile {profile}"
            told.append(f"the waiver of {use.check} is not needed, {use.note}: {cure}")
    return tuple(told)


def waived_words(uses: Sequence[WaiverUse]) -> str:
    """Name what was waived and until when, empty where nothing was."""
    used = [f"{one_line(name, 120)} until {use.expires}" for use in uses for name in use.waived]
    more = f" and {len(used) - _SHOWN} more" if len(used) > _SHOWN else ""
    return f"{', '.join(used[:_SHOWN])}{more}"


def cautions(profile: Profile, today: dt.date) -> tuple[str, ...]:
    """Name waivers that count for so long that nobody will look at them again."""
    return tuple(
        f"the waiver of {waiver.check} counts until {waiver.expires}, more than a year from now: "
        f"give it a nearer expires in profile {profile.name}"
        for waiver in profile.waivers
        if waiver.expires - today > _LONG
    )
