"""The weights of one rank, in bytes, as vLLM allocates them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory import decoder
from pytest_vllm.domain.memory.family import FAMILIES
from pytest_vllm.domain.memory.linear import Experts, Plain, rank_of
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import ModelShape
from pytest_vllm.domain.memory.storage import experts_bytes, linear_bytes, plain_bytes
from pytest_vllm.domain.memory.tower import tower

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.fit import ModelMemory
    from pytest_vllm.domain.memory.linear import Held, Rank
    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import Layer, Quantization

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
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


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

    From the closed form where the architecture is known, else from the files: their size divided
    by the ranks, and a reserve. Empty when neither is known.
    """
    if isinstance(model.shape, ModelShape):
        return _closed(model.shape, serving)
    if model.files_bytes is None:
        return ()
    share = -(-model.files_bytes // serving.ranks)
    reserve = int(model.files_bytes * _RESERVE) if serving.ranks > 1 else 0
    return tuple(
        RankWeights(stage=stage, parameters_bytes=share + reserve, basis=Basis.FILES)
        for stage in range(serving.pipeline_parallel)
    )


def _closed(shape: ModelShape, serving: Serving) -> tuple[RankWeights, ...]:
    rank, family = rank_of(serving, shape.dtype), FAMILIES[shape.architecture]
    known: dict[Layer, int] = {}
    for layer in shape.layers:
        if layer not in known:
            held = decoder.layer_of(shape, layer, rank)
            known[layer] = _bytes(held, shape.quantization, rank)
    result = []
    for stage, layers in enumerate(decoder.stages(len(shape.layers), serving.pipeline_parallel)):
        last = stage == serving.pipeline_parallel - 1
        outside: list[Held] = []
        if stage == 0 or (last and shape.tied):
            outside += decoder.embedding(shape, rank)
        if last:
            outside += [] if shape.tied else decoder.head(shape, rank)
            outside += decoder.norm("norm", shape.hidden, family)
        outside += tower(shape, rank)
        total = _bytes(outside, shape.quantization, rank)
        total += sum(known[shape.layers[index]] for index in layers)
        result.append(RankWeights(stage=stage, parameters_bytes=total))
    return tuple(result)


def _bytes(held: Iterable[Held], how: Quantization, rank: Rank) -> int:
    total, element = 0, rank.element
    for one in held:
        if isinstance(one, Plain):
            total += one.elements * (one.bytes_each or element)
        elif isinstance(one, Experts):
            padded = rank.platform is Platform.ROCM
            total += experts_bytes(one, how, element, padded=padded)
        elif one.plain or not how.method:
            total += plain_bytes(one, element)
        else:
            total += linear_bytes(one, how, element)
    return total
