"""Arguments that vLLM refuses for this model or platform although their values are in order.

Read from vLLM 0.32 and said of that version alone: `ModelConfig._verify_quantization`,
`get_quant_config` (`model_executor/model_loader/weight_utils.py`), and the block sizes that the
backends of attention take (`get_supported_kernel_block_sizes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import Attention
from pytest_vllm.domain.quantization import LISTED_VERSION, METHODS, ON_ROCM, disagree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import ModelShape

_WITH_CONFIG = frozenset(
    {
        *("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "moe_wna16"),
        *("modelopt", "modelopt_fp4"),
    }
)
"""Methods that need to be told by a file of the model how it is stored."""
_OVERRIDES = ("--hf-overrides", "--quantization-config", "--config:", "--additional-config")
"""Arguments that may bring what the config lacks."""
_BLOCK_STEP = 16
_OTHER_BLOCKS = ("--kv-cache-dtype-skip-layers",)
_COMMON_BACKENDS = frozenset(
    {
        *("", "auto", "FLASH_ATTN", "FLASHINFER", "FLEX_ATTENTION", "TRITON_ATTN", "ROCM_ATTN"),
        *("ROCM_AITER_FA", "ROCM_AITER_UNIFIED_ATTN", "TRITON_MLA", "FLASHMLA", "CUTLASS_MLA"),
    }
)


def refusals(shape: ModelShape, serving: Serving) -> Iterator[str]:
    """Yield one line for each argument that vLLM would refuse; each begins with the argument."""
    if serving.version[:2] != LISTED_VERSION[:2] or serving.version_assumed:
        return
    yield from _quantization(shape, serving)
    yield from _block(shape, serving)


def _quantization(shape: ModelShape, serving: Serving) -> Iterator[str]:
    asked, stored = serving.quantization.lower(), shape.quantization.method
    if not asked or any(line.startswith(_OVERRIDES) for line in serving.unmodelled):
        return
    argument = f"--quantization {asked}"
    if stored and disagree(stored, asked):
        yield f"{argument}: the weights are stored as {stored}"
    elif not stored and asked in _WITH_CONFIG:
        yield (
            f"{argument}: the weights are stored without quantization, and vLLM converts none to "
            "it; name a model that is stored so, or use --quantization fp8"
        )
    elif serving.platform is Platform.ROCM and asked in METHODS and asked not in ON_ROCM:
        yield f"{argument}: vLLM does not take it on ROCm"


def _block(shape: ModelShape, serving: Serving) -> Iterator[str]:
    """Yield a block that no backend takes; of hybrids vLLM sets it, MLA on ROCm takes any."""
    size, kinds = serving.block_size, {layer.attention for layer in shape.layers}
    any_size = serving.platform is Platform.CPU or (
        serving.platform is Platform.ROCM and Attention.LATENT in kinds
    )
    other = any(line.startswith(_OTHER_BLOCKS) for line in serving.unmodelled)
    backend = serving.attention_backend.upper().replace("AUTO", "auto")
    if not size or not size % _BLOCK_STEP or any_size or other or Attention.STATE in kinds:
        return
    if backend in _COMMON_BACKENDS:
        yield f"--block-size {size}: attention takes multiples of {_BLOCK_STEP} only"
