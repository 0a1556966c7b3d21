"""The layout of the cache is that of vLLM's own functions, which `tools/oracle_kv.py` asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_vllm.domain.memory.hybrid import read_cache
from pytest_vllm.domain.memory.kv import concurrency, lay_out, longest, need_blocks, tokens
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.memory.shape import Attention, Layer, ModelShape
from pytest_vllm.domain.memory.stages import stages
from tests.unit.fit_cases import model, shape_of

_DATA = Path(__file__).parents[1] / "data" / "oracle-kv"
_CASES = json.loads((_DATA / "cases.json").read_text(encoding="utf-8"))
_ANSWERS = json.loads((_DATA / "0.32.json").read_text(encoding="utf-8"))["answers"]


def _shape(case: dict[str, Any]) -> ModelShape:
    if "config" in case:
        cache = read_cache(case["config"])
        assert cache is not None
        return cache
    layers: list[Layer] = []
    for part in case["pattern"] * case["repeat"]:
        layer = Layer(
            attention=Attention(part["attention"]),
            window=part.get("window", 0),
            heads=part.get("kv_heads", 0),
            kv_heads=part.get("kv_heads", 0),
            head_dim=part.get("head_dim", 0),
            v_head_dim=part.get("v_head_dim", 0),
            state=tuple((name, count, size) for name, count, size in part.get("state", ())),
        )
        layers += [layer] * part.get("times", 1)
    latent = case["latent"]
    return ModelShape(
        architecture="any",
        layers=tuple(layers),
        kv_lora_rank=latent.get("kv_lora_rank", 0),
        rope_head_dim=latent.get("rope_head_dim", 0),
        raw={key: value for key, value in latent.items() if key == "index_head_dim"},
    )


def _serving(case: dict[str, Any]) -> Serving:
    asked = dict(case["serving"])
    platform = Platform(asked.pop("platform", "rocm"))
    return Serving(platform=platform, **asked)


@pytest.mark.parametrize("case", _CASES, ids=[case["name"] for case in _CASES])
def test_the_layout_is_that_of_vllm(case: dict[str, Any]) -> None:
    """Groups, sizes of blocks, blocks, tokens and concurrency are equal to the last digit."""
    answer, serving, in_flight = _ANSWERS[case["name"]], _serving(case), case["in_flight"]
    stages = range(serving.pipeline_parallel)
    layouts = [lay_out(_shape(case), serving, stage) for stage in stages]
    first = layouts[0]
    blocks = serving.blocks or min(case["available"] // one.bytes_per_block for one in layouts)
    length = case["length"]
    if serving.fits_length:
        length = longest(first, blocks, length, in_flight)
    need = [need_blocks(one, length, in_flight) for one in layouts]
    if "error" in answer:
        assert answer["error"].startswith("To serve at least one request")
        assert need[0] > blocks - 1
        return
    whole = [sum(one.groups[index].layers for one in layouts) for index in range(len(first.groups))]
    assert {
        "groups": whole,
        "block_size": first.block_size,
        "bytes_per_block": [one.bytes_per_block for one in layouts],
        "need_bytes": [
            count * one.bytes_per_block for count, one in zip(need, layouts, strict=True)
        ],
        "blocks": blocks,
        "tokens": tokens(first, blocks, length, in_flight, (0, 32)),
        "concurrency": round(concurrency(first, blocks, length, in_flight), 6),
        "length": length,
    } == answer


def test_every_case_has_an_answer() -> None:
    """A case that was added and not asked would test nothing."""
    assert [case["name"] for case in _CASES] == list(_ANSWERS)


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        ("", [11, 11, 10]),
        ("12,12,8", [12, 12, 8]),
        ("12,12", [11, 11, 10]),
        ("a,b,c", [11, 11, 10]),
    ],
)
def test_stages_are_split_as_vllm_splits_them(split: str, sizes: list[int]) -> None:
    """Even, what is left over before the last; or as the variable says, when it adds up."""
    variables = {"VLLM_PP_LAYER_PARTITION": split} if split else {}
    found = stages(32, Serving(pipeline_parallel=3, variables=variables))
    assert [len(one) for one in found] == sizes
    assert [index for one in found for index in one] == list(range(32))


@pytest.mark.parametrize("split", [1, 2, 8])
@pytest.mark.parametrize(
    "name", ["Qwen/Qwen3.5-35B-A3B", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"]
)
def test_models_with_states_and_known_weights_keep_the_same(name: str, split: int) -> None:
    """The shape that is weighed and the one that was held against vLLM lay out alike."""
    shape = shape_of(model(name))
    assert isinstance(shape, ModelShape)
    cache = read_cache(shape.raw)
    assert cache is not None
    serving = Serving(tensor_parallel=split)
    assert lay_out(shape, serving) == lay_out(cache, serving)
