"""Waivers: until when they count, for what, and what one that is not needed does."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.checks import CheckResult, Level, Outcome
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.profile import Profile, build_profile
from pytest_vllm.domain.verdict import Decision, Verdict, decide
from pytest_vllm.domain.waivers import (
    cautions,
    idle,
    refuse_expired,
    refuse_unknown,
    use_of,
    waive,
    waived_words,
)
from pytest_vllm.reports.waivers import waiver_rows
from tests.unit.records import all_passed, make_record, make_result

LAST = dt.date(2026, 11, 23)
DAY = dt.timedelta(days=1)
ID = "chat.usage.adds-up"


def profile(*checks: str, complete: bool = True, **changes: Any) -> Profile:
    fields = {"reason": "known", "link": "https://example.org/1", "expires": LAST, **changes}
    return build_profile(
        "mine.toml",
        {
            "schema": 1,
            "verdict": {"complete": complete},
            "waiver": [{"check": check, **fields} for check in checks or (ID,)],
        },
    )


def judged(rules: Profile, *results: CheckResult, today: dt.date = LAST) -> Verdict:
    """Judge results as a run does."""
    ours = waive(rules.waivers, [*all_passed(), *results], today)
    uses = use_of(rules.waivers, ours, today)
    known = {result.check.id for result in ours} | {ID}
    return decide(
        ours,
        complete=rules.complete,
        waived=waived_words(uses),
        idle_waivers=idle(uses, ours, profile=rules.name, known=known),
    )


def failed(name: str = ID, **changes: Any) -> CheckResult:
    return make_result(name, Outcome.FAIL, "21 is not 20", **changes)


def test_the_last_day_counts_and_the_next_does_not() -> None:
    rules = profile()
    for today in (LAST - DAY, LAST):
        refuse_expired(rules, today)
        assert judged(rules, failed(), today=today).reasons == (
            "61 checks passed, no MUST check failed but what is waived",
            f"waived: {ID} until 2026-11-23",
        )
    with pytest.raises(TargetError) as caught:
        refuse_expired(rules, LAST + DAY)
    for word in ("mine.toml", ID, "on 2026-11-23", "today is 2026-11-24 (UTC)", "later expires"):
        assert word in str(caught.value)
    assert judged(rules, failed(), today=LAST + DAY).decision is Decision.REJECT


def test_all_that_expired_are_named_at_once() -> None:
    rules = profile(*(f"chat.point.n{number}" for number in range(7)))
    with pytest.raises(TargetError, match=r"7 waivers have expired.* and 2 more"):
        refuse_expired(rules, LAST + DAY)


def test_other_profiles_start_with_an_expired_waiver() -> None:
    rules = profile(complete=False)
    refuse_expired(rules, LAST + DAY)
    refuse_unknown(rules, ())
    assert judged(rules, failed(), today=LAST + DAY).decision is Decision.REJECT


def test_a_waiver_of_no_check_is_refused_and_what_was_meant_is_named() -> None:
    with pytest.raises(TargetError, match=r"no check chat\.usage\.ads-up .*mean chat\.usage\.adds"):
        refuse_unknown(profile("chat.usage.ads-up"), {ID, "chat.a.b"})
    refuse_unknown(profile(f"{ID}[chat]"), {ID})


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ((make_result(ID),), "is not needed, the check passed: remove it from profile mine.toml"),
        ((make_result(ID, Outcome.NOT_APPLICABLE),), "is not needed, the check did not apply"),
        (
            (
                make_result(ID, case="a"),
                make_result(ID, Outcome.NOT_APPLICABLE, case="b"),
            ),
            "the check passed where it applies",
        ),
        ((), "was not used: this run has no result of that check"),
        ((make_result(ID, Outcome.ERROR, level=Level.SHOULD),), "fails was not found out"),
    ],
)
def test_a_waiver_that_waived_nothing_leaves_the_verdict_open(
    results: tuple[CheckResult, ...], words: str
) -> None:
    """The image is not to blame, so it is not rejected; but nobody promotes by a stale profile."""
    verdict = judged(profile(), *results)
    assert verdict.decision is Decision.INCONCLUSIVE
    (reason,) = verdict.reasons
    assert f"the waiver of {ID} " in reason
    assert words in reason
    assert judged(profile(complete=False), *results).decision is Decision.PROMOTE


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.NOT_RUN])
def test_what_has_no_result_is_open_by_itself(outcome: Outcome) -> None:
    verdict = judged(profile(), make_result(ID, outcome, "why"))
    assert verdict.decision is Decision.INCONCLUSIVE
    assert not any("waiver" in reason for reason in verdict.reasons)


def test_an_error_is_never_waived() -> None:
    (result,) = waive(profile().waivers, [make_result(ID, Outcome.ERROR)], LAST)
    assert result.outcome is Outcome.ERROR


def test_an_idle_waiver_does_not_hide_a_failure() -> None:
    verdict = judged(profile(), make_result(ID), failed("chat.other.thing"))
    assert verdict.reasons == ("chat.other.thing: 21 is not 20",)


def test_one_case_can_be_waived() -> None:
    rules = profile(f"{ID}[chat]")
    ours = waive(rules.waivers, [failed(case="chat"), failed(case="completions")], LAST)
    assert [result.outcome for result in ours] == [Outcome.WAIVED, Outcome.FAIL]
    assert use_of(rules.waivers, ours, LAST)[0].waived == (f"{ID}[chat]",)
    assert judged(rules, failed(case="chat"), make_result(ID, case="completions")).decision is (
        Decision.PROMOTE
    )


def test_a_waiver_without_a_case_covers_all_and_one_that_fails_is_need_enough() -> None:
    ours = waive(profile().waivers, [failed(case="a"), make_result(ID, case="b")], LAST)
    assert [result.outcome for result in ours] == [Outcome.WAIVED, Outcome.PASS]
    assert use_of(profile().waivers, ours, LAST)[0].note == ""


def test_a_waived_result_says_until_when_and_why_and_what_was_seen() -> None:
    (result,) = waive(profile().waivers, [failed()], LAST)
    assert result.message == "waived until 2026-11-23: known; 21 is not 20"


@pytest.mark.parametrize("pair", [(ID, ID), (ID, f"{ID}[chat]"), (f"{ID}[chat]", ID)])
def test_two_waivers_of_one_check_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(TargetError, match="waiver 2: check .* is waived by waiver 1 already"):
        profile(*pair)


def test_two_cases_of_one_check_may_have_a_waiver_each() -> None:
    assert len(profile(f"{ID}[a]", f"{ID}[b]").waivers) == 2


@pytest.mark.parametrize("link", ["JIRA-1", "ftp://h/x", "https://", "javascript:x", "http://[a"])
def test_a_link_is_a_page(link: str) -> None:
    with pytest.raises(TargetError, match="key link is .*, which is no page"):
        profile(link=link)


@pytest.mark.parametrize("check", ["usage", "Chat.Usage", f"{ID}[chat", f"{ID}]", "a b.c"])
def test_a_check_is_an_id(check: str) -> None:
    with pytest.raises(TargetError, match="which is no ID of a check"):
        profile(check)


def test_a_waiver_for_years_is_warned_about() -> None:
    assert not cautions(profile(expires=LAST + 366 * DAY), LAST)
    (text,) = cautions(profile(expires=LAST + 367 * DAY), LAST)
    assert "more than a year from now" in text


def test_rows_say_what_a_waiver_did() -> None:
    rules = profile(ID, "chat.a.b")
    ours = waive(rules.waivers, [failed(), make_result("chat.a.b")], LAST)
    rows = waiver_rows(make_record(ours, waivers=use_of(rules.waivers, ours, LAST)))
    assert [row[4] for row in rows] == [f"waived {ID}", "waived nothing: the check passed"]
    assert rows[0][:4] == (ID, "2026-11-23", "known", "https://example.org/1")


@given(
    st.lists(
        st.builds(
            make_result,
            st.sampled_from([ID, "chat.a.b"]),
            st.sampled_from(Outcome),
            level=st.sampled_from(Level),
            case=st.sampled_from(["", "x"]),
        ),
        max_size=6,
    ),
    st.sets(st.sampled_from([ID, "chat.a.b[x]", "chat.gone.now"])),
    st.integers(-1, 1),
)
def test_only_failures_are_waived_and_only_by_what_counts(results, checks, late) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Under `complete` a promotion means that every waiver was needed and none had expired."""
    rules, today = profile(*sorted(checks)) if checks else Profile(name="x"), LAST + late * DAY
    ours = waive(rules.waivers, results, today)
    for before, after in zip(results, ours, strict=True):
        if after != before:
            assert (before.outcome, after.outcome) == (Outcome.FAIL, Outcome.WAIVED)
            assert today <= LAST
            assert {before.check.id, before.name} & checks
    if judged(rules, *results, today=today).decision is Decision.PROMOTE and rules.complete:
        uses = use_of(rules.waivers, waive(rules.waivers, results, today), today)
        assert all(use.waived for use in uses)
