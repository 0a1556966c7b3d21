"""The forecast says what the story's launches did, and what the recorded logs say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pytest_vllm.domain.fit import Fit, Forecast, Gate, ModelMemory, forecast
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.plain import to_json
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.memory.shape import UnknownShape
from pytest_vllm.domain.memory.weights import Basis
from tests.unit.fit_cases import (
    H100_FREE,
    MI300X_BYTES,
    cuda_026,
    h100,
    mi250,
    mi300x,
    model,
    shape_of,
    small,
)

V3 = "deepseek-ai/DeepSeek-V3.1"
_7B = "deepseek-ai/deepseek-llm-7b-base"
_67B = "deepseek-ai/deepseek-llm-67b-base"
_V2_LITE = "deepseek-ai/DeepSeek-V2-Lite"
_LLAMA_8B = "meta-llama/Llama-3.1-8B"


def _suggested(found: Forecast, kind: str) -> str:
    return next((one.argument for one in found.suggestions if one.kind == kind), "")


@pytest.mark.parametrize(
    ("name", "weights", "available", "tokens"),
    [(_7B, 12.87, 58.84, 128_528), (_V2_LITE, 29.31, 42.21, 1_457_104)],
)
def test_recorded_runs_on_an_h100(name: str, weights: float, available: float, tokens: int) -> None:
    """Logs of 0.26: weights within 1 %, cache and tokens within 3 %."""
    found = forecast(model(name), h100(), cuda_026())
    assert found.verdict is Fit.FITS
    assert found.weights[0].total_bytes / GIB == pytest.approx(weights, rel=0.01)
    assert found.kv_bytes / GIB == pytest.approx(available, rel=0.03)
    assert found.kv_tokens == pytest.approx(tokens, rel=0.03)
    assert found.requested_bytes / GIB == pytest.approx(72.84, abs=0.01)


@pytest.mark.parametrize(
    ("name", "available", "tokens", "concurrency"),
    [(_7B, 58.84, 128_528, 31.38), (_V2_LITE, 42.21, 1_457_104, 355.74)],
)
def test_tokens_of_the_recorded_caches(
    name: str, available: float, tokens: int, concurrency: float
) -> None:
    """Of the cache that the log names, the log's tokens follow to the last block or two."""
    size = int(available * GIB)
    found = forecast(model(name), h100(), cuda_026(kv_cache_bytes=size))
    rounding = 0.005 * GIB / found.layout.bytes_per_token if found.layout else 0
    assert abs(found.kv_tokens - tokens) <= rounding + 16
    assert found.max_concurrency == pytest.approx(concurrency, rel=0.001)


def test_the_recorded_failure_of_a_long_context() -> None:
    """`long-7b` wants 480 GiB for 1,048,576 tokens; the log says 58.77 are left, for 128,368."""
    raw = {**shape_of(model(_7B)).raw, "max_position_embeddings": 1_048_576}
    long = ModelMemory(name="long-7b", shape=read_shape(raw))
    asked = cuda_026(max_model_len=None, eager=True)
    found = forecast(long, h100(free=H100_FREE), asked)
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.LENGTH)
    assert found.need_bytes == 480 * GIB
    assert found.weights[0].total_bytes / GIB == pytest.approx(13.12, abs=0.01)
    assert found.kv_bytes / GIB == pytest.approx(58.77, rel=0.03)
    shortened = replace(asked, kv_cache_bytes=int(58.77 * GIB), fits_length=True)
    assert forecast(long, h100(free=H100_FREE), shortened).max_model_len == 128_368


def test_the_recorded_failure_of_a_small_share() -> None:
    """0.17 of an H100 left -0.36 GiB in fact; so close to nothing that no estimate may fail it."""
    found = forecast(model(_7B), h100(free=H100_FREE), cuda_026(utilization=0.17, eager=True))
    assert (found.verdict, found.gate) == (Fit.MARGINAL, Gate.BLOCKS)
    left = found.requested_bytes - sum(
        part.bytes for part in found.parts if part.name in {"weights", "rope", "activation"}
    )
    assert left / GIB == pytest.approx(-0.36 + 0.22, abs=0.3)


def test_the_recorded_failure_while_loading() -> None:
    """70B in 16 bits on one H100 ran out of memory in the weights."""
    found = forecast(model("meta-llama/Llama-3.1-70B"), h100(), cuda_026(eager=True))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.WEIGHTS)


