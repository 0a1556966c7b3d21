"""Which checks changed since a baseline."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.check_changes import compare_checks
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import Change
from pytest_vllm.domain.verdict import Decision
from tests.unit.records import make_record, make_result

NAMES = ("chat.a.b", "chat.c.d", "chat.e.f")
RUNS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(Outcome)).map(
    lambda outcomes: tuple(make_result(name, outcome) for name, outcome in outcomes.items())
)


def test_each_kind_of_change_is_named_the_worst_first() -> None:
    before = (
        make_result("chat.a.fixed", Outcome.FAIL),
        make_result("chat.b.broken"),
        make_result("chat.c.gone"),
        make_result("chat.d.same"),
    )
    after = (
        make_result("chat.a.fixed"),
        make_result("chat.b.broken", Outcome.ERROR),
        make_result("chat.d.same", Outcome.NOT_APPLICABLE),
        make_result("chat.e.new"),
    )
    baseline = make_record(before)
    comparison = compare_checks(baseline, after)
    assert comparison.run_id == baseline.run_id
    assert comparison.decision is Decision.REJECT
    assert comparison.changes == (
        Change(name="chat.b.broken", kind="broken", before="pass", after="error"),
        Change(name="chat.c.gone", kind="gone", before="pass"),
        Change(name="chat.e.new", kind="new", after="pass"),
        Change(name="chat.a.fixed", kind="fixed", before="fail", after="pass"),
    )


def test_a_check_that_was_not_run_is_gone() -> None:
    """Without a server nothing runs, and that must not read as "nothing changed"."""
    comparison = compare_checks(
        make_record((make_result("chat.a.b"),)), [make_result("chat.a.b", Outcome.NOT_RUN)]
    )
    assert [change.kind for change in comparison.changes] == ["gone"]


def test_the_worst_of_many_results_of_one_case_counts() -> None:
    after = [make_result("chat.a.b", Outcome.FAIL), make_result("chat.a.b")]
    comparison = compare_checks(make_record((make_result("chat.a.b"),)), after)
    assert [change.kind for change in comparison.changes] == ["broken"]


@given(RUNS)
def test_a_run_does_not_differ_from_itself(results) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    assert compare_checks(make_record(results), results).changes == ()


@given(RUNS, RUNS)
def test_the_way_back_undoes_every_change(one, other) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    opposite = {"broken": "fixed", "fixed": "broken", "new": "gone", "gone": "new"}
    there = compare_checks(make_record(one), other).changes
    back = compare_checks(make_record(other), one).changes
    assert {(c.name, opposite[c.kind]) for c in there} == {(c.name, c.kind) for c in back}
