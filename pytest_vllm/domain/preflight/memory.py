"""Rules that read the forecast: what a launch would make of the memory of its GPUs.

What an idle GPU would not hold either is the user's to change; what only the use of others forbids
is the host's. What follows from model and arguments alone ends a run; where an estimate decides
(activation, graphs, context), it is a warning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.expectation import loaded_bytes
from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.fit import Fit, Gate
from pytest_vllm.domain.memory.kv import need_blocks
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.weights import Basis
from pytest_vllm.domain.preflight import GIB, not_applicable, without_gpu
from pytest_vllm.domain.preflight.figures import (
    cure,
    named_cache,
    rank_bytes,
    requested,
    tightest,
)
from pytest_vllm.domain.preflight.fit import RULES as ABOUT_ARGUMENTS
from pytest_vllm.domain.preflight.fit import valid_sizes
from pytest_vllm.domain.preflight.gpu_count import RULES as ABOUT_GPUS
from pytest_vllm.domain.preflight.version import server_version
from pytest_vllm.domain.preflight.visibility import RULES as ABOUT_VARIABLES
from pytest_vllm.domain.utilization import OLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.host import Gpu
    from pytest_vllm.domain.facts.model import ModelFacts
    from pytest_vllm.domain.fit import Device, Forecast


def fits(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The model, as the arguments ask for it, fits these GPUs when nobody else uses them."""
    why = _without_devices(facts)
    if why:
        yield from (not_applicable(rule.id, why) for rule in _BY_GATE.values())
        return
    forecast = facts.idle
    if forecast is None or forecast.verdict is Fit.FITS or forecast.gate is None:
        return
    unknown = forecast.layout is None and forecast.gate is Gate.LENGTH
    if unknown or (not rank_bytes(forecast) and forecast.gate is not Gate.INVALID):
        return  # that something is not known is no reason for an alarm
    if forecast.gate is Gate.INVALID:
        yield from _invalid(facts, forecast)
        return
    rule = _BY_GATE.get(forecast.gate)
    offloads = any(word.startswith(_OFFLOADING) for word in facts.target.serve_args.argv)
    if rule is None or offloads:
        return
    fatal = forecast.verdict is Fit.DOES_NOT_FIT and _is_proven(facts, forecast)
    yield Finding(
        id=rule.id,
        severity=Severity.FATAL if fatal else Severity.WARNING,
        fault=Fault.USER,
        seen=_seen(facts, forecast),
        cure=cure(facts, forecast, rule.kinds),
        ref=rule.ref,
    )


def free_memory(facts: LaunchFacts, /) -> Iterator[Finding]:
    """VLLM starts only when the share that it is told to use is free (`request_memory`)."""
    why = _without_devices(facts)
    if why:
        yield _of_host(facts) or not_applicable(_FREE, why)
        return
    now, idle = facts.forecast, facts.idle
    if now is None or idle is None or now.verdict is Fit.FITS or facts.target.backend == "attach":
        return
    gates = (Gate.STARTUP, Gate.WEIGHTS, *((Gate.BLOCKS,) if named_cache(now) else ()))
    theirs = now.gate in gates and now.gate is not idle.gate
    if not theirs and now.gate is not Gate.STARTUP:
        return
    number, device = tightest(now)
    gpu = _gpu_of(facts, device)
    index = number if gpu is None else gpu.index
    free = (
        f"GPU {index}: {device.free_bytes / GIB:.2f} of {device.total_bytes / GIB:.2f} GiB are free"
    )
    if now.gate in (Gate.WEIGHTS, Gate.BLOCKS):
        cache = named_cache(now) if now.gate is Gate.BLOCKS else 0
        wanted = f"the weights of a rank take {rank_bytes(now) / GIB:.2f}"
        wanted += f" and the cache that was named {cache / GIB:.2f}" if cache else ""
        fatal = now.verdict is Fit.DOES_NOT_FIT and rank_bytes(now) + cache > device.free_bytes
    else:
        wanted = (
            f"vLLM wants {requested(now, device) / GIB:.2f} "
            f"(--gpu-memory-utilization {now.utilization:g})"
        )
        fatal = device.free_bytes < math.ceil(device.total_bytes * _surely(facts, now))
    holders = f"; {_holders(facts, gpu)}" if theirs else ""
    helps = cure(facts, now, ("kv-cache",) if now.gate is Gate.BLOCKS else ("utilization",))
    others = "end what holds it, or other GPUs with --vllm-gpus=INDEX"
    yield Finding(
        id=_FREE,
        severity=Severity.FATAL if fatal else Severity.WARNING,
        fault=Fault.HOST if theirs else Fault.USER,
        seen=f"{free}, {wanted}{holders}",
        cure=", or ".join(filter(None, (helps, others if theirs else ""))),
        ref="G7",
    )


