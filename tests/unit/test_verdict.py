"""The rules of the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.checks import CheckResult, Level, Outcome
from pytest_vllm.domain.verdict import Decision, decide
from tests.unit.records import all_passed, make_check, make_failure, make_result

OPEN = (Outcome.ERROR, Outcome.NOT_RUN)
RESULTS = st.lists(
    st.builds(
        make_result,
        st.sampled_from(["chat.a.b", "chat.c.d", "stream.e.f"]),
        st.sampled_from(Outcome),
        st.text(),
        level=st.sampled_from(Level),
    ),
    max_size=8,
)
FAILURES = st.none() | st.builds(make_failure, kind=st.sampled_from(["launch", "host", "target"]))
REQUIRED = st.lists(
    st.builds(make_check, st.sampled_from(["chat.a.b", "chat.x.y"]), level=st.sampled_from(Level)),
    max_size=3,
)


def test_all_passed_promotes() -> None:
    verdict = decide(all_passed())
    assert verdict.decision is Decision.PROMOTE
    assert verdict.reasons == ("61 checks passed, no MUST check failed",)


def test_a_failed_must_rejects_and_is_named() -> None:
    failed = make_result("chat.a.b", Outcome.FAIL, "21 is not 20\nmore")
    verdict = decide([*all_passed(), failed])
    assert verdict.decision is Decision.REJECT
    assert verdict.reasons == ("chat.a.b: 21 is not 20",)


def test_a_failure_without_words_is_explained_by_the_requirement() -> None:
    failed = make_result("chat.a.b", Outcome.FAIL, "  \n ")
    assert decide([failed]).reasons == (f"chat.a.b: {failed.check.requirement}",)


def test_a_failed_should_is_told_and_promotes() -> None:
    warned = make_result("chat.a.b", Outcome.FAIL, "odd", level=Level.SHOULD)
    verdict = decide([*all_passed(), warned])
    assert verdict.decision is Decision.PROMOTE
    assert verdict.reasons[1] == "SHOULD chat.a.b: odd"


def test_a_failed_must_outweighs_what_is_open() -> None:
    results = [make_result("chat.a.b", Outcome.ERROR), make_result("chat.c.d", Outcome.FAIL)]
    assert decide(results, interrupted="Ctrl-C").decision is Decision.REJECT


def test_a_server_that_ends_by_itself_is_rejected_first_of_all() -> None:
    """An engine may die between two checks, and vLLM may exit with 0: no check fails, yet."""
    verdict = decide(all_passed(), died="the server ended in mid-run with exit code 0")
    assert verdict.decision is Decision.REJECT
    assert verdict.reasons[0].startswith("the server ended")


def test_an_error_or_a_missing_result_leaves_it_open() -> None:
    for outcome in OPEN:
        verdict = decide([*all_passed(), make_result("chat.a.b", outcome, "why")])
        assert verdict.decision is Decision.INCONCLUSIVE
        assert any("chat.a.b" in reason for reason in verdict.reasons)


def test_a_required_check_without_result_leaves_it_open() -> None:
    verdict = decide(all_passed(), required=[make_check("chat.gone.now")])
    assert verdict.decision is Decision.INCONCLUSIVE
    assert "chat.gone.now" in verdict.reasons[0]


def test_a_required_should_may_be_missing() -> None:
    optional = make_check("chat.gone.now", level=Level.SHOULD)
    assert decide(all_passed(), required=[optional]).decision is Decision.PROMOTE


def behind_the_api(outcome: Outcome) -> CheckResult:
    check = replace(make_check("memory.weights.as-forecast"), launched=True)
    return CheckResult(check=check, outcome=outcome, message="not run: only attached to")


def test_what_a_url_cannot_show_is_named_and_promotes() -> None:
    """On a server that is only attached to; a launched one has to show it."""
    results = [*all_passed(), behind_the_api(Outcome.NOT_RUN)]
    required = [result.check for result in results]
    attached = decide(results, required=required, only_attached=True)
    assert attached.decision is Decision.PROMOTE
    assert attached.reasons[1].startswith("1 check was not run, for it looks behind the API")
    assert attached.reasons[1].endswith(": memory.weights.as-forecast")
    assert decide(results, required=required).decision is Decision.INCONCLUSIVE


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.ERROR])
def test_what_a_url_shows_all_the_same_is_judged(outcome: Outcome) -> None:
    """A growth that was seen rejects, and an error leaves it open, attached or not."""
    decision = Decision.REJECT if outcome is Outcome.FAIL else Decision.INCONCLUSIVE
    results = [*all_passed(), behind_the_api(outcome)]
    assert decide(results, only_attached=True).decision is decision


def test_want_of_time_is_named_and_promotes_unless_every_check_must_have_a_result() -> None:
    """A launched, sound server with a huge cache: its default run must be able to promote it."""
    late = make_result("memory.a.b", Outcome.NOT_RUN, "not run: 600 s do", out_of_time=True)
    results = [*all_passed(), late]
    required = [result.check for result in results]
    verdict = decide(results, required=required)
    assert verdict.decision is Decision.PROMOTE
    assert verdict.reasons[1] == "MUST memory.a.b: not run: 600 s do"
    strict = decide(results, required=required, complete=True)
    assert strict.decision is Decision.INCONCLUSIVE
    assert strict.reasons == (
        "1 MUST check has no result: memory.a.b",
        "memory.a.b: not run: 600 s do",
    )
    assert decide([late]).reasons == (
        "no MUST check passed, so nothing was shown",
        "memory.a.b: not run: 600 s do",
    )


def test_what_was_put_off_for_one_reason_is_told_in_one_line() -> None:
    """Under xdist two whole suites are not run; the verdict says so, once, and claims no more."""
    why = "not run: run it without -n"
    late = [
        make_result(f"{suite}.a.b{number}", Outcome.NOT_RUN, why, out_of_time=True)
        for suite in ("memory", "performance")
        for number in range(3)
    ]
    verdict = decide([*all_passed(), *late], required=[result.check for result in late])
    assert verdict.decision is Decision.PROMOTE
    assert verdict.reasons[1:] == (
        "6 checks of memory and performance were not run: run it without -n",
    )
    named = decide([*all_passed(), *late[:2]]).reasons[1:]
    assert named == ("2 checks were not run (memory.a.b0, memory.a.b1): run it without -n",)
    assert decide(late).decision is Decision.INCONCLUSIVE
    strict = decide([*all_passed(), *late], complete=True)
    assert strict.decision is Decision.INCONCLUSIVE
    assert "6 MUST checks have no result" in strict.reasons[0]


def test_each_reason_of_what_was_not_run_is_told_once() -> None:
    late = [make_result(f"a.b.c{number}", Outcome.NOT_RUN, "not run: why") for number in range(2)]
    assert decide([*all_passed(), *late]).reasons == (
        "2 MUST checks have no result: a.b.c0, a.b.c1",
        "a.b.c0: not run: why",
    )


def test_other_checks_that_were_not_run_leave_an_attached_server_open() -> None:
    results = [*all_passed(), make_result("chat.a.b", Outcome.NOT_RUN)]
    assert decide(results, only_attached=True).decision is Decision.INCONCLUSIVE


def test_a_waiver_keeps_the_way_open() -> None:
    waived = make_result("chat.a.b", Outcome.WAIVED)
    assert decide([*all_passed(), waived]).decision is Decision.PROMOTE


def test_a_launch_that_fails_rejects_and_a_host_that_fails_does_not() -> None:
    assert decide([], failure=make_failure()).decision is Decision.REJECT
    verdict = decide([], failure=make_failure(kind="host", message="no engine"))
    assert verdict.decision is Decision.INCONCLUSIVE
    assert verdict.reasons == ("no server to test: no engine",)


def test_an_interrupted_run_is_open() -> None:
    verdict = decide(all_passed(), interrupted="Ctrl-C")
    assert verdict.decision is Decision.INCONCLUSIVE
    assert verdict.reasons == ("the run was ended early: Ctrl-C",)


def test_nothing_that_passed_shows_nothing() -> None:
    skipped = make_result("chat.a.b", Outcome.NOT_APPLICABLE)
    optional = make_result("chat.c.d", level=Level.SHOULD)
    for results in ([], [skipped], [optional, skipped]):
        assert decide(results).decision is Decision.INCONCLUSIVE


def test_exit_codes_tell_whom_to_blame() -> None:
    assert [decision.exit_code for decision in Decision] == [0, 1, 75]


@given(RESULTS, REQUIRED, FAILURES, st.sampled_from(["", "Ctrl-C"]))
def test_the_verdict_keeps_its_promises(results, required, failure, interrupted) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """A failed MUST always rejects; nothing open, missing or unshown is ever promoted."""
    verdict = decide(results, required=required, failure=failure, interrupted=interrupted)
    must = [result for result in results if result.check.level is Level.MUST]
    seen = {result.check.id for result in must}
    assert verdict.reasons
    assert all(verdict.reasons)
    if any(result.outcome is Outcome.FAIL for result in must):
        assert verdict.decision is Decision.REJECT
    if verdict.decision is Decision.PROMOTE:
        assert failure is None
        assert not interrupted
        assert not any(result.outcome in OPEN for result in must)
        assert any(result.outcome is Outcome.PASS for result in must)
        assert all(check.id in seen for check in required if check.level is Level.MUST)
    if verdict.decision is Decision.REJECT:
        failed = any(result.outcome is Outcome.FAIL for result in must)
        assert failed or (failure is not None and failure.kind == "launch")
