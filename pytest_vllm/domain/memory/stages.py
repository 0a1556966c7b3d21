"""Which layers a pipeline stage holds."""

from __future__ import annotations


def layers_of_stage(count: int, stages: int, stage: int, split: str = "") -> range:
    """Return the indexes of the layers of a stage, as vLLM's `get_pp_indices` splits them.

    What does not divide goes one each to the stages before the last, from the back: the last holds
    the output embedding already.

    Args:
        count: Layers of the model.
        stages: Pipeline stages.
        stage: The stage, from 0.
        split: `VLLM_PP_LAYER_PARTITION`: layers of each stage, separated by commas; one that does
            not add up is ignored, as vLLM would refuse it before it matters.
    """
    sizes = _given(split, count, stages)
    if not sizes:
        sizes = [count // stages] * stages
        for back in range(2, count % stages + 2):
            sizes[-back] += 1
    start = sum(sizes[:stage])
    return range(start, start + sizes[stage])


def _given(split: str, count: int, stages: int) -> list[int]:
    words = split.split(",") if split else []
    sizes = [int(word) for word in words if word.strip().isdecimal()]
    return sizes if len(sizes) == len(words) == stages and sum(sizes) == count else []
