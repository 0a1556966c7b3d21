"""Each metric of a load by its definition, on timelines whose figures are worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_vllm.domain.load.columns import UNTOLD, Ending
from pytest_vllm.domain.load.measurement import Slo
from pytest_vllm.domain.load.metrics import measure
from tests.unit.load_columns import Row, load

PLAIN = Row(send=10, events=(60, 70, 95), end=96)
"""TTFT 50, gaps 10 and 25, three tokens."""


def mean(measured: object, metric: str) -> float | None:
    distributions = measured.distributions  # type: ignore[attr-defined]
    return distributions[metric].mean if metric in distributions else None


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("ttft", 50.0),
        ("icl", 17.5),
        ("itl", 17.5),
        ("tpot", 17.5),  # 35 ms / (3 - 1)
        ("stall", 25.0),
        ("e2el", 85.0),
        ("e2e_close", 86.0),
        ("normalized", 85 / 3),
    ],
)
def test_definitions(metric: str, expected: float) -> None:
    assert mean(measure(*load(PLAIN)), metric) == pytest.approx(expected)


def test_a_closed_loop_has_no_schedule() -> None:
    measured = measure(*load(PLAIN))
    assert "ttft_sched" not in measured.distributions
    assert "ttft_content" not in measured.distributions


def test_latency_from_the_schedule_counts_the_wait_before_the_send() -> None:
    """Coordinated omission: due at 0, sent at 10."""
    measured = measure(*load(replace(PLAIN, due=0, opened=True)))
    assert mean(measured, "ttft") == 50.0
    assert mean(measured, "ttft_sched") == 60.0
    assert mean(measured, "e2el_sched") == 95.0


def test_events_of_several_tokens_with_counts() -> None:
    """4 tokens in 2 events: a gap of 20 ms is 3 tokens of 20/3 ms."""
    measured = measure(*load(Row(events=(30, 50), counts=(1, 3), tokens=4)))
    assert mean(measured, "icl") == 20.0
    assert measured.distributions["itl"].count == 3
    assert mean(measured, "itl") == pytest.approx(20 / 3)
    assert mean(measured, "tpot") == pytest.approx(20 / 3)
    assert not measured.multi_token_chunks


def test_tokens_of_the_first_event_are_no_part_of_the_decoding() -> None:
    """TPOT = (a_m - a_1) / (N - c_1)."""
    measured = measure(*load(Row(events=(30, 50, 70), counts=(3, 1, 1), tokens=5)))
    assert mean(measured, "tpot") == 20.0


def test_events_of_several_tokens_without_counts() -> None:
    """ITL is not guessed; TPOT and the events' gaps stand, and it is said."""
    measured = measure(*load(Row(events=(30, 50), tokens=5)))
    assert measured.multi_token_chunks
    assert any(flag.startswith("multi_token_chunks: 1 of 1") for flag in measured.flags)
    assert "itl" not in measured.distributions
    assert mean(measured, "icl") == 20.0
    assert mean(measured, "tpot") == 5.0
    assert measured.figures["output_tokens"] == 5


def test_no_token_is_counted_by_chunks() -> None:
    """Without usage and counts there is no figure of tokens, however many events came."""
    measured = measure(*load(Row(events=(30, 50), tokens=UNTOLD)))
    assert {"output_tokens", "output_tokens_per_s_whole"} & set(measured.figures) == set()
    assert {"tpot", "itl", "normalized"} & set(measured.distributions) == set()
    assert mean(measured, "ttft") == 30.0
    assert any("no number of tokens" in flag for flag in measured.flags)


def test_counts_of_events_stand_for_missing_usage() -> None:
    measured = measure(*load(Row(events=(30, 50), counts=(1, 2), tokens=UNTOLD)))
    assert measured.figures["output_tokens"] == 3


@pytest.mark.parametrize(
    "row",
    [
        Row(events=(30,)),
        Row(events=(30,), tokens=8),  # the whole reply in one event, as without streaming
        Row(events=(30, 50), counts=(2, 1), tokens=2),
    ],
)
def test_tpot_undefined_for_no_token_after_the_first_event(row: Row) -> None:
    assert "tpot" not in measure(*load(row)).distributions


