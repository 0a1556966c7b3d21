"""Rules about GPUs: their number, and what the forecast says of their memory.

What an idle GPU would not hold either is the user's to change; what only the use of others forbids
is the host's. What follows from model and arguments alone ends a run; where an estimate decides
(activation, graphs, context), it is a warning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.fit import Fit, Gate
from pytest_vllm.domain.memory.kv import need_blocks
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.weights import Basis
from pytest_vllm.domain.preflight import GIB, not_applicable, without_gpu
from pytest_vllm.domain.preflight.fit import RULES as ABOUT_ARGUMENTS
from pytest_vllm.domain.preflight.fit import parallel, valid_sizes
from pytest_vllm.domain.preflight.version import server_version
from pytest_vllm.domain.utilization import OLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.host import Gpu
    from pytest_vllm.domain.facts.model import ModelFacts
    from pytest_vllm.domain.fit import Device, Forecast


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


def fits(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The model, as the arguments ask for it, fits these GPUs when nobody else uses them."""
    why = _without_devices(facts)
    if why:
        yield from (not_applicable(rule.id, why) for rule in _BY_GATE.values())
        return
    forecast = facts.idle
    if forecast is None or forecast.verdict is Fit.FITS or forecast.gate is None:
        return
    if forecast.gate is Gate.INVALID:
        yield from _invalid(facts, forecast)
        return
    rule = _BY_GATE.get(forecast.gate)
    offloads = any(word.startswith(_OFFLOADING) for word in facts.target.serve_args.argv)
    if rule is None or offloads:
        return
    fatal = forecast.verdict is Fit.DOES_NOT_FIT and _is_proven(forecast)
    yield Finding(
        id=rule.id,
        severity=Severity.FATAL if fatal else Severity.WARNING,
        fault=Fault.USER,
        seen=_seen(facts, forecast),
        cure=_cure(forecast, rule.kinds),
        ref=rule.ref,
    )


