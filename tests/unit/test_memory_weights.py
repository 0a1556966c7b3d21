"""The closed forms of the weights: equal, byte for byte, to what vLLM's own classes allocate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.memory.shape import Attention, ModelShape, Quantization, UnknownShape
from pytest_vllm.domain.memory.validity import objections, valid_tensor_parallel
from pytest_vllm.domain.memory.weights import Basis, RankWeights, weigh
from tests.unit import oracle_cases as oracle

V3 = "deepseek-ai/DeepSeek-V3.1"
V2_LITE = "deepseek-ai/DeepSeek-V2-Lite-Chat"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
QWEN_MOE = "Qwen/Qwen3-30B-A3B"

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def shape(name: str, **change: Any) -> ModelShape:
    """Read the shape of a model of the record."""
    read = read_shape({**oracle.document()["models"][name], **change})
    assert isinstance(read, ModelShape)
    return read


def weights(name: str, serving: Serving, **change: Any) -> RankWeights:
    """Weigh the first stage of a model of the record."""
    return weigh(ModelMemory(name=name, shape=shape(name, **change)), serving)[0]


@pytest.mark.parametrize("name", oracle.names())
def test_a_rank_is_what_vllm_allocates(name: str) -> None:
    """Parameters and tables of positions of every recorded family, layout and quantization."""
    case, answer = oracle.case(name), oracle.record()["answers"][name]
    rank = weigh(oracle.model(case), oracle.serving(case))[case.get("stage", 0)]
    assert (rank.parameters_bytes, rank.rope_bytes) == (answer["bytes"], answer["rope"])
    assert rank.basis is Basis.FORMULA


def test_each_recorded_layout_is_one_that_the_rules_allow() -> None:
    """What vLLM builds must not be objected to."""
    for name in oracle.names():
        case = oracle.case(name)
        assert objections(oracle.model(case).shape, oracle.serving(case)) == (), name


def test_all_experts_count() -> None:
    """671 billion parameters are loaded, not the 37 billion that a token uses."""
    whole = weights(V3, Serving()).parameters_bytes
    assert whole == 673_150_611_808
    assert round(whole / GIB, 1) == 626.9


def test_layers_for_several_tokens_at_once_are_not_loaded() -> None:
    with_more = weights(V3, Serving(), num_nextn_predict_layers=4)
    assert with_more == weights(V3, Serving())


def test_expert_parallelism_saves_nothing_without_copies_of_attention() -> None:
    alone = weights(QWEN_MOE, Serving(tensor_parallel=8))
    assert weights(QWEN_MOE, Serving(tensor_parallel=8, expert_parallel=True)) == alone


def test_a_key_value_head_is_on_every_rank() -> None:
    """Eight heads on sixteen ranks: each head twice, so two halves are more than the whole."""
    eight = weights(LLAMA, Serving(tensor_parallel=8)).parameters_bytes
    sixteen = weights(LLAMA, Serving(tensor_parallel=16)).parameters_bytes
    head = 2 * 128 * 4096 * 2 * 32
    norms = (2 * 32 + 1) * 4096 * 2
    assert 2 * (sixteen - norms) - (eight - norms) == head


def test_32_bits_are_loaded_only_when_asked_for() -> None:
    stored = weights(LLAMA, Serving(), torch_dtype="float32")
    assert stored == weights(LLAMA, Serving())
    asked = weights(LLAMA, Serving(dtype="float32"))
    assert asked.parameters_bytes == 2 * stored.parameters_bytes


def test_the_table_of_positions_does_not_shrink_with_the_length() -> None:
    short = weights(LLAMA, Serving(max_model_len=2048))
    assert short.rope_bytes == weights(LLAMA, Serving()).rope_bytes == 131072 * 128 * 2


def test_gemma_3_has_a_table_for_windows_and_a_longer_one_for_the_rest() -> None:
    case = oracle.case("gemma-3-4b-it rope scaling")
    rank = weigh(oracle.model(case), Serving())[0]
    assert rank.rope_bytes == 131072 * 256 * 2 * (8 + 1)
    assert round(rank.rope_bytes / GIB, 2) == 0.56


def test_deepseeks_table_is_kept_in_32_bits_on_cuda() -> None:
    rocm = weights(V2_LITE, Serving())
    cuda = weights(V2_LITE, Serving(platform=Platform.CUDA))
    assert cuda.rope_bytes == 2 * rocm.rope_bytes == 2 * 160 * 1024 * 64 * 2


class TestLatent:
    """MLA's up-projections as attention multiplies with them."""

    def test_of_8_bits_are_copied_in_16(self) -> None:
        rank = weights(V3, Serving(tensor_parallel=8))
        assert rank.latent_bytes == 61 * 16 * 512 * (128 + 128) * 2

    def test_of_16_bits_are_no_copies(self) -> None:
        """Measured: 0.26 logs 29.31 GiB for V2-Lite, which has no room for 0.105 GiB more."""
        assert weights(V2_LITE, Serving()).latent_bytes == 0

    def test_were_copied_before(self) -> None:
        """Measured: 0.19 logged 29.43 GiB."""
        rank = weights(V2_LITE, Serving(version=(0, 19, 0), platform=Platform.CUDA))
        assert rank.latent_bytes == 27 * 16 * 512 * 256 * 2
        assert abs(rank.total_bytes / GIB - 29.43) < 0.05

    def test_are_copied_in_8_bits_by_aiter(self) -> None:
        on = {"VLLM_ROCM_USE_AITER": "1"}
        copied = weights(V3, Serving(tensor_parallel=8)).latent_bytes
        assert weights(V3, Serving(tensor_parallel=8, variables=on)).latent_bytes == copied // 2
        off = {**on, "VLLM_ROCM_USE_AITER_FP8BMM": "0"}
        assert weights(V3, Serving(tensor_parallel=8, variables=off)).latent_bytes == copied