def test_replies_that_came_whole_are_told() -> None:
    """Without streaming the first token is the last one."""
    measured = measure(*load(Row(events=(300,), tokens=8), PLAIN))
    assert any("1 of 2 replies came whole" in flag for flag in measured.flags)
    assert not any("came whole" in flag for flag in measure(*load(Row(events=(30,)))).flags)


def test_content_after_reasoning() -> None:
    measured = measure(
        *load(
            Row(events=(30, 50, 70), content_event=2),
            Row(send=100, events=(130, 150), content_event=UNTOLD),  # reasoned to the end
        )
    )
    assert mean(measured, "ttft") == 30.0
    assert mean(measured, "ttft_content") == 70.0
    assert measured.distributions["ttft_content"].requests == 1


def test_warm_up_is_in_no_figure() -> None:
    warm = Row(events=(900, 990), warm_up=True, end=991)
    alone = measure(*load(PLAIN))
    both = measure(*load(replace(PLAIN), warm, concurrency=1))
    assert both.requests == 1
    assert both.figures == alone.figures
    assert both.distributions == alone.distributions


FAILURES = [
    (Ending.CONNECT, "connect"),
    (Ending.STATUS, "status"),
    (Ending.RESET, "reset"),
    (Ending.TRUNCATED, "truncated"),
    (Ending.ERROR_EVENT, "error_event"),
    (Ending.MALFORMED, "malformed"),
    (Ending.STALLED, "stalled"),
    (Ending.TIMEOUT, "timeout"),
    (Ending.TOO_LARGE, "too_large"),
    (Ending.CUT, "cut"),
]


@pytest.mark.parametrize(("ending", "kind"), FAILURES)
def test_a_failed_request_is_counted_by_kind_and_in_no_latency(ending: Ending, kind: str) -> None:
    """Its quick first event and its tokens improve nothing."""
    measured = measure(*load(PLAIN, Row(send=100, events=(101, 102), ending=ending)))
    assert measured.failures == {kind: 1}
    assert measured.requests == 2
    assert mean(measured, "ttft") == 50.0
    assert measured.figures["output_tokens"] == 3
    assert measured.figures["failed_share"] == 0.5
    assert any(f"1 {kind}" in flag for flag in measured.flags)


@pytest.mark.parametrize(
    ("tokens", "kind"), [(2, "wrong_length"), (4, "wrong_length"), (UNTOLD, "uncounted")]
)
def test_another_length_than_asked_fails(tokens: int, kind: str) -> None:
    """Under ignore_eos a shorter reply is no faster one, and an uncounted one proves nothing."""
    measured = measure(*load(Row(events=(30, 50), tokens=tokens, want=3)))
    assert measured.failures == {kind: 1}
    assert measured.distributions == {}


@pytest.mark.parametrize("counts", [(1, 1), (1, 1, 1, 1), (2, 1, 1)], ids=["lost", "twice", "big"])
def test_a_stream_with_other_tokens_than_its_usage_fails(counts: tuple[int, ...]) -> None:
    """A server that loses a token of every stream is no faster one."""
    events = tuple(30.0 + 10 * number for number in range(len(counts)))
    sound = Row(events=(30, 40, 50), counts=(1, 1, 1), want=3)
    measured = measure(*load(sound, Row(events=events, counts=counts, tokens=3, want=3)))
    assert measured.failures == {"miscounted": 1}
    assert measured.figures["output_tokens"] == 3
    assert measured.distributions["ttft"].requests == 1
    told = f"1 of 2 replies told other tokens than their usage, such as {sum(counts)} and 3 of "
    assert any(told in flag and "request 1" in flag for flag in measured.flags), measured.flags


@pytest.mark.parametrize(
    "row",
    [
        Row(events=(30, 40), counts=(1, 1), tokens=3),  # the model may end by itself
        Row(events=(30, 40), counts=(1, 1), tokens=3, want=3, content_event=1),  # it reasons
        Row(events=(30, 40), counts=(1, 1), tokens=3, want=3, content_event=UNTOLD),
    ],
)
def test_where_a_server_may_hide_tokens_a_miscount_is_told_only(row: Row) -> None:
    measured = measure(*load(row))
    assert measured.failures == {}
    assert any("(0 of them count as failed" in flag for flag in measured.flags)