@pytest.mark.parametrize(("length", "concurrency"), [(512, 91.00), (2048, 22.75)])
def test_the_recorded_runs_on_a_cpu(length: int, concurrency: float) -> None:
    """SmolLM2-135M in 1 GiB: the logs of 0.32 say 46,592 tokens."""
    asked = Serving(
        platform=Platform.CPU, kv_cache_bytes=GIB, max_model_len=length, overlapped=False
    )
    found = forecast(model("HuggingFaceTB/SmolLM2-135M"), small(16), asked)
    assert found.kv_tokens == 46_592
    assert found.max_concurrency == concurrency


def test_the_story_671b_on_one_gpu_of_192_gb() -> None:
    """627 GiB of weights cannot be on one MI300X."""
    found = forecast(model(V3), mi300x(), Serving())
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.WEIGHTS)
    assert found.weights[0].parameters_bytes == pytest.approx(673_150_611_808, rel=1e-6)


def test_the_story_671b_on_four_mi250() -> None:
    """Eight dies pass the start-up check and end while loading, as 79.3 GiB go into 64."""
    found = forecast(model(V3), mi250(4), Serving(tensor_parallel=8))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.WEIGHTS)
    assert found.requested_bytes <= found.devices[0].free_bytes
    assert found.weights[0].total_bytes / GIB == pytest.approx(79.8, rel=0.01)
    assert any("gfx90a" in note and "fp8" in note for note in found.notes)


def test_the_story_671b_on_cards_counted_as_devices() -> None:
    """Whoever counts cards asks for four ranks: 158 GiB each."""
    found = forecast(model(V3), mi250(4), Serving(tensor_parallel=4))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.WEIGHTS)
    assert found.weights[0].total_bytes / GIB == pytest.approx(158, rel=0.01)


def test_the_story_671b_on_eight_mi300x() -> None:
    """88 GiB of cache remain of each, for 1.35 million tokens."""
    found = forecast(model(V3), mi300x(8), Serving(tensor_parallel=8))
    assert found.verdict is Fit.FITS
    assert found.kv_bytes / GIB == pytest.approx(88, abs=2)
    assert found.kv_tokens == pytest.approx(1_350_000, rel=0.03)


def test_the_story_671b_on_four_mi300x() -> None:
    """The estimates decide: the tool must neither promise nor refuse."""
    found = forecast(model(V3), mi300x(4), Serving(tensor_parallel=4))
    assert found.verdict is Fit.MARGINAL
    assert found.gate is Gate.LENGTH


def test_the_storys_error() -> None:
    """164.76 of 191.98 GiB free and 0.9 asked for: 0.858 at most, and 0.83 to 0.85 is safe."""
    taken = mi300x(free=int(164.76 * GIB))
    found = forecast(model(_7B), taken, Serving(utilization=0.9))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.STARTUP)
    assert found.utilization_max == 0.858
    assert "172.79 GiB" in found.reason
    assert "164.76 GiB" in found.reason
    assert 0.83 <= float(_suggested(found, "utilization").partition("=")[2]) <= 0.85


def test_what_would_fit_besides_at_a_share_that_passes() -> None:
    """Where others hold memory, more devices help only with a smaller share."""
    taken = mi300x(free=int(164.76 * GIB))
    found = forecast(model(V3), taken, Serving(utilization=0.9))
    assert found.gate is Gate.STARTUP
    assert _suggested(found, "gpus") == "--gpu-memory-utilization=0.83 --tensor-parallel-size=8"
    eight = forecast(model(V3), taken * 8, Serving(utilization=0.83, tensor_parallel=8))
    assert eight.verdict is Fit.FITS


@pytest.mark.parametrize(("share", "passes"), [(0.858, True), (0.859, False)])
def test_the_boundary_of_the_start_up_check(share: float, *, passes: bool) -> None:
    """0.858 of the story's GPU is 164.72 GiB, 0.859 is 164.91."""
    found = forecast(
        model(_7B), mi300x(free=int(164.76 * GIB)), Serving(utilization=share, kv_cache_bytes=GIB)
    )
    assert (found.gate is Gate.STARTUP and found.verdict is Fit.DOES_NOT_FIT) is not passes


