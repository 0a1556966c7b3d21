"""The rule about the number of GPUs, which needs no forecast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight import not_applicable, without_gpu
from pytest_vllm.domain.preflight.fit import parallel, valid_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts


def gpu_count(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Each rank needs a GPU of its own; vLLM checks that on CUDA only and fails late on ROCm."""
    why = without_gpu(facts)
    sizes = {flag: parallel(facts, flag) for flag in _GROUPS}
    wanted = _product(facts)
    if why or wanted is None:
        if why:
            yield not_applicable("model.gpus", why)
        return
    args = facts.target.serve_args
    if wanted <= len(facts.gpus) or args.has("--nnodes") or _is_ray(facts):
        return
    words = " x ".join(f"{flag} {size}" for flag, size in sizes.items() if size != 1)
    there = f"{len(facts.gpus)} of {len(facts.host.gpus)} GPUs are handed over"
    more = len(facts.host.gpus) >= wanted
    yield Finding(
        id="model.gpus",
        severity=Severity.FATAL,
        fault=Fault.USER,
        seen=f"{words} needs {wanted} GPUs; {there} (--vllm-gpus={facts.target.gpus})",
        cure="--vllm-gpus=all"
        if more and _is_valid(facts, sizes[_GROUPS[0]])
        else f"--vllm-serve-arg=--tensor-parallel-size={_largest(facts)}",
        ref="G6",
    )


_GROUPS = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")
_ONE_COPY = ("--data-parallel-rank", "--data-parallel-external-lb")
"""A server that is told its rank starts no other copy (`data_parallel_size_local = 1`)."""
_BACKENDS = ("--distributed-executor-backend", "--data-parallel-backend")


def _is_valid(facts: LaunchFacts, size: int | None) -> bool:
    """Tell whether the model takes the size at all; more GPUs do not help one that it refuses."""
    config = facts.model.config if facts.model is not None else None
    return config is None or config.heads is None or size in valid_sizes(config)


def _product(facts: LaunchFacts) -> int | None:
    sizes = [parallel(facts, flag) for flag in _GROUPS[:2]]
    if not any(facts.target.serve_args.has(flag) for flag in _ONE_COPY):
        local = facts.target.serve_args.has("--data-parallel-size-local")
        sizes.append(parallel(facts, "--data-parallel-size-local" if local else _GROUPS[2]))
    if any(size is None for size in sizes):
        return None
    return math.prod(size for size in sizes if size is not None)


def _is_ray(facts: LaunchFacts) -> bool:
    return any(facts.target.serve_args.value(flag) == "ray" for flag in _BACKENDS)


def _largest(facts: LaunchFacts) -> int:
    """Return the largest tensor-parallel size that the GPUs handed over allow."""
    config = facts.model.config if facts.model is not None else None
    pipeline = parallel(facts, _GROUPS[1]) or 1
    room = max(len(facts.gpus) // pipeline, 1)
    if config is None or config.heads is None:
        return room
    return max((size for size in valid_sizes(config) if size <= room), default=1)


RULES = (gpu_count,)
IDS = ("model.gpus",)
