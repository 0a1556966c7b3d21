"""Figures and cures out of a forecast, as the rules about memory tell them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_vllm.domain.fit import Fit

if TYPE_CHECKING:
    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.fit import Device, Forecast, Suggestion

_CURES = 3


def cure(facts: LaunchFacts, forecast: Forecast, kinds: tuple[str, ...]) -> str:
    """Return what would fit, as options to paste where there are such, best first."""
    size, stages = forecast.serving.tensor_parallel, forecast.serving.pipeline_parallel
    words = []
    for item in sorted(forecast.suggestions, key=lambda item: _place(item.kind, kinds)):
        if item.kind not in kinds or (item.kind == "tensor-parallel" and _size_in(item) == size):
            continue
        if item.kind == "gpus" and forecast.verdict is Fit.MARGINAL:
            continue  # it may fit on these
        option = " ".join(f"--vllm-serve-arg={one}" for one in item.argument.split())
        if item.kind == "gpus":
            count = _size_in(item) * stages
            there = len(facts.host.gpus or facts.cuda_gpus) >= count
            where = "--vllm-gpus=all" if there else f"a host with {count} of these GPUs"
            words.append(f"{option} with {where}" if there else f"{where} and {option}")
        elif item.argument:
            words.append(option)
        elif " fit either" not in item.text:
            words.append(f"the model in {item.text}")
    return ", or ".join(words[:_CURES])


def _place(kind: str, kinds: tuple[str, ...]) -> int:
    return kinds.index(kind) if kind in kinds else len(kinds)


def _size_in(item: Suggestion) -> int:
    """Return the tensor-parallel size that a suggestion names."""
    return int(item.argument.partition("=")[2])


def tightest(forecast: Forecast) -> tuple[int, Device]:
    """Return the device that decides: the one with the least free beyond what vLLM wants of it."""
    used = list(enumerate(forecast.devices[: max(forecast.serving.ranks_here, 1)]))
    return min(used, key=lambda one: one[1].free_bytes - requested(forecast, one[1]))


def requested(forecast: Forecast, device: Device) -> int:
    """Return what vLLM wants of a device."""
    return math.ceil(device.total_bytes * forecast.utilization)


def rank_bytes(forecast: Forecast) -> int:
    """Return the weights of the largest rank, with what is loaded beside them."""
    return max((rank.total_bytes for rank in forecast.weights), default=0)


def named_cache(forecast: Forecast) -> int:
    """Return the size of the cache where the arguments name it, so that no estimate decides it."""
    serving, layout = forecast.serving, forecast.layout
    if serving.blocks is not None and layout is not None:
        return serving.blocks * layout.bytes_per_block
    return serving.kv_cache_bytes or 0
