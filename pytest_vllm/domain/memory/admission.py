"""Arguments about requests and cache that contradict the model: vLLM refuses them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.facts.config import read_config
from pytest_vllm.domain.memory.shape import Attention

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import ModelShape

_TRUE = ("1", "true")
_LENGTHENING = ("--hf-overrides", "--rope-scaling", "--rope-theta")


def refusals(shape: ModelShape, serving: Serving) -> tuple[str, ...]:
    """Return one line for each; empty is fine.

    Sources: `config/model.py` (`_get_and_verify_max_len`, `verify_with_parallel_config`) and
    `config/parallel.py` of vLLM 0.32.
    """
    return (*_length(shape, serving), *_context_parallel(shape, serving))


def _length(shape: ModelShape, serving: Serving) -> Iterator[str]:
    asked, context = serving.max_model_len or 0, shape.context
    allowed = serving.variables.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "").lower() in _TRUE
    changed = any(line.startswith(_LENGTHENING) for line in serving.unmodelled)
    if context is None or asked <= context or allowed or changed:
        return
    most = max(context, read_config(shape.raw).longer_context or 0)
    if asked > most:
        yield f"--max-model-len {asked}: the model takes {most:,} tokens at most"


def _context_parallel(shape: ModelShape, serving: Serving) -> Iterator[str]:
    size, split = serving.decode_context_parallel, serving.tensor_parallel
    if size == 1:
        return
    argument = f"--decode-context-parallel-size {size}"
    if split % size:
        yield f"{argument}: it does not divide --tensor-parallel-size {split}"
    if any(layer.attention is Attention.SLIDING for layer in shape.layers):
        yield f"{argument}: the model has layers with a sliding window"
    if shape.kv_lora_rank:
        return
    layer = next((one for one in shape.layers if one.kv_heads), None)
    if layer is None:
        return
    if size > split // layer.kv_heads:
        yield (
            f"{argument}: --tensor-parallel-size {split} must be at least {size} times the "
            f"{layer.kv_heads} key-value heads"
        )
    elif (layer.heads // layer.kv_heads) % size:
        each = layer.heads // layer.kv_heads
        yield f"{argument}: it does not divide the {each} query heads of a key-value head"