class TestPadding:
    """What ROCm's kernels add to rows."""

    def test_of_matrices_in_fp8(self) -> None:
        """256 bytes for each row of a multiple of 512 bytes; embeddings and norms have none."""
        rank = weights(LLAMA, Serving(), quantization_config=FP8)
        rows = 32 * ((4096 + 2 * 1024) + 4096 + 2 * 14336 + 4096)
        assert rank.padding_bytes == 256 * rows

    def test_can_be_switched_off(self) -> None:
        serving = Serving(variables={"VLLM_ROCM_FP8_PADDING": "0"})
        assert weights(LLAMA, serving, quantization_config=FP8).padding_bytes == 0

    def test_is_rocms_only(self) -> None:
        serving = Serving(platform=Platform.CUDA)
        assert weights(LLAMA, serving, quantization_config=FP8).padding_bytes == 0

    def test_of_experts_in_earlier_versions(self) -> None:
        """Every row of 2048 and of 768 values in 16 bits got 256 bytes more."""
        rank = weights(QWEN_MOE, Serving(version=(0, 9, 0)))
        assert rank.padding_bytes == 48 * 128 * (2 * 768 + 2048) * 256
        assert weights(QWEN_MOE, Serving()).padding_bytes == 0

    def test_of_mxfp4_is_counted_with_the_experts(self) -> None:
        rocm = weights("openai/gpt-oss-20b", Serving())
        cpu = weights("openai/gpt-oss-20b", Serving(platform=Platform.CPU))
        assert cpu.parameters_bytes == 13_761_264_768, "published size of the tensors"
        padded, stored = 3072 * 3072 * 3, 2880 * 2880 * 3
        bias = 2 * (3 * 3072 - 3 * 2880)
        each = (padded - stored) // 2 + (padded - stored) // 32 + bias
        assert rocm.parameters_bytes - cpu.parameters_bytes == 24 * 32 * each


