"""What a reader of a forecast should know: assumptions, and what is not covered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.fit import Gate
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.overhead import graphs_counted, graphs_placed_surely
from pytest_vllm.domain.memory.quantized import is_described, online
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import ModelShape, UnknownShape
from pytest_vllm.domain.memory.weights import Basis, disagreement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.fit import Forecast
    from pytest_vllm.domain.memory.outlook import Case
    from pytest_vllm.domain.memory.serving import Serving

_NO_FP8 = ("gfx906", "gfx908", "gfx90a", "gfx10", "gfx11")
_HELD = GIB
_NEWEST, _OLDEST = (0, 32), (0, 8)
"""Sources and logs at hand; from 0.8 on the engine that is reckoned with (V1) is the default."""
_CACHE_NAMED_FROM = (0, 10, 2)


def notes(case: Case, forecast: Forecast) -> tuple[str, ...]:
    """Return one sentence for each."""
    return tuple(_notes(case, forecast))


def _notes(case: Case, forecast: Forecast) -> Iterator[str]:
    shape, serving = case.model.shape, case.serving
    if case.model.source and forecast.weights:
        yield f"read from: {case.model.source}; weights by: {forecast.basis}"
    yield from case.model.notes
    yield from _about_files(case)
    if isinstance(shape, UnknownShape):
        yield from _about_unknown(case, shape, forecast)
    elif forecast.weights and forecast.basis is Basis.FILES:
        yield "weights are estimated from the size of the files"
    if isinstance(shape, ModelShape):
        yield from _about_quantization(shape, serving, forecast)
    if serving.platform is Platform.ROCM and forecast.parts:
        yield (
            "context, activation and graphs are not measured on AMD: "
            "2.5 GiB are kept for the context of one rank, 5 GiB for each of several"
        )
    yield from _about_devices(case)
    if forecast.layout is not None and not forecast.layout.bytes_per_block:
        yield "this model keeps no cache of tokens"
    yield from _about_version(serving)
    if serving.data_parallel > 1:
        needed = serving.ranks * serving.data_parallel
        yield f"--data-parallel-size {serving.data_parallel}: {needed} devices in all"
    if serving.hosts != 1:
        yield "ranks on other hosts are taken to have devices like those here"
    yield from serving.unmodelled


def _about_unknown(case: Case, shape: UnknownShape, forecast: Forecast) -> Iterator[str]:
    if forecast.gate is Gate.INVALID:
        return  # that is told already, or nothing was reckoned
    what = "weights are taken from the size of the files"
    if not forecast.weights:
        what = "there are no files that tell the size of the weights"
    elif case.model.tensors:
        what = "weights are those that the headers of the files name"
    yield f"{shape.reason}: {what}" + (
        "" if shape.cache else ", and what the cache needs is not known"
    )


def _about_version(serving: Serving) -> Iterator[str]:
    """Tell of what is not known of the version, where it matters."""
    version = serving.version[:2]
    named = f"vLLM {'.'.join(map(str, version))}"
    if version > _NEWEST:
        yield f"{named} is newer than what is known here: it is reckoned as {_dotted(_NEWEST)}"
    elif version < _OLDEST:
        yield (
            f"{named} is older than what is known here: it is reckoned as {_dotted(_OLDEST)}, "
            "whose engine is another one"
        )
    if serving.platform is Platform.CPU:
        return
    if serving.kv_cache_bytes is not None and serving.version[:3] < _CACHE_NAMED_FROM:
        since = _dotted(_CACHE_NAMED_FROM)
        yield f"--kv-cache-memory-bytes came with {since}: {named} refuses it"
    if serving.eager:
        return
    if not graphs_counted(serving):
        yield "this version does not take graphs off before it sizes the cache: they come on top"
    if not graphs_placed_surely(serving):
        yield f"whether {named} takes graphs off before it sizes the cache is an assumption"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _about_files(case: Case) -> Iterator[str]:
    differing = disagreement(case.model, case.serving)
    if differing is not None:
        held, described = (size / GIB for size in differing)
        yield (
            f"the files hold {held:.2f} GiB and the config describes {described:.2f}, which is "
            "what vLLM allocates and what is reckoned with: files are missing, or not of this model"
        )


def _about_quantization(shape: ModelShape, serving: Serving, forecast: Forecast) -> Iterator[str]:
    if not is_described(shape.quantization):
        taken = "taken as 16 bits" if forecast.basis is Basis.FORMULA else f"from {forecast.basis}"
        yield f"no formula for weights stored as {shape.quantization.method}: {taken}"
    if shape.quantization.method or not serving.quantization:
        return
    if online(serving.quantization).online:
        yield (
            "weights that vLLM quantizes while it loads them took 3 to 5 % more than is reckoned "
            "here, on an H100"
        )
    else:
        yield (
            f"--quantization {serving.quantization}: the weights are stored in 16 bits and are "
            "reckoned so"
        )


def _about_devices(case: Case) -> Iterator[str]:
    used = case.used
    spare = len(case.devices) - case.serving.ranks_here
    if spare > 0:
        yield (
            f"only {len(case.devices) - spare} of {len(case.devices)} devices are used, as "
            "--tensor-parallel-size and its like say"
        )
    for name in sorted({device.gfx for device in used if device.gfx.startswith(_NO_FP8)}):
        if _wants_fp8(case):
            yield f"{name} has no units for fp8, although vLLM takes it: it is slow or fails there"
    held = [device.total_bytes - device.free_bytes for device in used]
    if held and max(held) > _HELD:
        yield f"others hold up to {max(held) / GIB:.2f} GiB of a device"


def _wants_fp8(case: Case) -> bool:
    shape, serving = case.model.shape, case.serving
    stored = "" if isinstance(shape, UnknownShape) else shape.quantization.method
    return "fp8" in (stored, serving.quantization) or serving.kv_cache_dtype.startswith("fp8")
