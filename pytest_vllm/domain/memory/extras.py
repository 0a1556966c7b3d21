"""What vLLM makes of the weights after it has loaded them: copies, and rows that kernels pad."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.linear import Experts, Linear
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import Attention

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.memory.linear import Rank
    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import Layer, ModelShape, Quantization

_VIEWS_SINCE = (0, 26)
"""From here on it is measured that the up-projections of MLA in 16 bits are not copied."""
_EXPERTS_COPIED_BACK_SINCE = (0, 12)
"""Before, vLLM kept the padded copy of the experts; since, it copies the values back."""
_COPY_BYTES = 2
_TRUE = ("1", "true")
_PADDED_ROW, _PADDING = 512, 256
"""Rows of so many bytes, or a multiple, get so many more: they lie farther apart in memory."""


def latent_bytes(
    shape: ModelShape, layers: Iterable[Layer], rank: Rank, serving: Serving, *, quantized: bool
) -> int:
    """Return the bytes of MLA's up-projections that attention multiplies with.

    `MLAAttention.process_weights_after_loading` takes them out of `kv_b_proj`: as views of weights
    in 16 bits, as copies in 16 bits of quantized ones, and in 8 bits for AITER's kernel.
    """
    elements = sum(
        layer.heads // rank.tensor * shape.kv_lora_rank * (shape.nope_head_dim + layer.v_head_dim)
        for layer in layers
        if layer.attention is Attention.LATENT
    )
    if _aiter(serving):
        return elements
    copied = quantized or serving.version[:2] < _VIEWS_SINCE
    return elements * _COPY_BYTES if copied else 0


def padding_bytes(held: Linear | Experts, how: Quantization, serving: Serving, element: int) -> int:
    """Return what ROCm adds to the rows of a module.

    `_maybe_pad_fp8_weight` for matrices of 8-bit floats with scales for tensors or blocks,
    `VLLM_ROCM_MOE_PADDING` of earlier versions for experts in 16 bits.
    """
    if serving.platform is not Platform.ROCM:
        return 0
    if isinstance(held, Linear):
        floats = how.method in {"fp8", "compressed-tensors"} and how.bits == 8 and how.group >= 0  # noqa: PLR2004
        if not floats or not _is_on(serving, "VLLM_ROCM_FP8_PADDING"):
            return 0
        return 0 if held.inputs % _PADDED_ROW else held.rows * _PADDING
    kept = serving.version[:2] < _EXPERTS_COPIED_BACK_SINCE
    if how.method or not kept or not _is_on(serving, "VLLM_ROCM_MOE_PADDING"):
        return 0
    return held.copies * sum(
        one.rows * _PADDING for one in held.matrices() if not one.inputs * element % _PADDED_ROW
    )


def _is_on(serving: Serving, variable: str) -> bool:
    return serving.variables.get(variable, "1") not in {"0", "00"}


def _aiter(serving: Serving) -> bool:
    """Tell whether AITER multiplies MLA's up-projections in 8 bits."""
    wanted = serving.variables.get("VLLM_ROCM_USE_AITER", "0").lower() in _TRUE
    kernel = serving.variables.get("VLLM_ROCM_USE_AITER_FP8BMM", "1").lower() in _TRUE
    return serving.platform is Platform.ROCM and wanted and kernel