def test_events_that_do_not_all_tell_their_tokens_are_held_against_nothing() -> None:
    measured = measure(*load(Row(events=(30, 40, 50), counts=(1, 0, 1), tokens=3, want=3)))
    assert measured.failures == {}
    assert not any("miscounted" in flag for flag in measured.flags)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (UNTOLD, "the usage of 1 of 2 replies has no prompt_tokens"),
        (2**31 - 1, "1 of 2 prompts have other tokens by the usage"),
    ],
)
def test_a_usage_with_nonsense_of_the_prompt_is_told(prompt: int, said: str) -> None:
    plan, columns = load(PLAIN, replace(PLAIN))
    assert not any("prompt" in flag for flag in measure(plan, columns).flags)
    columns.prompt_tokens[1] = prompt
    assert any(said in flag for flag in measure(plan, columns).flags), said


def test_every_kind_of_ending_has_a_place() -> None:
    """`DONE` is sound and `UNSENT` was not issued; all others are failures."""
    told = {ending for ending, _ in FAILURES} | {
        Ending.WRONG_LENGTH,
        Ending.UNCOUNTED,
        Ending.MISCOUNTED,
    }
    assert set(Ending) - told == {Ending.DONE, Ending.UNSENT}


def test_what_a_closed_loop_did_not_send_was_not_issued() -> None:
    measured = measure(*load(PLAIN, Row(ending=Ending.UNSENT)))
    assert (measured.requests, measured.failures) == (1, {})


def test_what_an_open_loop_owed_counts_as_failed() -> None:
    """Due at 20 and 200 of a load that ended at 96: the first was kept back, the other not due."""
    first = replace(PLAIN, opened=True)
    owed = Row(due=20, opened=True, ending=Ending.UNSENT)
    measured = measure(*load(first, owed, replace(owed, due=200), finish=96))
    assert (measured.requests, measured.failures) == (2, {"unsent": 1})


def test_tokens_per_second_by_the_time_of_events() -> None:
    """One place, two requests: the window is from the first send to the last end, 0 to 200 ms."""
    measured = measure(
        *load(
            Row(send=0, events=(50, 60, 70, 100), prompt=30),
            Row(send=100, events=(150, 160, 170, 200), prompt=50),
        )
    )
    assert measured.window_s == pytest.approx(0.2)
    assert measured.figures["output_tokens_per_s"] == pytest.approx(8 / 0.2)
    assert measured.figures["total_tokens_per_s"] == pytest.approx(88 / 0.2)
    assert measured.figures["requests_per_s"] == pytest.approx(2 / 0.2)
    assert measured.figures["output_tokens_per_s_whole"] == pytest.approx(8 / 0.2)


def test_ramp_and_tail_are_outside_the_window() -> None:
    """Two places: both taken from 100 to 200 ms, in which 2 + 2 tokens came."""
    long = Row(send=0, events=(50, 120, 180, 300, 400), prompt=7)
    short = Row(send=100, events=(150, 200), prompt=11)
    measured = measure(*load(long, short, concurrency=2))
    assert measured.window_s == pytest.approx(0.1)
    assert measured.figures["output_tokens_per_s"] == pytest.approx(4 / 0.1)
    assert measured.figures["total_tokens_per_s"] == pytest.approx((4 + 11) / 0.1)
    assert measured.figures["requests_per_s"] == pytest.approx((2 / 5 + 1) / 0.1)
    assert measured.figures["output_tokens_per_s_whole"] == pytest.approx(7 / 0.4)
    assert measured.figures["requests_per_s_whole"] == pytest.approx(2 / 0.4)


def test_unknown_counts_are_laid_evenly_and_known_ones_as_told() -> None:
    """10 tokens in 4 events, of which 2 come within the window of 100 to 200 ms."""
    blocker = Row(send=100, events=(200,))
    row = Row(send=0, events=(50, 120, 180, 300), tokens=10)
    measured = measure(*load(row, blocker, concurrency=2))
    assert measured.figures["output_tokens_per_s"] == pytest.approx((5 + 1) / 0.1)
    told = replace(row, counts=(1, 2, 6, 1))
    measured = measure(*load(told, replace(blocker, counts=(1,)), concurrency=2))
    assert measured.figures["output_tokens_per_s"] == pytest.approx((8 + 1) / 0.1)


