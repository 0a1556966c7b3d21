"""Defects of the server's memory: it grows, or the KV cache is not what `/metrics` tells."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.simulator.defects.defect import Break, Defect
from pytest_vllm.simulator.defects.hooks import GENERATING, in_answers
from pytest_vllm.simulator.defects.metrics import METRICS, with_samples
from pytest_vllm.simulator.wire import Answer, Handler, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAK_BYTES = 2**20
_INFO = "vllm:cache_config_info"
_PREEMPTIONS = "vllm:num_preemptions_total"


def _leaking(handler: Handler) -> Handler:
    """Keep a mebibyte of every request that generates, written to so that it is really taken."""
    kept: list[bytearray] = []

    async def broken(request: Request) -> Reply:
        if request.path in GENERATING:
            kept.append(bytearray(b"\1") * _LEAK_BYTES)
        return await handler(request)

    return broken


def _preempting(handler: Handler) -> Handler:
    asked = 0

    async def broken(request: Request) -> Reply:
        nonlocal asked
        asked += request.path in GENERATING
        reply = await handler(request)
        if request.path == METRICS and isinstance(reply, Answer):
            return with_samples(reply, lambda name: name == _PREEMPTIONS, lambda _: float(asked))
        return reply

    return broken


def _in_info(change: Callable[[float], float], *labels: str) -> Break:
    """Change figures among the labels of the cache's configuration."""
    wanted = re.compile(rf'\b({"|".join(labels)})="([\d.]+)"')

    def figure(found: re.Match[str]) -> str:
        value = change(float(found[2]))
        return f'{found[1]}="{value:.2f}"' if "." in found[2] else f'{found[1]}="{int(value)}"'

    def changed(answer: Answer) -> Answer:
        lines = answer.body.decode().split("\n")
        lines = [wanted.sub(figure, line) if line.startswith(_INFO) else line for line in lines]
        return replace(answer, body="\n".join(lines).encode())

    return in_answers(changed, paths=(METRICS,))


DEFECTS = (
    Defect(
        name="memory-leak",
        summary="Every request that generates leaves a mebibyte behind.",
        breaks=_leaking,
    ),
    Defect(
        name="preempts-under-light-load",
        summary="`/metrics` counts a preemption for every request, on an all but empty cache.",
        breaks=_preempting,
    ),
    Defect(
        name="kv-tokens-wrong",
        summary="`/metrics` tells twice the tokens that fit into the blocks of the KV cache.",
        issue="vllm#51041",
        breaks=_in_info(lambda value: 2 * value, "kv_cache_size_tokens"),
    ),
    Defect(
        name="cache-blocks-wrong",
        summary="`/metrics` tells three quarters of the blocks that the KV cache has.",
        breaks=_in_info(lambda value: value * 3 // 4, "num_gpu_blocks"),
    ),
    Defect(
        name="kv-cache-smaller-than-told",
        summary="The KV cache holds half of what `/metrics` tells in tokens and blocks.",
        breaks=_in_info(
            lambda value: 2 * value,
            "kv_cache_size_tokens",
            "num_gpu_blocks",
            "kv_cache_max_concurrency",
        ),
    ),
)
