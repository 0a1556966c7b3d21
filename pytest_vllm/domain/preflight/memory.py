"""Rules about GPUs that need no forecast: their number, their memory, what is free of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight import GIB, not_applicable, without_gpu
from pytest_vllm.domain.preflight.fit import parallel, valid_sizes
from pytest_vllm.domain.preflight.version import server_version
from pytest_vllm.domain.utilization import NEWER, OLDER, default_utilization, safe_utilization

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.host import Gpu
    from pytest_vllm.domain.facts.model import ModelFacts

_SHARED_MEMORY = ("gfx115", "gfx1103")  # APUs: what the driver calls VRAM is not what HIP gives
_HALVED = ("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "mxfp8")


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
        if more
        else f"--vllm-serve-arg=--tensor-parallel-size={_largest(facts)}",
        ref="G6",
    )


def weights(facts: LaunchFacts, /) -> Iterator[Finding]:
    """All weights must fit the memory of the GPUs that share them, all experts included."""
    model, args = facts.model, facts.target.serve_args
    why = without_gpu(facts)
    if why:
        yield not_applicable("model.weights", why)
        return
    size, ranks = _loaded_bytes(facts), _ranks(facts)
    offloads = any(word.startswith(_OFFLOADING) for word in args.argv)
    if model is None or size is None or ranks is None or offloads:
        return
    used = facts.gpus[:ranks]
    memory = [gpu.vram_total_bytes for gpu in used]
    if any(total is None for total in memory) or any(_is_shared(gpu) for gpu in used):
        return
    per_gpu = min(total for total in memory if total is not None)
    share = utilization(facts)[0]
    if size <= share * per_gpu * len(used):
        return
    least = _least_gpus(facts, size, per_gpu)
    enough = least <= len(facts.gpus)
    fatal = size > per_gpu * len(used)
    left = "nothing is left for the KV cache" if not fatal else "they do not fit"
    yield Finding(
        id="model.weights",
        severity=Severity.FATAL if fatal else Severity.WARNING,
        fault=Fault.USER,
        seen=f"{model.asked} has {size / GIB:.1f} GiB of weights{_experts(model)}; "
        f"the {_gpus(used)} used {'has' if len(used) == 1 else 'have'} "
        f"{per_gpu * len(used) / GIB:.1f} GiB: {left}; it takes at least {least} of these GPUs",
        cure=f"--vllm-serve-arg=--tensor-parallel-size={least}"
        if enough
        else f"a host with at least {least} of these GPUs, or a smaller or quantized model",
        ref="G8" if fatal else "G9",
    )


def free_memory(facts: LaunchFacts, /) -> Iterator[Finding]:
    """VLLM starts only when the share that it is told to use is free (`requested_memory`)."""
    why = without_gpu(facts)
    ranks = _ranks(facts)
    if why or ranks is None:
        if why:
            yield not_applicable("gpu.free-memory", why)
        return
    share, sure = utilization(facts)
    for gpu in facts.gpus[:ranks]:
        total, taken = gpu.vram_total_bytes, gpu.vram_used_bytes
        if total is None or taken is None or not total or _is_shared(gpu):
            continue
        free, wanted = max(total - taken, 0), math.ceil(total * share)
        if free >= wanted:
            continue
        safe = safe_utilization(free, total)
        yield Finding(
            id="gpu.free-memory",
            severity=Severity.FATAL if free < math.ceil(total * sure) else Severity.WARNING,
            fault=Fault.HOST,
            seen=f"GPU {gpu.index}: {free / GIB:.2f} of {total / GIB:.2f} GiB are free, vLLM wants "
            f"{wanted / GIB:.2f} (--gpu-memory-utilization {share:g}); {_holders(facts, gpu)}",
            cure=f"--vllm-serve-arg=--gpu-memory-utilization={safe:.2f}, or end what holds it"
            if safe > 0
            else "end what holds it, or other GPUs with --vllm-gpus=INDEX",
            ref="G7",
        )
        return


def utilization(facts: LaunchFacts) -> tuple[float, float]:
    """Return the share of a GPU's memory that vLLM will use, and the lowest that it may be.

    They differ only when nobody set it and the version, which has the default, is not known.
    """
    text = facts.target.serve_args.value(
        "--gpu-memory-utilization"
    ) or facts.target.serve_args.value("--device-memory-utilization")
    try:
        share = float(text) if text else None
    except ValueError:
        share = None
    if share is not None and 0 < share <= 1:
        return share, share
    version = server_version(facts)
    if version is None:
        return NEWER, OLDER
    default = default_utilization(version)
    return default, default


_GROUPS = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")
_OFFLOADING = ("--cpu-offload", "--cpu_offload", "--offload")


def _product(facts: LaunchFacts) -> int | None:
    sizes = [parallel(facts, flag) for flag in _GROUPS[:2]]
    local = facts.target.serve_args.has("--data-parallel-size-local")
    sizes.append(parallel(facts, "--data-parallel-size-local" if local else _GROUPS[2]))
    if any(size is None for size in sizes):
        return None
    return math.prod(size for size in sizes if size is not None)


def _ranks(facts: LaunchFacts) -> int | None:
    """Return how many GPUs share one copy of the model, `None` when not known or not here."""
    tp, pp = (parallel(facts, flag) for flag in _GROUPS[:2])
    if tp is None or pp is None or tp * pp > len(facts.gpus):
        return None
    return tp * pp


def _is_ray(facts: LaunchFacts) -> bool:
    return facts.target.serve_args.value("--distributed-executor-backend") == "ray"


def _is_shared(gpu: Gpu) -> bool:
    return gpu.gfx.startswith(_SHARED_MEMORY)


def _loaded_bytes(facts: LaunchFacts) -> int | None:
    """Return the bytes that all GPUs together will hold, low rather than high.

    Weights in 32 bits are loaded in 16; layers for multi-token prediction are not loaded.
    """
    model, args = facts.model, facts.target.serve_args
    if model is None or any(flaw.name.endswith(".safetensors") for flaw in model.flaws):
        return None
    size = sum(model.tensor_bytes.values()) or model.weights_bytes
    if size is None:
        return None
    if args.value("--dtype") not in ("float32", "float"):
        size -= model.tensor_bytes.get("F32", 0) // 2
    if not args.has("--speculative-config"):
        size -= model.spare_bytes
    online = args.value("--quantization")
    if online and model.config is not None and not model.config.quantization:
        return size // 2 if online in _HALVED else None
    return size


def _least_gpus(facts: LaunchFacts, size: int, per_gpu: int) -> int:
    """Return the smallest number of such GPUs that holds the weights and splits the heads."""
    least = max(math.ceil(size / (utilization(facts)[0] * per_gpu)), 1)
    config = facts.model.config if facts.model is not None else None
    if config is None or config.heads is None:
        return least
    return next((count for count in valid_sizes(config) if count >= least), least)


def _largest(facts: LaunchFacts) -> int:
    """Return the largest tensor-parallel size that the GPUs handed over allow."""
    config = facts.model.config if facts.model is not None else None
    pipeline = parallel(facts, _GROUPS[1]) or 1
    room = max(len(facts.gpus) // pipeline, 1)
    if config is None or config.heads is None:
        return room
    return max((size for size in valid_sizes(config) if size <= room), default=1)


def _experts(model: ModelFacts) -> str:
    config = model.config
    if config is None or config.experts is None or config.experts < 2:  # noqa: PLR2004 - a mixture
        return ""
    some = f", though a token uses {config.experts_used}" if config.experts_used else ""
    return f" (all {config.experts} experts of a layer are loaded{some})"


def _gpus(used: tuple[Gpu, ...]) -> str:
    name = used[0].name or used[0].gfx or "GPU"
    return f"{len(used)} GPU{'s' if len(used) > 1 else ''} ({name})"


def _holders(facts: LaunchFacts, gpu: Gpu) -> str:
    holders = [
        holder
        for holder in facts.host.holders
        if not gpu.render_node or not holder.devices or gpu.render_node in holder.devices
    ]
    if not holders:
        return "who holds the rest cannot be seen from here"
    words = ", ".join(
        f"{holder.name} (PID {holder.pid}"
        + (f", {holder.vram_bytes / GIB:.1f} GiB)" if holder.vram_bytes else ")")
        for holder in holders[:4]
    )
    return f"held by {words}"


RULES = (gpu_count, weights, free_memory)
IDS = ("model.gpus", "model.weights", "gpu.free-memory")
