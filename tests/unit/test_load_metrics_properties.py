"""What holds of the figures of any load."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_vllm.domain.load.columns import UNTOLD, Ending
from pytest_vllm.domain.load.failures import sort
from pytest_vllm.domain.load.measurement import Slo
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.rates import output
from pytest_vllm.domain.load.steady import Window, steady_window, whole_load
from tests.unit.load_columns import Row, at, load

if TYPE_CHECKING:
    import random

    from pytest_vllm.domain.load.measurement import Measurement

SLO = Slo(ttft_ms=400, tpot_ms=60)
BAD = [ending for ending in Ending if ending not in (Ending.DONE, Ending.UNSENT)]
times = st.integers(0, 2000)


@st.composite
def made(draw: st.DrawFn) -> Row:
    """A request of any kind."""
    send = draw(times)
    gaps = draw(st.lists(st.integers(0, 500), max_size=5))
    events, now = [], send
    for gap in gaps:
        now += gap
        events.append(now)
    counts = draw(st.lists(st.integers(1, 4), min_size=len(events), max_size=len(events)))
    told = draw(st.booleans())
    tokens = draw(st.sampled_from([sum(counts), UNTOLD]) if told else st.integers(0, 20))
    return Row(
        due=max(0, send - draw(st.integers(0, 100))),
        send=send,
        events=tuple(events),
        counts=counts if told else (),
        tokens=tokens,
        want=draw(st.sampled_from([0, 0, len(events)])),
        end=now + draw(st.integers(0, 50)),
        ending=draw(st.sampled_from([Ending.DONE] * 4 + list(Ending))),
        warm_up=draw(st.sampled_from([False, False, False, True])),
    )


loads = st.lists(made(), min_size=1, max_size=10)
places = st.integers(1, 8)
brief = settings(max_examples=30)


def measured(rows: list[Row], concurrency: int) -> Measurement:
    return measure(*load(*rows, concurrency=concurrency), slo=SLO)


@brief
@given(loads, places)
def test_goodput_is_no_more_than_throughput(rows: list[Row], concurrency: int) -> None:
    figures = measured(rows, concurrency).figures
    for suffix in ("", "_whole"):
        rate = figures.get(f"requests_per_s{suffix}")
        if rate is not None:
            assert 0 <= figures[f"goodput_per_s{suffix}"] <= rate * (1 + 1e-12)
    assert 0 <= figures.get("goodput_share", 0) <= 1 - figures.get("failed_share", 0) + 1e-12


@brief
@given(loads, places)
def test_the_window_is_inside_the_load(rows: list[Row], concurrency: int) -> None:
    plan, columns = load(*rows, concurrency=concurrency)
    ends = sort(plan, columns)
    inner, outer = steady_window(plan, columns, ends), whole_load(columns, ends)
    assert outer.begin_ns <= inner.begin_ns <= inner.end_ns <= outer.end_ns
    if inner.reached:
        assert inner.most >= 0.9 * concurrency


@brief
@given(loads, places, st.randoms())
def test_the_order_of_requests_does_not_matter(
    rows: list[Row], concurrency: int, shuffler: random.Random
) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    before, after = measured(rows, concurrency), measured(shuffled, concurrency)
    assert after.failures == before.failures
    assert after.distributions == before.distributions
    assert set(after.figures) == set(before.figures)
    for name, value in before.figures.items():
        assert abs(after.figures[name] - value) <= 1e-9 * max(1.0, abs(value))


@brief
@given(loads, places, st.data())
def test_a_failed_request_never_improves_a_figure(
    rows: list[Row], concurrency: int, data: st.DataObject
) -> None:
    """The same load, but one of its sound requests failed at the same moments."""
    sound = [n for n, row in enumerate(rows) if row.ending is Ending.DONE and not row.warm_up]
    if not sound:
        return
    broken = list(rows)
    number = data.draw(st.sampled_from(sound))
    broken[number] = replace(rows[number], ending=data.draw(st.sampled_from(BAD)))
    before, after = measured(rows, concurrency), measured(broken, concurrency)
    for name, value in after.figures.items():
        if name.endswith(("_per_s", "_per_s_whole", "goodput_share")) and name in before.figures:
            assert value <= before.figures[name] + 1e-9
    assert after.figures["failed_share"] >= before.figures.get("failed_share", 0)
    for name, distribution in after.distributions.items():
        # per event the weight of a failed request is a mean one, which is no exact statement
        if name in ("icl", "itl") or name not in before.distributions:
            continue
        for label, value in before.distributions[name].adjusted.items():
            now = distribution.adjusted.get(label)
            if label in distribution.adjusted and value is not None:
                assert now is None or now >= value


@brief
@given(loads, places, st.lists(times, min_size=1, max_size=6))
def test_the_tokens_of_parts_add_up_to_the_whole(
    rows: list[Row], concurrency: int, cuts: list[int]
) -> None:
    """Each token is in exactly one of the windows that a load is cut into."""
    plan, columns = load(*rows, concurrency=concurrency)
    ends = sort(plan, columns)
    edges = [0, *sorted({cut * 7 + 0.5 for cut in cuts}), 10**6]
    parts = [
        output(plan, columns, ends, set(), Window(begin_ns=at(low), end_ns=at(high) - 1))
        for low, high in pairwise(edges)
    ]
    known = [ends.tokens[row] for row in ends.done]
    told = [part.output_tokens for part in parts]
    if UNTOLD in known:
        assert None in told
    else:
        assert abs(sum(value or 0 for value in told) - sum(known)) < 1e-6
    assert abs(sum(part.requests for part in parts) - len(ends.done)) < 1e-6


@brief
@given(loads, places)
def test_every_request_is_counted_once(rows: list[Row], concurrency: int) -> None:
    plan, columns = load(*rows, concurrency=concurrency)
    ends = sort(plan, columns)
    assert sum(ends.failures.values()) + len(ends.done) == len(ends.issued)
    assert not any(plan.requests[row].warm_up for row in ends.issued)
    assert not any(columns.ending[row] == Ending.UNSENT for row in ends.done)
