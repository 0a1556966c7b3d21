"""Values of a server's arguments, held against the shipped list of what vLLM takes."""

from __future__ import annotations

import json

import pytest

from pytest_vllm.adapters.flag_table import shipped_flags
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.memory.validity import objections
from pytest_vllm.domain.serve_parser import ServeArgumentError, check
from tests.unit import oracle_cases as oracle

LLAMA = read_shape(oracle.document()["models"]["meta-llama/Llama-3.1-8B-Instruct"])
DEEPSEEK = read_shape(oracle.document()["models"]["deepseek-ai/DeepSeek-V3.1"])


@pytest.mark.parametrize(
    "args",
    [
        ["--dtype", "half", "--kv-cache-dtype=fp8_e4m3", "--load-format", "Runai_Streamer"],
        ["--load-format", "my_package.my_loader", "-q", "AWQ", "--quantization=None"],
        ["--attention-backend", "rocm_aiter_fa", "--attention-backend=auto"],
        ["--max-model-len", "8k", "--max-model-len=auto", "--max-model-len=-1"],
        ["--max-num-batched-tokens", "16K", "--kv-cache-memory-bytes", "25.6g"],
        ["--num-gpu-blocks-override", "None", "--seed", "-1", "--cpu-offload-gb", "1.5"],
        ["--cudagraph-capture-sizes", "1", "2", "4", "--api-key", "a", "b"],
        ["--compilation-config", '{"mode": 3}', "-cc.mode=3", "-O3", "-O", "2"],
        ["--kv-transfer-config", '{"kv_connector": "X", "cpu_bytes": 80m}'],
        ["--speculative-config", json.dumps({"model": "ngram", "num_speculative_tokens": 4})],
        ["--hf-overrides", "anything", "--additional-config.a.b", "c"],
        ["--safetensors-load-strategy", "None", "--max-lora-rank", "16"],
        ["--distributed-executor-backend", "my.executor.Class"],
    ],
)
def test_what_vllm_takes_is_taken(args: list[str]) -> None:
    check(args, shipped_flags().flags)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--kv-cache-dtype fp9", "--kv-cache-dtype: invalid choice: 'fp9'; did you mean fp8?"),
        ("--dtype nonsense", "--dtype: invalid choice: 'nonsense' (choose from auto, bfloat16"),
        ("--load-format safetensor", "is unknown; did you mean safetensors?"),
        ("--load-format nonsense", "'nonsense' is unknown (it has auto, hf"),
        ("-q compressed_tensors", "is unknown; did you mean compressed-tensors?"),
        ("-q bitsandbytes", "unknown to this version, earlier ones had it (it has auto-round"),
        ("--attention-backend FLASH_ATN", "did you mean flash_attn?"),
        ("-tp two", "argument --tensor-parallel-size/-tp: 'two' is not a whole number"),
        ("--max-num-seqs 8k", "'8k' is not a whole number"),
        ("--max-num-batched-tokens 1.5K", "is not a whole number such as 8192 or 8k"),
        ("--cpu-offload-gb much", "'much' is not a number"),
        ("--compilation-config nonsense", "'nonsense' is not JSON such as"),
        ('--kv-transfer-config {"a":', "is not JSON"),
        ("--cudagraph-capture-sizes 1 two", "'two' is not a whole number"),
        ("--max-lora-rank 17", "invalid choice: '17'"),
    ],
)
def test_what_vllm_refuses_is_refused_by_name(args: str, said: str) -> None:
    with pytest.raises(ServeArgumentError) as caught:
        check(args.split(), shipped_flags().flags)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        (Serving(quantization="awq"), "--quantization awq: the weights are stored without"),
        (Serving(quantization="GPTQ_marlin"), "--quantization gptq_marlin: the weights are"),
        (Serving(quantization="experts_int8"), "--quantization experts_int8: vLLM does not take"),
        (Serving(block_size=7), "--block-size 7: attention takes multiples of 16 only"),
        (Serving(block_size=8, platform=Platform.CUDA), "--block-size 8: attention"),
        (Serving(block_size=8, attention_backend="triton_attn"), "--block-size 8: attention"),
    ],
)
def test_what_no_server_of_this_model_takes_is_an_objection(serving: Serving, said: str) -> None:
    (line,) = objections(LLAMA, serving)
    assert line.startswith(said)


@pytest.mark.parametrize(
    "serving",
    [
        Serving(quantization="fp8"),
        Serving(quantization="experts_int8", platform=Platform.CUDA),
        Serving(quantization="mxfp8"),
        Serving(quantization="awq", unmodelled=("--hf-overrides: it may change the model",)),
        Serving(quantization="awq", version=(0, 11, 0)),
        Serving(block_size=48),
        Serving(block_size=7, version=(0, 11, 0)),
        Serving(block_size=7, quantization="awq", version_assumed=True),
        Serving(block_size=7, platform=Platform.CPU),
        Serving(block_size=1, attention_backend="CUSTOM"),
        Serving(block_size=7, unmodelled=("--kv-cache-dtype-skip-layers: reckoned as others",)),
    ],
)
def test_what_a_server_may_take_is_no_objection(serving: Serving) -> None:
    assert objections(LLAMA, serving) == ()


def test_what_the_weights_are_stored_in_decides() -> None:
    assert objections(DEEPSEEK, Serving(tensor_parallel=8, quantization="fp8")) == ()
    assert objections(DEEPSEEK, Serving(tensor_parallel=8, block_size=1)) == ()
    (line,) = objections(DEEPSEEK, Serving(tensor_parallel=8, quantization="awq"))
    assert line == "--quantization awq: the weights are stored as fp8"