@pytest.mark.parametrize("name", [_7B, _67B])
def test_the_storys_smaller_models_fit_on_one_mi300x(name: str) -> None:
    """7B and 67B in 16 bits."""
    assert forecast(model(name), mi300x(), Serving()).verdict is Fit.FITS


def test_fewer_bits_are_weighed() -> None:
    """The 67B in 16 bits takes 126 GiB; fp8 halves and 4 bits quarter it, but for embeddings."""
    found = forecast(model(_67B), small(24, 2), Serving(tensor_parallel=2))
    sizes = {
        one.text.partition(" ")[0].rstrip(":"): float(one.text.partition(": ")[2].split(" ")[0])
        for one in found.suggestions
        if one.kind == "quantization"
    }
    whole = found.weights[0].total_bytes * 2 / GIB
    assert sizes["fp8"] == pytest.approx(whole / 2, rel=0.05)
    embeddings = 2 * 102_400 * 8192 * 2 / GIB
    assert sizes["int4"] == pytest.approx((whole - embeddings) * 0.5195 / 2 + embeddings, rel=0.02)


def test_the_older_log_with_another_process_on_the_gpu() -> None:
    """66.06 of 79.18 GiB free and 0.9 asked for: refused with the figures of the log."""
    found = forecast(model(_7B), h100(free=int(66.06 * GIB)), cuda_026(utilization=0.9, eager=True))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.STARTUP)
    assert "71.26 GiB" in found.reason


def test_versions_before_the_start_up_check_do_not_fail_there() -> None:
    """It came with 0.9.1; before it the same launch runs into something else or nothing."""
    taken = mi300x(free=int(164.76 * GIB))
    for version, gate in (((0, 9, 0), None), ((0, 9, 1), Gate.STARTUP)):
        found = forecast(model(_7B), taken, Serving(version=version, utilization=0.9))
        assert (found.gate if found.gate is Gate.STARTUP else None) is gate


@pytest.mark.parametrize(("version", "share"), [((0, 20, 2), 0.9), ((0, 21, 0), 0.92)])
def test_the_default_share_goes_by_version(version: tuple[int, ...], share: float) -> None:
    """0.9 up to 0.20, 0.92 from 0.21."""
    assert forecast(model(_7B), mi300x(), Serving(version=version)).utilization == share


def test_too_few_devices_are_no_matter_of_memory() -> None:
    """Eight ranks on one card of two dies."""
    found = forecast(model(V3), mi250(1), Serving(tensor_parallel=8))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.INVALID)
    assert "needs 8 devices" in found.reason


@pytest.mark.parametrize(
    ("name", "asked", "reason"),
    [
        (_7B, Serving(max_model_len=4097), "4,096 tokens at most"),
        (_LLAMA_8B, Serving(tensor_parallel=8, decode_context_parallel=2), "key-value heads"),
        (_LLAMA_8B, Serving(tensor_parallel=16, decode_context_parallel=3), "does not divide"),
        (V3, Serving(tensor_parallel=8, decode_context_parallel=3), "does not divide"),
        (
            "google/gemma-2-9b",
            Serving(tensor_parallel=16, decode_context_parallel=2),
            "sliding window",
        ),
        (_LLAMA_8B, Serving(tensor_parallel=5), "attention heads"),
    ],
)
def test_arguments_that_contradict_the_model_are_refused_first(
    name: str, asked: Serving, reason: str
) -> None:
    """Whatever the memory: vLLM says no before it looks."""
    found = forecast(model(name), mi300x(16), asked)
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.INVALID)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (_7B, Serving(max_model_len=4097, variables={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"})),
        (_7B, Serving(max_model_len=4097, unmodelled=("--rope-scaling: it changes ...",))),
        (_LLAMA_8B, Serving(tensor_parallel=16, decode_context_parallel=2)),
        (V3, Serving(tensor_parallel=8, decode_context_parallel=8)),
    ],
)
def test_arguments_that_only_look_odd_are_taken(name: str, asked: Serving) -> None:
    """No false alarm."""
    assert forecast(model(name), mi300x(16), asked).verdict is Fit.FITS


def test_ranks_on_other_hosts_are_believed() -> None:
    """Two hosts of eight are sixteen devices."""
    found = forecast(model(V3), mi300x(8), Serving(tensor_parallel=16, hosts=2))
    assert found.verdict is Fit.FITS


def test_a_long_context_fails_at_its_gate() -> None:
    """Llama-3.1-8B on 24 GiB has room for a cache, not for 131,072 tokens of it."""
    found = forecast(model(_LLAMA_8B), small(24), Serving())
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.LENGTH)
    shorter = int(_suggested(found, "max-model-len").partition("=")[2])
    assert 0 < shorter < 131_072
    assert forecast(model(_LLAMA_8B), small(24), Serving(max_model_len=shorter)).verdict is Fit.FITS


