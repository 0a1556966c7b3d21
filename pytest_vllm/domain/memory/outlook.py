"""A launch over all its ranks: which one is tightest, and what its log will say of the cache."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.fit import Device, Fit, Forecast, Gate, Part
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.admission import refusals
from pytest_vllm.domain.memory.gates import Finding
from pytest_vllm.domain.memory.kv import concurrency, lay_out, longest, tokens
from pytest_vllm.domain.memory.overhead import Batch, batch, estimate, in_flight
from pytest_vllm.domain.memory.rank import Rank
from pytest_vllm.domain.memory.shape import ModelShape
from pytest_vllm.domain.memory.validity import objections
from pytest_vllm.domain.memory.weights import Basis, RankWeights, weigh
from pytest_vllm.domain.utilization import default_utilization

if TYPE_CHECKING:
    from pytest_vllm.domain.fit import ModelMemory
    from pytest_vllm.domain.memory.kv import KvLayout
    from pytest_vllm.domain.memory.serving import Serving

_UNWEIGHED = RankWeights(parameters_bytes=0, basis=Basis.FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model, devices and a way to start it; what is costly is reckoned once for similar cases.

    Attributes:
        model: The model.
        devices: Devices in the order of the ranks; more than are needed are left alone.
        serving: How the server is started.
        weighed: Weights by what changes them between similar cases.
        laid_out: Layouts by what changes them between similar cases.
    """

    model: ModelMemory
    devices: tuple[Device, ...]
    serving: Serving
    weighed: dict[tuple[object, ...], tuple[RankWeights, ...]] = field(default_factory=dict)
    laid_out: dict[tuple[int, ...], KvLayout] = field(default_factory=dict)

    def but(self, **changes: object) -> Case:
        """Return the case with some arguments changed."""
        return replace(self, serving=replace(self.serving, **changes))  # type: ignore[arg-type]

    @property
    def utilization(self) -> float:
        """Share of a device that the server asks for."""
        return self.serving.utilization or default_utilization(self.serving.version)

    @property
    def used(self) -> tuple[Device, ...]:
        """Devices here that get a rank: those of all copies of the model, as far as they are."""
        return self.devices[: self.serving.ranks_here]

    @property
    def length(self) -> int:
        """Longest request in tokens, 0 when nothing says how long."""
        context = self.cache.context if self.cache is not None else None
        return self.serving.max_model_len or context or 0

    @property
    def cache(self) -> ModelShape | None:
        """The layers as far as the cache goes, `None` when nothing describes them."""
        shape = self.model.shape
        return shape if isinstance(shape, ModelShape) else shape.cache

    @property
    def load(self) -> Batch:
        """What is scheduled at most; the defaults go by the first device."""
        total = self.devices[0].total_bytes if self.devices else 0
        return batch(self.serving, total, self.length or None)

    def objection(self) -> str:
        """Return why the arguments cannot be, empty when they can."""
        if not self.devices:
            return "there is no device"
        if any(device.total_bytes <= 0 for device in self.devices):
            return "the memory of a device is not known"
        if self.serving.hosts and self.serving.ranks_here > len(self.devices):
            return _too_few(self.serving, len(self.devices))
        lines = objections(self.model.shape, self.serving)
        if not lines and self.cache is not None:
            lines = refusals(self.cache, self.serving)
        return next(iter(lines), "")

    def ranks(self) -> tuple[Rank, ...]:
        """Return every rank, but those only once that hold the same on the same kind of device."""
        weights, serving, load = self._weights(), self.serving, self.load
        found: dict[tuple[Device, int], Rank] = {}
        for number in range(max(serving.ranks, len(self.used))):
            device = self.devices[number % len(self.devices)]
            stage = number % serving.ranks // serving.tensor_parallel
            if (device, stage) in found:
                continue
            found[device, stage] = Rank(
                device=device,
                weights=weights[stage] if weights else replace(_UNWEIGHED, stage=stage),
                layout=self._layout(stage),
                overhead=estimate(self.model.shape, serving, load, stage=stage),
                serving=serving,
                utilization=self.utilization,
                length=self.length,
                in_flight=in_flight(serving, load.tokens),
            )
        return tuple(found.values())

    def weighs_nothing(self) -> bool:
        """Tell whether nothing says how large the weights are."""
        return not any(rank.total_bytes for rank in self._weights())

    def _weights(self) -> tuple[RankWeights, ...]:
        serving = self.serving
        key = (
            serving.tensor_parallel,
            serving.pipeline_parallel,
            serving.data_parallel,
            serving.expert_parallel,
            serving.dtype,
            serving.quantization,
        )
        if key not in self.weighed:
            self.weighed[key] = weigh(self.model, serving)
        return self.weighed[key]

    def _layout(self, stage: int) -> KvLayout | None:
        if self.cache is None:
            return None
        key = (self.serving.tensor_parallel, self.serving.pipeline_parallel, stage)
        if key not in self.laid_out:
            self.laid_out[key] = lay_out(self.cache, self.serving, stage)
        return self.laid_out[key]


def _too_few(serving: Serving, here: int) -> str:
    """Say which arguments ask for more devices than there are, those of this host only."""
    sizes = {
        "--tensor-parallel-size": serving.tensor_parallel,
        "--pipeline-parallel-size": serving.pipeline_parallel,
        "--data-parallel-size": serving.data_parallel,
    }
    if serving.hosts == 1 and serving.local_copies is not None:
        sizes["--data-parallel-size"] = 1
        sizes["--data-parallel-size-local"] = serving.local_copies
    asked = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
    if serving.hosts > 1:
        asked += f" on {serving.hosts} hosts"
    each = " here" if serving.hosts > 1 else ""
    return f"{asked} needs {serving.ranks_here} devices{each}, and there are {here}"


