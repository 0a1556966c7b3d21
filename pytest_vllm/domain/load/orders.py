"""What the options of `pytest-vllm load` ask for: levels of traffic, and objectives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.measurement import Slo
from pytest_vllm.domain.load.traffic import Pattern, Traffic, check
from pytest_vllm.domain.objective import Finding, Held, hold_goodput, hold_latency
from pytest_vllm.domain.slo import (
    LATENCIES,
    OF_A_REQUEST,
    PERCENTILES,
    RATES,
    Objectives,
    read_objectives,
)
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.load.measurement import Measurement

USUAL_PLACES = 8
USUAL_GOODPUT = 0.99
_LEAST = 64
"""Requests of a level, at least: enough for a p90."""
_WAVES = 10
"""Requests for each place, as many as InferenceX sends."""
_OPEN_S = 30.0
"""Seconds of arrivals of an open loop, where nobody says how many requests there are."""
_WARM_S = 3.0
_SLO = (*OF_A_REQUEST, "goodput")


def read_traffic_levels(options: Mapping[str, Any]) -> tuple[Traffic, ...]:
    """Read the traffic of each level out of options.

    Args:
        options: `concurrency`, `rate`, `pattern`, `burstiness`, `normalized`, `speed`, `requests`,
            `warm_up`, `ramp`, `sweep`, `seed`; `None` where not given.

    Returns:
        One level, or those of the sweep. A trace without a number of requests has 0 of them: only
        its file tells.

    Raises:
        TargetError: Options contradict each other, or make no sense.
    """
    pattern = _pattern(options)
    if options["sweep"] is None:
        return (_traffic(options, pattern, options["concurrency"], options["rate"]),)
    levels = _levels(options["sweep"])
    if pattern is Pattern.TRACE:
        raise TargetError("--sweep: a trace has no levels", advice="leave out --sweep")
    swept = "concurrency" if pattern is Pattern.CLOSED else "rate"
    if options[swept] is not None:
        raise TargetError(
            f"--sweep names the levels, and --{swept} another one", advice=f"leave out --{swept}"
        )
    if pattern is not Pattern.CLOSED:
        return tuple(_traffic(options, pattern, options["concurrency"], one) for one in levels)
    for level in levels:
        if level != int(level):
            raise TargetError(
                f"--sweep: {level:g} requests at a time cannot be",
                advice="use whole numbers, or --pattern poisson for rates",
            )
    return tuple(_traffic(options, pattern, int(level), None) for level in levels)


def level_name(traffic: Traffic) -> str:
    """Name a level by what is swept."""
    if traffic.pattern is Pattern.TRACE:
        return "trace"
    return f"{traffic.rate_per_s:g}" if traffic.is_open else f"{traffic.concurrency}"


def traffic_words(traffic: Traffic) -> str:
    """Say in a few words how requests come."""
    if traffic.pattern is Pattern.CLOSED:
        come = f"{traffic.concurrency} at a time"
    elif traffic.pattern is Pattern.TRACE:
        come = "as recorded" + (f", {traffic.speed:g} times as fast" if traffic.speed != 1 else "")
    else:
        come = f"{traffic.rate_per_s:g} a second, {traffic.pattern}"
        if traffic.pattern is Pattern.GAMMA:
            come += f" of burstiness {traffic.burstiness:g}"
    bound = f", at most {traffic.concurrency} in flight" if traffic.is_open else ""
    ramp = f", rising over {traffic.ramp_s:g} s" if traffic.ramp_s else ""
    return come + (bound if traffic.concurrency else "") + ramp


def read_slo(text: str | None) -> Objectives:
    """Read what is asked of a load.

    Args:
        text: Such as `ttft=200ms,tpot=20ms,goodput=95%,ttft-p99=1s`; `None` asks for nothing.

    Raises:
        TargetError: A key is unknown, or its value wrong.
    """
    table: dict[str, object] = {}
    request: dict[str, object] = {}
    for word in (text or "").split(","):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not word.strip():
            continue
        if not equals:
            raise TargetError(
                f"--slo: cannot read {word.strip()!r}", advice="write --slo ttft=200ms,tpot=20ms"
            )
        if key in RATES:
            raise TargetError(
                f"--slo: whether a rate such as {key} is kept, one load cannot tell",
                advice="declare it in a profile, and run the suite performance",
            )
        metric, _, percentile = key.rpartition("-")
        if key not in _SLO and not (metric in LATENCIES and percentile in PERCENTILES):
            raise TargetError(
                f"--slo: there is no {key!r}{closest(key, _SLO)}",
                advice=f"use {', '.join(_SLO)}, or a percentile such as ttft-p99",
            )
        (request if key in OF_A_REQUEST else table)[key] = value
    if text is not None and not table and not request:
        raise TargetError("--slo asks for nothing", advice="write --slo ttft=200ms,tpot=20ms")
    if request:
        table = {"goodput": f"{USUAL_GOODPUT:.0%}", **table, "request": request}
    return read_objectives("--slo", table)


def hold(objectives: Objectives, measurement: Measurement) -> tuple[Finding, ...]:
    """Hold a measurement against all that was asked."""
    found = []
    if objectives.request != Slo() and objectives.goodput is not None:
        share = measurement.figures.get("goodput_share", 0.0)
        issued = measurement.requests
        found.append(
            hold_goodput(objectives.goodput, good=round(share * issued), issued=issued)
            if issued
            else Finding(key="goodput", held=Held.CANNOT_TELL, text="no request was issued")
        )
    for bound in objectives.latencies:
        distribution = measurement.distributions.get(bound.metric)
        seen = distribution and distribution.percentiles.get(bound.percentile)
        if distribution and seen and seen.value is None:
            text = (
                f"{bound.key}: needs {seen.needs} requests, there are {distribution.requests}; "
                f"use --requests {seen.needs}"
            )
            found.append(Finding(key=bound.key, held=Held.CANNOT_TELL, text=text))
        else:
            found.append(hold_latency(bound, distribution))
    return tuple(found)


def _pattern(options: Mapping[str, Any]) -> Pattern:
    name = options["pattern"]
    if name is None and options["burstiness"] is not None:
        return Pattern.GAMMA
    if name is None:
        return Pattern.CLOSED if options["rate"] is None else Pattern.POISSON
    known = [pattern.value for pattern in Pattern]
    if name not in known:
        raise TargetError(
            f"--pattern: there is no pattern {name!r}{closest(name, known)}",
            advice=f"use {', '.join(known)}",
        )
    return Pattern(name)


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(word) for word in text.split(","))
    except ValueError:
        levels = ()
    if not levels or not all(math.isfinite(level) and level > 0 for level in levels):
        raise TargetError(f"--sweep: cannot read {text!r}", advice="write --sweep 1,2,4,8")
    if len(set(levels)) != len(levels):
        raise TargetError(f"--sweep: {text} names a level twice", advice="name each level once")
    return levels


def _traffic(
    options: Mapping[str, Any], pattern: Pattern, concurrency: int | None, rate: float | None
) -> Traffic:
    requests, warm_up = options["requests"], options["warm_up"]
    if rate is not None and not math.isfinite(rate):
        raise TargetError(f"--rate: {rate} requests a second cannot be", advice="use --rate 4")
    if pattern is Pattern.CLOSED:
        concurrency = USUAL_PLACES if concurrency is None else concurrency
        enough, warm = max(_LEAST, _WAVES * concurrency), concurrency
    elif pattern is Pattern.TRACE:
        enough, warm = 0, 0
    else:
        enough = max(_LEAST, math.ceil(_OPEN_S * (rate or 0)))
        warm = math.ceil(_WARM_S * (rate or 0))
    given = {
        "burstiness": options["burstiness"],
        "ramp_s": options["ramp"],
        "speed": options["speed"],
        "rate_per_s": rate,
        "concurrency": concurrency,
    }
    traffic = Traffic(
        pattern=pattern,
        requests=enough if requests is None else requests,
        warm_up=warm if warm_up is None else warm_up,
        normalized=options["normalized"],
        seed=options["seed"],
        **{name: value for name, value in given.items() if value is not None},
    )
    if requests is None and pattern is Pattern.TRACE:
        return traffic
    return check(traffic)
