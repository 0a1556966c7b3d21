"""Which layers a pipeline stage holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.serving import Serving


def stages(count: int, serving: Serving) -> tuple[range, ...]:
    """Return the indexes of the layers of each stage, as `distributed/utils.get_pp_indices` does.

    What does not divide goes one each to the stages before the last, from the back: the last holds
    the output embedding already. `VLLM_PP_LAYER_PARTITION` says it otherwise; one that does not add
    up is ignored here, as vLLM refuses it before memory matters.

    Args:
        count: Layers of the model.
        serving: How many stages there are, and the variable.
    """
    number = serving.pipeline_parallel
    sizes = _given(serving.variables.get("VLLM_PP_LAYER_PARTITION", ""), count, number)
    if not sizes:
        sizes = [count // number] * number
        for back in range(2, count % number + 2):
            sizes[-back] += 1
    starts = [sum(sizes[:stage]) for stage in range(number)]
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))


def _given(split: str, count: int, number: int) -> list[int]:
    words = split.split(",") if split else []
    sizes = [int(word) for word in words if word.strip().isdecimal()]
    return sizes if len(sizes) == len(words) == number and sum(sizes) == count else []
