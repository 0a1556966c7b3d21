"""Performance: whole loads, measured at the client, held against objectives and a baseline.

Every level is sent once, in rounds, by `performance.load.answered`; the other checks read what it
measured. No figure is taken of a server whose answers make no sense.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from pytest_vllm import INFO, SHOULD, Client, check, not_applicable, not_run, suite
from pytest_vllm.domain.metric_change import Effect
from pytest_vllm.domain.objective import Held, hold_goodput, hold_latency, hold_rate
from pytest_vllm.domain.rounds import find_saturation, slows_down, still_slows_down
from pytest_vllm.domain.stored import first_run
from pytest_vllm.plugin.state import levels_of
from pytest_vllm.reports.regression import cannot_tell, verdict_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from pytest_vllm import Performance
    from pytest_vllm.domain.metric_change import Judgement
    from pytest_vllm.domain.objective import Finding
    from pytest_vllm.domain.target import Target
    from pytest_vllm.plugin.rounds import Level

    Times = dict[str, float]

pytestmark = suite("performance")

OTHER_LENGTH = ("wrong_length", "miscounted")
"""How answers fail that came to their end, and without the tokens that they should have."""

STALL_MS, STALLS = 5_000.0, 2.0
"""A stream stands still when nothing comes for 5 s and for twice the longest TTFT of the load: the
prefills of others hold a stream up, and none of them takes longer than its own TTFT."""
SLOWER = 1.5
"""The last third of the rounds may take so many times as long as the first, if time and number have
a trend."""
SUSPECTED, SURE = 0.05, 0.001
"""How often such a trend may be chance: for a suspicion, and to reject once it was followed up.
Of five rounds one may be out of order, and of all eight then two pairs: a host that paused for a
moment hides no trend. A server whose rounds come in any order is rejected in less than one of 1,000
runs: both trends are there in 0.64 of 1,000 with five rounds, 0.35 with six and 0.66 with eight."""
FURTHER = 3
"""So many more rounds are sent before a trend rejects, and each must be too long as well: a host
that was busy for a while is not, and a server that gets slower and slower goes on."""
FURTHER_STANDSTILL = 2
"""So many more rounds are sent before a stream that stood still rejects; one must have another."""
LEAST_TOLD, TICK_MS = 0.7, 5.0
"""From first to last token the server's own mean is at least so much of the client's; its mean E2EL
is not longer than the client's by more than two clocks may differ."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a case for each load level, and let pytest-benchmark see what it carries."""
    if "level" in metafunc.fixturenames:
        levels = levels_of(metafunc.config)
        metafunc.parametrize("level", levels, ids=[f"c{level}" for level in levels])
    if "vllm_benchmark" in metafunc.fixturenames and metafunc.config.pluginmanager.has_plugin(
        "benchmark"
    ):
        metafunc.fixturenames.append("benchmark")


# --- the loads themselves ------------------------------------------------------------------------


@check(
    "performance.load.answered",
    ref="L01",
    catches=("load-refused", "load-resets", "load-truncated"),
    alone=True,
    long=True,
)
def test_answered(
    vllm: Client, vllm_performance: Performance, vllm_benchmark: Any, level: int
) -> None:
    """Every request of a load MUST be answered to its end."""
    measured = vllm_performance.measured(level, vllm, vllm_benchmark)
    failed, kinds = _failures(measured, of_length=False)
    assert not failed, "\n".join(
        [f"{failed} of {measured.issued} requests failed: {kinds}", *measured.examples()]
    )
    _the_client_was_fast_enough(measured)


@check(
    "performance.load.exact-lengths",
    ref="L01",
    catches=("load-short-answers", "chunk-dropped"),
    alone=True,
    long=True,
)
def test_exact_lengths(vllm: Client, vllm_performance: Performance, level: int) -> None:
    """Under load, every stream MUST carry all tokens that were asked for with `ignore_eos`."""
    measured = vllm_performance.measured(level, vllm)
    wrong, kinds = _failures(measured, of_length=True)
    assert not wrong, "\n".join(
        [f"{wrong} of {measured.issued} answers have other tokens: {kinds}", *measured.examples()]
    )
    _the_client_was_fast_enough(measured)


