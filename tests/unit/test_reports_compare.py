"""The four renderings of a comparison: they say the same, and a forced one says so everywhere."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_vllm.domain.run_comparison import RunComparison, Sameness, Side, compare_runs
from pytest_vllm.reports.compare_html import compare_html
from pytest_vllm.reports.compare_json import compare_json
from pytest_vllm.reports.compare_md import compare_md
from pytest_vllm.reports.compare_text import compare_text
from tests.unit.records import HOSTILE, hostile_record
from tests.unit.test_run_comparison import run, side

RENDERINGS = (compare_text, compare_md, compare_html, compare_json)


def compared(factor: float = 1.4, *, force: bool = False, count: int = 8) -> RunComparison:
    return compare_runs(side(run()), side(run(factor, count=count), "b"), force=force)


@pytest.mark.parametrize("render", RENDERINGS)
def test_each_names_the_result_of_each_metric(render) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    text = render(compared())
    for metric in ("output_tokens_per_s", "tpot_p50_ms", "ttft_p50_ms"):
        assert metric in text
    assert "worse" in text.casefold()
    assert "FORCED" not in text


@pytest.mark.parametrize("render", RENDERINGS[:3])
def test_each_says_that_the_change_is_not_that_of_the_medians(render) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    text = " ".join(render(compared()).split())
    assert "base (median)" in text
    assert "candidate (median)" in text
    assert "it need not be the change between the two medians" in text


@pytest.mark.parametrize("render", RENDERINGS)
def test_each_names_what_differs(render) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    text = " ".join(render(compared(count=4)).split())
    assert "8x AMD Instinct MI300X" in text
    assert "4x AMD Instinct MI300X" in text
    assert "--force" in text or render is compare_json
    assert "not comparable" in text or '"comparable": false' in text


@pytest.mark.parametrize("render", RENDERINGS[:3])
def test_a_forced_comparison_says_so_and_why(render) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    text = " ".join(render(compared(count=4, force=True)).split())
    assert "FORCED" in text
    assert "decide nothing by it" in text
    assert "other GPUs: 8x AMD Instinct MI300X of the base, 4x AMD Instinct" in text
    assert text.count("forced: worse") == 3


def test_programs_are_told_that_it_was_forced() -> None:
    document = json.loads(compare_json(compared(count=4, force=True)))
    assert (document["schema"], document["kind"]) == (1, "comparison")
    assert document["comparable"] is False
    assert document["forced"][0].startswith("other GPUs: ")
    assert document["effect"] == "worse"
    assert document["exit_code"] == 1
    plain = json.loads(compare_json(compared()))
    assert plain["comparable"] is True
    assert plain["performance"]["changes"][0]["effect"] == "worse"
    assert len(plain["rounds"][0]["candidate"]) == 5


def test_a_forced_page_is_never_green() -> None:
    page = compare_html(compared(0.7, count=4, force=True))
    assert 'data-tone="warn"' in page
    assert 'data-tone="good"' in compare_html(compared(0.7))


@pytest.mark.parametrize("render", RENDERINGS)
def test_hostile_runs_are_shown_and_harm_nothing(render) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    hostile = replace(hostile_record(), performance=run().performance)
    sides = side(run(), HOSTILE), side(hostile, HOSTILE)
    for force in (False, True):
        text = render(compare_runs(*sides, force=force))
        assert "\x1b" not in text
        if render is not compare_json:
            assert "\x07" not in text
            assert "\u202e" not in text
        if render is compare_html:
            assert "<script>alert" not in text
            assert text.count("<script>") == 1


@pytest.mark.parametrize("render", RENDERINGS)
def test_loads_without_runs_are_rendered(render) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    loads = [Side(name=name, performance=run().performance) for name in "ab"]
    assert "output_tokens_per_s" in render(compare_runs(*loads))
    nothing = [Side(name=name) for name in "ab"]
    assert render(compare_runs(*nothing))


def test_what_only_one_side_tells_does_not_differ() -> None:
    base, candidate = replace(run(), environment={}), replace(run(), environment={"host": "b"})
    found = compare_runs(side(base), side(candidate, "b"))
    assert {fact.name: fact.same for fact in found.others}["host"] is Sameness.NOT_KNOWN
    assert "besides" not in compare_md(found)
    assert "besides" not in compare_text(found)


def test_the_mark_of_a_rate_is_where_worse_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1 / 1.1 of the base's median, not at 0.9 of it."""
    marked: dict[str, dict[str, float]] = {}

    def drawn(title: str, *_: object, marks: dict[str, float], **__: object) -> None:
        marked[title] = marks

    monkeypatch.setattr("pytest_vllm.reports.compare_html.line_plot", drawn)
    compare_html(compared())
    for title, factor in (("output_tokens_per_s", 1 / 1.1), ("tpot_p50_ms", 1.1)):
        base = marked[title]["base's median"]
        assert marked[title]["allowed"] == pytest.approx(factor * base)