class TestOnline:
    """`--quantization` of a checkpoint in 16 bits."""

    def test_fp8_halves_the_matrices(self) -> None:
        stored = weights(LLAMA, Serving())
        asked = weights(LLAMA, Serving(quantization="fp8"))
        matrices = 32 * 4096 * (4096 * 2 + 2 * 1024 + 3 * 14336)
        scales = 32 * 4 * (3 + 1 + 2 + 1)
        assert stored.parameters_bytes - asked.parameters_bytes == matrices - scales

    def test_a_method_for_stored_weights_changes_nothing(self) -> None:
        assert weights(LLAMA, Serving(quantization="awq")) == weights(LLAMA, Serving())


class TestUnknown:
    """A model that no formula describes."""

    UNKNOWN = UnknownShape(reason="no formula for the weights of NewForCausalLM")

    def test_says_which(self) -> None:
        read = read_shape({"architectures": ["NewForCausalLM"]})
        assert read == replace(self.UNKNOWN, architecture="NewForCausalLM")

    def test_says_what_a_config_lacks(self) -> None:
        read = read_shape({"architectures": ["LlamaForCausalLM"], "hidden_size": 64})
        assert isinstance(read, UnknownShape)
        assert "has no num_hidden_layers, num_attention_heads, vocab_size" in read.reason

    def test_falls_back_to_the_files(self) -> None:
        model = ModelMemory(name="new", shape=self.UNKNOWN, files_bytes=1000 * GIB)
        (alone,) = weigh(model, Serving())
        assert (alone.total_bytes, alone.basis) == (1000 * GIB, Basis.FILES)
        ranks = weigh(model, Serving(tensor_parallel=4, pipeline_parallel=2))
        assert [rank.total_bytes for rank in ranks] == [175 * GIB] * 2

    def test_variant_of_a_known_family_says_so(self) -> None:
        """Gemma 4's small models keep an embedding for each layer and share caches."""
        config = oracle.document()["models"]["google/gemma-4-26B-A4B"]
        part = {**config["text_config"], "hidden_size_per_layer_input": 256}
        read = read_shape({**config, "text_config": part})
        assert isinstance(read, UnknownShape)
        assert "embeddings of each layer" in read.reason

    def test_way_of_storing_falls_back_to_the_files_too(self) -> None:
        """Two thirds of the size in 16 bits would be a wrong answer to a launch that fits."""
        way = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        model = ModelMemory(name="new", shape=shape(LLAMA, quantization_config=way))
        (without,) = weigh(model, Serving())
        assert without.parameters_bytes == weights(LLAMA, Serving()).parameters_bytes
        ranks = weigh(replace(model, files_bytes=6 * GIB), Serving(tensor_parallel=2))
        assert [rank.parameters_bytes for rank in ranks] == [3 * GIB + int(0.3 * GIB)]
        assert (ranks[0].basis, ranks[0].rope_bytes) == (Basis.FILES, 131072 * 128 * 2)

    def test_mix_of_ways_falls_back_to_the_files(self) -> None:
        """One group in 4 bits, another in 8."""
        groups = {"a": {"weights": INT4}, "b": {"weights": {**INT4, "num_bits": 8}}}
        way = {"quant_method": "compressed-tensors", "config_groups": groups}
        mixed = shape(LLAMA, quantization_config=way)
        model = ModelMemory(name="new", shape=mixed, files_bytes=6 * GIB)
        assert weigh(model, Serving())[0].basis is Basis.FILES

    def test_of_unknown_size_has_no_weights(self) -> None:
        assert weigh(ModelMemory(name="new", shape=self.UNKNOWN), Serving()) == ()

    def test_nothing_is_objected_to(self) -> None:
        assert objections(self.UNKNOWN, Serving(tensor_parallel=7)) == ()
        assert valid_tensor_parallel(self.UNKNOWN) == ()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (LLAMA, {(Attention.FULL, 0): 32}),
        (V3, {(Attention.LATENT, 0): 61}),
        ("google/gemma-2-9b-it", {(Attention.SLIDING, 4096): 21, (Attention.FULL, 0): 21}),
        ("google/gemma-3-4b-it", {(Attention.SLIDING, 1024): 29, (Attention.FULL, 0): 5}),
        ("openai/gpt-oss-20b", {(Attention.SLIDING, 128): 12, (Attention.FULL, 0): 12}),
        ("mistralai/Mistral-7B-v0.1", {(Attention.SLIDING, 4096): 32}),
        (
            "CohereLabs/c4ai-command-r7b-12-2024",
            {(Attention.SLIDING, 4096): 24, (Attention.FULL, 0): 8},
        ),
        ("Qwen/Qwen1.5-MoE-A2.7B", {(Attention.FULL, 0): 24}),
        ("google/gemma-4-26B-A4B", {(Attention.SLIDING, 1024): 25, (Attention.FULL, 0): 5}),
        ("Qwen/Qwen3.5-35B-A3B", {(Attention.STATE, 0): 30, (Attention.FULL, 0): 10}),
        (
            "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
            {(Attention.STATE, 0): 23, (Attention.NONE, 0): 23, (Attention.FULL, 0): 6},
        ),
        (
            "meta-llama/Llama-4-Scout-17B-16E-Instruct",
            {(Attention.CHUNKED, 8192): 36, (Attention.FULL, 0): 12},
        ),
    ],
)
def test_what_layers_remember(name: str, kinds: dict[tuple[Attention, int], int]) -> None:
    seen: dict[tuple[Attention, int], int] = {}
    for layer in shape(name).layers:
        seen[layer.attention, layer.window] = seen.get((layer.attention, layer.window), 0) + 1
    assert seen == kinds


