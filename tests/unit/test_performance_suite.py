"""What the checks of the suite `performance` make of rounds that were measured."""

from __future__ import annotations

import runpy
import time
from array import array
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pytest_benchmark.stats import Stats

from pytest_vllm.domain.load.calibration import Calibration
from pytest_vllm.domain.load.columns import CollectorFacts, Columns, Ending
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.plan import LoadPlan, Request
from pytest_vllm.domain.metric_change import Form, Judgement
from pytest_vllm.domain.objective import Finding, Held, hold_latency
from pytest_vllm.domain.performance import read_performance
from pytest_vllm.domain.profile import Profile
from pytest_vllm.domain.rounds import pool
from pytest_vllm.domain.server import ServerInfo
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.slo import Bound, Objectives
from pytest_vllm.domain.target import build_target
from pytest_vllm.plugin.load import Load, Loaded
from pytest_vllm.plugin.performance import Performance
from pytest_vllm.plugin.rounds import Level, Round
from pytest_vllm.plugin.sizing import Sizes
from pytest_vllm.plugin.skips import NotRun, Tolerated
from pytest_vllm.plugin.state import RunState
from tests.unit.records import make_record

if TYPE_CHECKING:
    from collections.abc import Callable

SUITE: dict[str, Any] = runpy.run_path(
    str(Path(__file__).parents[2] / "suites" / "test_performance.py")
)
MS = 1_000_000
LIMIT = "the client had no idle moment"
SERVER = ServerInfo(
    url="http://127.0.0.1:9",
    model="m",
    served_names=("m",),
    max_model_len=None,
    version="",
    capabilities=(),
    absent={},
    owned=False,
)
SWEEP: dict[str, Any] = {
    "schema": 1,
    "workload": {"prompt_tokens": 8, "output_tokens": 3},
    "concurrency": [1, 4],
    "limit-seconds": 9,
}


def columns(*endings: Ending, gap_ms: int = 10, begin_ms: int = 0) -> Columns:
    """Return requests of three tokens, one after the other, first token after 50 ms."""
    made = Columns(begin_ns=begin_ms * MS)
    at = begin_ms * MS
    for ending in endings:
        done = ending is Ending.DONE
        first = at + 50 * MS
        for name, value in (
            ("due_ns", at),
            ("send_ns", at),
            ("header_ns", first),
            ("end_ns", first + 2 * gap_ms * MS),
            ("status", 200),
            ("ending", ending),
            ("prompt_tokens", 8),
            ("completion_tokens", 3 if done else -1),
            ("cached_tokens", -1),
            ("reply_bytes", 100),
            ("content_event", 0),
            ("first_row", len(made.event_ns)),
            ("events", 3 if done else 0),
        ):
            getattr(made, name).append(int(value))
        made.finish.append("length" if done else "")
        if done:
            made.event_ns.extend(array("q", [first + n * gap_ms * MS for n in range(3)]))
            made.event_tokens.extend(array("i", [1, 1, 1]))
        at = first + 2 * gap_ms * MS
    made.finish_ns = at
    made.facts = CollectorFacts(
        path="epoll",
        clock="kernel",
        cpu_s=0.0,
        wall_s=1.0,
        peak_rss_bytes=1,
        reads=1,
        coalesced_reads=0,
        events=len(made.event_ns),
    )
    return made


def level(*rounds: Columns, limits: tuple[str, ...] = ()) -> Level:
    made = Level(concurrency=1, requests=len(rounds[0].send_ns))
    for came in rounds:
        request = Request(body=b"{}", want_tokens=3)
        plan = LoadPlan(url="http://x", requests=(request,) * len(came.send_ns), concurrency=1)
        loaded = Loaded(plan=plan, columns=came, measurement=measure(plan, came))
        made.rounds.append(Round(loaded=loaded, limits=limits, held_back=limits))
    return made


