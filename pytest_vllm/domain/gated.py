"""Which metrics a gate looks at, and how much worse each may become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.metric_change import Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Default:
    tolerance: float
    always: bool = False


_DEFAULTS = {
    "output_tokens_per_s": _Default(tolerance=0.03, always=True),
    "tpot_p50_ms": _Default(tolerance=0.03, always=True),
    "ttft_p50_ms": _Default(tolerance=0.05, always=True),
    "ttft_p99_ms": _Default(tolerance=0.10),
    "tpot_p99_ms": _Default(tolerance=0.10),
}
"""What is gated unless it is said otherwise (`load.md` section 7); `always` also where no run has
it: then nothing can be told. A p99 is left out where the requests are too few for it."""
_HIGHER = ("_per_s", "goodput_share")
"""Ends of names of figures that are better when larger; all others are times or counts of bad."""
_WRITTEN, _ENDED = "output_tokens_per_s_whole", "requests_per_s_whole"
_ONE_TOKEN = 1.001
"""Tokens a request, up to rounding, of replies that have no second token and so no TPOT."""
STORED_TOLERANCE = 0.10
"""The least that a stored baseline can be held to: what a host differs by from day to day."""


def rules_for(
    runs: Iterable[Mapping[str, float]],
    *,
    allowed: Mapping[str, float] | None = None,
    open_loop: bool = False,
    at_least: float = 0.0,
) -> tuple[Rule, ...]:
    """Return the rules for runs, in the order of the figures' importance.

    Args:
        runs: Figures of runs; those of a level of many are named `level/metric`.
        allowed: Allowed change by metric, as a share, in place of the default or in addition
            (`[slo.change]` of a profile). What is named here is never left out.
        open_loop: Whether requests came at a rate: TTFT then counts from the schedule, since only
            that shows a queue in front of the client.
        at_least: Least tolerance (the weak form's), also of what is allowed.
    """
    runs = tuple(runs)
    names = dict.fromkeys(name for run in runs for name in run)
    prefixes = dict.fromkeys("".join(name.rpartition("/")[:2]) for name in names)
    wanted = {
        _scheduled(metric) if open_loop else metric: default
        for metric, default in _DEFAULTS.items()
    }
    wanted |= {
        metric: _Default(tolerance=tolerance, always=True)
        for metric, tolerance in (allowed or {}).items()
    }
    rules = []
    for metric, one in wanted.items():
        asked = one.tolerance if metric in (allowed or {}) and one.tolerance < at_least else None
        for prefix in prefixes:
            absent = "" if prefix + metric in names else _absent(metric, prefix, runs)
            if prefix + metric in names or (one.always and absent):
                rules.append(
                    Rule(
                        metric=prefix + metric,
                        tolerance=max(one.tolerance, at_least),
                        bigger_is_better=metric.endswith(_HIGHER),
                        asked=asked,
                        absent=absent,
                    )
                )
    return tuple(rules)


def flatten(
    levels: Mapping[str, Sequence[Mapping[str, float]]], *, plain: bool | None = None
) -> list[dict[str, float]]:
    """Return the rounds of all levels as runs: round i of every level in run i, `level/metric`.

    Args:
        levels: The figures of each level's rounds.
        plain: Whether names go without the level, by default those of one level alone.
    """
    plain = len(levels) <= 1 if plain is None else plain
    rounds = max((len(runs) for runs in levels.values()), default=0)
    flat: list[dict[str, float]] = [{} for _ in range(rounds)]
    for level, runs in levels.items():
        prefix = "" if plain else f"{level}/"
        for number, run in enumerate(runs):
            flat[number].update({f"{prefix}{name}": value for name, value in run.items()})
    return flat


def _absent(metric: str, prefix: str, runs: Sequence[Mapping[str, float]]) -> str:
    """Say why no run has a figure; empty where it cannot have one, since replies have one token."""
    counted = any(f"{prefix}{_WRITTEN}" in run for run in runs)
    mean = f"{prefix}{metric.rpartition('_p')[0]}_mean_ms"
    why = ""
    if any(mean in run for run in runs):
        why = ": such a percentile needs more requests in each run"
    elif metric.startswith(("tpot", "itl")) and counted:
        if all(_is_short(run, prefix) for run in runs):
            return ""
        why = ": replies came in one piece, or without tokens that can be told apart"
    elif metric.startswith(("tpot", "itl", "output_tokens", "total_tokens")):
        why = ": the server did not tell how many tokens it wrote (usage, token_ids)"
    elif "_sched_" in metric:
        why = ": only requests that come at a rate have a schedule"
    elif metric.startswith("goodput"):
        why = ": goodput needs bounds that a good request keeps"
    return f"no run has this figure{why}"


def _is_short(run: Mapping[str, float], prefix: str) -> bool:
    """Tell whether no reply of a run has a second token, so that there is no TPOT."""
    written, ended = run.get(f"{prefix}{_WRITTEN}"), run.get(f"{prefix}{_ENDED}")
    return written is not None and ended is not None and written <= _ONE_TOKEN * ended


def _scheduled(metric: str) -> str:
    return metric.replace("ttft_", "ttft_sched_")