def free_memory(facts: LaunchFacts, /) -> Iterator[Finding]:
    """VLLM starts only when the share that it is told to use is free (`request_memory`)."""
    why = _without_devices(facts)
    if why:
        yield not_applicable(_FREE, why)
        return
    now, idle = facts.forecast, facts.idle
    if now is None or idle is None or now.verdict is Fit.FITS or facts.target.backend == "attach":
        return
    theirs = now.gate in (Gate.STARTUP, Gate.WEIGHTS) and now.gate is not idle.gate
    if not theirs and now.gate is not Gate.STARTUP:
        return
    number, device = _tightest(now)
    gpu = _gpu_of(facts, device)
    index = number if gpu is None else gpu.index
    free = (
        f"GPU {index}: {device.free_bytes / GIB:.2f} of {device.total_bytes / GIB:.2f} GiB are free"
    )
    if now.gate is Gate.WEIGHTS:
        wanted = f"the weights of a rank take {_rank_bytes(now) / GIB:.2f}"
        fatal = now.verdict is Fit.DOES_NOT_FIT and _rank_bytes(now) > device.free_bytes
    else:
        wanted = (
            f"vLLM wants {_requested(now, device) / GIB:.2f} "
            f"(--gpu-memory-utilization {now.utilization:g})"
        )
        fatal = device.free_bytes < math.ceil(device.total_bytes * _surely(facts, now))
    holders = f"; {_holders(facts, gpu)}" if theirs else ""
    cure = _cure(now, ("utilization",))
    others = "end what holds it, or other GPUs with --vllm-gpus=INDEX"
    yield Finding(
        id=_FREE,
        severity=Severity.FATAL if fatal else Severity.WARNING,
        fault=Fault.HOST if theirs else Fault.USER,
        seen=f"{free}, {wanted}{holders}",
        cure=", or ".join(filter(None, (cure, others if theirs else ""))),
        ref="G7",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What is told where a launch would end.

    Attributes:
        id: ID of the finding.
        ref: Row of the failure table.
        kinds: Suggestions that help, best first.
    """

    id: str
    ref: str
    kinds: tuple[str, ...]


_MORE = ("tensor-parallel", "gpus", "quantization")
_BY_GATE = {
    Gate.WEIGHTS: _Rule(id="model.weights", ref="G8", kinds=_MORE),
    Gate.BLOCKS: _Rule(id="model.cache-blocks", ref="G9", kinds=("utilization", *_MORE)),
    Gate.LENGTH: _Rule(
        id="model.length-memory", ref="G10", kinds=("max-model-len", "utilization", *_MORE)
    ),
}
_INVALID, _FREE = "model.cannot-be-split", "gpu.free-memory"
_OFFLOADING = ("--cpu-offload", "--cpu_offload", "--offload")
_CURES = 3
_GROUPS = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")


def _product(facts: LaunchFacts) -> int | None:
    sizes = [parallel(facts, flag) for flag in _GROUPS[:2]]
    local = facts.target.serve_args.has("--data-parallel-size-local")
    sizes.append(parallel(facts, "--data-parallel-size-local" if local else _GROUPS[2]))
    if any(size is None for size in sizes):
        return None
    return math.prod(size for size in sizes if size is not None)


def _is_ray(facts: LaunchFacts) -> bool:
    return facts.target.serve_args.value("--distributed-executor-backend") == "ray"


def _without_devices(facts: LaunchFacts) -> str:
    """Say why the memory of GPUs is no question; empty when it is one."""
    forecast = facts.forecast
    if forecast is not None and forecast.serving.platform is Platform.CUDA:
        return ""
    return without_gpu(facts)


def _invalid(facts: LaunchFacts, forecast: Forecast) -> Iterator[Finding]:
    """Tell what contradicts the model, unless a rule about the arguments has told it better."""
    rules = (gpu_count, *ABOUT_ARGUMENTS)
    grave = (Severity.FATAL, Severity.WARNING)
    told = (finding for rule in rules for finding in rule(facts) if finding.severity in grave)
    if any(finding.ref in ("G6", "H18") for finding in told):
        return
    overridden = facts.target.serve_args.has("--hf-overrides")
    yield Finding(
        id=_INVALID,
        severity=Severity.WARNING if overridden else Severity.FATAL,
        fault=Fault.USER,
        seen=forecast.reason,
        cure=_cure(forecast, _MORE),
        ref="H18",
    )


def _is_proven(forecast: Forecast) -> bool:
    """Tell whether what follows from model and arguments does not fit, without any estimate."""
    if forecast.basis is Basis.FILES and forecast.gate is not Gate.WEIGHTS:
        return False
    exact = _rank_bytes(forecast)
    _, device = _tightest(forecast)
    if forecast.gate is Gate.WEIGHTS:
        return exact > device.total_bytes
    if forecast.layout is None:
        return False
    least = forecast.layout.bytes_per_block
    if forecast.gate is Gate.LENGTH:
        least *= need_blocks(forecast.layout, forecast.max_model_len, 0)
    room = forecast.serving.kv_cache_bytes or _requested(forecast, device) - exact
    return least > room


def _seen(facts: LaunchFacts, forecast: Forecast) -> str:
    """Say what is asked for and what there is, with the numbers."""
    used = forecast.devices[: forecast.serving.ranks]
    each = f"{min(device.total_bytes for device in used) / GIB:.2f} GiB"
    whole = sum(device.total_bytes for device in used) / GIB
    have = f"have {whole:.1f} GiB, {each} each" if len(used) > 1 else f"has {each}"
    name = used[0].name or used[0].gfx or "GPU"
    gpus = f"the {len(used)} GPU{'s' if len(used) > 1 else ''} ({name}) used {have}"
    model = facts.model
    weights = _rank_bytes(forecast) / GIB
    on = "each" if len(used) > 1 else "it"
    told = f"{forecast.model} puts {weights:.1f} GiB of weights on {on}{_experts(model)}"
    return f"{gpus}; {told}: {forecast.reason}"


def _cure(forecast: Forecast, kinds: tuple[str, ...]) -> str:
    """Return what would fit, as options to paste where there are such."""
    fitting = sorted(
        (item for item in forecast.suggestions if item.kind in kinds),
        key=lambda item: kinds.index(item.kind),
    )
    words = [
        f"--vllm-serve-arg={item.argument}" if item.argument else item.text for item in fitting
    ]
    return ", or ".join(dict.fromkeys(words[:_CURES]))


def _tightest(forecast: Forecast) -> tuple[int, Device]:
    """Return the device that decides: the one with the least free beyond what vLLM wants of it."""
    used = list(enumerate(forecast.devices[: max(forecast.serving.ranks, 1)]))
    return min(used, key=lambda one: one[1].free_bytes - _requested(forecast, one[1]))


def _requested(forecast: Forecast, device: Device) -> int:
    """Return what vLLM wants of a device."""
    return math.ceil(device.total_bytes * forecast.utilization)


def _rank_bytes(forecast: Forecast) -> int:
    """Return the weights of the largest rank, with what is loaded beside them."""
    return max((rank.total_bytes for rank in forecast.weights), default=0)


def _surely(facts: LaunchFacts, forecast: Forecast) -> float:
    """Return the lowest share that vLLM may take: the default depends on a version."""
    unknown = forecast.serving.utilization is None and server_version(facts) is None
    return min(OLDER, forecast.utilization) if unknown else forecast.utilization


def _gpu_of(facts: LaunchFacts, device: Device) -> Gpu | None:
    """Return the GPU of the host that a device is."""
    for gpu in (*facts.host.gpus, *facts.cuda_gpus):
        if (gpu.bdf, gpu.render_node) == (device.bdf, device.render_node):
            return gpu
    return None


def _largest(facts: LaunchFacts) -> int:
    """Return the largest tensor-parallel size that the GPUs handed over allow."""
    config = facts.model.config if facts.model is not None else None
    pipeline = parallel(facts, _GROUPS[1]) or 1
    room = max(len(facts.gpus) // pipeline, 1)
    if config is None or config.heads is None:
        return room
    return max((size for size in valid_sizes(config) if size <= room), default=1)


def _experts(model: ModelFacts | None) -> str:
    config = None if model is None else model.config
    if config is None or config.experts is None or config.experts < 2:  # noqa: PLR2004 - a mixture
        return ""
    some = f", though a token uses {config.experts_used}" if config.experts_used else ""
    return f" (all {config.experts} experts of a layer are loaded{some})"


def _holders(facts: LaunchFacts, gpu: Gpu | None) -> str:
    holders = [
        holder
        for holder in facts.host.holders
        if gpu is None
        or not gpu.render_node
        or not holder.devices
        or gpu.render_node in holder.devices
    ]
    if not holders:
        return "who holds the rest cannot be seen from here"
    words = ", ".join(
        f"{holder.name} (PID {holder.pid}"
        + (f", {holder.vram_bytes / GIB:.1f} GiB)" if holder.vram_bytes else ")")
        for holder in holders[:4]
    )
    return f"held by {words}"


RULES = (gpu_count, fits, free_memory)
IDS = ("model.gpus", *(rule.id for rule in _BY_GATE.values()), _INVALID, _FREE)
