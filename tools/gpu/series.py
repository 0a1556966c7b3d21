"""Collect a series of short runs on one server: what the gate's false alarms are counted on.

    python -m tools.gpu.series --url URL --out FILE.jsonl --what "vLLM 0.32 on ..." \
        --factors 1 1 1.02 1.05 1.1 --blocks 100

A block has one run for each factor, in random order; a factor above 1 slows the server down by it,
which then runs `tests/data/slowdown` as its middleware. All runs of a block send the same prompts,
so the server must keep none (`--no-enable-prefix-caching`). The file is a header and then a line
for each run: when, how slow, and the figures that a gate looks at.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.plan import Limits, LoadPlan, Request

KEPT = ("output_tokens_per_s", "ttft_p50_ms", "tpot_p50_ms")
TOKENS = range(1000, 30_000)
"""Token IDs that every tokenizer here has, and that are no special ones."""


def main(words: list[str]) -> int:
    """Collect one series; return 0 when every run was sound."""
    asked = _parser().parse_args(words)
    with urllib.request.urlopen(f"{asked.url}/v1/models", timeout=30) as reply:  # noqa: S310
        asked.model = json.load(reply)["data"][0]["id"]
    header = {
        "what": asked.what,
        "load": f"{asked.requests} requests at concurrency {asked.concurrency}, "
        f"{asked.prompt_tokens} + {asked.output_tokens} tokens each",
        "host": f"{os.cpu_count()} cores, Linux {platform.release()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "restart": False,
    }
    chance = random.Random(asked.seed)  # noqa: S311 - an order, no secret
    begun, number, bad = time.monotonic(), 0, 0
    with asked.out.open("x", encoding="utf-8") as out:
        _line(out, {"header": header})
        for warm_up in range(asked.warm_up):
            one_run(asked, block=-1 - warm_up, factor=1.0)
        for block in range(asked.blocks):
            if time.monotonic() - begun > asked.limit_s:
                break
            for factor in chance.sample(asked.factors, len(asked.factors)):
                at = round(time.monotonic() - begun, 3)
                row = one_run(asked, block=block, factor=factor)
                bad += not row["figures"]
                _line(out, {"i": number, "block": block, "factor": factor, "begin_s": at} | row)
                number += 1
    print(f"{asked.out.name}: {number} runs, {time.monotonic() - begun:.0f} s, {bad} unsound")
    return int(bad > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", type=Path, required=True, help="new JSONL file")
    parser.add_argument("--what", required=True, help="server, model and machine in words")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0])
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--warm-up", type=int, default=3, help="runs that are not kept")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=600.0, help="no block begins after it")
    return parser


def one_run(asked: argparse.Namespace, *, block: int, factor: float) -> dict[str, Any]:
    """Send the load of a block once; without figures when a request failed."""
    chance = random.Random(asked.seed * 1_000_003 + block)  # noqa: S311 - prompts, no secret
    bodies = (
        {
            "model": asked.model,
            "prompt": chance.choices(TOKENS, k=asked.prompt_tokens),
            "max_tokens": asked.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for _ in range(asked.requests)
    )
    plan = LoadPlan(
        url=asked.url,
        requests=tuple(
            Request(
                body=json.dumps(body).encode(),
                prompt_tokens=asked.prompt_tokens,
                want_tokens=asked.output_tokens,
            )
            for body in bodies
        ),
        headers={"x-slowdown": str(factor)},
        concurrency=asked.concurrency,
        limits=Limits(request_s=60.0, stall_s=30.0, run_s=120.0),
    )
    begun = time.monotonic()
    found = measure(plan, run_load(plan))
    seconds = round(time.monotonic() - begun, 3)
    if found.failures:
        return {"seconds": seconds, "failures": dict(found.failures), "figures": {}}
    figures = {name: float(f"{found.figures[name]:.5g}") for name in KEPT if name in found.figures}
    return {"seconds": seconds, "figures": figures}


def _line(out: Any, row: dict[str, Any]) -> None:
    out.write(json.dumps(row, separators=(",", ":")) + "\n")
    out.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