class Measured:
    """Stands for the loads of a run, in which every level is this one.

    Attributes:
        compared: The compared level.
        further: The rounds that are sent again.
        run_name: Of the run.
        baseline_has_loads: Whether the baseline has figures.
    """

    run_name = ".vllm/this"
    baseline_has_loads = False

    def __init__(self, level: Level, further: Level | None = None) -> None:
        self.compared = level.concurrency
        self.further = further
        self._level = level

    def measured(self, _concurrency: int, _vllm: object) -> Level:
        return self._level

    def judge(self, _vllm: object) -> Judgement:
        return Judgement(form=Form.STORED, obstacles=("the baseline has no load in it",))

    def sent_again(self, _level: Level, *, rounds: int) -> Level:
        assert self.further is not None
        assert rounds == len(self.further.rounds)
        return self.further


def state_of(slo: Objectives, **options: str) -> RunState:
    """Return what is known of a run that attaches to a server."""
    given = Sources(options={"url": SERVER.url, **options}, env={}, ini={})
    return RunState(
        target=build_target(resolve(given, profile={}, profile_name=""), known_suites=()),
        profile=Profile(name="mine", slo=slo),
    )


class Noted:
    """Stands for the client of a check."""

    def __init__(self) -> None:
        self.seen: dict[str, object] = {}

    def observe(self, name: str, value: object) -> None:
        self.seen[name] = value


def lasting(*seconds: float) -> Level:
    """Return a level whose rounds took so long."""
    made = level(*[columns(Ending.DONE) for _ in seconds])
    for one, took in zip(made.rounds, seconds, strict=True):
        one.loaded.columns.finish_ns = one.loaded.columns.begin_ns + int(took * 1000) * MS
    return made


def test_a_busy_moment_spoils_a_round_and_not_the_level() -> None:
    """Half of the rounds may be spoiled; objectives and baseline put up with none."""
    made = level(*[columns(Ending.DONE) for _ in range(4)])
    said = (LIMIT,)
    for number in (0, 2):
        made.rounds[number] = replace(made.rounds[number], limits=said, held_back=said)
    made.rounds[1] = replace(made.rounds[1], limits=("its clock is not exact",))
    before = made.held_back
    assert before == ()
    SUITE["_the_client_was_fast_enough"](made)
    with pytest.raises(NotRun, match=f"{LIMIT}; its clock is not exact"):
        SUITE["_hold"]([], made)
    made.rounds[1] = replace(made.rounds[1], held_back=said)
    assert made.held_back == said


def test_a_baseline_without_loads_leaves_it_open() -> None:
    """Who names a baseline wants to know; what cannot be told is no pass."""
    with pytest.raises(NotRun, match="the baseline has no load in it") as told:
        SUITE["_no_regression"](Noted(), Measured(level(columns(Ending.DONE))))
    assert not isinstance(told.value, Tolerated)
    assert "--vllm-baseline=.vllm/this" in str(told.value)
    assert "--vllm-performance=none" in str(told.value)


@pytest.mark.parametrize(("asked", "tolerated"), [(0, True), (4, False)])
def test_a_level_that_objectives_name_is_not_put_off(*, asked: int, tolerated: bool) -> None:
    """A level for which there is no time is named, unless `[slo]` is about it: that is open."""
    state = state_of(Objectives(concurrency=asked))
    measures = Performance(state, Load(SERVER), read_performance("mine", SWEEP))
    measures._began = time.monotonic() - 100
    with pytest.raises(NotRun, match="0 s are left of the profile's limit-seconds = 9") as told:
        measures._affordable(4, 16)
    assert isinstance(told.value, Tolerated) is tolerated


def test_rounds_that_get_slower_are_sent_again_before_they_reject() -> None:
    """A host that gets busier looks the same for a while."""
    steady: Callable[..., None] = SUITE["test_steady"]
    slower = lasting(1, 2, 3, 4, 5)
    noted = Noted()
    steady(noted, Measured(slower, lasting(6, 7, 3)))
    assert noted.seen["performance.rounds-s"] == "1.00, 2.00, 3.00, 4.00, 5.00, 6.00, 7.00, 3.00"
    with pytest.raises(AssertionError, match=r"the rounds took .*6\.00, 7\.00, 8\.00 s"):
        steady(Noted(), Measured(slower, lasting(6, 7, 8)))
    steady(Noted(), Measured(lasting(*range(1, 31)), lasting(1, 40, 41)))  # it was busy, and is not
    with pytest.raises(AssertionError, match="the rounds took"):
        steady(Noted(), Measured(lasting(*range(1, 31)), lasting(39, 38, 40)))
    steady(Noted(), Measured(lasting(1, 2, 2, 2, 5)))


