"""Rules about GPUs: how many, how large, how much of it is free."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.domain.facts.host import Holder
from pytest_vllm.domain.finding import Fault, Severity
from pytest_vllm.domain.preflight import memory
from tests.unit.launch_facts import (
    MI250,
    MI300X,
    found,
    make_host,
    make_launch,
    make_model,
    only,
    public_configs,
)

GIB = 2**30
V31_BYTES = 673_150_611_808


def v31(**facts: Any) -> Any:
    config = public_configs()["deepseek-ai/DeepSeek-V3.1"]["config"]
    return make_model(config, asked="deepseek-ai/DeepSeek-V3.1", weights_bytes=V31_BYTES, **facts)


def test_deepseek_v31_does_not_fit_one_mi300x() -> None:
    finding = only(memory.weights, make_launch(model=v31(), host=make_host(1)))
    assert (finding.severity, finding.ref, finding.fault) == (Severity.FATAL, "G8", Fault.USER)
    assert "626.9 GiB of weights" in finding.seen
    assert "all 256 experts of a layer are loaded, though a token uses 8" in finding.seen
    assert "at least 4 of these GPUs" in finding.seen
    assert "a host with at least 4" in finding.cure


def test_deepseek_v31_does_not_fit_four_mi250() -> None:
    facts = make_launch("-tp=8", model=v31(), host=make_host(8, MI250))
    finding = only(memory.weights, facts)
    assert finding.severity is Severity.FATAL
    assert "at least 16 of these GPUs" in finding.seen  # 11 would hold it, 16 divides 128 heads
    assert "511.9 GiB" in finding.seen


def test_deepseek_v31_fits_eight_mi300x() -> None:
    facts = make_launch("-tp=8", model=v31(), host=make_host(8))
    for rule in memory.RULES:
        assert not found(rule, facts)
    one = only(memory.weights, make_launch(model=v31(), host=make_host(8)))
    assert one.cure == "--vllm-serve-arg=--tensor-parallel-size=4"


def test_weights_that_leave_nothing_for_the_cache_are_a_warning() -> None:
    model = make_model(weights_bytes=185 * GIB)
    finding = only(memory.weights, make_launch(model=model, host=make_host(1)))
    assert (finding.severity, finding.ref) == (Severity.WARNING, "G9")


@pytest.mark.parametrize(
    ("args", "facts"),
    [
        (("--cpu-offload-gb=600",), {}),
        (("-tp=4",), {"tensor_bytes": {"BF16": V31_BYTES}, "spare_bytes": 0}),
        (("-tp=x",), {}),
    ],
)
def test_what_may_fit_is_let_pass(args: tuple[str, ...], facts: dict[str, Any]) -> None:
    launch = make_launch(*args, model=v31(**facts), host=make_host(4))
    assert not found(memory.weights, launch)


def test_weights_in_32_bits_are_loaded_in_16() -> None:
    wide = make_model(weights_bytes=300 * GIB, tensor_bytes={"F32": 300 * GIB})
    assert not found(memory.weights, make_launch(model=wide, host=make_host(1)))
    kept = make_launch("--dtype=float32", model=wide, host=make_host(1))
    assert only(memory.weights, kept).severity is Severity.FATAL


def test_weights_are_halved_when_vllm_quantizes_them() -> None:
    plain = make_model({"num_attention_heads": 8}, weights_bytes=300 * GIB)
    assert found(memory.weights, make_launch(model=plain, host=make_host(1)))
    assert not found(memory.weights, make_launch("-q=fp8", model=plain, host=make_host(1)))
    assert not found(memory.weights, make_launch("-q=awq", model=plain, host=make_host(1)))


def test_each_rank_needs_a_gpu() -> None:
    facts = make_launch("-tp=8", "-pp=2".replace("-pp", "--pipeline-parallel-size"))
    assert only(memory.gpu_count, facts).severity is Severity.NOT_APPLICABLE
    facts = make_launch("-tp=8", host=make_host(4), model=make_model({"num_attention_heads": 12}))
    finding = only(memory.gpu_count, facts)
    assert (finding.severity, finding.ref) == (Severity.FATAL, "G6")
    assert "needs 8 GPUs; 4 of 4 GPUs are handed over" in finding.seen
    assert finding.cure == "--vllm-serve-arg=--tensor-parallel-size=4"
    few = make_launch("-tp=4", host=make_host(8), gpus="0,1")
    assert only(memory.gpu_count, few).cure == "--vllm-gpus=all"
    assert not found(memory.gpu_count, make_launch("-tp=8", host=make_host(8)))
    ray = make_launch("-tp=8", "--distributed-executor-backend=ray", host=make_host(1))
    assert not found(memory.gpu_count, ray)
    data = make_launch("--data-parallel-size=4", "-tp=2", host=make_host(4))
    assert "--data-parallel-size 4" in only(memory.gpu_count, data).seen


def test_the_shared_gpu_of_the_story_gets_its_largest_safe_share() -> None:
    used = MI300X[2] - round(164.76 * GIB)
    holder = Holder(pid=7, name="python3", devices=("/dev/dri/renderD128",), vram_bytes=27 * GIB)
    host = make_host(1, used_bytes=used, holders=(holder,))
    finding = only(memory.free_memory, make_launch("--gpu-memory-utilization=0.9", host=host))
    assert (finding.severity, finding.ref, finding.fault) == (Severity.FATAL, "G7", Fault.HOST)
    assert "164.76 of 191.98 GiB are free, vLLM wants 172.79" in finding.seen
    assert "held by python3 (PID 7, 27.0 GiB)" in finding.seen
    assert finding.cure.startswith("--vllm-serve-arg=--gpu-memory-utilization=0.83")
    safe = make_launch("--gpu-memory-utilization=0.83", host=host)
    assert not found(memory.free_memory, safe)


def test_without_a_version_the_default_share_is_in_doubt() -> None:
    host = make_host(1, used_bytes=round(0.09 * MI300X[2]))
    nightly = make_launch(host=host, image="vllm/vllm-openai-rocm:nightly")
    assert only(memory.free_memory, nightly).severity is Severity.WARNING
    assert only(memory.free_memory, make_launch(host=host)).severity is Severity.FATAL
    older = make_launch(host=host, image="vllm/vllm-openai-rocm:v0.9.0")
    assert not found(memory.free_memory, older)


def test_only_the_gpus_that_are_used_must_be_free() -> None:
    host = make_host(2, used_bytes=round(0.5 * MI300X[2]))
    finding = only(memory.free_memory, make_launch(host=host))
    assert finding.seen.startswith("GPU 0: ")
    full = make_host(1, used_bytes=MI300X[2])
    assert "end what holds it" in only(memory.free_memory, make_launch(host=full)).cure
    assert only(memory.free_memory, make_launch()).severity is Severity.NOT_APPLICABLE


def test_an_apu_is_not_judged_by_what_the_driver_calls_vram() -> None:
    apu = make_host(1, ("8060S", "gfx1151", GIB // 2), used_bytes=GIB // 4)
    model = make_model(weights_bytes=30 * GIB)
    for rule in memory.RULES:
        assert not found(rule, make_launch(model=model, host=apu))