def _of_host(facts: LaunchFacts) -> Finding | None:
    """Tell of a host whose memory the CPU backend would refuse.

    It looks at one NUMA node, and is not the same in every version, so nothing is ended for that.
    """
    now = facts.forecast
    refused = now is not None and now.gate is Gate.STARTUP and now.verdict is Fit.DOES_NOT_FIT
    if now is None or not refused or now.serving.platform is not Platform.CPU:
        return None
    return Finding(
        id=_FREE,
        severity=Severity.WARNING,
        fault=Fault.HOST,
        seen=f"on the CPU {now.reason}",
        cure=cure(facts, now, ("utilization",)) or "end what holds the memory of this host",
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


_GPUS = ("tensor-parallel", "gpus")
_MORE = (*_GPUS, "quantization")
_BY_GATE = {
    Gate.WEIGHTS: _Rule(id="model.weights", ref="G8", kinds=_MORE),
    Gate.BLOCKS: _Rule(
        id="model.cache-blocks", ref="G9", kinds=("kv-cache", "utilization", *_MORE)
    ),
    Gate.LENGTH: _Rule(
        id="model.length-memory",
        ref="G10",
        kinds=("max-model-len", "kv-cache", "utilization", *_MORE),
    ),
}
_TOLD_BETTER = {"--max-model-len": {"H19"}, "--quantization": {"H16", "H17", "G22"}}
"""Rows whose rules tell the same of an argument."""
_INVALID, _FREE = "model.cannot-be-split", "gpu.free-memory"
_OFFLOADING = ("--cpu-offload", "--cpu_offload", "--offload")


def _without_devices(facts: LaunchFacts) -> str:
    """Say why the memory of GPUs is no question; empty when it is one."""
    forecast = facts.forecast
    if forecast is not None and forecast.serving.platform is Platform.CUDA:
        return ""
    return without_gpu(facts)


def _invalid(facts: LaunchFacts, forecast: Forecast) -> Iterator[Finding]:
    """Tell what contradicts the model, unless a rule about the arguments has told it better."""
    rules = (*ABOUT_GPUS, *ABOUT_ARGUMENTS, *ABOUT_VARIABLES)
    grave = (Severity.FATAL, Severity.WARNING)
    told = [finding for rule in rules for finding in rule(facts) if finding.severity in grave]
    better = {"G1", "G6", "H18"}
    for argument, refs in _TOLD_BETTER.items():
        better |= refs if forecast.reason.startswith(argument) else set()
    if any(finding.ref in better for finding in told):
        return
    overridden = facts.target.serve_args.has("--hf-overrides")
    yield Finding(
        id=_INVALID,
        severity=Severity.WARNING if overridden else Severity.FATAL,
        fault=Fault.USER,
        seen=forecast.reason,
        cure=cure(facts, forecast, _MORE) or f"correct {forecast.reason.partition(':')[0]}",
        ref="H18",
    )


def _is_proven(facts: LaunchFacts, forecast: Forecast) -> bool:
    """Tell whether what follows from model and arguments does not fit, without any estimate."""
    _, device = tightest(forecast)
    if forecast.basis is Basis.FILES:  # what every rank holds is an estimate then
        share = (loaded_bytes(facts) or 0) / forecast.serving.ranks
        return forecast.gate is Gate.WEIGHTS and share > device.total_bytes
    exact = rank_bytes(forecast)
    if exact + named_cache(forecast) > device.free_bytes:
        return True
    if forecast.layout is None:
        return False
    length = 1 if forecast.serving.fits_length else forecast.max_model_len
    least = forecast.layout.bytes_per_block * need_blocks(forecast.layout, length, 0)
    room = named_cache(forecast) or requested(forecast, device) - exact
    return least > room


def _seen(facts: LaunchFacts, forecast: Forecast) -> str:
    """Say what is asked for and what there is, with the numbers."""
    used = forecast.devices[: forecast.serving.ranks_here]
    least = f"{min(device.total_bytes for device in used) / GIB:.2f} GiB"
    whole = f"{sum(device.total_bytes for device in used) / GIB:.1f} GiB"
    name = used[0].name or used[0].gfx or "GPU"
    gpus = f"the 1 GPU used ({name}), which has {least}"
    if len(used) > 1:
        gpus = (
            f"each of the {len(used)} GPUs used ({name}), which have {least} each, {whole} in all"
        )
    told = f"{forecast.model} puts {_weights(facts, forecast)} on {gpus}"
    if forecast.gate is not Gate.WEIGHTS:
        return f"{told}: {forecast.reason}"
    return f"{told}; it takes at least {_least(facts, forecast)} of these GPUs"


def _weights(facts: LaunchFacts, forecast: Forecast) -> str:
    """Say what the heaviest rank loads, and what comes beside its parameters."""
    rank = max(forecast.weights, key=lambda rank: rank.total_bytes)
    beside = (rank.total_bytes - rank.parameters_bytes) / GIB
    more = f" and {beside:.1f} GiB of tables and copies" if round(beside, 1) else ""
    return f"{rank.parameters_bytes / GIB:.1f} GiB of weights{_experts(facts.model)}{more}"


def _least(facts: LaunchFacts, forecast: Forecast) -> int:
    """Return the smallest number of such GPUs that may hold the weights and splits the heads."""
    stages, split = forecast.serving.pipeline_parallel, forecast.serving.tensor_parallel
    whole = sum(rank.total_bytes for rank in forecast.weights) * split
    room = max(min(requested(forecast, device) for device in forecast.devices), 1)
    size = math.ceil(whole / room / stages)
    config = facts.model.config if facts.model is not None else None
    sizes = valid_sizes(config) if config is not None and config.heads else ()
    return next((valid for valid in sizes if valid >= size), size) * stages


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


RULES = (fits, free_memory)
IDS = (*(rule.id for rule in _BY_GATE.values()), _INVALID, _FREE)
