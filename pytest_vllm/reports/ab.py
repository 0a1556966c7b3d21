"""Words for an A/B comparison: what is going to be done, each run, and what came of it."""

from __future__ import annotations

import textwrap
from statistics import median
from typing import TYPE_CHECKING

from pytest_vllm.domain.ab import OK, WORSE
from pytest_vllm.domain.pair_order import Side
from pytest_vllm.domain.regression import FEWEST_PAIRS, MOST_PAIRS
from pytest_vllm.domain.text import printable
from pytest_vllm.reports.regression import figure, judgement_text

if TYPE_CHECKING:
    from pytest_vllm.domain.ab import AbRecord, AbRun, FalseAlarms
    from pytest_vllm.domain.interval import Score
    from pytest_vllm.domain.load.traffic import Traffic

HELP = """usage: pytest-vllm ab --image A --image B --model MODEL [options] [-- vLLM's arguments]

Runs two servers in turns on this host, A (base) and B (candidate), and says of each metric whether
B is worse, better, the same, or that it cannot be told and what would tell.

the two sides (one of):
  --image A --image B       two images, launched with Docker
  --python A --python B     two interpreters that have vLLM, launched as processes
  --url A --url B           two servers that run already
  --model, --revision       likewise twice for two models, or once for both sides
  --a-NAME=X, --b-NAME=X    what only one side has: serve-arg and env (repeat; they come behind
                            those of both), image, url, python, model, revision, gpus,
                            entrypoint, docker-flags, compose-override
  --vllm-NAME=X             for both sides: every --vllm-* option of pytest (pytest --help)
  -- ARGS                   vLLM's own arguments for both

the runs:
  --workload NAME|FILE      what requests hold (default: short; see pytest-vllm load --help)
  --concurrency N           requests at a time (default: 8)
  --rate R                  R requests a second by chance (Poisson) in place of --concurrency
  --requests N              measured requests of a run (default: 10 for each place, or 10 s, and
                            at least the 11 that a median needs)
  --warm-up N               requests before them (default: one for each place)
  --seed N                  root of prompts and order (default: 0)
  --pairs N                 N pairs, whatever they show (default: 6, and up to 12 until they tell)
  --change FIGURE=P%        allowed change for the worse of a figure, such as ttft-p50=5%
                            (default: [slo.change] of --vllm-profile, else 3% tokens/s and
                            TPOT p50, 5% TTFT p50, 10% p99)
  --restart                 every run has a start of its own (default for servers launched here:
                            starts differ, and a difference of two starts is none of two images)
  --together                both servers stay up (default for --url): soon done, and needs room for
                            both; what one start happened to be counts as its side's
  --no-calibrate            do not measure the client itself first
  --aa N                    name one side: compare it with itself N times, and print how often this
                            host tells a change that is none

examples:
  pytest-vllm ab --image rocm/vllm:0.31 --image rocm/vllm:0.32 --model /models/Qwen3-8B \\
      -- --max-model-len 8192
  pytest-vllm ab --python python --model Qwen/Qwen3-0.6B --b-env VLLM_ROCM_USE_AITER=1 --restart
  pytest-vllm ab --url http://127.0.0.1:8000 --aa 20

exit code: 0 nothing is worse, 1 something is (or only B fails, or writes garbage), 75 it cannot be
told, 4 the command is wrong. Everything is kept in .vllm/RUN/ab.json (--vllm-artifacts).
"""

_MINUTE = 60.0
_SERVERS = {
    "restart": "restarted for every run, so what differs from start to start counts as noise",
    "together": "all up at the same time and never restarted: what one start happened to be is "
    "part of its side (--restart does without that)",
    "one": "one server is both sides",
}
_SHOWN = (
    ("output_tokens_per_s", "tokens/s", ""),
    ("ttft_p50_ms", "TTFT p50", " ms"),
    ("tpot_p50_ms", "TPOT p50", " ms"),
)


