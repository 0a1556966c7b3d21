"""The weights of one rank, in bytes, as vLLM allocates them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory import decoder
from pytest_vllm.domain.memory.blocks import norm
from pytest_vllm.domain.memory.extras import latent_bytes, padding_bytes
from pytest_vllm.domain.memory.families import FAMILIES
from pytest_vllm.domain.memory.family import End
from pytest_vllm.domain.memory.headers import are_known, held_bytes, layers_of
from pytest_vllm.domain.memory.ignored import is_ignored
from pytest_vllm.domain.memory.linear import Experts, Linear, Plain, rank_of
from pytest_vllm.domain.memory.quantized import is_described, online
from pytest_vllm.domain.memory.rope import rope_bytes
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import ModelShape, Quantization
from pytest_vllm.domain.memory.stages import stages
from pytest_vllm.domain.memory.storage import (
    attention_bytes,
    experts_bytes,
    linear_bytes,
    plain_bytes,
)
from pytest_vllm.domain.memory.tower import tower

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.fit import ModelMemory
    from pytest_vllm.domain.memory.linear import Held
    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import Layer

_ALIKE = 0.01
"""Difference up to which headers and config are taken to speak of the same model."""
_RESERVE = 0.05
"""What every rank holds, as a share of the whole, when only file sizes are known."""


class Basis(StrEnum):
    """What a figure rests on, best first."""

    HEADERS = "safetensors headers"
    FORMULA = "closed form"
    FILES = "file sizes"
    """An estimate: files divided by ranks, and a reserve for what every rank holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of the checkpoint as its header tells.

    Attributes:
        name: Name in the checkpoint.
        dtype: Type in the spelling of safetensors: `BF16`, `F8_E4M3`, ...
        shape: Its dimensions.
        count: How many there are: experts of one layer that are alike go by the first one's name.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWeights:
    """What one rank of a pipeline stage loads; all tensor-parallel ranks of it hold as much.

    Attributes:
        stage: Pipeline stage, from 0.
        parameters_bytes: Parameters of the model, as vLLM's class allocates them.
        rope_bytes: Tables of rotary positions, which no parallelism splits.
        latent_bytes: Copies of MLA's up-projections that attention multiplies with.
        padding_bytes: What kernels of this platform add to rows and experts.
        basis: What the figures rest on.
    """

    stage: int = 0
    parameters_bytes: int
    rope_bytes: int = 0
    latent_bytes: int = 0
    padding_bytes: int = 0
    basis: Basis = Basis.FORMULA

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.parameters_bytes + self.rope_bytes + self.latent_bytes + self.padding_bytes


def weigh(model: ModelMemory, serving: Serving) -> tuple[RankWeights, ...]:
    """Return what a rank of each pipeline stage loads.

    From the tensors of the checkpoint where their headers were read and bear the config out, else
    from the closed form where the architecture and the way of storing are known (vLLM allocates by
    the config, whatever the files hold), else from the files: their size divided by the ranks, and
    a reserve for what is not spread. Empty when nothing of it is known. Where only the way of
    storing is unknown and there is no file, it is the size in 16 bits.
    """
    shape = model.shape
    if isinstance(shape, ModelShape):
        closed = _closed(shape, serving)
        if _are_comparable(model, serving):
            named = _from_headers(model, serving, closed)
            if not is_described(shape.quantization) or _agree(named, closed):
                return named
        if is_described(shape.quantization) or model.files_bytes is None:
            return closed
        each = _from_files(model.files_bytes, serving)
        return tuple(replace(one, parameters_bytes=each, basis=Basis.FILES) for one in closed)
    if model.tensors:
        return _from_headers(model, serving, ())
    if model.files_bytes is None:
        return ()
    each = _from_files(model.files_bytes, serving)
    return tuple(
        RankWeights(stage=stage, parameters_bytes=each, basis=Basis.FILES)
        for stage in range(serving.pipeline_parallel)
    )


def disagreement(model: ModelMemory, serving: Serving) -> tuple[int, int] | None:
    """Return the bytes that the headers name and those of the config, `None` when they agree.

    Those of the whole model on one device: the files then lack layers, or are of another model.
    """
    shape = model.shape
    if not isinstance(shape, ModelShape) or not is_described(shape.quantization):
        return None
    if not _are_comparable(model, serving):
        return None
    alone = replace(
        serving, tensor_parallel=1, pipeline_parallel=1, data_parallel=1, expert_parallel=False
    )
    closed = _closed(shape, alone)
    named = _from_headers(model, alone, closed)
    if _agree(named, closed):
        return None
    return _parameters(named), _parameters(closed)


def _are_comparable(model: ModelMemory, serving: Serving) -> bool:
    """Tell whether there are headers, of names that the rules know, of weights kept as stored."""
    shape = model.shape
    if not isinstance(shape, ModelShape) or not model.tensors:
        return False
    converted = bool(serving.quantization) and not shape.quantization.method
    return not converted and are_known(shape)


def _agree(named: tuple[RankWeights, ...], closed: tuple[RankWeights, ...]) -> bool:
    size = _parameters(closed)
    return abs(_parameters(named) - size) <= size * _ALIKE