def test_vllm_shortens_the_context_itself_when_told_to() -> None:
    """`--max-model-len auto` fails only when not even one token fits."""
    found = forecast(model(_LLAMA_8B), small(24), Serving(fits_length=True))
    assert found.verdict is not Fit.DOES_NOT_FIT
    assert 0 < found.max_model_len < 131_072
    assert found.max_concurrency >= 1


def test_a_small_share_leaves_no_block() -> None:
    """12.9 GiB of weights do not fit into a tenth of 80 GiB; the device itself is large enough."""
    found = forecast(model(_7B), h100(free=H100_FREE), cuda_026(utilization=0.1))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.BLOCKS)
    assert found.blocks == 0


def test_a_named_cache_is_taken_at_its_word() -> None:
    """The share plays no part for its size, but for the start-up check."""
    found = forecast(model(_7B), h100(), cuda_026(kv_cache_bytes=10 * GIB, utilization=0.3))
    assert found.kv_bytes == 10 * GIB
    assert found.blocks == 10 * GIB // (491_520 * 16)


def test_a_named_cache_that_is_too_large_does_not_fit() -> None:
    """70 GiB besides 12.9 GiB of weights on 79."""
    found = forecast(model(_7B), h100(), cuda_026(kv_cache_bytes=70 * GIB))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.BLOCKS)


def test_named_blocks_decide_the_length_exactly() -> None:
    """4096 tokens are 256 blocks, and vLLM keeps one more."""
    verdicts = [
        forecast(model(_7B), h100(), cuda_026(blocks=count)).verdict for count in (256, 257)
    ]
    assert verdicts == [Fit.DOES_NOT_FIT, Fit.FITS]


def test_the_fullest_device_decides() -> None:
    """One of eight GPUs is in use by someone else."""
    devices = (*mi300x(5), *mi300x(1, free=int(100 * GIB)), *mi300x(2))
    found = forecast(model(V3), devices, Serving(tensor_parallel=8))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.STARTUP)
    assert found.utilization_max == pytest.approx(100 * GIB / MI300X_BYTES, abs=0.001)
    assert any("others hold up to" in note for note in found.notes)


def test_stages_differ_and_the_widest_decides() -> None:
    """The first and the last stage hold the embeddings, the others more layers."""
    found = forecast(model(_LLAMA_8B), mi300x(4), Serving(pipeline_parallel=4))
    assert [rank.stage for rank in found.weights] == [0, 1, 2, 3]
    sizes = [rank.parameters_bytes for rank in found.weights]
    assert max(sizes) in (sizes[0], sizes[-1])
    assert found.verdict is Fit.FITS


def test_the_cpu_has_its_own_figures() -> None:
    """The variable names the cache, blocks are of 128 tokens, and no GPU is checked."""
    found = forecast(
        model("HuggingFaceTB/SmolLM2-135M"),
        small(16),
        Serving(platform=Platform.CPU, kv_cache_bytes=GIB, max_model_len=2048, overlapped=False),
    )
    assert found.verdict is Fit.FITS
    assert found.layout is not None
    assert found.layout.block_size == 128
    assert found.blocks == GIB // (128 * 30 * 3 * 2 * 64 * 2)


def test_the_cpu_without_a_named_cache_asks_for_a_share() -> None:
    """0.92 of the host's memory, of which others hold half."""
    half = replace(small(16)[0], free_bytes=8 * GIB)
    asked = Serving(platform=Platform.CPU, overlapped=False, max_model_len=2048)
    found = forecast(model("HuggingFaceTB/SmolLM2-135M"), (half,), asked)
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.STARTUP)