def opening(  # noqa: PLR0913 - all that a reader must know before it begins
    names: tuple[str, str],
    *,
    servers: str,
    workload: str,
    traffic: Traffic,
    pairs: int,
    aa: int,
    width: int,
) -> str:
    """Return what is going to be done."""
    each = (
        f"{traffic.requests} requests at {traffic.rate_per_s:g} a second"
        if traffic.is_open
        else f"{traffic.requests} requests, {traffic.concurrency} at a time"
    )
    count = f"{pairs}" if pairs else f"{FEWEST_PAIRS} to {MOST_PAIRS}"
    turns = f"{count} pairs of runs in A B B A order, blocks shuffled"
    lines = [f"ab: base      {printable(names[0])}"]
    if aa:
        lines += [f"ab: candidate the same: {aa} comparisons with itself, each {turns}"]
    else:
        lines += [f"ab: candidate {printable(names[1])}", f"ab: {turns}"]
    lines += [
        f"ab: a run is workload {printable(workload)}: {each}, {traffic.warm_up} more to warm up",
        f"ab: servers: {_SERVERS[servers]}",
    ]
    return "\n".join(line for text in lines for line in _wrapped(text, width))


def run_line(run: AbRun, *, number: int, of: int, prefix: str = "") -> str:
    """Return a run that is over on a line."""
    letter = "A" if run.side is Side.BASE else "B"
    parts = [
        f"{words} {figure(run.figures[name])}{unit}"
        for name, words, unit in _SHOWN
        if name in run.figures
    ]
    if run.failed:
        parts.append(f"{run.failed} of {run.requests} failed")
    if run.limits:
        parts.append("the client was the limit")
    if run.start_s:
        parts.append(f"started in {run.start_s:.0f} s")
    return f"{prefix}run {number:>2}/{of} {letter} {run.side:<9} {', '.join(parts)}"


def closing(record: AbRecord, *, names: tuple[str, str], width: int) -> str:
    """Return what came of it."""
    lines: list[str] = []
    if record.stop is not None:
        lines += _wrapped(f"ab: stopped: {printable(record.stop.text)}", width)
        if record.stop.advice:
            lines += _wrapped(f"  fix: {record.stop.advice}", width)
    if record.alarms is not None:
        lines += alarm_lines(record.alarms, width=width)
        void = [one for one in record.comparisons if one.judgement and one.judgement.obstacles]
        lines += [
            line
            for one in void[:1]
            if one.judgement
            for line in _wrapped(f"not comparable: {one.judgement.obstacles[0]}", width)
        ]
    elif record.comparisons and (judgement := record.comparisons[0].judgement) is not None:
        lines.append(judgement_text(judgement, names=names, width=width))
    lines += ["", f"ab: {_verdict(record)} (exit code {record.exit_code})"]
    return "\n".join(lines)


def alarm_lines(alarms: FalseAlarms, *, width: int = 100) -> list[str]:
    """Return how often this host tells a change where there is none."""
    lines = _wrapped(
        f"a server compared with itself, so every change that is told is a false alarm; "
        f"{alarms.worse.total} comparisons",
        width,
    )
    lines += [
        f"  told worse     {_rate(alarms.worse)}   the false alarms",
        f"  told better    {_rate(alarms.better)}",
        f"  could not tell {_rate(alarms.undecided)}",
    ]
    lines += [f"    {metric}: {count}x worse" for metric, count in alarms.by_metric.items()]
    if alarms.void:
        lines.append(f"  not comparable {alarms.void}, and not counted")
    if alarms.pairs:
        lines.append(
            f"  each took {median(alarms.pairs):g} pairs and "
            f"{median(alarms.seconds) / _MINUTE:.1f} minutes (medians)"
        )
    return lines


def _rate(score: Score) -> str:
    low, high = score.interval
    return (
        f"{score.right:>3} of {score.total}: {100 * score.share:4.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f} %, Wilson 95 %)"
    )


def _verdict(record: AbRecord) -> str:
    if record.stop is not None and record.stop.code:
        return "interrupted: nothing is said of the candidate"
    if record.alarms is not None:
        return (
            "the false-alarm rate of this host is above"
            if record.exit_code == OK
            else ("no comparison could be made")
        )
    words = {
        OK: "the candidate is no worse",
        WORSE: "the candidate is worse",
    }
    if record.exit_code == WORSE and not _judged(record):
        return "the candidate is rejected without a comparison"
    return words.get(record.exit_code, "it cannot be told whether the candidate is worse")


def _judged(record: AbRecord) -> bool:
    judgements = [one.judgement for one in record.comparisons]
    return any(judgement is not None and not judgement.obstacles for judgement in judgements)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="    ", break_long_words=False)