def look(case: Case) -> tuple[Finding, tuple[Rank, ...], Rank | None]:
    """Return what decides, all ranks, and the one that decides; no rank when none can be."""
    objection = case.objection()
    if objection:
        invalid = Finding(verdict=Fit.DOES_NOT_FIT, gate=Gate.INVALID, reason=objection)
        return invalid, (), None
    ranks = case.ranks()
    judged = [(rank.judge(), rank) for rank in ranks]
    finding, tightest = min(judged, key=lambda pair: pair[0].rank)
    if not case.weighs_nothing() or finding.verdict is Fit.DOES_NOT_FIT:
        return finding, ranks, tightest
    unknown = Finding(
        verdict=Fit.MARGINAL,
        gate=Gate.WEIGHTS,
        margin=finding.margin,
        reason="the size of the weights is not known",
    )
    return unknown, ranks, tightest


def reckon(case: Case) -> Forecast:
    """Return the forecast of a case, without suggestions."""
    finding, ranks, tightest = look(case)
    forecast = Forecast(
        verdict=finding.verdict,
        gate=finding.gate if finding.verdict is not Fit.FITS else None,
        reason=finding.reason,
        model=case.model.name,
        devices=case.devices,
        serving=case.serving,
        utilization=case.utilization,
        utilization_max=largest_share(case.used),
        max_model_len=case.length,
    )
    if tightest is None:
        return forecast
    pool = min(rank.blocks for rank in ranks)
    length = _length(case, tightest, pool)
    layout = tightest.layout
    known = layout is not None and length > 0
    forecast = replace(
        forecast,
        requested_bytes=tightest.requested,
        layout=layout,
        need_bytes=tightest.need(length),
        utilization_safe=_safe(case, finding, ranks),
    )
    if case.weighs_nothing():
        return forecast
    parts = _waterfall(tightest)
    return replace(
        forecast,
        reason=finding.reason or _plenty(tightest, pool, length),
        weights=tuple({rank.weights.stage: rank.weights for rank in ranks}.values()),
        parts=parts,
        missing_bytes=max(sum(part.bytes for part in parts) - tightest.device.total_bytes, 0),
        kv_bytes=max(tightest.kv_bytes, 0),
        blocks=pool,
        kv_tokens=tokens(layout, pool, length, tightest.in_flight, case.serving.version)
        if known and layout is not None
        else 0,
        max_concurrency=concurrency(layout, pool, length, tightest.in_flight)
        if known and layout is not None
        else 0.0,
        max_model_len=length,
    )


def largest_share(devices: tuple[Device, ...]) -> float:
    """Return the largest share, to three digits, that passes the start-up check everywhere."""
    return min((_share(device) for device in devices), default=0.0)


def safe_share(case: Case) -> float:
    """Return the largest share, to two digits, that surely passes the start-up check everywhere."""
    return min((rank.safe_share for rank in look(case)[1]), default=0.0)


def _safe(case: Case, finding: Finding, ranks: tuple[Rank, ...]) -> float | None:
    """Return the largest share with which the case fits; one that was asked for and fits is one."""
    share = min(rank.safe_share for rank in ranks)
    found = [case.utilization] if finding.verdict is Fit.FITS else []
    if share > 0 and look(case.but(utilization=share))[0].verdict is Fit.FITS:
        found.append(share)
    return max(found, default=None)


def _share(device: Device) -> float:
    if device.total_bytes <= 0 or device.free_bytes <= 0:
        return 0.0
    steps = min(1000 * device.free_bytes // device.total_bytes, 1000)
    while steps and math.ceil(device.total_bytes * (steps / 1000)) > device.free_bytes:
        steps -= 1
    return steps / 1000


def _length(case: Case, tightest: Rank, pool: int) -> int:
    """Return the length that the server will state: vLLM shortens it itself when told `auto`."""
    if not case.serving.fits_length or tightest.layout is None:
        return case.length
    return longest(tightest.layout, pool, case.length, tightest.in_flight)


def _plenty(rank: Rank, pool: int, length: int) -> str:
    if rank.layout is None or not rank.layout.bytes_per_block:
        return f"{_gib(max(rank.kv_bytes, 0))} are left for the cache"
    held = concurrency(rank.layout, pool, length, rank.in_flight)
    return f"{_gib(max(rank.kv_bytes, 0))} of cache hold {held:,.1f} requests of {length:,} tokens"


def _waterfall(rank: Rank) -> tuple[Part, ...]:
    """Return the parts of a device; what is left over is the margin.

    Memory that others hold comes first, so that the sum is the device. More than there is makes it
    larger: `missing_bytes` of the forecast says by how much.
    """
    device, weights, over = rank.device, rank.weights, rank.overhead
    parts = [
        Part(name="in use", bytes=max(device.total_bytes - device.free_bytes, 0)),
        Part(name="weights", bytes=weights.parameters_bytes),
        Part(name="rope", bytes=weights.rope_bytes),
        Part(name="MLA copies", bytes=weights.latent_bytes),
        Part(name="padding", bytes=weights.padding_bytes),
        Part(name="context", bytes=over.before + over.context, estimated=True),
        Part(name="activation", bytes=over.activation, estimated=True),
        Part(name="graphs", bytes=over.graphs, estimated=True),
        Part(name="KV cache", bytes=max(rank.kv_bytes, 0), estimated=not rank.fixed),
    ]
    left = max(device.total_bytes - sum(part.bytes for part in parts), 0)
    return (*parts, Part(name="margin", bytes=left, estimated=True))


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
