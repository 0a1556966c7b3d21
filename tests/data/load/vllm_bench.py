"""Have vLLM's own client sum up a timeline: run by a Python that has vLLM, prints JSON.

Its figures of seed 1 are in `vllm_bench.json`; `timeline` is also what the test measures.
"""

from __future__ import annotations

import json
import random
import sys
from contextlib import redirect_stdout
from itertools import pairwise

REQUESTS = 1001
"""So many that numpy's interpolated percentile is a value of the sample, like the nearest rank."""
SLO_MS = {"ttft": 150.0, "tpot": 37.03}
PERCENTILES = (50.0, 90.0, 95.0, 99.0)


def timeline(seed: int) -> list[tuple[float, list[float]]]:
    """Make requests of one place: when each was sent and its events came, in whole ms."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    rows, now, gaps = [], 0, 0
    for number in range(REQUESTS):
        count = rng.randint(2, 6)
        if number == REQUESTS - 1:  # also the number of all gaps is one more than 1000s
            count = 2 + -gaps % 1000
        events = [now + rng.randint(50, 200)]
        for _ in range(count - 1):
            events.append(events[-1] + rng.randint(15, 60))
        gaps += count - 1
        rows.append((float(now), [float(event) for event in events]))
        now = events[-1] + 1
    return rows


def main() -> None:
    """Print what `vllm bench serve` reports of it."""
    from vllm.benchmarks.lib.endpoint_request_func import (  # noqa: PLC0415 - not for the test
        RequestFuncOutput,
    )
    from vllm.benchmarks.serve import calculate_metrics  # noqa: PLC0415 - not for the test

    rows = timeline(1)
    outputs = [
        RequestFuncOutput(
            success=True,
            start_time=send / 1e3,
            latency=(events[-1] - send) / 1e3,
            ttft=(events[0] - send) / 1e3,
            itl=[(after - before) / 1e3 for before, after in pairwise(events)],
            output_tokens=len(events),
            prompt_len=10,
        )
        for send, events in rows
    ]
    seconds = (rows[-1][1][-1] - rows[0][0]) / 1e3
    with redirect_stdout(sys.stderr):  # it prints tips
        metrics, _ = calculate_metrics([], outputs, seconds, None, list(PERCENTILES), SLO_MS)
    told = {
        "output_tokens_per_s_whole": metrics.output_throughput,
        "total_tokens_per_s_whole": metrics.total_token_throughput,
        "requests_per_s_whole": metrics.request_throughput,
        "goodput_per_s_whole": metrics.request_goodput,
    }
    for metric in ("ttft", "tpot", "itl", "e2el"):
        told[f"{metric}_mean_ms"] = getattr(metrics, f"mean_{metric}_ms")
        for percent, value in getattr(metrics, f"percentiles_{metric}_ms"):
            told[f"{metric}_p{percent:g}_ms"] = value
    print(json.dumps({name: float(value) for name, value in told.items()}, indent=1))


if __name__ == "__main__":
    main()
