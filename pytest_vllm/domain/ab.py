"""An A/B comparison of two servers: its runs, what they came to, and the record of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.comparable import MOST_FAILED, Conditions
from pytest_vllm.domain.interval import Score
from pytest_vllm.domain.metric_change import Effect
from pytest_vllm.domain.pair_order import Side

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.metric_change import Judgement

SCHEMA = 1
OK, WORSE, OPEN = 0, 1, 75


class Blame(StrEnum):
    """Who is to blame that a comparison has no result."""

    CANDIDATE = "candidate"
    BASE = "base"
    HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What ended a comparison before it had a result.

    Attributes:
        text: What was asked and what was seen.
        blame: Whose fault it is. The candidate's alone ends like a change for the worse.
        advice: What to do next.
        code: Exit code of another kind (a signal), 0 for what follows from the blame.
    """

    text: str
    blame: Blame
    advice: str = ""
    code: int = 0

    @property
    def exit_code(self) -> int:
        """How the verb ends."""
        return self.code or (WORSE if self.blame is Blame.CANDIDATE else OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbRun:
    """One run of one side: the unit that is compared.

    Attributes:
        side: Whose.
        pair: Which pair it belongs to, from 0.
        seed: Root of its prompts.
        begin_s: When it began, in seconds since the comparison did.
        load_s: How long its load took.
        figures: `Measurement.figures`.
        requests: Measured requests.
        prompts: Hash of what was sent.
        failures: How many failed, by kind.
        output_tokens: Tokens that were written, warm-up not counted.
        start_s: How long its server took to start, 0 for one that was up.
        clock_shift_s: By how much the wall clock moved meanwhile.
        limits: Why the client was the limit; empty when it was not.
        client: How it was measured.
        server: The server's own figures meanwhile.
    """

    side: Side
    pair: int
    seed: int
    begin_s: float
    load_s: float
    figures: Mapping[str, float]
    requests: int
    prompts: str = ""
    failures: Mapping[str, int] = field(default_factory=dict)
    output_tokens: int = 0
    start_s: float = 0.0
    clock_shift_s: float = 0.0
    limits: tuple[str, ...] = ()
    client: Mapping[str, object] = field(default_factory=dict)
    server: Mapping[str, object] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFacts:
    """What is known about a side.

    Attributes:
        name: Image, interpreter or URL, and what else is its own.
        version: What the server says it is.
        model: What it serves.
        same: What must be the same on both sides, by a name in words.
        launch: Facts of the launch: command, digest of the image, ...
    """

    name: str
    version: str = ""
    model: str = ""
    same: Mapping[str, str] = field(default_factory=dict)
    launch: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Pairs of runs, and what they came to.

    Attributes:
        runs: Each run, in the order in which they were made.
        judgement: What they say, `None` where a stop came first.
        seconds: How long it took.
    """

    runs: tuple[AbRun, ...]
    judgement: Judgement | None
    seconds: float

    def of(self, side: Side) -> tuple[AbRun, ...]:
        """Return the runs of a side, by pair."""
        return tuple(sorted((r for r in self.runs if r.side is side), key=lambda r: r.pair))


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """What comparisons of a server with itself came to: every change that they told was none.

    Attributes:
        worse: Comparisons in which a metric was told to be worse.
        better: The same for better.
        undecided: Comparisons that could not tell, and told nothing worse.
        void: Comparisons that were not comparable, such as when the client was the limit.
        pairs: Pairs of each comparison.
        seconds: How long each took.
        by_metric: Metrics that were told to be worse, and how often.
    """

    worse: Score
    better: Score
    undecided: Score
    void: int
    pairs: tuple[int, ...]
    seconds: tuple[float, ...]
    by_metric: Mapping[str, int] = field(default_factory=dict)


def false_alarms(comparisons: Sequence[Comparison]) -> FalseAlarms:
    """Count what comparisons of a server with itself came to."""
    judged = [(one.judgement, one.seconds) for one in comparisons if one.judgement is not None]
    sound = [(judgement, seconds) for judgement, seconds in judged if not judgement.obstacles]
    effects = [{change.effect for change in judgement.changes} for judgement, _ in sound]
    wrong = [
        change.metric
        for judgement, _ in sound
        for change in judgement.changes
        if change.effect is Effect.WORSE
    ]
    open_ones = [judgement.effect is Effect.CANNOT_TELL for judgement, _ in sound]
    return FalseAlarms(
        worse=Score(right=sum(Effect.WORSE in told for told in effects), total=len(sound)),
        better=Score(right=sum(Effect.BETTER in told for told in effects), total=len(sound)),
        undecided=Score(right=sum(open_ones), total=len(sound)),
        void=len(judged) - len(sound),
        pairs=tuple(judgement.repeats for judgement, _ in sound),
        seconds=tuple(seconds for _, seconds in sound),
        by_metric={metric: wrong.count(metric) for metric in dict.fromkeys(wrong)},
    )


def conditions(runs: Sequence[AbRun], facts: SideFacts) -> Conditions:
    """Return under what a side was measured."""
    shifted = max(runs, key=lambda run: abs(run.clock_shift_s), default=None)
    return Conditions(
        facts={**facts.same, "prompts": ",".join(run.prompts for run in runs)},
        requests=sum(run.requests for run in runs),
        failed=sum(run.failed for run in runs),
        output_tokens=sum(run.output_tokens for run in runs),
        limits=tuple(dict.fromkeys(reason for run in runs for reason in run.limits)),
        clock_shift_s=shifted.clock_shift_s if shifted else 0.0,
        seconds=shifted.load_s if shifted else 0.0,
    )


def failing_side(comparison: Comparison) -> Blame | None:
    """Tell whose requests failed, more than may; the host's when both sides' did."""
    failing = []
    for side in Side:
        runs = comparison.of(side)
        if sum(run.failed for run in runs) > MOST_FAILED * sum(run.requests for run in runs):
            failing.append(Blame(side.value))
    return (failing[0] if len(failing) == 1 else Blame.HOST) if failing else None


def exit_code(comparison: Comparison) -> int:
    """Return 0 where nothing became worse, 1 for worse, 75 when it cannot be told.

    A candidate whose requests fail where the base's do not is rejected: failing is not faster.
    """
    judgement = comparison.judgement
    if judgement is None:
        return OPEN
    if judgement.obstacles:
        return WORSE if failing_side(comparison) is Blame.CANDIDATE else OPEN
    if judgement.effect is Effect.WORSE:
        return WORSE
    return OPEN if judgement.effect is Effect.CANNOT_TELL else OK


@dataclass(frozen=True, slots=True, kw_only=True)
class AbRecord:
    """All of an A/B comparison, as it goes into its `ab.json`.

    Attributes:
        run_id: Its name.
        started: When it began, in UTC.
        duration_s: How long it took.
        servers: When the servers were up: `restart`, `together`, or `one` for both sides.
        request: What was asked.
        base: Facts of the base, `None` when it never came up.
        candidate: Those of the candidate; the base's own where it is compared with itself.
        plan: What every run sent.
        comparisons: The comparison; with `--aa` each of them.
        calibration: What the client measured of itself.
        alarms: What comparisons of the base with itself came to, `None` for a comparison of two.
        stop: What ended it before it had a result.
        exit_code: How it ended.
    """

    run_id: str
    started: str
    duration_s: float
    servers: str
    request: Mapping[str, object]
    base: SideFacts | None = None
    candidate: SideFacts | None = None
    plan: Mapping[str, object] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    calibration: Mapping[str, object] = field(default_factory=dict)
    alarms: FalseAlarms | None = None
    stop: Stop | None = None
    exit_code: int = OPEN


def to_plain(record: AbRecord) -> dict[str, Any]:
    """Write the record as plain data."""
    return {"schema": SCHEMA, "kind": "ab", **asdict(record)}
