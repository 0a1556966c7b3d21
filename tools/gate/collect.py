"""Real comparisons on this host: `python -m tools.gate.collect FILE [--aa N] [--slow N]`.

Each comparison is one of `pytest-vllm ab`'s: our client loads the truth server, whose speed has the
noise of a real one from run to run (`HOST`), in turns, 6 to 12 pairs, and the gate judges. What the
host itself does comes on top. The server waits most of the time, so several run side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.adapters.load.truth import Schedule, TruthServer
from pytest_vllm.domain.load.measurement import Slo
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.plan import LoadPlan, Request
from pytest_vllm.domain.pair_order import Side
from tools.gate.noise import METRICS, Noise, series
from tools.gate.trials import sequential

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOST = Noise(run=0.01, drift=0.02)
STREAMS, REQUESTS, TOKENS = 6, 12, 32
SCHEDULE = Schedule(ttft_us=40_000, itl_us=5_000, tokens=TOKENS, step_cv=0.05)
LETTERS = {Side.BASE: "A", Side.CANDIDATE: "B"}
FACTORS = (1.02, 1.05, 1.10)
_DIGITS = 5


def load(url: str) -> LoadPlan:
    """Return the load of one run: a closed loop of a few short streams, half a second."""
    body = {
        "model": "truth",
        "prompt": "x",
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = Request(body=json.dumps(body).encode(), want_tokens=TOKENS)
    return LoadPlan(url=url, requests=(request,) * REQUESTS, concurrency=STREAMS)


def compare(number: int, factor: float, *, schedule: Schedule = SCHEDULE) -> dict[str, Any]:
    """Make one comparison; return its runs in the order of time, and what the gate said.

    Args:
        number: Root of its noise and its order.
        factor: How much slower the candidate is.
        schedule: How fast the base is.
    """
    chance = random.Random(f"collect {factor} {number}")  # noqa: S311 - noise
    host = series(HOST, chance)
    sides: list[Side] = []
    runs: list[list[float]] = []
    began = time.monotonic()
    with TruthServer(schedule) as server:
        plan = load(server.url)

        def run(side: Side) -> dict[str, float]:
            slower = factor if side is Side.CANDIDATE else 1.0
            slow = math.exp(next(host)["tpot_p50_ms"]) * slower
            server.set(replace(schedule, factor=slow, seed=chance.getrandbits(32)))
            found = measure(plan, run_load(plan), slo=Slo()).figures
            figures = {name: float(f"{found[name]:.{_DIGITS}g}") for name in METRICS}
            sides.append(side)
            runs.append([*figures.values()])
            return figures

        judgement = sequential(run, seed=number)
    return {
        "factor": factor,
        "number": number,
        "effect": judgement.effect.value,
        "pairs": judgement.repeats,
        "seconds": round(time.monotonic() - began, 2),
        "order": "".join(LETTERS[side] for side in sides),
        "runs": runs,
    }


def work(same: int, slower: int) -> Iterator[tuple[int, float]]:
    """Yield the comparisons, the kinds of them mixed so that a bad minute hits all alike."""
    kinds = {1.0: same, **dict.fromkeys(FACTORS, slower)}
    todo = [(number, factor) for factor, count in kinds.items() for number in range(count)]
    random.Random(7).shuffle(todo)  # noqa: S311 - an order
    yield from todo


def main(argv: Sequence[str]) -> int:
    """Make the comparisons and write one line for each, below a line that says what they are."""
    parser = argparse.ArgumentParser(prog="python -m tools.gate.collect", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--aa", type=int, default=200, help="comparisons of the same speed")
    parser.add_argument("--slow", type=int, default=100, help="comparisons of each slowdown")
    parser.add_argument("--beside", type=int, default=6, help="how many run side by side")
    asked = parser.parse_args(argv)
    head = {
        "what": f"our client against the truth server, {REQUESTS} requests of {TOKENS} tokens in "
        f"{STREAMS} streams a run",
        "host": f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start, "
        f"{asked.beside} comparisons side by side",
        "date": time.strftime("%Y-%m-%d"),
        "noise": asdict(HOST),
        "step_cv": SCHEDULE.step_cv,
        "metrics": [*METRICS],
    }
    with asked.file.open("x") as file, ThreadPoolExecutor(asked.beside) as pool:
        file.write(json.dumps({"header": head}) + "\n")
        for row in pool.map(lambda todo: compare(*todo), work(asked.aa, asked.slow)):
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
            file.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