@check(
    "performance.load.usage-told",
    ref="L01",
    catches=("load-usage-missing",),
    alone=True,
    long=True,
)
def test_usage(vllm: Client, vllm_performance: Performance, level: int) -> None:
    """Under load, every stream MUST end in the usage that was asked for: tokens are not chunks."""
    measured = vllm_performance.measured(level, vllm)
    untold = measured.untold
    assert not untold, f"{untold} of {measured.issued} streams told no usage"
    _the_client_was_fast_enough(measured)


@check(
    "performance.load.no-standstill",
    ref="L01",
    catches=("load-stalls",),
    alone=True,
    long=True,
)
def test_no_standstill(vllm: Client, vllm_performance: Performance, level: int) -> None:
    """Under load, no stream MUST stand still for seconds in its middle."""
    measured = vllm_performance.measured(level, vllm)
    stood_still = _standstill(measured)
    if stood_still is None:
        not_run("no request had two token events")
    if stood_still:  # a host that stands still looks the same, and so does a clock that is set
        vllm.observe(f"performance.c{level}.standstill", stood_still)
        again = _standstill(vllm_performance.sent_again(measured, rounds=FURTHER_STANDSTILL))
        assert not again, f"{stood_still}; in {FURTHER_STANDSTILL} further rounds {again}"
    _the_client_was_fast_enough(measured)


@check(
    "performance.load.steady",
    ref="L08",
    catches=("load-slows-down",),
    alone=True,
    long=True,
)
def test_steady(vllm: Client, vllm_performance: Performance) -> None:
    """The same load again and again MUST NOT take longer and longer."""
    measured = vllm_performance.measured(vllm_performance.compared, vllm)
    took = [one.seconds for one in measured.rounds]
    slower = slows_down(took, factor=SLOWER, chance=SUSPECTED)
    if slower:  # a host that gets busier looks the same, for a while
        further = vllm_performance.sent_again(measured, rounds=FURTHER)
        again = [one.seconds for one in further.rounds]
        slower = still_slows_down(took, again, factor=SLOWER, chance=SURE)
        took += again
    shown = ", ".join(f"{seconds:.2f}" for seconds in took)
    vllm.observe("performance.rounds-s", shown)
    assert not slower, f"the rounds took {shown} s"
    _the_client_was_fast_enough(measured)


@check(
    "performance.metrics.as-measured",
    ref="O05",
    level=SHOULD,
    needs=("metrics",),
    catches=("load-histogram-lies",),
    alone=True,
    long=True,
)
def test_metrics(vllm: Client, vllm_performance: Performance) -> None:
    """The latencies that the server tells of a load SHOULD be those that its client saw.

    Who watches a server by a wrong histogram is misled; whom it serves is not. The way to the
    server, any network, is in the client's E2EL and not in the server's: so that may be shorter by
    whatever, and the time from first to last token, which a steady way leaves as it is, may not.
    """
    measured = vllm_performance.measured(vllm_performance.compared, vllm)
    means = [
        means
        for one in measured.rounds
        if isinstance(means := one.measurement.server.get("means"), dict) and "e2el" in means
    ]
    if not means:
        not_applicable("/metrics does not tell the latency of just the requests of the load")
    said = f"the mean E2E latency is {_sides([told['e2el'] for told in means])}"
    if all("ttft" in told for told in means):
        said += f", from first to last token {_sides([_decode(told) for told in means])}"
    vllm.observe("performance.e2el-mean", said)
    # What a busy host adds between the two spoils a round or two; a histogram lies in each.
    apart = sum(not _agree(told) for told in means)
    assert 2 * apart <= len(means), f"{said}; they are apart in {apart} of {len(means)} rounds"
    _the_client_was_fast_enough(measured)


# --- objectives ----------------------------------------------------------------------------------


@check("performance.slo.latency", ref="L04", catches=("load-slow-decode",), alone=True, long=True)
def test_latency(vllm: Client, vllm_performance: Performance) -> None:
    """The latencies MUST keep what the profile's `[slo]` allows."""
    bounds = vllm_performance.objectives.latencies
    if not bounds:
        not_applicable('the profile bounds no latency: [slo] with ttft-p99 = "500ms", ...')
    measured = _at_objective(vllm, vllm_performance)
    seen = measured.pooled().distributions
    _hold([hold_latency(bound, seen.get(bound.metric)) for bound in bounds], measured)


