"""Arguments that contradict the model: vLLM would end in an assertion after minutes of loading."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import ModelShape, UnknownShape

_MOST_RANKS = 128


def objections(shape: ModelShape | UnknownShape, serving: Serving) -> tuple[str, ...]:
    """Return one line for each argument that the model does not take; empty is fine."""
    return tuple(_objections(shape, serving))


def valid_tensor_parallel(shape: ModelShape | UnknownShape) -> tuple[int, ...]:
    """Return the tensor-parallel sizes that the model takes; empty when it is not known."""
    heads = max((layer.heads for layer in getattr(shape, "layers", ())), default=0)
    sizes = range(1, min(heads, _MOST_RANKS) + 1)
    return tuple(size for size in sizes if not any(_heads(shape, size)))


def _objections(shape: ModelShape | UnknownShape, serving: Serving) -> Iterator[str]:
    yield from _heads(shape, serving.tensor_parallel)
    layers = len(getattr(shape, "layers", ()))
    if layers and serving.pipeline_parallel > layers:
        yield f"--pipeline-parallel-size {serving.pipeline_parallel}: the model has {layers} layers"


def _heads(shape: ModelShape | UnknownShape, tp: int) -> Iterator[str]:
    argument = f"--tensor-parallel-size {tp}"
    for layer in dict.fromkeys(getattr(shape, "layers", ())):
        if layer.heads % tp:
            yield f"{argument}: {layer.heads} attention heads do not divide by it"
            return
        if not getattr(shape, "kv_lora_rank", 0) and layer.kv_heads % tp and tp % layer.kv_heads:
            yield f"{argument}: {layer.kv_heads} key-value heads neither divide by it nor divide it"
            return
