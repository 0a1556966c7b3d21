"""The weights of one rank, in bytes, as vLLM allocates them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