@pytest.mark.parametrize("number", range(5))
def test_a_pause_of_the_host_hides_no_server_that_gets_slower(number: int) -> None:
    """What `load-slows-down` takes, and a pause that puts one round above the next."""
    steady: Callable[..., None] = SUITE["test_steady"]
    took = [1.64, 3.07, 4.51, 5.95, 7.39]
    took[number] += 1.5 if number != 1 else 0.8  # half of the last third is compared with it
    further = lasting(8.83, 10.27, 11.7)
    with pytest.raises(AssertionError, match="the rounds took"):
        steady(Noted(), Measured(lasting(*took), further))


def test_a_standstill_is_looked_for_again_before_it_rejects() -> None:
    """A host that stands still looks the same, and so does a clock that is set."""
    checked: Callable[..., None] = SUITE["test_no_standstill"]
    still, sound = level(columns(Ending.DONE, gap_ms=6_000)), level(columns(Ending.DONE))
    checked(Noted(), Measured(sound), 1)
    noted = Noted()
    checked(noted, Measured(still, level(*[columns(Ending.DONE)] * 2)), 1)
    assert "stood still for 6.0 s" in str(noted.seen["performance.c1.standstill"])
    repeated = level(columns(Ending.DONE), columns(Ending.DONE, gap_ms=7_000))
    with pytest.raises(AssertionError, match=r"for 6\.0 s.* in 2 further rounds .*for 7\.0 s"):
        checked(Noted(), Measured(still, repeated), 1)


@pytest.mark.parametrize(
    ("e2el", "ttft", "lies", "told"),
    [
        ((1000, 500), (100, 90), 1, False),  # half of it is gone in one round
        ((1000, 500), (100, 90), 3, True),
        ((1000, 1010), (100, 90), 3, True),  # nobody waited for so long
        ((1000, 480), (620, 100), 5, False),  # a way of a quarter of a second there and back
        ((1000, 480), None, 5, False),  # the way may be anything
    ],
)
def test_a_histogram_lies_in_most_rounds(
    e2el: tuple[float, float], ttft: tuple[float, float] | None, lies: int, *, told: bool
) -> None:
    """What a busy host adds between server and client spoils but some, and a network nothing."""
    made = level(*[columns(Ending.DONE) for _ in range(5)])
    for number, one in enumerate(made.rounds):
        sides = {"e2el": e2el, "ttft": ttft} if number < lies else {"e2el": (1000, 990)}
        means = {
            name: {"client_ms": times[0], "server_ms": times[1]}
            for name, times in sides.items()
            if times is not None
        }
        measurement = replace(one.measurement, server={"means": means})
        loaded = replace(one.loaded, measurement=measurement)
        made.rounds[number] = Round(loaded=loaded, limits=())
    metrics: Callable[..., None] = SUITE["test_metrics"]
    if not told:
        metrics(Noted(), Measured(made))
        return
    with pytest.raises(AssertionError, match="apart in 3 of 5 rounds"):
        metrics(Noted(), Measured(made))


@pytest.mark.parametrize(
    ("slo", "options", "asks"),
    [
        (Objectives(), {}, ""),
        (Objectives(), {"performance": "smoke"}, "performance=smoke (option)"),
        (Objectives(goodput=0.9), {}, "[slo] of profile mine"),
        (Objectives(changes={"ttft_p50_ms": 0.1}), {}, "[slo] of profile mine"),
    ],
)
def test_who_asks_for_figures_is_named(slo: Objectives, options: dict[str, str], asks: str) -> None:
    """A run that only has the suite by default is no question for figures."""
    state = state_of(slo, **options)
    assert state.measuring_asked_by == asks
    if not asks:
        assert replace(state, baseline=make_record()).measuring_asked_by == "--vllm-baseline"


