"""What would fit, each tried before it is said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.fit import Fit, Forecast, Gate, ModelMemory, Suggestion
from pytest_vllm.domain.memory import GIB, MIB
from pytest_vllm.domain.memory.bits import KINDS, Kind, lacking
from pytest_vllm.domain.memory.notes import notes
from pytest_vllm.domain.memory.outlook import Case, largest_share, look, reckon, safe_share
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import ModelShape
from pytest_vllm.domain.memory.validity import valid_tensor_parallel
from pytest_vllm.domain.memory.weights import weigh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.fit import Device
    from pytest_vllm.domain.memory.serving import Serving

_LENGTH_STEP = 256
_MOST_DEVICES = 64
_POWERS = (1, 2, 4, 8, 16)
"""Sizes to try when the heads of the model are not known."""
_SHRINKS_FROM = (0, 30)
"""Sources of 0.30 and 0.32 quantize one layer at a time (`quantization/online`)."""
_ANSWERS = {
    Fit.FITS: "would fit",
    Fit.MARGINAL: "may fit",
    Fit.DOES_NOT_FIT: "would not fit either",
}

_FITTING = {Fit.FITS: "fits", Fit.MARGINAL: "may fit"}


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
    yield from _utilization(case, forecast)
    if not forecast.weights and forecast.gate is not Gate.INVALID:
        return  # nothing is known of what else would fit
    if forecast.gate is not Gate.STARTUP:
        yield from _others(case, forecast)
        return
    # Nothing else helps at the share that was asked for, so the rest is tried at the safe one.
    share = safe_share(case)
    if share <= 0:
        return
    lowered = case.but(utilization=share)
    again = reckon(lowered)
    if again.verdict is Fit.FITS:
        return
    for one in _others(lowered, again):
        argument = f"--gpu-memory-utilization={share:g} {one.argument}" if one.argument else ""
        yield replace(one, text=f"with a share of {share:g}, {one.text}", argument=argument)


def _others(case: Case, forecast: Forecast) -> Iterator[Suggestion]:
    sizes = valid_tensor_parallel(case.model.shape) or _POWERS
    trial, fit = _first(_splits(case, sizes))
    if trial is not None:
        yield _tensor_parallel(trial, fit)
    yield from _length(case)
    if forecast.verdict is Fit.FITS:
        return
    smaller = _cache(case)
    if smaller is not None:
        yield smaller
    if forecast.gate is not Gate.INVALID:  # there fewer bits change nothing
        yield from _quantizations(case)
    enough = fit is Fit.FITS or smaller is not None or forecast.utilization_safe is not None
    if case.serving.platform is not Platform.CPU and not enough:
        yield from _devices(case, sizes, than=fit)


def _verdict(case: Case) -> Fit:
    return look(case)[0].verdict


def _utilization(case: Case, forecast: Forecast) -> Iterator[Suggestion]:
    """Suggest the largest safe share: below what is free, less what the context will take."""
    named = case.serving.kv_cache_bytes is not None or case.serving.blocks is not None
    if named and (case.serving.platform is Platform.CPU or forecast.gate is not Gate.STARTUP):
        return  # then the share has a say at the start-up check only
    safe = forecast.utilization_safe or safe_share(case)
    verdict = _verdict(case.but(utilization=safe)) if safe > 0 else Fit.DOES_NOT_FIT
    if verdict is Fit.DOES_NOT_FIT:
        return
    most = largest_share(case.used)
    word = "is safe" if verdict is Fit.FITS else "is the most to try"
    yield Suggestion(
        kind="utilization",
        text=f"a share of {safe:g} {word}"
        + (f"; above {most:g} no start-up check can pass" if most < 1 else ""),
        argument=f"--gpu-memory-utilization={safe}",
    )


def _cache(case: Case) -> Suggestion | None:
    """Suggest the largest named cache that leaves enough for everything else."""
    if case.serving.kv_cache_bytes is None or case.serving.platform is Platform.CPU:
        return None
    room = min((rank.largest_cache for rank in look(case)[1]), default=0)
    unit, letter = (GIB, "G") if room >= GIB else (MIB, "M")
    count = room // unit
    if count < 1 or _verdict(case.but(kv_cache_bytes=count * unit)) is not Fit.FITS:
        return None
    return Suggestion(
        kind="kv-cache",
        text=f"a cache of {_gib(count * unit)} is the largest that is safe",
        argument=f"--kv-cache-memory-bytes={count}{letter}",
    )


def _splits(case: Case, sizes: tuple[int, ...]) -> list[Case]:
    """Return the case with each size for which the devices at hand are enough."""
    trials = [case.but(tensor_parallel=size) for size in sizes]
    here = len(case.devices)
    return [one for one in trials if one.serving.ranks_here <= here or not one.serving.hosts]


def _tensor_parallel(trial: Case, verdict: Fit) -> Suggestion:
    """Suggest the smallest valid size that fits on the devices at hand."""
    size = trial.serving.tensor_parallel
    return Suggestion(
        kind="tensor-parallel",
        text=f"{size} is the smallest tensor parallel size that {_FITTING[verdict]}: "
        f"{_gib(_rank_bytes(trial))} of weights on each rank",
        argument=f"--tensor-parallel-size={size}",
    )


def _first(trials: list[Case]) -> tuple[Case | None, Fit]:
    """Return the first that fits, else the first that may."""
    verdicts = []
    for trial in trials:
        verdicts.append(_verdict(trial))
        if verdicts[-1] is Fit.FITS:
            return trial, Fit.FITS
    if Fit.MARGINAL in verdicts:
        return trials[verdicts.index(Fit.MARGINAL)], Fit.MARGINAL
    return None, Fit.DOES_NOT_FIT


def _length(case: Case) -> Iterator[Suggestion]:
    """Suggest the longest request that fits, or may fit when none surely does."""
    if case.serving.fits_length or case.cache is None:
        return
    limit = case.cache.context or case.length
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
    if not isinstance(shape, ModelShape) or case.serving.quantization:
        return
    for kind in KINDS:
        if kind.quantization.bits >= shape.quantization.bits:
            continue
        without = lacking(kind, case.devices)
        on_the_way = bool(kind.argument) and _loads_in_fewer_bits(case, shape)
        trial = case.but(quantization="fp8") if on_the_way else _stored(case, shape, kind)
        if _whole(trial) >= _whole(case):  # MXFP4 is for experts only
            continue
        best, verdict = _best_split(trial)
        split = best.serving.tensor_parallel
        option = "" if split == case.serving.tensor_parallel else f"--tensor-parallel-size={split}"
        helps = on_the_way and not without and verdict is not Fit.DOES_NOT_FIT
        yield Suggestion(
            kind="quantization",
            text=f"{kind.name}: {_gib(_whole(trial))} of weights in all, {_ANSWERS[verdict]}"
            + (f" with {option}" if option else "")
            + (f"; {', '.join(without)} has no units for it" if without else ""),
            argument=f"{kind.argument} {option}".strip() if helps else "",
        )


def _best_split(case: Case) -> tuple[Case, Fit]:
    """Return the case as it is split if it fits so, else with the smallest size that does best."""
    asked = _verdict(case)
    if asked is Fit.FITS:
        return case, asked
    sizes = valid_tensor_parallel(case.model.shape) or _POWERS
    trial, verdict = _first(_splits(case, sizes))
    if trial is None or verdict is asked:
        return case, asked
    return trial, verdict


def _loads_in_fewer_bits(case: Case, shape: ModelShape) -> bool:
    """Tell whether 16-bit weights shrink one layer at a time, so that the whole need not fit."""
    return not shape.quantization.method and case.serving.version[:2] >= _SHRINKS_FROM


def _stored(case: Case, shape: ModelShape, kind: Kind) -> Case:
    """Return the case with another checkpoint of the same model."""
    stored = replace(shape, quantization=kind.quantization)
    model = ModelMemory(name=case.model.name, shape=stored, source=case.model.source)
    return Case(model=model, devices=case.devices, serving=case.serving)


def _whole(case: Case) -> int:
    """Return the weights as one rank would load them."""
    alone = replace(case.serving, tensor_parallel=1, pipeline_parallel=1, expert_parallel=False)
    return sum(rank.parameters_bytes for rank in weigh(case.model, alone))


def _devices(case: Case, sizes: tuple[int, ...], *, than: Fit) -> Iterator[Suggestion]:
    """Suggest the smallest number of devices of this kind that does better than those at hand."""
    tightest = min(case.devices, key=lambda device: device.free_bytes)
    asked = [case.but(tensor_parallel=size) for size in sizes]
    trials = [
        replace(one, devices=(tightest,) * one.serving.ranks_here)
        for one in asked
        if len(case.devices) < one.serving.ranks_here <= _MOST_DEVICES
    ]
    trial, verdict = _first(trials)
    if trial is not None and verdict is not than:
        yield Suggestion(
            kind="gpus",
            text=f"{len(trial.devices)} devices like {tightest.name or 'this one'} "
            f"{_ANSWERS[verdict].replace('fit', 'do')}: "
            f"{_gib(_rank_bytes(trial))} of weights on each rank",
            argument=f"--tensor-parallel-size={trial.serving.tensor_parallel}",
        )


def _rank_bytes(case: Case) -> int:
    return max((rank.weights.total_bytes for rank in look(case)[1]), default=0)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