def test_an_unknown_architecture_is_not_promised() -> None:
    """Weights by the size of the files; the cache is not known, so the best is MARGINAL."""
    unknown = ModelMemory(
        name="new", shape=UnknownShape(reason="Brand-new"), files_bytes=16_000_000_000
    )
    found = forecast(unknown, mi300x(), Serving())
    assert (found.verdict, found.gate) == (Fit.MARGINAL, Gate.LENGTH)
    assert found.layout is None
    assert any("Brand-new" in note for note in found.notes)
    large = replace(unknown, files_bytes=400_000_000_000)
    assert forecast(large, mi300x(), Serving()).gate is Gate.WEIGHTS


def test_a_model_with_states_has_a_known_cache() -> None:
    """Jamba: weights by the size of the files, the cache as its config says."""
    config = {
        "architectures": ["JambaForCausalLM"],
        "model_type": "jamba",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 65_536,
        "max_position_embeddings": 262_144,
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "mamba_expand": 2,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
    }
    jamba = ModelMemory(name="jamba", shape=read_shape(config), files_bytes=103_000_000_000)
    found = forecast(jamba, mi300x(), Serving())
    assert found.verdict is Fit.FITS
    assert found.basis is Basis.FILES
    assert found.layout is not None
    assert found.layout.bytes_per_token == 4 * 2 * 8 * 128 * 2
    assert found.max_model_len == 262_144
    assert forecast(jamba, small(24), Serving()).gate is Gate.WEIGHTS


def test_a_model_of_unknown_size_is_not_promised() -> None:
    """Neither shape nor files: nothing can be said but that."""
    found = forecast(ModelMemory(name="x", shape=UnknownShape(reason="no")), mi300x(), Serving())
    assert (found.verdict, found.gate) == (Fit.MARGINAL, Gate.WEIGHTS)


def test_no_device_is_no_crash() -> None:
    """An empty host, and a device that tells nothing."""
    assert forecast(model(_7B), (), Serving()).gate is Gate.INVALID
    nothing = replace(small(1)[0], total_bytes=0, free_bytes=0)
    assert forecast(model(_7B), (nothing,), Serving()).gate is Gate.INVALID


def test_what_is_not_modelled_is_said() -> None:
    """A note for each argument, word for word."""
    asked = Serving(unmodelled=("--enable-lora: adapters are not counted",))
    found = forecast(model(_7B), mi300x(), asked)
    assert "--enable-lora: adapters are not counted" in found.notes


@pytest.mark.parametrize(
    "found",
    [
        forecast(model(_7B), h100(), cuda_026()),
        forecast(model(V3), mi300x(), Serving()),
        forecast(model(_7B), (), Serving()),
    ],
    ids=["fits", "does not fit", "invalid"],
)
def test_the_json_form(found: Forecast) -> None:
    """Every key that was promised, and nothing that JSON has no word for."""
    plain: dict[str, Any] = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert {
        "verdict",
        "gate",
        "reason",
        "model",
        "weights_bytes_per_rank",
        "kv_bytes_per_token",
        "kv_bytes_per_rank",
        "kv_tokens",
        "max_concurrency",
        "utilization_max",
        "notes",
        "parts",
        "suggestions",
        "basis",
        "blocks",
        "block_size",
        "requested_bytes",
        "utilization",
        "max_model_len",
        "devices",
    } <= plain.keys()
    assert (plain["gate"] is None) is (plain["verdict"] == "FITS")


def test_bytes_per_token_of_well_known_models() -> None:
    """All layers, 16 bits; the latent of MLA is on every rank."""
    known = {
        _LLAMA_8B: 131_072,
        "meta-llama/Llama-3.1-70B": 327_680,
        "meta-llama/Llama-3.1-405B": 516_096,
        _7B: 491_520,
        _V2_LITE: 31_104,
        V3: 70_272,
        "mistralai/Mixtral-8x7B-v0.1": 131_072,
        "Qwen/Qwen3-30B-A3B": 98_304,
        "Qwen/Qwen3-235B-A22B": 192_512,
        "google/gemma-2-9b": 344_064,
    }
    many = mi300x(16)
    found = {name: forecast(model(name), many, Serving()).layout for name in known}
    assert {name: one.bytes_per_token for name, one in found.items() if one} == known
    split = forecast(model(V3), many, Serving(tensor_parallel=8)).layout
    assert split is not None
    assert split.bytes_per_token == known[V3]
    assert shape_of(model(V3)).kv_lora_rank == 512
