"""What one rank holds of a module, before it is known in what it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.values import round_up

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.serving import Platform, Serving

_VOCABULARY_STEP = 64
"""vLLM pads a vocabulary to a multiple of it (`DEFAULT_VOCAB_PADDING_SIZE`)."""
_FLOAT_BYTES = 4
_HALF_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A matrix, or several that vLLM keeps as one, as much as one rank holds of it.

    Attributes:
        name: vLLM's name of the module within its layer, such as `self_attn.qkv_proj`.
        parts: The checkpoint's names of what was fused, in their order; empty when nothing was.
        outputs: Rows of each of the fused matrices.
        inputs: Columns.
        whole_inputs: Columns of all ranks together.
        bias: Elements of the bias.
        plain: Whether vLLM keeps it in 16 bits whatever the checkpoint's method.
        bytes_each: Bytes of an element where they are not those of the model, 0 for those.
        copies: How many there are: the experts of the rank.
        shard: Whether the rank holds a part only, so that it must hold whole blocks and groups.
    """

    name: str
    parts: tuple[str, ...] = ()
    outputs: tuple[int, ...]
    inputs: int
    whole_inputs: int = 0
    bias: int = 0
    plain: bool = False
    bytes_each: int = 0
    copies: int = 1
    shard: bool = False

    @property
    def rows(self) -> int:
        """Rows of all fused matrices."""
        return sum(self.outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Values that are no matrix: norms, positions, corrections of experts.

    Attributes:
        name: vLLM's name of it within its layer.
        elements: How many.
        bytes_each: Bytes of one where they are not those of the model, 0 for those.
    """

    name: str
    elements: int
    bytes_each: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The routed experts of a layer that one rank holds.

    Attributes:
        name: vLLM's name of the module within its layer.
        copies: How many experts.
        hidden: Width of the model.
        width: Width of an expert on this rank.
        whole_width: Width of an expert on all ranks together.
        gated: Whether an expert has a gate.
        bias: Whether it has biases.
        shard: Whether the rank holds slices of experts.
    """

    name: str
    copies: int
    hidden: int
    width: int
    whole_width: int
    gated: bool = True
    bias: bool = False
    shard: bool = False

    @property
    def up(self) -> int:
        """Matrices into the expert: up, and the gate if there is one."""
        return 2 if self.gated else 1

    def matrices(self) -> tuple[Linear, Linear]:
        """Return the matrices into and out of the experts."""
        into = Linear(
            name=self.name,
            outputs=(self.width,) * self.up,
            inputs=self.hidden,
            whole_inputs=self.hidden,
            bias=self.up * self.width if self.bias else 0,
            copies=self.copies,
            shard=self.shard,
        )
        out = Linear(
            name=self.name,
            outputs=(self.hidden,),
            inputs=self.width,
            whole_inputs=self.whole_width,
            bias=self.hidden if self.bias else 0,
            copies=self.copies,
            shard=self.shard,
        )
        return into, out


Held = Linear | Plain | Experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """How a model is cut for one rank.

    Attributes:
        tensor: Ranks over which layers are cut.
        expert_slices: Ranks over which every expert is cut.
        expert_ranks: Ranks over which whole experts are spread.
        element: Bytes of an element of the model.
        shared_whole: Whether the experts that every token uses are whole on every rank.
        platform: What vLLM runs on.
    """

    tensor: int = 1
    expert_slices: int = 1
    expert_ranks: int = 1
    element: int = _HALF_BYTES
    shared_whole: bool = False
    platform: Platform

    def column(
        self,
        name: str,
        outputs: tuple[int, ...],
        inputs: int,
        *,
        parts: tuple[str, ...] = (),
        bias: bool = False,
    ) -> Linear:
        """Return a matrix whose rows are spread."""
        rows = tuple(size // self.tensor for size in outputs)
        return Linear(
            name=name,
            parts=parts,
            outputs=rows,
            inputs=inputs,
            whole_inputs=inputs,
            bias=sum(rows) if bias else 0,
            shard=self.tensor > 1,
        )

    def row(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """Return a matrix whose columns are spread; its bias is whole on every rank."""
        return Linear(
            name=name,
            outputs=(outputs,),
            inputs=inputs // self.tensor,
            whole_inputs=inputs,
            bias=outputs if bias else 0,
            shard=self.tensor > 1,
        )

    def heads(self, count: int) -> int:
        """Return the key-value heads of a rank: at least one, however many ranks there are."""
        return max(1, count // self.tensor)

    def vocabulary(self, size: int) -> int:
        """Return the rows of an embedding that a rank holds."""
        return round_up(size, _VOCABULARY_STEP) // self.tensor

    def experts(self, count: int) -> int:
        """Return the whole experts of the rank that holds most."""
        return -(-count // self.expert_ranks)


def whole(  # noqa: PLR0913 - what a matrix is made of
    name: str,
    outputs: tuple[int, ...],
    inputs: int,
    *,
    parts: tuple[str, ...] = (),
    bias: bool = False,
    plain: bool = False,
    bytes_each: int = 0,
) -> Linear:
    """Return a matrix that every rank holds."""
    return Linear(
        name=name,
        parts=parts,
        outputs=outputs,
        inputs=inputs,
        whole_inputs=inputs,
        bias=sum(outputs) if bias else 0,
        plain=plain,
        bytes_each=bytes_each,
    )


def rank_of(serving: Serving, dtype: str) -> Rank:
    """Return how the model is cut.

    Without expert parallelism vLLM cuts the experts over the data-parallel ranks, too
    (`FusedMoEParallelConfig.make`).
    """
    together = serving.tensor_parallel * serving.data_parallel
    spread = serving.expert_parallel and together > 1
    return Rank(
        tensor=serving.tensor_parallel,
        expert_slices=1 if spread else together,
        expert_ranks=together if spread else 1,
        element=element_bytes(serving.dtype, dtype),
        # `ParallelConfig.use_sequence_parallel_moe`, with the default way of exchange
        shared_whole=spread and serving.tensor_parallel > 1 and serving.data_parallel > 1,
        platform=serving.platform,
    )


def element_bytes(asked: str, stored: str) -> int:
    """Return the bytes of an element of the model.

    Args:
        asked: `--dtype`; only when it says float32 is a model loaded in 32 bits.
        stored: Type that the config names; `auto` makes 16 bits of float32.
    """
    del stored  # `_resolve_auto_dtype` keeps 16 bits as they are and makes 16 bits of 32
    return _FLOAT_BYTES if asked.lower() in {"float32", "float"} else _HALF_BYTES
