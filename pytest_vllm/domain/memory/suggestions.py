"""What would fit, each tried before it is said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.fit import Fit, Forecast, ModelMemory, Suggestion
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.notes import notes
from pytest_vllm.domain.memory.outlook import Case, largest_share, look, reckon
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import ModelShape, Quantization
from pytest_vllm.domain.memory.validity import valid_tensor_parallel
from pytest_vllm.domain.memory.weights import weigh
from pytest_vllm.domain.utilization import safe_utilization

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.fit import Device
    from pytest_vllm.domain.memory.serving import Serving

_LENGTH_STEP = 256
_MOST_DEVICES = 64
_FP8_GPUS = ("gfx942", "gfx950", "gfx12")
_MX_GPUS = ("gfx950", "gfx12")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A way to store weights in fewer bits.

    Attributes:
        name: For a person.
        quantization: How weights are stored.
        gpus: Instruction sets with units for it, as prefixes; empty for any.
        argument: The argument that makes it of 16-bit weights, empty when it takes a checkpoint.
    """

    name: str
    quantization: Quantization
    gpus: tuple[str, ...] = ()
    argument: str = ""


_KINDS = (
    _Kind(
        name="fp8",
        quantization=Quantization(method="fp8", bits=8, block=(128, 128)),
        gpus=_FP8_GPUS,
    ),
    _Kind(
        name="int4 (GPTQ or AWQ, groups of 128)",
        quantization=Quantization(method="gptq", bits=4, group=128, zeros=True),
    ),
    _Kind(
        name="MXFP4",
        quantization=Quantization(method="mxfp4", bits=4, group=32),
        gpus=_MX_GPUS,
    ),
)


def foresee(model: ModelMemory, devices: tuple[Device, ...], serving: Serving) -> Forecast:
    """Return the forecast with suggestions and notes."""
    case = Case(model=model, devices=devices, serving=serving)
    forecast = reckon(case)
    return replace(
        forecast,
        suggestions=tuple(_suggestions(case, forecast)),
        notes=notes(case, forecast),
    )


def _suggestions(case: Case, forecast: Forecast) -> Iterator[Suggestion]:
    if not case.devices or any(device.total_bytes <= 0 for device in case.devices):
        return
    yield from _utilization(case)
    yield from _tensor_parallel(case)
    yield from _length(case)
    if forecast.verdict is not Fit.FITS:
        yield from _quantizations(case)
        yield from _devices(case)


def _verdict(case: Case) -> Fit:
    return look(case)[0].verdict


def _utilization(case: Case) -> Iterator[Suggestion]:
    """Suggest the largest safe share: below what is free, less what the context will take."""
    if case.serving.platform is Platform.CPU and case.serving.kv_cache_bytes is not None:
        return
    used = case.devices[: case.serving.ranks]
    before = max((rank.overhead.before for rank in look(case)[1]), default=0)
    safe = min(
        safe_utilization(max(device.free_bytes - before, 0), device.total_bytes) for device in used
    )
    if safe <= 0 or _verdict(case.but(utilization=safe)) is Fit.DOES_NOT_FIT:
        return
    most = largest_share(used)
    yield Suggestion(
        kind="utilization",
        text=f"a share of {safe:g} is safe; {most:g} is the most that passes the start-up check",
        argument=f"--gpu-memory-utilization={safe:g}",
    )


def _tensor_parallel(case: Case) -> Iterator[Suggestion]:
    """Suggest the smallest valid size that fits on the devices at hand."""
    most = len(case.devices) // case.serving.pipeline_parallel
    for size in _sizes(case):
        if size > most:
            return
        trial = case.but(tensor_parallel=size)
        if _verdict(trial) is not Fit.DOES_NOT_FIT:
            yield Suggestion(
                kind="tensor-parallel",
                text=f"{size} is the smallest tensor parallel size that fits: "
                f"{_gib(_rank_bytes(trial))} of weights on each rank",
                argument=f"--tensor-parallel-size={size}",
            )
            return


def _length(case: Case) -> Iterator[Suggestion]:
    """Suggest the longest request that fits, or may fit when none surely does."""
    if case.serving.fits_length or not isinstance(case.model.shape, ModelShape):
        return
    limit = case.model.shape.context or case.length
    for accepted in ((Fit.FITS,), (Fit.FITS, Fit.MARGINAL)):
        best = _longest(case, limit, accepted)
        if best:
            yield Suggestion(
                kind="max-model-len",
                text=f"requests of up to {best:,} tokens fit"
                + ("" if accepted == (Fit.FITS,) else ", if the estimates hold"),
                argument=f"--max-model-len={best}",
            )
            return


def _longest(case: Case, limit: int, accepted: tuple[Fit, ...]) -> int:
    def fits(length: int) -> bool:
        return _verdict(case.but(max_model_len=length)) in accepted

    if limit < 1 or not fits(1):
        return 0
    if fits(limit):
        return limit
    low, high = 1, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low // _LENGTH_STEP * _LENGTH_STEP or low


def _quantizations(case: Case) -> Iterator[Suggestion]:
    """State what the model would take with fewer bits, and whether it would fit."""
    shape = case.model.shape
    if not isinstance(shape, ModelShape):
        return
    for kind in _KINDS:
        if kind.quantization.bits >= shape.quantization.bits:
            continue
        stored = replace(shape, quantization=kind.quantization)
        model = ModelMemory(name=case.model.name, shape=stored, source=case.model.source)
        trial = Case(
            model=model, devices=case.devices, serving=replace(case.serving, quantization="")
        )
        whole = weigh(model, replace(trial.serving, tensor_parallel=1, pipeline_parallel=1))
        size = _gib(sum(rank.total_bytes for rank in whole))
        verdict = _verdict(trial)
        answer = {
            Fit.FITS: "would fit",
            Fit.MARGINAL: "may fit",
            Fit.DOES_NOT_FIT: "would not fit either",
        }[verdict]
        yield Suggestion(
            kind="quantization",
            text=f"{kind.name}: {size} of weights in all, {answer}{_units(kind, case.devices)}",
        )


def _units(kind: _Kind, devices: tuple[Device, ...]) -> str:
    names = sorted({device.gfx for device in devices if device.gfx})
    lacking = [name for name in names if kind.gpus and not name.startswith(kind.gpus)]
    return f"; {', '.join(lacking)} has no units for it" if lacking else ""


def _devices(case: Case) -> Iterator[Suggestion]:
    """Suggest the smallest number of devices of this kind that is enough."""
    tightest = min(case.devices, key=lambda device: device.free_bytes)
    for size in _sizes(case):
        count = size * case.serving.pipeline_parallel
        if count <= len(case.devices):
            continue
        if count > _MOST_DEVICES:
            return
        trial = replace(case.but(tensor_parallel=size), devices=(tightest,) * count)
        if _verdict(trial) is not Fit.DOES_NOT_FIT:
            yield Suggestion(
                kind="gpus",
                text=f"{count} devices like {tightest.name or 'this one'} would do: "
                f"{_gib(_rank_bytes(trial))} of weights on each rank",
                argument=f"--tensor-parallel-size={size}",
            )
            return


def _sizes(case: Case) -> tuple[int, ...]:
    return valid_tensor_parallel(case.model.shape) or (1, 2, 4, 8, 16)


def _rank_bytes(case: Case) -> int:
    return max((rank.weights.total_bytes for rank in look(case)[1]), default=0)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
