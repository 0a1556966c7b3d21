"""The shipped tables of GPUs and models are sound, and models are found as users name them."""

from __future__ import annotations

from collections import Counter

import pytest

from pytest_vllm.adapters.gpu_table import gpu_models
from pytest_vllm.adapters.knowledge import known_model_ids, known_weight_sizes
from pytest_vllm.adapters.model_table import ListedModel, listed_model, listed_models
from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.gpus import Basis, GpuModel, find_gpu
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.memory.shape import ModelShape
from pytest_vllm.domain.memory.weights import weigh

GIB = 2**30
GPUS = {gpu.name: gpu for gpu in gpu_models()}
MODELS = {model.ids[0]: model for model in listed_models()}
PLAIN = [
    model
    for model in MODELS.values()
    if model.parameters and "quantization_config" not in model.config
]


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_a_gpu_has_a_size_with_a_source(gpu: GpuModel) -> None:
    assert gpu.source
    assert 0.48 * gpu.marketed_gb * GIB <= gpu.reported_bytes < gpu.marketed_gb * GIB
    if not gpu.shared and gpu.platform is Platform.ROCM:
        assert gpu.marketed_gb * GIB - gpu.reported_bytes in (16 * 2**20, 80 * 2**20, 144 * 2**20)
    assert bool(gpu.gfx) == (gpu.platform is Platform.ROCM)
    assert not gpu.shared or gpu.basis is Basis.GUESS
    assert all(number.startswith("0x") for number in gpu.pci_ids)
    assert gpu.fp8 or gpu.gfx.startswith(("gfx90", "gfx110", "gfx115")) or "A100" in gpu.name


def test_gpus_are_told_apart() -> None:
    names = Counter(name.lower() for gpu in GPUS.values() for name in (gpu.name, *gpu.aliases))
    numbers = Counter(number for gpu in GPUS.values() for number in gpu.pci_ids)
    assert set(names.values()) == {1}
    assert set(numbers.values()) == {1}


def test_only_the_mi250_has_two_devices_on_a_card() -> None:
    assert {name for name, gpu in GPUS.items() if gpu.devices == 2} == {"MI250", "MI250X"}
    assert GPUS["MI300X"].reported_bytes == 206_141_652_992


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("AMD Instinct MI300X OAM", "MI300X"),
        ("AMD Instinct MI250X / MI250", "MI250"),
        ("AMD Instinct MI355X", "MI355X"),
        ("AMD Radeon PRO W7900", "Radeon PRO W7900"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
    ],
)
def test_a_driver_s_name_finds_its_gpu(told: str, name: str) -> None:
    assert find_gpu(told, GPUS.values()) is GPUS[name]


@pytest.mark.parametrize("told", ["AMD Radeon Graphics", "NVIDIA B200", ""])
def test_a_name_that_is_not_in_the_table_finds_nothing(told: str) -> None:
    assert find_gpu(told, GPUS.values()) is None


@pytest.mark.parametrize("model", PLAIN, ids=lambda model: model.ids[0])
def test_a_shipped_config_has_the_published_number_of_parameters(model: ListedModel) -> None:
    """What the formulas make of it proves both; quantized ones are held against vLLM elsewhere."""
    shape = read_shape(model.config)
    assert isinstance(shape, ModelShape), shape
    ranks = weigh(ModelMemory(name=model.ids[0], shape=shape), Serving())
    assert model.parameters is not None
    padding = 2 * (-shape.vocab % 64) * shape.hidden * (1 if shape.tied else 2)
    wider = 0
    if shape.model_type == "glm4_moe":  # its routers have 32 bits, and a bias that is no parameter
        wider = sum(layer.experts * (2 * shape.hidden + 4) for layer in shape.layers)
    loaded = sum(rank.parameters_bytes for rank in ranks)
    assert loaded == 2 * model.parameters + padding + wider


def test_the_config_of_the_story_s_model_keeps_all_that_it_is_weighed_by() -> None:
    name = "deepseek-ai/DeepSeek-V3.1"
    (rank,) = weigh(ModelMemory(name=name, shape=read_shape(MODELS[name].config)), Serving())
    assert rank.parameters_bytes == known_weight_sizes()[name] == 673_150_611_808


def test_shipped_configs_name_models_that_are_known() -> None:
    ids = Counter(item for model in MODELS.values() for item in model.ids)
    assert set(ids.values()) == {1}
    recent = {name for name in ids if name not in known_model_ids()}
    assert len(recent) <= 6, recent
    assert set(known_weight_sizes()) - set(ids) <= {"meta-llama/Llama-4-Scout-17B-16E"}


def test_a_model_is_found_in_any_case_and_by_any_of_its_names() -> None:
    first = listed_model("deepseek-ai/DeepSeek-V3.1")
    assert first is not None
    assert listed_model("DeepSeek-AI/deepseek-r1") == first
    assert listed_model("deepseek-ai/DeepSeek-V9") is None
    assert listed_model("../configs/Qwen--Qwen3-8B") is None