@check("performance.slo.rates", ref="L03", catches=("load-slow-decode",), alone=True, long=True)
def test_rates(vllm: Client, vllm_performance: Performance) -> None:
    """The throughput MUST be at least what the profile's `[slo]` asks for."""
    rates = vllm_performance.objectives.rates
    if not rates:
        not_applicable("the profile asks for no rate: [slo] with output-tokens-per-s = 1000, ...")
    measured = _at_objective(vllm, vllm_performance)
    _hold([hold_rate(name, least, measured.mean(name)) for name, least in rates.items()], measured)


@check("performance.slo.goodput", ref="L04", catches=("load-slow-decode",), alone=True, long=True)
def test_goodput(vllm: Client, vllm_performance: Performance) -> None:
    """Of all requests, the share that `[slo]` asks for MUST keep `[slo.request]`."""
    objectives = vllm_performance.objectives
    if objectives.goodput is None:
        not_applicable('the profile asks for no goodput: [slo] with goodput = "99%"')
    measured = _at_objective(vllm, vllm_performance)
    share = measured.pooled(objectives.request).figures.get("goodput_share")
    if share is None:
        not_run("cannot tell: the load has no goodput, for nothing of it was sent")
    good = round(share * measured.issued)
    shares = measured.values("goodput_share")
    finding = hold_goodput(objectives.goodput, good=good, issued=measured.issued, rounds=shares)
    _hold([finding], measured)


@check("performance.slo.highest-level", ref="L04", level=INFO, alone=True, long=True)
def test_highest_level(vllm: Client, vllm_performance: Performance) -> None:
    """The highest load level that keeps the latencies of `[slo]` is told."""
    bounds = vllm_performance.objectives.latencies
    if not bounds or len(vllm_performance.profile.concurrency) == 1:
        not_applicable("this needs bounds of latencies ([slo]) and several levels of concurrency")
    kept = 0
    for concurrency, measured in sorted(vllm_performance.levels.items()):
        seen = measured.pooled().distributions
        held = [hold_latency(bound, seen.get(bound.metric)).held for bound in bounds]
        if set(held) != {Held.KEPT} or measured.failures:
            break
        kept = concurrency
    vllm_performance.note("slo_concurrency", kept)
    vllm.observe("performance.slo.highest-level", f"{kept} at a time" if kept else "none")


# --- baseline ------------------------------------------------------------------------------------


@check("performance.regression", ref="L05", alone=True, long=True)
def test_regression(vllm: Client, vllm_performance: Performance, vllm_target: Target) -> None:
    """No gated figure MUST be worse than the baseline's, by more than is allowed."""
    if vllm_target.text("regression") == "warn":
        not_applicable("--vllm-regression=warn: told by performance.regression.warned")
    _no_regression(vllm, vllm_performance)


@check("performance.regression.warned", ref="L05", level=SHOULD, alone=True, long=True)
def test_regression_warned(
    vllm: Client, vllm_performance: Performance, vllm_target: Target
) -> None:
    """No gated figure SHOULD be worse than the baseline's, where that is only to be told."""
    if vllm_target.text("regression") != "warn":
        not_applicable("--vllm-regression=reject: judged by performance.regression")
    _no_regression(vllm, vllm_performance)


@check("performance.throughput", ref="L03", level=INFO, alone=True, long=True)
def test_throughput(vllm: Client, vllm_performance: Performance, level: int) -> None:
    """Throughput and latencies of every level are told."""
    vllm.observe(f"performance.c{level}", vllm_performance.measured(level, vllm).told())


@check("performance.saturation", ref="L03", level=INFO, alone=True, long=True)
def test_saturation(vllm: Client, vllm_performance: Performance) -> None:
    """The lowest load level with 95 % of the best throughput is told."""
    found = find_saturation(
        {
            concurrency: measured.values("output_tokens_per_s")
            for concurrency, measured in vllm_performance.levels.items()
        }
    )
    if found is None:
        not_applicable("one load level has no saturation point; --vllm-performance=standard has")
    end = "" if found.reached else ", the highest level: throughput may still grow"
    vllm.observe(
        "performance.saturation",
        f"{found.concurrency} at a time, {found.output_tokens_per_s:.0f} output tokens/s{end}",
    )