GOOD = Slo(ttft_ms=50, tpot_ms=17.5, e2el_ms=85, stall_ms=25)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (GOOD, 1),
        (replace(GOOD, ttft_ms=49.9), 0),
        (replace(GOOD, tpot_ms=17.4), 0),
        (replace(GOOD, e2el_ms=84.9), 0),
        (replace(GOOD, stall_ms=24.9), 0),
    ],
)
def test_goodput_needs_every_objective(slo: Slo, good: int) -> None:
    figures = measure(*load(PLAIN), slo=slo).figures
    assert figures["goodput_share"] == good
    assert figures["goodput_per_s_whole"] == pytest.approx(good / 0.086)


def test_goodput_counts_all_issued() -> None:
    """A failed request is no good one, and is in the denominator."""
    failed = replace(PLAIN, ending=Ending.RESET)
    figures = measure(*load(PLAIN, failed, failed, failed), slo=GOOD).figures
    assert figures["goodput_share"] == 0.25


def test_without_an_objective_there_is_no_goodput() -> None:
    assert not {"goodput_share", "goodput_per_s"} & set(measure(*load(PLAIN)).figures)


def test_an_undefined_metric_with_an_objective_is_bad() -> None:
    """One event of five tokens has no TPOT and no gap that could be good."""
    row = Row(events=(30,), tokens=5)
    assert measure(*load(row), slo=Slo(tpot_ms=100)).figures["goodput_share"] == 0
    assert measure(*load(row), slo=Slo(stall_ms=100)).figures["goodput_share"] == 0
    assert measure(*load(row), slo=Slo(ttft_ms=100)).figures["goodput_share"] == 1


@pytest.mark.parametrize(("ttft_ms", "good"), [(30, 1), (29, 0), (None, 1)])
def test_a_reply_of_one_token_keeps_tpot_with_ttft(ttft_ms: float | None, good: int) -> None:
    slo = Slo(ttft_ms=ttft_ms, tpot_ms=1, stall_ms=1)
    assert measure(*load(Row(events=(30,))), slo=slo).figures["goodput_share"] == good


def test_objectives_of_an_open_loop_count_from_the_schedule() -> None:
    row = replace(PLAIN, due=0, opened=True)
    assert measure(*load(row), slo=Slo(ttft_ms=59)).figures["goodput_share"] == 0
    assert measure(*load(row), slo=Slo(ttft_ms=60)).figures["goodput_share"] == 1
    assert measure(*load(row), slo=Slo(e2el_ms=94)).figures["goodput_share"] == 0


def test_only_supported_percentiles_are_figures() -> None:
    rows = [
        replace(PLAIN, send=100 * n + 10, events=(100 * n + 60, 100 * n + 70)) for n in range(64)
    ]
    figures = measure(*load(*rows)).figures
    assert figures["ttft_p50_ms"] == figures["ttft_p90_ms"] == 50.0
    assert "ttft_p95_ms" not in figures
    assert figures["icl_p50_ms"] == 10.0


def test_replies_without_any_token_event_are_told() -> None:
    measured = measure(*load(PLAIN, Row(send=100, end=120, tokens=1)))
    assert measured.failures == {}
    assert measured.distributions["ttft"].requests == 1
    assert measured.figures["output_tokens"] == 4
    assert any("1 of 2 replies had no token event" in flag for flag in measured.flags)


def test_time_that_runs_backwards_is_told() -> None:
    measured = measure(*load(Row(events=(30, 25, 50))))
    assert any("clock was set back" in flag for flag in measured.flags)


def test_nothing_sent_is_no_figure() -> None:
    measured = measure(*load(Row(ending=Ending.UNSENT)))
    assert (measured.requests, measured.distributions, measured.figures) == (0, {}, {})
    assert measured.flags == ("no measured request was sent: there are no figures",)


def test_columns_of_another_plan_are_refused() -> None:
    plan, columns = load(PLAIN)
    with pytest.raises(ValueError, match="a plan of 2 requests came back as 1 rows"):
        measure(replace(plan, requests=plan.requests * 2), columns)
