"""Which checks changed since a baseline."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.check_changes import WORSE, compare_checks, lost_checks, unanswered
from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.record import Change
from pytest_vllm.domain.verdict import Decision
from tests.unit.records import make_check, make_record, make_result

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
        make_result("chat.f.waived", Outcome.FAIL),
        make_result("chat.g.unwaived", Outcome.WAIVED),
        make_result("chat.h.lost"),
        make_result("chat.i.level"),
        make_result("chat.j.mended", Outcome.WAIVED),
        make_result("chat.k.unsaid", Outcome.FAIL),
        make_result("chat.l.known", Outcome.ERROR),
    )
    after = (
        make_result("chat.a.fixed"),
        make_result("chat.b.broken", Outcome.FAIL),
        make_result("chat.d.same"),
        make_result("chat.e.new"),
        make_result("chat.f.waived", Outcome.WAIVED),
        make_result("chat.g.unwaived", Outcome.FAIL),
        make_result("chat.h.lost", Outcome.NOT_APPLICABLE),
        make_result("chat.i.level", level=Level.SHOULD),
        make_result("chat.j.mended"),
        make_result("chat.k.unsaid", Outcome.ERROR),
        make_result("chat.l.known", Outcome.FAIL),
    )
    baseline = make_record(before)
    comparison = compare_checks(baseline, after)
    assert comparison.run_id == baseline.run_id
    assert comparison.decision is Decision.REJECT
    assert comparison.changes == (
        Change(name="chat.l.known", kind="new and failing", before="error", after="fail"),
        Change(name="chat.b.broken", kind="broken", before="pass", after="fail"),
        Change(name="chat.g.unwaived", kind="unwaived", before="waived", after="fail"),
        Change(name="chat.k.unsaid", kind="no answer", before="fail", after="error"),
        Change(name="chat.c.gone", kind="gone", before="pass"),
        Change(name="chat.f.waived", kind="waived", before="fail", after="waived"),
        Change(name="chat.h.lost", kind="changed", before="pass", after="not applicable"),
        Change(name="chat.i.level", kind="level", before="MUST", after="SHOULD"),
        Change(name="chat.e.new", kind="new", after="pass"),
        Change(name="chat.a.fixed", kind="fixed", before="fail", after="pass"),
        Change(name="chat.j.mended", kind="fixed", before="waived", after="pass"),
    )


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (Outcome.PASS, Outcome.NOT_RUN, "no answer"),
        (Outcome.PASS, Outcome.ERROR, "no answer"),
        (Outcome.WAIVED, Outcome.ERROR, "no answer"),
        (Outcome.NOT_APPLICABLE, Outcome.ERROR, "no answer"),
        (None, Outcome.ERROR, "no answer"),
        (Outcome.ERROR, None, "gone"),
        (Outcome.ERROR, Outcome.NOT_RUN, None),
        (Outcome.NOT_RUN, Outcome.ERROR, None),
        (Outcome.NOT_RUN, None, None),
        (None, Outcome.NOT_RUN, None),
        (Outcome.ERROR, Outcome.PASS, "new"),
        (Outcome.NOT_RUN, Outcome.PASS, "new"),
        (Outcome.ERROR, Outcome.FAIL, "new and failing"),
        (Outcome.NOT_RUN, Outcome.FAIL, "new and failing"),
    ],
)
def test_what_nobody_knows_is_neither_worse_nor_unchanged(
    before: Outcome | None, after: Outcome | None, kind: str | None, level: Level
) -> None:
    """An error of the host says nothing of the image; without a server nothing is run."""
    sides = [
        () if outcome is None else (make_result("chat.a.b", outcome, level=level),)
        for outcome in (before, after)
    ]
    changes = compare_checks(make_record(sides[0]), sides[1]).changes
    if level is not Level.MUST and kind == "new and failing":
        kind = "new"
    assert [change.kind for change in changes] == ([] if kind is None else [kind])
    assert unanswered(changes) == (("chat.a.b",) if kind == "no answer" else ())


def test_what_failed_once_failed_whatever_else_became_of_it() -> None:
    """A case with two results, a failure and an error of the host after it."""
    after = [make_result("chat.a.b", Outcome.FAIL), make_result("chat.a.b", Outcome.ERROR)]
    changes = compare_checks(make_record((make_result("chat.a.b"),)), after).changes
    assert [(change.kind, change.after) for change in changes] == [("broken", "fail")]
    again = [make_result("chat.a.b"), make_result("chat.a.b", Outcome.NOT_RUN)]
    assert compare_checks(make_record((make_result("chat.a.b"),)), again).changes == ()


@pytest.mark.parametrize(
    ("outcome", "level", "kind"),
    [
        (Outcome.FAIL, Level.MUST, "new and failing"),
        (Outcome.FAIL, Level.SHOULD, "new"),
        (Outcome.WAIVED, Level.MUST, "new"),
    ],
)
def test_a_must_check_that_is_new_and_fails_is_none_of_the_harmless_ones(
    outcome: Outcome, level: Level, kind: str
) -> None:
    same = make_result("chat.a.same")
    after = [same, make_result("chat.b.new"), make_result("chat.c.new", outcome, level=level)]
    changes = compare_checks(make_record((same,)), after).changes
    assert [(change.name, change.kind) for change in changes][:: 1 if kind == "new" else -1] == [
        ("chat.b.new", "new"),
        ("chat.c.new", kind),
    ]
    assert ("new and failing" in WORSE, kind in WORSE) == (True, kind != "new")


def test_must_checks_that_passed_and_are_not_shown_again_are_lost() -> None:
    before = [
        make_result("chat.a.gone"),
        make_result("chat.b.not-run"),
        make_result("chat.c.failed", Outcome.FAIL),
        make_result("chat.d.should", level=Level.SHOULD),
        make_result("chat.e.here"),
        make_result("chat.f.idle"),
        make_result("chat.g.needy", check=replace(make_check("chat.g.needy"), needs=("chat",))),
    ]
    after = [
        make_result("chat.b.not-run", Outcome.NOT_RUN),
        make_result("chat.e.here"),
        make_result("chat.f.idle", Outcome.NOT_APPLICABLE),
        make_result("chat.g.needy", Outcome.NOT_APPLICABLE),
    ]
    assert lost_checks(make_record(tuple(before)), after) == ("chat.a.gone", "chat.g.needy")


def test_the_worst_of_many_results_of_one_case_counts() -> None:
    after = [make_result("chat.a.b", Outcome.FAIL), make_result("chat.a.b")]
    comparison = compare_checks(make_record((make_result("chat.a.b"),)), after)
    assert [change.kind for change in comparison.changes] == ["broken"]


@given(RUNS)
def test_a_run_does_not_differ_from_itself(results) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    assert compare_checks(make_record(results), results).changes == ()


@given(RUNS, RUNS)
def test_the_way_back_names_the_same_checks(one, other) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    there = compare_checks(make_record(one), other).changes
    back = compare_checks(make_record(other), one).changes
    assert {change.name for change in there} == {change.name for change in back}
    new, left = ("new", "new and failing"), ("gone", "no answer")
    kinds = {change.name: change.kind for change in back}
    for change in there:
        if change.kind in new:
            assert kinds[change.name] in left
        if change.kind == "gone":
            assert kinds[change.name] in (*new, "no answer")
        if change.kind in ("broken", "unwaived"):
            assert kinds[change.name] in ("fixed", "changed", "waived")
