"""Rounds of loads: what was sent, what came back, and why the client may have been the limit."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.load.columns import UNTOLD, Ending
from pytest_vllm.domain.load.failures import sort
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.over_rounds import over_rounds
from pytest_vllm.domain.rounds import mean_of, pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.load.calibration import Calibration
    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.measurement import Measurement, Percentile, Slo
    from pytest_vllm.domain.rounds import Mean
    from pytest_vllm.plugin.load import Loaded

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One whole load.

    Attributes:
        loaded: What was sent, what came back, and its figures.
        limits: Why the client was the limit; empty when it was not.
        held_back: Those of the reasons for which the load was less than what was asked for; the
            others make its times less exact.
    """

    loaded: Loaded
    limits: tuple[str, ...]
    held_back: tuple[str, ...] = ()

    @property
    def measurement(self) -> Measurement:
        """Its figures."""
        return self.loaded.measurement

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.loaded.columns.finish_ns - self.loaded.columns.begin_ns) / 1e9


@dataclass(slots=True, kw_only=True)
class Level:
    """A load level with its rounds.

    Attributes:
        concurrency: Requests at a time.
        requests: Measured requests of each round.
        calibration: The client's own error at its streams and rate, `None` where nobody asked.
        rounds: What was measured.
    """

    concurrency: int
    requests: int
    calibration: Calibration | None = None
    rounds: list[Round] = field(default_factory=list)

    @property
    def limits(self) -> tuple[str, ...]:
        """Why the client was the limit in any round: such a round spoils an objective."""
        return tuple(dict.fromkeys(reason for one in self.rounds for reason in one.limits))

    @property
    def held_back(self) -> tuple[str, ...]:
        """Why the client held the level back; empty when it did so in half of the rounds at most.

        A busy moment of the host spoils a round or two, and the others show what the server does.
        """
        spoiled = [one.held_back for one in self.rounds if one.held_back]
        reasons = dict.fromkeys(reason for one in spoiled for reason in one)
        return tuple(reasons) if 2 * len(spoiled) > len(self.rounds) else ()

    @property
    def issued(self) -> int:
        """Requests of all rounds, without warm-up."""
        return sum(one.measurement.requests for one in self.rounds)

    @property
    def failures(self) -> dict[str, int]:
        """Failed requests of all rounds by kind."""
        counts: dict[str, int] = {}
        for one in self.rounds:
            for kind, count in one.measurement.failures.items():
                counts[kind] = counts.get(kind, 0) + count
        return counts

    @property
    def untold(self) -> int:
        """Answers that ended as they should and told no usage, though their events told tokens."""
        return sum(
            ending in (Ending.DONE, Ending.WRONG_LENGTH)
            and tokens == UNTOLD
            and not request.warm_up
            for one in self.rounds
            for ending, tokens, request in zip(
                one.loaded.columns.ending,
                one.loaded.columns.completion_tokens,
                one.loaded.plan.requests,
                strict=True,
            )
        )

    def told(self) -> str:
        """Say throughput and median latencies on one line, with their intervals of 95 %."""
        rate, seen = self.mean("output_tokens_per_s"), self.pooled().distributions
        parts = [f"output {_with_ends(rate)} tokens/s"] if rate is not None else []
        for name, metric in (("TTFT p50", "ttft"), ("TPOT p50", "tpot")):
            median = seen[metric].percentiles["p50"] if metric in seen else None
            if median is not None and median.value is not None:
                parts.append(f"{name} {_with_ends(median)} ms")
        return ", ".join(parts) or "no figures"

    def values(self, figure: str) -> list[float]:
        """Return a figure of each round that has it."""
        seen = (one.measurement.figures.get(figure) for one in self.rounds)
        return [value for value in seen if value is not None and math.isfinite(value)]

    def mean(self, figure: str) -> Mean | None:
        """Return the mean of a figure over rounds, `None` where no round has it."""
        values = self.values(figure)
        return mean_of(values) if values else None

    def pooled(self, slo: Slo | None = None) -> Measurement:
        """Return the latencies of all requests of all rounds; the rates in it mean nothing.

        Their intervals are as wide as the rounds differ (`over_rounds`).
        """
        parts = [(one.loaded.plan, one.loaded.columns) for one in self.rounds]
        if len(parts) == 1:
            return measure(*parts[0], slo=slo, curves=True)
        together = measure(*pool(parts), slo=slo, curves=True)
        figures = [one.measurement.figures for one in self.rounds]
        return replace(together, distributions=over_rounds(together.distributions, figures))

    def middle(self) -> Measurement:
        """Return the figures of the round with the middle throughput, as an example of all."""
        ordered = sorted(
            self.rounds,
            key=lambda one: one.measurement.figures.get("output_tokens_per_s_whole", 0.0),
        )
        return ordered[len(ordered) // 2].measurement

    def examples(self) -> list[str]:
        """Return what was seen of the first failed requests, a line for each."""
        found: list[str] = []
        for number, one in enumerate(self.rounds):
            found += [f"round {number + 1}, {text}" for text in _examples(one)]
        return found[:_SHOWN]

    def extra(self) -> dict[str, Any]:
        """Return what pytest-benchmark keeps beside the wall times of the rounds."""
        plain = self.plain(gated=True)
        return {
            "concurrency": self.concurrency,
            "requests": self.requests,
            "conditions": plain["conditions"],
            "rounds": [one["figures"] for one in plain["rounds"]],
            "figures": dict(self.middle().figures),
            "failures": self.failures,
            "client_was_the_limit": list(self.limits),
            "calibration": plain["calibration"],
        }

    def plain(self, *, gated: bool) -> dict[str, Any]:
        """Return the level for the record."""
        first = self.rounds[0]
        description = dict(first.loaded.plan.description)
        return {
            "name": f"c{self.concurrency}",
            "concurrency": self.concurrency,
            "requests": self.requests,
            "gated": gated,
            "open_loop": False,
            "conditions": {
                "workload": str(_named(description.get("workload"))),
                "traffic": f"{self.concurrency} at a time, {self.requests} requests",
                "prompts": _work(description),
            },
            "description": description,
            "calibration": asdict(self.calibration) if self.calibration is not None else {},
            "rounds": [_plain_round(one) for one in self.rounds],
            "summary": asdict(self.middle()),
            "latencies": {
                name: asdict(distribution)
                for name, distribution in self.pooled().distributions.items()
            },
        }


def _with_ends(told: Mean | Percentile) -> str:
    if told.low is None and told.high is None:
        return f"{told.value:.4g}"
    low, high = ("open" if end is None else f"{end:.4g}" for end in (told.low, told.high))
    return f"{told.value:.4g} ({low} to {high})"


def _examples(one: Round) -> Iterator[str]:
    columns: Columns = one.loaded.columns
    plan = one.loaded.plan
    told = dict(columns.failures)
    ends = sort(plan, columns)
    miscounted = set(ends.miscounts) - set(ends.done)
    for number, request in enumerate(plan.requests):
        ending = columns.ending[number]
        wrong = bool(request.want_tokens) and columns.completion_tokens[number] not in (
            -1,
            request.want_tokens,
        )
        if ending not in (Ending.DONE, Ending.UNSENT):
            kind = Ending(ending).name.lower().replace("_", " ")
            text = told.get(number, "")
            yield f"request {number}: {kind}{f': {text}' if text else ''}"
        elif ending == Ending.DONE and wrong:
            yield (
                f"request {number}: {columns.completion_tokens[number]} tokens written, "
                f"{request.want_tokens} asked for"
            )
        elif number in miscounted:
            yield (
                f"request {number}: its events carried {ends.miscounts[number]} tokens, and its "
                f"usage says {ends.tokens[number]}"
            )


def _work(description: dict[str, Any]) -> str:
    """Return what tells apart requests that are not the same work; the salt may differ."""
    said = {
        name: description.get(name)
        for name in ("workload", "vocabulary", "file", "prompts_counted_by", "lengths", "fields")
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _named(workload: object) -> object:
    return workload.get("name", workload) if isinstance(workload, dict) else workload


def _plain_round(one: Round) -> dict[str, Any]:
    measured = one.measurement
    facts = one.loaded.columns.facts
    return {
        "figures": dict(measured.figures),
        "requests": measured.requests,
        "failed": sum(measured.failures.values()),
        "failures": dict(measured.failures),
        "output_tokens": int(measured.figures.get("output_tokens", 0)),
        "seconds": one.seconds,
        "begin_ns": one.loaded.columns.begin_ns,
        "timeline": dict(one.loaded.timeline),
        "steady": measured.steady,
        "window_s": measured.window_s,
        "flags": list(measured.flags),
        "limits": list(one.limits),
        "clock_shift_ns": facts.clock_shift_ns if facts is not None else 0,
        "client": dict(measured.client),
        "server": dict(measured.server),
        "gpus": dict(measured.gpus),
    }