def test_prompts_and_answers_fit_into_the_context() -> None:
    """A server of a short context is measured as well, with what it holds."""
    sizes = Sizes(workload={"prompt_tokens": 128, "output_tokens": 32}, waves=4)
    sizes.hold(160)
    assert (sizes.workload["prompt_tokens"], sizes.notes) == (128, [])
    sizes.hold(80)
    assert sizes.workload == {"prompt_tokens": 64, "output_tokens": 16}
    assert sizes.notes == ["prompts of 64 tokens and answers of 16: the server's context has 80"]


def test_figures_of_a_client_that_was_the_limit_are_not_the_servers() -> None:
    SUITE["_the_client_was_fast_enough"](level(columns(Ending.DONE)))
    with pytest.raises(NotRun, match=f"so these figures are not the server's: {LIMIT}"):
        SUITE["_the_client_was_fast_enough"](level(columns(Ending.DONE), limits=(LIMIT,)))


@pytest.mark.parametrize(
    ("held", "limits", "raises"),
    [
        (Held.KEPT, (), None),
        (Held.MISSED, (), AssertionError),
        (Held.CANNOT_TELL, (), NotRun),
        (Held.KEPT, (LIMIT,), NotRun),
        (Held.MISSED, (LIMIT,), NotRun),
    ],
)
def test_an_objective_rejects_only_by_figures_that_are_the_servers(
    held: Held, limits: tuple[str, ...], raises: type[BaseException] | None
) -> None:
    hold: Callable[..., None] = SUITE["_hold"]
    findings = [Finding(key="ttft-p50", held=held, text="asked and seen")]
    measured = level(columns(Ending.DONE), limits=limits)
    if raises is None:
        hold(findings, measured)
        return
    with pytest.raises(raises):
        hold(findings, measured)


def test_rounds_are_pooled_request_by_request() -> None:
    """Percentiles of the whole have the requests of all rounds, the gap between them is no gap."""
    one, other = columns(Ending.DONE, Ending.RESET), columns(Ending.DONE, begin_ms=60_000)
    both = level(one, other)
    plan, together = pool([(r.loaded.plan, r.loaded.columns) for r in both.rounds])
    assert len(plan.requests) == 3
    assert list(together.first_row) == [0, 3, 3]
    pooled = both.pooled()
    assert pooled.distributions["ttft"].requests == 2
    assert pooled.distributions["ttft"].mean == pytest.approx(50.0)
    assert pooled.distributions["stall"].most == pytest.approx(10.0)
    assert both.failures == {"reset": 1}
    assert both.issued == 3
    assert both.examples() == ["round 1, request 1: reset"]


def test_an_objective_is_decided_no_surer_than_rounds_differ() -> None:
    """By hand: medians of 12.2 ms, s 2.93, half 3.07: 12 ms may hold, whatever 72 requests say."""
    apart = level(*(columns(*[Ending.DONE] * 12, gap_ms=gap) for gap in (8, 9, 13, 14, 14, 15)))
    seen = apart.pooled().distributions["tpot"]
    bound = Bound(metric="tpot", percentile="p50", most_ms=12.0)
    assert hold_latency(bound, seen).held is Held.CANNOT_TELL
    assert hold_latency(replace(bound, most_ms=9.0), seen).held is Held.MISSED
    assert hold_latency(replace(bound, most_ms=16.0), seen).held is Held.KEPT
    assert "TPOT p50 13 (9.095 to 15.24) ms" in apart.told()
    alike = level(*(columns(*[Ending.DONE] * 12, gap_ms=13) for _ in range(6)))
    assert hold_latency(bound, alike.pooled().distributions["tpot"]).held is Held.MISSED


def test_a_stream_that_lost_a_token_is_an_answer_of_other_length() -> None:
    came = columns(Ending.DONE, Ending.DONE)
    came.events[1] = 2
    lossy = level(came)
    with pytest.raises(AssertionError, match="1 of 2 answers have other tokens: 1 miscounted") as e:
        SUITE["test_exact_lengths"](None, Measured(lossy), 1)
    assert "round 1, request 1: its events carried 2 tokens, and its usage says 3" in str(e.value)