def _parameters(ranks: Iterable[RankWeights]) -> int:
    return sum(rank.parameters_bytes for rank in ranks)


def _from_files(size: int, serving: Serving) -> int:
    reserve = int(size * _RESERVE) if serving.ranks > 1 else 0
    return -(-size // serving.ranks) + reserve


def _from_headers(
    model: ModelMemory, serving: Serving, closed: tuple[RankWeights, ...]
) -> tuple[RankWeights, ...]:
    """Return the parameters that the headers name, and the rest from the closed form."""
    shape = model.shape
    known = isinstance(shape, ModelShape)
    layers = len(shape.layers) if isinstance(shape, ModelShape) else layers_of(model.tensors)
    held = stages(layers, serving)
    rank = rank_of(serving, shape.dtype if isinstance(shape, ModelShape) else "")
    sizes = held_bytes(model.tensors, shape, rank, held)
    result = []
    for stage, size in enumerate(sizes):
        base = closed[stage] if known else RankWeights(stage=stage, parameters_bytes=0)
        own = (
            sum(
                attention_bytes(shape.layers[i], shape.quantization, rank.element)
                for i in held[stage]
            )
            if isinstance(shape, ModelShape)
            else 0
        )
        result.append(replace(base, parameters_bytes=size + own, basis=Basis.HEADERS))
    return tuple(result)


def _closed(shape: ModelShape, serving: Serving) -> tuple[RankWeights, ...]:
    scale = _Scale(shape, serving)
    held = stages(len(shape.layers), serving)
    return tuple(scale.weigh(stage, layers) for stage, layers in enumerate(held))


class _Scale:
    """Weighs a model; equal layers only once."""

    def __init__(self, shape: ModelShape, serving: Serving) -> None:
        self._shape, self._serving = shape, serving
        self._rank = rank_of(serving, shape.dtype)
        self._how = shape.quantization
        if not self._how.method and serving.quantization:
            self._how = online(serving.quantization)
        self._held: dict[Layer, tuple[Held, ...]] = {}
        self._known: dict[tuple[Layer, tuple[bool, ...]], tuple[int, int]] = {}

    def weigh(self, stage: int, indices: range) -> RankWeights:
        """Return what a rank of a stage loads."""
        shape, rank = self._shape, self._rank
        family = FAMILIES[shape.architecture]
        last = stage == self._serving.pipeline_parallel - 1
        outside: list[Held] = list(tower(shape, rank))
        if stage == 0 or End.EMBEDDING in family.everywhere or (last and shape.tied):
            outside += decoder.embedding(shape, rank)
        if not shape.tied and (last or End.HEAD in family.everywhere):
            outside += decoder.head(shape, rank, self._how)
        if last or End.NORM in family.everywhere:
            outside += norm("norm", shape.hidden, family)
        sizes = [self._sum(outside, tuple(False for _ in outside))]
        sizes += [self._layer(index) for index in indices]
        layers = [shape.layers[index] for index in indices]
        return RankWeights(
            stage=stage,
            parameters_bytes=sum(size for size, _ in sizes),
            padding_bytes=sum(padding for _, padding in sizes),
            rope_bytes=rope_bytes(shape, layers, rank),
            latent_bytes=latent_bytes(
                shape, layers, rank, self._serving, quantized=bool(self._how.method)
            ),
        )

    def _layer(self, index: int) -> tuple[int, int]:
        layer = self._shape.layers[index]
        held = self._held.get(layer)
        if held is None:
            held = self._held[layer] = tuple(decoder.layer_of(self._shape, layer, self._rank))
        ignored = tuple(self._is_ignored(index, one) for one in held)
        known = self._known.get((layer, ignored))
        if known is None:
            size, padding = self._sum(held, ignored)
            size += attention_bytes(layer, self._how, self._rank.element)
            known = self._known[layer, ignored] = size, padding
        return known

    def _is_ignored(self, index: int, one: Held) -> bool:
        if not self._how.ignored or isinstance(one, Plain):
            return False
        parts = one.parts if isinstance(one, Linear) else ()
        return is_ignored(f"layers.{index}.{one.name}", parts, self._how)

    def _sum(self, held: Iterable[Held], ignored: tuple[bool, ...]) -> tuple[int, int]:
        """Return bytes, and bytes of padding."""
        total, padding, element = 0, 0, self._rank.element
        for one, plain in zip(held, ignored, strict=True):
            how = Quantization() if plain else self._how
            if isinstance(one, Plain):
                total += one.elements * (one.bytes_each or element)
                continue
            if isinstance(one, Experts):
                # on CUDA the kernels differ; an H100 loaded 7.01 GiB of gpt-oss-20b at TP 2, and
                # this forecasts 7.06, see docs/memory-accuracy.md
                padded = self._serving.platform is not Platform.CPU
                total += experts_bytes(one, how, element, padded=padded)
            elif one.plain or not how.method:
                total += plain_bytes(one, element)
                continue
            else:
                total += linear_bytes(one, how, element)
            padding += padding_bytes(one, how, self._serving, element)
        return total, padding
