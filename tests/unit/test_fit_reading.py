"""Arguments of a server are read for its memory as vLLM reads them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.reading import read_serving
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.target import ServeArgs


def read(*argv: str, platform: Platform = Platform.ROCM, **variables: str) -> Serving:
    """Read arguments of vLLM 0.32."""
    return read_serving(ServeArgs(argv), variables, version=(0, 32, 0), platform=platform)


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        ("--tensor-parallel-size 8", "tensor_parallel", 8),
        ("--tensor_parallel_size=8", "tensor_parallel", 8),
        ("-tp 8", "tensor_parallel", 8),
        ("-tp=8", "tensor_parallel", 8),
        ("-tp 2 -tp 4", "tensor_parallel", 4),
        ("-pp 2", "pipeline_parallel", 2),
        ("-dp 4", "data_parallel", 4),
        ("-dcp 2", "decode_context_parallel", 2),
        ("--enable-expert-parallel", "expert_parallel", True),
        ("-ep", "expert_parallel", True),
        ("--enable-expert-parallel --no-enable-expert-parallel", "expert_parallel", False),
        ("--dtype half", "dtype", "float16"),
        ("--dtype float", "dtype", "float32"),
        ("-q fp8", "quantization", "fp8"),
        ("--kv-cache-dtype fp8_e5m2", "kv_cache_dtype", "fp8_e5m2"),
        ("--block-size 32", "block_size", 32),
        ("--max-model-len 8k", "max_model_len", 8000),
        ("--max-model-len 8K", "max_model_len", 8192),
        ("--max-model-len=25.6k", "max_model_len", 25_600),
        ("--max-model-len auto", "fits_length", True),
        ("--max-model-len -1", "fits_length", True),
        ("--max-model-len=-1", "max_model_len", None),
        ("--max-num-seqs 16", "max_num_seqs", 16),
        ("--max-num-batched-tokens 2K", "max_num_batched_tokens", 2048),
        ("--performance-mode throughput", "doubled_batch", True),
        ("--gpu-memory-utilization 0.5", "utilization", 0.5),
        ("--device-memory-utilization=.5", "utilization", 0.5),
        ("--enforce-eager", "eager", True),
        ("--enforce-eager --no-enforce-eager", "eager", False),
        ("-O0", "eager", True),
        ("-O 0", "eager", True),
        ("-O3", "eager", False),
        ("-cc.cudagraph_mode=NONE", "eager", True),
        ("--compilation-config.cudagraph_mode none", "eager", True),
        ('--compilation-config {"cudagraph_mode":"NONE"}', "eager", True),
        ('--compilation-config {"cudagraph_mode":0}', "eager", True),
        ('--compilation-config {"cudagraph_mode":"PIECEWISE"}', "eager", False),
        ("--compilation-config {broken", "eager", False),
        ("--kv-cache-memory-bytes 10G", "kv_cache_bytes", 10 * GIB),
        ("--kv-cache-memory-bytes 10g", "kv_cache_bytes", 10**10),
        ("--kv-cache-memory-bytes 0", "kv_cache_bytes", None),
        ("--num-gpu-blocks-override 100", "blocks", 100),
        ("--no-enable-prefix-caching", "prefix_caching", False),
        ("--enable-prefix-caching", "prefix_caching", True),
        ("", "prefix_caching", None),
        ("--disable-hybrid-kv-cache-manager", "hybrid_manager", False),
        ("", "hybrid_manager", True),
        ("--no-async-scheduling", "overlapped", False),
        ("", "overlapped", True),
        ("--attention-backend FLASHMLA", "attention_backend", "FLASHMLA"),
        ("-ac.backend=FLASHMLA", "attention_backend", "FLASHMLA"),
        ("--nnodes 2", "hosts", 2),
        ("--distributed-executor-backend ray", "hosts", 0),
        ("", "utilization", None),
        ("", "unmodelled", ()),
    ],
)
def test_an_argument_is_read(argv: str, field: str, value: Any) -> None:
    """One argument, one meaning; the last of several wins."""
    assert getattr(read(*argv.split(" ")), field) == value


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ("--tensor-parallel-size two", "--tensor-parallel-size"),
        ("-tp", "--tensor-parallel-size"),
        ("--tensor-parallel-size 0", "--tensor-parallel-size"),
        ("--gpu-memory-utilization 92%", "--gpu-memory-utilization"),
        ("--gpu-memory-utilization 92", "--gpu-memory-utilization"),
        ("--gpu-memory-utilization 0", "--gpu-memory-utilization"),
        ("--gpu-memory-utilization nan", "--gpu-memory-utilization"),
        ("--max-model-len 1.5K", "--max-model-len"),
        ("--max-model-len -2", "--max-model-len"),
        ("--block-size 16.0", "--block-size"),
    ],
)
def test_a_number_that_is_none_is_refused(argv: str, name: str) -> None:
    """The message names the argument and what was written, as vLLM would only after a start."""
    with pytest.raises(TargetError, match=name) as caught:
        read(*argv.split(" "))
    assert caught.value.advice


def test_variables_of_the_cpu() -> None:
    """The space in GiB is the size of the cache, and beats the argument; the GPU has no use."""
    argv = ("--kv-cache-memory-bytes", "1G")
    with_space = read(*argv, platform=Platform.CPU, VLLM_CPU_KVCACHE_SPACE="2")
    assert with_space.kv_cache_bytes == 2 * GIB
    assert read(*argv, platform=Platform.CPU).kv_cache_bytes == GIB
    assert read(*argv, VLLM_CPU_KVCACHE_SPACE="2").kv_cache_bytes == GIB
    assert read(platform=Platform.CPU, VLLM_CPU_KVCACHE_SPACE="0").kv_cache_bytes == 0
    with pytest.raises(TargetError, match="VLLM_CPU_KVCACHE_SPACE"):
        read(platform=Platform.CPU, VLLM_CPU_KVCACHE_SPACE="1.5")


def test_steps_do_not_overlap_on_the_cpu() -> None:
    """Its platform switches that off, whatever was asked."""
    assert not read("--async-scheduling", platform=Platform.CPU).overlapped


def test_variables_that_matter_are_kept() -> None:
    """Those of vLLM and no others: the rest may hold secrets."""
    found = read(VLLM_ROCM_FP8_PADDING="0", HF_HOME="cache")
    assert found.variables == {"VLLM_ROCM_FP8_PADDING": "0"}
    assert read(VLLM_ATTENTION_BACKEND="FLASHMLA").attention_backend == "FLASHMLA"
    assert not read(VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS="0").graphs_estimated


@pytest.mark.parametrize(
    "argv",
    [
        "--enable-lora",
        "--speculative-config {}",
        "-sc {}",
        "--speculative_config.method=ngram",
        "--cpu-offload-gb 10",
        "--kv-transfer-config {}",
        "--hf-overrides {}",
        "--config serve.yaml",
        "--enable-eplb",
    ],
)
def test_what_no_formula_covers_is_named(argv: str) -> None:
    """Never ignored in silence."""
    assert len(read(*argv.split(" ")).unmodelled) == 1


def test_versions() -> None:
    """Windows kept no less than full attention before 0.10."""
    args = ServeArgs(())
    old = read_serving(args, {}, version=(0, 9, 2), platform=Platform.ROCM)
    assert not old.hybrid_manager
    assert not old.overlapped
