"""Weights from the headers of a checkpoint: equal to what vLLM's own classes allocate."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache

import pytest

from pytest_vllm.domain.fit import Device, ModelMemory, forecast
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.memory.shape import UnknownShape
from pytest_vllm.domain.memory.weights import Basis, Tensor, disagreement, weigh
from tests.unit import checkpoints
from tests.unit import oracle_cases as oracle

_MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-30B-A3B",
    "microsoft/phi-4",
    "openai-community/gpt2",
    "deepseek-ai/DeepSeek-V3.1",
    "deepseek-ai/DeepSeek-V3.2",
    "openai/gpt-oss-20b",
)
_LARGE = ("DeepSeek-V3.1 tp8 pp2 stage 1", "DeepSeek-V3.1 tp8 dp2 ep", "DeepSeek-V3.2 tp8")
"""Of the models with 92,000 tensors, of which each takes seconds; all of them at night."""
_CASES = [
    case["name"]
    for case in oracle.document()["cases"]
    if case["model"] in _MODELS
    and "change" not in case
    and (
        os.environ.get("PYTEST_VLLM_TEST_ALL") or "V3" not in case["name"] or case["name"] in _LARGE
    )
]
DEVICES = (Device(name="MI300X", total_bytes=192 * 2**30, free_bytes=192 * 2**30),) * 4
_WIDTHS = {"F8_E4M3": 1, "U8": 1, "BF16": 2, "F32": 4}


@cache
def _tensors(name: str) -> tuple[Tensor, ...]:
    return checkpoints.tensors(oracle.document()["models"][name])


def test_the_tensors_are_those_of_the_published_checkpoint() -> None:
    """Counts that the Hub states for DeepSeek-V3; index of gpt-oss-20b: what is made is real."""
    counts = dict.fromkeys(_WIDTHS, 0)
    for tensor in checkpoints.tensors(oracle.document()["models"]["deepseek-ai/DeepSeek-V3.1"]):
        counts[tensor.dtype] += _elements(tensor)
    assert counts == {
        "F8_E4M3": 680_571_043_840,
        "BF16": 3_918_786_560,
        "F32": 41_555_600,
        "U8": 0,
    }
    made = checkpoints.tensors(oracle.document()["models"]["openai/gpt-oss-20b"])
    assert sum(_elements(one) * _WIDTHS[one.dtype] for one in made) == 13_761_264_768


@pytest.mark.parametrize("name", _CASES)
def test_a_rank_is_what_vllm_allocates(name: str) -> None:
    """Every recorded layout of these models, from names and dimensions of tensors."""
    case = oracle.case(name)
    model = oracle.model(case)
    with_headers = replace(model, tensors=_tensors(case["model"]))
    stage = case.get("stage", 0)
    rank = weigh(with_headers, oracle.serving(case))[stage]
    assert rank.parameters_bytes == oracle.record()["answers"][name]["bytes"]
    assert rank.basis is Basis.HEADERS
    closed = weigh(model, oracle.serving(case))[stage]
    assert replace(rank, basis=Basis.FORMULA) == closed


@pytest.mark.parametrize("change", [{"num_hidden_layers": 20}, {"intermediate_size": 28_672}])
def test_headers_that_contradict_the_config_count_for_nothing(change: dict[str, int]) -> None:
    """Allocated is what the config describes, whatever the files hold."""
    config = oracle.document()["models"]["meta-llama/Llama-3.1-8B-Instruct"]
    other = checkpoints.tensors({**config, **change})
    closed = ModelMemory(name="llama", shape=read_shape(config))
    model = replace(closed, tensors=other)
    for serving in (Serving(), Serving(tensor_parallel=2, pipeline_parallel=2)):
        assert weigh(model, serving) == weigh(closed, serving)
        named, described = disagreement(model, serving) or (0, 0)
        assert described == weigh(closed, Serving())[0].parameters_bytes
        assert (named < described) is ("num_hidden_layers" in change)
    (note,) = (
        note for note in forecast(model, DEVICES, Serving()).notes if note.startswith("the files")
    )
    assert f"hold {named / 2**30:.2f} GiB and the config describes 14.96" in note
    assert disagreement(replace(model, tensors=checkpoints.tensors(config)), Serving()) is None


def test_an_unknown_architecture_is_split_by_the_names_of_its_tensors() -> None:
    """Its key-value heads are not known; everything else is as for a model that is."""
    config = oracle.document()["models"]["meta-llama/Llama-3.1-8B-Instruct"]
    unknown = UnknownShape(reason="no formula", architecture="NewForCausalLM")
    model = ModelMemory(name="new", shape=unknown, tensors=checkpoints.tensors(config))
    known = ModelMemory(name="known", shape=read_shape(config))
    serving = Serving(tensor_parallel=4, pipeline_parallel=2)
    ranks = weigh(model, serving)
    assert [rank.parameters_bytes for rank in ranks] == [
        rank.parameters_bytes for rank in weigh(known, serving)
    ]
    assert {rank.basis for rank in ranks} == {Basis.HEADERS}


def test_weights_to_be_quantized_are_reckoned_by_the_closed_form() -> None:
    config = oracle.document()["models"]["meta-llama/Llama-3.1-8B-Instruct"]
    shape = read_shape(config)
    serving = Serving(quantization="fp8")
    model = ModelMemory(name="new", shape=shape, tensors=checkpoints.tensors(config))
    assert weigh(model, serving) == weigh(ModelMemory(name="new", shape=shape), serving)


def test_names_of_a_tower_are_left_to_the_closed_form() -> None:
    """The rules know the names of language models only."""
    config = oracle.document()["models"]["google/gemma-3-4b-it"]
    plain = ModelMemory(name="gemma", shape=read_shape(config))
    with_headers = replace(plain, tensors=(Tensor(name="x", dtype="BF16", shape=(1,)),))
    assert weigh(with_headers, Serving()) == weigh(plain, Serving())


def test_on_a_cpu_mxfp4_is_not_padded_to_tiles() -> None:
    config = oracle.document()["models"]["openai/gpt-oss-20b"]
    model = ModelMemory(
        name="gpt-oss", shape=read_shape(config), tensors=checkpoints.tensors(config)
    )
    (rank,) = weigh(model, Serving(platform=Platform.CPU))
    assert rank.parameters_bytes == 13_761_264_768


def _elements(tensor: Tensor) -> int:
    elements = tensor.count
    for size in tensor.shape:
        elements *= size
    return elements