def test_ignored_modules_are_found_by_every_spelling() -> None:
    """Names with the prefixes of a wrapper, of fused parts, patterns and globs."""
    base = {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": INT4}}}
    stored = weights(LLAMA, Serving(), quantization_config=base).parameters_bytes
    spellings = (
        ["re:.*mlp.down_proj"],
        [f"model.layers.{index}.mlp.down_proj" for index in range(32)],
        [f"language_model.model.layers.{index}.mlp.down_proj" for index in range(32)],
        ["model.layers.*.mlp.down_proj"],
    )
    sizes = {
        weights(LLAMA, Serving(), quantization_config={**base, "ignore": ignore}).parameters_bytes
        for ignore in spellings
    }
    elements = 4096 * 14336
    assert sizes == {stored + 32 * (elements * 3 // 2 - elements // 128 * 2 - 16)}


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}


@settings(max_examples=300)
@given(JSON)
def test_any_json_is_read_without_an_error(raw: Any) -> None:
    assert isinstance(read_shape(raw), ModelShape | UnknownShape)


@settings(max_examples=400)
@given(st.data())
def test_a_known_config_with_anything_in_it_is_read_without_an_error(data: st.DataObject) -> None:
    """Values of the wrong kind, sizes that divide nothing, keys that are missing."""
    config = dict(data.draw(st.sampled_from(list(oracle.document()["models"].values()))))
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=3)):
        config[key] = data.draw(JSON | st.integers(0, 9))
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=2)):
        config.pop(key, None)
    serving = Serving(
        tensor_parallel=data.draw(st.integers(1, 64)),
        pipeline_parallel=data.draw(st.integers(1, 9)),
        data_parallel=data.draw(st.integers(1, 4)),
        expert_parallel=data.draw(st.booleans()),
        platform=data.draw(st.sampled_from(Platform)),
    )
    read = read_shape(config)
    objections(read, serving)
    valid_tensor_parallel(read)
    for rank in weigh(ModelMemory(name="any", shape=read, files_bytes=1), serving):
        sizes = (rank.parameters_bytes, rank.rope_bytes, rank.latent_bytes, rank.padding_bytes)
        assert min(sizes) >= 0


@settings(max_examples=100)
@given(JSON)
def test_any_quantization_is_read_without_an_error(found: Any) -> None:
    for method in ("fp8", "awq", "gptq", "compressed-tensors", "quark", "mxfp4", "new"):
        given_ = {**(found if isinstance(found, dict) else {}), "quant_method": method}
        read = shape(LLAMA, quantization_config=given_)
        assert isinstance(read.quantization, Quantization)
        assert weigh(ModelMemory(name="any", shape=read), Serving())[0].total_bytes > 0
