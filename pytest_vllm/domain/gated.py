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
    bigger_is_better: bool = False


_DEFAULTS = {
    "output_tokens_per_s": _Default(tolerance=0.03, bigger_is_better=True),
    "tpot_p50_ms": _Default(tolerance=0.03),
    "ttft_p50_ms": _Default(tolerance=0.05),
    "ttft_p99_ms": _Default(tolerance=0.10),
    "tpot_p99_ms": _Default(tolerance=0.10),
}
"""What is gated unless it is said otherwise (`load.md` section 7)."""
_HIGHER = ("_per_s", "_share")
"""Ends of names of figures that are better when larger; all others are times or counts of bad."""
STORED_TOLERANCE = 0.10
"""The least that a stored baseline can be held to: what a host differs by from day to day."""


def rules_for(
    runs: Iterable[Mapping[str, float]],
    *,
    allowed: Mapping[str, float] | None = None,
    open_loop: bool = False,
    at_least: float = 0.0,
) -> tuple[Rule, ...]:
    """Return the rules for the figures that runs have, in the order of their names' importance.

    Args:
        runs: Figures of runs; those of a level of many are named `level/metric`.
        allowed: Allowed change by metric, as a share, in place of the default or in addition
            (`[slo.change]` of a profile).
        open_loop: Whether requests came at a rate: TTFT then counts from the schedule, since only
            that shows a queue in front of the client.
        at_least: Least tolerance of a default (the weak form's).
    """
    wanted = {
        _scheduled(metric) if open_loop else metric: Rule(
            metric=metric,
            tolerance=max(default.tolerance, at_least),
            bigger_is_better=default.bigger_is_better,
        )
        for metric, default in _DEFAULTS.items()
    }
    for metric, tolerance in (allowed or {}).items():
        wanted[metric] = Rule(metric=metric, tolerance=tolerance)
    names = dict.fromkeys(name for run in runs for name in run)
    return tuple(
        Rule(metric=name, tolerance=rule.tolerance, bigger_is_better=metric.endswith(_HIGHER))
        for metric, rule in wanted.items()
        for name in names
        if name.rpartition("/")[2] == metric
    )


def flatten(levels: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Return the rounds of all levels as runs: round i of every level in run i, `level/metric`.

    One level alone keeps its plain names.
    """
    rounds = max((len(runs) for runs in levels.values()), default=0)
    flat: list[dict[str, float]] = [{} for _ in range(rounds)]
    for level, runs in levels.items():
        prefix = f"{level}/" if len(levels) > 1 else ""
        for number, run in enumerate(runs):
            flat[number].update({f"{prefix}{name}": value for name, value in run.items()})
    return flat


def _scheduled(metric: str) -> str:
    return metric.replace("ttft_", "ttft_sched_")