def _standstill(measured: Level) -> str | None:
    """Say how long a stream stood still, if for too long; `None` where nothing can be told."""
    seen = measured.pooled().distributions
    if "stall" not in seen or seen["stall"].most is None:
        return None
    worst, longest = seen["stall"].most, seen["ttft"].most or 0.0
    bound_ms = max(STALL_MS, STALLS * longest)
    if worst <= bound_ms:
        return ""
    return (
        f"a stream stood still for {worst / 1e3:.1f} s, at most {bound_ms / 1e3:.1f} s are allowed "
        f"(the longest TTFT of the load was {longest / 1e3:.2f} s)"
    )


def _agree(told: dict[str, Times]) -> bool:
    """Tell whether the server's E2EL is none that the client did not see, nor its decode time."""
    whole = told["e2el"]
    if whole["server_ms"] > whole["client_ms"] + TICK_MS:
        return False
    if "ttft" not in told:
        return True
    decode = _decode(told)
    return decode["server_ms"] >= LEAST_TOLD * decode["client_ms"] - TICK_MS


def _decode(told: dict[str, Times]) -> Times:
    return {side: told["e2el"][side] - told["ttft"][side] for side in ("client_ms", "server_ms")}


def _sides(told: Sequence[Times]) -> str:
    client, server = (fmean(one[side] for one in told) for side in ("client_ms", "server_ms"))
    return f"{server:.1f} ms by the server's histograms and {client:.1f} ms at the client"


def _failures(measured: Level, *, of_length: bool) -> tuple[int, str]:
    """Count the failures of the one sort or of all others, and name them by kind."""
    found = {
        kind: count
        for kind, count in measured.failures.items()
        if (kind in OTHER_LENGTH) is of_length
    }
    kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in found.items())
    return sum(found.values()), kinds


def _at_objective(vllm: Client, performance: Performance) -> Level:
    level = performance.objectives.concurrency or performance.compared
    return performance.measured(level, vllm)


def _hold(findings: Sequence[Finding], measured: Level) -> None:
    """Fail where an objective was missed; learn nothing where one cannot be told."""
    by = {
        held: [found.text for found in findings if found.held is held]
        for held in (Held.MISSED, Held.CANNOT_TELL)
    }
    if measured.limits:
        _the_client_was_the_limit(measured.limits)
    assert not by[Held.MISSED], "\n".join(by[Held.MISSED])
    if by[Held.CANNOT_TELL]:
        not_run(f"cannot tell: {'; '.join(by[Held.CANNOT_TELL])}")


def _no_regression(vllm: Client, performance: Performance) -> None:
    judgement = performance.judge(vllm)
    if judgement is None:
        not_applicable(first_run(performance.run_name))
    if not performance.baseline_has_loads:
        not_run(
            "the baseline has no load in it, so no figure was compared, and what cannot be told is "
            f"no pass: take a run that measured, such as this one (--vllm-baseline="
            f"{performance.run_name}), or leave the loads out with --vllm-performance=none"
        )
    if limits := performance.measured(performance.compared, vllm).limits:
        _the_client_was_the_limit(limits)
    if judgement.effect is Effect.WORSE:
        pytest.fail(verdict_line(judgement), pytrace=False)
    if judgement.effect is Effect.CANNOT_TELL:
        not_run(_untold(judgement))


def _untold(judgement: Judgement) -> str:
    """Say why nothing can be told, and what would tell."""
    if judgement.obstacles:
        return f"not comparable with the baseline: {'; '.join(judgement.obstacles)}"
    reasons = [
        f"{change.metric}: {words}"
        for change in judgement.changes
        if (words := cannot_tell(change, judgement.form))
    ]
    return f"cannot tell whether it is as fast as the baseline: {'; '.join(reasons)}"


def _the_client_was_fast_enough(measured: Level) -> None:
    """End the check where the client held back most rounds; a busy moment spoils but one or two."""
    if measured.held_back:
        _the_client_was_the_limit(measured.held_back)


def _the_client_was_the_limit(limits: Sequence[str]) -> NoReturn:
    """End the check: the figures are the client's and not the server's."""
    not_run(f"the client was the limit, so these figures are not the server's: {'; '.join(limits)}")