def test_a_level_of_the_record_has_what_a_comparison_needs() -> None:
    plain = level(columns(Ending.DONE, Ending.DONE), columns(Ending.DONE, Ending.DONE)).plain(
        gated=True
    )
    assert (plain["name"], plain["gated"], len(plain["rounds"])) == ("c1", True, 2)
    assert plain["rounds"][0]["output_tokens"] == 6
    assert plain["rounds"][0]["failed"] == 0
    assert plain["conditions"]["traffic"] == "1 at a time, 2 requests"
    assert plain["calibration"] == {}


class Timed:
    """Stands for the fixture of pytest-benchmark, which may time something once."""

    def __init__(self) -> None:
        self.stats = SimpleNamespace(stats=Stats())
        self.extra_info: dict[str, Any] = {}

    def pedantic(
        self, timed: Callable[..., None], *, setup: Callable[[], Any], rounds: int, iterations: int
    ) -> None:
        assert iterations == 1
        assert not self.stats.stats.data
        for _ in range(rounds):
            timed(*setup()[0])
            self.stats.stats.update(1000.0)


@pytest.mark.parametrize(
    ("spoiled", "possible", "sent"), [(5, 5, 10), (4, 5, 10), (2, 5, 5), (5, 4, 5)]
)
@pytest.mark.parametrize("carried", [True, False])
def test_a_level_that_was_held_back_is_measured_once_more(
    monkeypatch: pytest.MonkeyPatch,
    *,
    carried: bool,
    spoiled: int,
    possible: int,
    sent: int,
) -> None:
    """Where there is time for it: a client that was busy for a moment cannot tell otherwise."""
    made: list[Round] = []

    def send(_self: object, to: Level, plan: int) -> None:
        assert plan == len(to.rounds)
        held = (LIMIT,) if len(made) < spoiled else ()
        made.append(replace(level(columns(Ending.DONE)).rounds[0], limits=held, held_back=held))
        to.rounds.append(made[-1])

    measures = Performance(state_of(Objectives()), Load(SERVER), read_performance("mine", SWEEP))
    for name, stands_in in {
        "_affordable": lambda *_: 5,
        "_possible": lambda *_: possible,
        "_calibrate": lambda *_: None,
        "_plan": lambda _self, _level, number: number,
        "_send": send,
    }.items():
        monkeypatch.setattr(Performance, name, stands_in)
    measures._sizes.requests = {1: 1}
    timed = Timed() if carried else None
    seen = measures._measure(1, timed)
    assert len(made) == sent
    assert seen.rounds == made[-5:]
    assert measures.levels[1] is seen
    again = sent > 5
    notes = [f"c1: measured once more, for {LIMIT}"] if again else []
    assert measures._state.performance["notes"] == notes
    if timed is not None:
        assert len(timed.stats.stats.data) == 5
        assert (max(timed.stats.stats.data) < 1000.0) is again
        assert timed.extra_info["vllm"]["client_was_the_limit"] == list(seen.limits)


def calibrated(streams: int) -> Calibration:
    known = {"path": "epoll", "clock": "kernel", "streams": streams, "notes": ()}
    figures = {field.name: 1.0 for field in fields(Calibration) if field.name not in known}
    return Calibration(**{**figures, **known})  # type: ignore[arg-type]


def test_each_level_has_the_calibration_of_its_own_rate() -> None:
    """The client's error at many streams says nothing of a level of one."""
    measures = Performance(state_of(Objectives()), Load(SERVER), read_performance("mine", SWEEP))
    for streams in SWEEP["concurrency"]:
        made = level(columns(Ending.DONE))
        made.calibration = calibrated(streams)
        measures.levels[streams] = made
        assert made.plain(gated=True)["calibration"]["streams"] == streams
    assert measures.compared == 1
    assert measures.calibration == calibrated(1)
