"""Rules about GPUs: how many, how large, how much of it is free."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.domain.expectation import with_forecast
from pytest_vllm.domain.facts.config import read_config
from pytest_vllm.domain.facts.host import Gpu, Holder, HostFacts
from pytest_vllm.domain.finding import Fault, Severity
from pytest_vllm.domain.fit import Fit, Gate, ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.preflight import fit, gpu_count, memory
from pytest_vllm.domain.preflight.fit import valid_sizes
from tests.unit.launch_facts import (
    MI250,
    MI300X,
    found,
    make_host,
    make_launch,
    make_model,
    only,
    public_configs,
    real_help,
)

if TYPE_CHECKING:
    from pytest_vllm.domain.facts import LaunchFacts

GIB = 2**30
V3, LLAMA = "deepseek-ai/DeepSeek-V3.1", "meta-llama/Llama-3.1-8B-Instruct"
QWEN = "Qwen/Qwen2.5-7B-Instruct"
HOSTS = tuple(product((MI300X, MI250), (1, 8), (300_000_000, 50 * GIB)))


def launch(name: str, *args: str, **facts: Any) -> LaunchFacts:
    """Make the facts of a launch of a public model that is not on this host."""
    config = public_configs()[name]["config"]
    model = make_model(config, asked=name)
    return make_launch(*args, model=model, config=config, **facts)


def test_deepseek_v31_does_not_fit_one_mi300x() -> None:
    finding = only(memory.fits, launch(V3, host=make_host(1)))
    assert (finding.id, finding.severity, finding.ref) == ("model.weights", Severity.FATAL, "G8")
    assert finding.fault is Fault.USER
    assert "626.9 GiB of weights" in finding.seen
    assert "all 256 experts of a layer are loaded, though a token uses 8" in finding.seen
    assert (
        "GiB of tables and copies on the 1 GPU used (MI300X), which has 191.98 GiB" in finding.seen
    )
    assert "at least 4 of these GPUs" in finding.seen
    assert re.search(r"a host with \d+ of these GPUs", finding.cure)
    assert "--vllm-serve-arg=--tensor-parallel-size=" in finding.cure
    more = only(memory.fits, launch(V3, host=make_host(8)))
    assert more.cure.startswith("--vllm-serve-arg=--tensor-parallel-size=8")


@pytest.mark.parametrize(("tp", "each"), [(8, "79."), (4, "157.")])
def test_deepseek_v31_does_not_fit_four_mi250(tp: int, each: str) -> None:
    """Four cards are eight dies of 64 GiB; who counts cards asks even more of each die."""
    finding = only(memory.fits, launch(V3, f"-tp={tp}", host=make_host(8, MI250)))
    assert (finding.id, finding.severity) == ("model.weights", Severity.FATAL)
    assert f"puts {each}" in finding.seen
    assert f"each of the {tp} GPUs used (MI250), which have 63.98 GiB each" in finding.seen
    assert "at least 16 of these GPUs" in finding.seen  # 11 would hold it, 16 divides 128 heads


def test_deepseek_v31_fits_eight_mi300x() -> None:
    facts = launch(V3, "-tp=8", host=make_host(8))
    for rule in memory.RULES:
        assert not found(rule, facts)


def test_where_estimates_decide_it_is_a_warning_with_what_would_surely_fit() -> None:
    """On four MI300X as many tokens are left as the reserve for context and activation leaves."""
    finding = only(memory.fits, launch(V3, "-tp=4", host=make_host(4)))
    assert (finding.id, finding.severity) == ("model.length-memory", Severity.WARNING)
    assert "163,840 tokens" in finding.seen
    (length,) = re.findall(r"--vllm-serve-arg=--max-model-len=(\d+)", finding.cure)
    again = launch(V3, "-tp=4", f"--max-model-len={length}", host=make_host(4))
    assert not found(memory.fits, again)


def test_a_request_that_no_estimate_could_save_ends_the_run() -> None:
    finding = only(memory.fits, launch(LLAMA, "--gpu-memory-utilization=0.12", host=make_host(1)))
    assert (finding.id, finding.severity) == ("model.length-memory", Severity.FATAL)
    assert finding.ref == "G10"
    assert "131,072 tokens" in finding.seen
    (share,) = re.findall(r"--vllm-serve-arg=--gpu-memory-utilization=([\d.]+)", finding.cure)
    again = launch(LLAMA, f"--gpu-memory-utilization={share}", host=make_host(1))
    assert not found(memory.fits, again)


def test_a_share_that_the_weights_fill_leaves_no_blocks() -> None:
    finding = only(memory.fits, launch(LLAMA, "--gpu-memory-utilization=0.07", host=make_host(1)))
    assert (finding.id, finding.severity) == ("model.cache-blocks", Severity.FATAL)
    assert finding.ref == "G9"
    assert "--vllm-serve-arg=--gpu-memory-utilization=" in finding.cure


def test_what_one_version_refuses_stands_against_that_one_only() -> None:
    for argument in ("--block-size=7", "-q=gptq"):
        unsure = launch(LLAMA, argument, host=make_host(1), image="rocm/vllm:latest")
        assert not found(memory.fits, unsure)
        earlier = launch(LLAMA, argument, host=make_host(1), help_facts=real_help("0.30.0"))
        assert not found(memory.fits, earlier)
        known = launch(LLAMA, argument, host=make_host(1), help_facts=real_help())
        finding = only(memory.fits, known)
        assert (finding.id, finding.severity) == ("model.cannot-be-split", Severity.FATAL)
        assert finding.cure
    stored = launch(V3, "-tp=8", "-q=awq", host=make_host(8), help_facts=real_help())
    assert not found(memory.fits, stored)
    assert only(fit.quantization, stored).id == "model.other-quantization"


def test_what_contradicts_the_model_is_told_once() -> None:
    """Heads have a rule of their own; stages beyond the layers are the forecast's."""
    heads = launch(QWEN, "-tp=8", host=make_host(8))
    assert not found(memory.fits, heads)
    stages = launch(QWEN, "--pipeline-parallel-size=32", host=make_host(32))
    finding = only(memory.fits, stages)
    assert (finding.id, finding.severity) == ("model.cannot-be-split", Severity.FATAL)
    assert "28 layers" in finding.seen


def test_a_vocabulary_that_does_not_divide_is_told_and_no_such_size_suggested() -> None:
    """40 heads and 10 key-value heads divide by 5, 100,352 rows of the vocabulary do not."""
    finding = only(memory.fits, launch("microsoft/phi-4", "-tp=5", host=make_host(8)))
    assert (finding.id, finding.severity) == ("model.cannot-be-split", Severity.FATAL)
    assert "padded to 100352" in finding.seen
    assert valid_sizes(read_config(public_configs()["microsoft/phi-4"]["config"])) == (1, 2)


def test_weights_that_leave_nothing_for_the_cache_are_a_warning() -> None:
    model = make_model(weights_bytes=185 * GIB)
    finding = only(memory.fits, make_launch(model=model, host=make_host(1)))
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize("args", [("--cpu-offload-gb=600",), ("-tp=x",), ("--config=x.yaml",)])
def test_what_may_fit_is_let_pass(args: tuple[str, ...]) -> None:
    assert not found(memory.fits, launch(V3, *args, host=make_host(4)))


def test_files_alone_end_a_run_only_where_they_surely_do_not_fit() -> None:
    """How files of an unknown architecture spread over ranks is an estimate."""
    for size, severity in ((480 * GIB, Severity.WARNING), (520 * GIB, Severity.FATAL)):
        model = make_model(weights_bytes=size)
        finding = only(memory.fits, make_launch("-tp=8", model=model, host=make_host(8, MI250)))
        assert (finding.id, finding.severity) == ("model.weights", severity)


def test_what_is_not_known_is_no_reason_for_an_alarm() -> None:
    model = make_model(weights_bytes=20 * GIB)
    assert not found(memory.fits, make_launch(model=model, host=make_host(1)))
    assert not found(memory.fits, make_launch(host=make_host(1)))


def test_weights_in_32_bits_are_loaded_in_16() -> None:
    wide = make_model(weights_bytes=300 * GIB, tensor_bytes={"F32": 300 * GIB})
    assert not found(memory.fits, make_launch(model=wide, host=make_host(1)))
    kept = make_launch("--dtype=float32", model=wide, host=make_host(1))
    assert only(memory.fits, kept).severity is Severity.FATAL


def test_weights_are_halved_when_vllm_quantizes_them() -> None:
    plain = make_model({"num_attention_heads": 8}, weights_bytes=300 * GIB)
    assert found(memory.fits, make_launch(model=plain, host=make_host(1)))
    assert not found(memory.fits, make_launch("-q=fp8", model=plain, host=make_host(1)))
    assert not found(memory.fits, make_launch("-q=awq", model=plain, host=make_host(1)))


def test_each_rank_needs_a_gpu() -> None:
    facts = make_launch("-tp=8", "-pp=2".replace("-pp", "--pipeline-parallel-size"))
    assert only(gpu_count.gpu_count, facts).severity is Severity.NOT_APPLICABLE
    facts = make_launch("-tp=8", host=make_host(4), model=make_model({"num_attention_heads": 12}))
    finding = only(gpu_count.gpu_count, facts)
    assert (finding.severity, finding.ref) == (Severity.FATAL, "G6")
    assert "needs 8 GPUs; 4 of 4 GPUs are handed over" in finding.seen
    assert finding.cure == "--vllm-serve-arg=--tensor-parallel-size=4"
    few = make_launch("-tp=4", host=make_host(8), gpus="0,1")
    assert only(gpu_count.gpu_count, few).cure == "--vllm-gpus=all"
    assert not found(gpu_count.gpu_count, make_launch("-tp=8", host=make_host(8)))
    ray = make_launch("-tp=8", "--distributed-executor-backend=ray", host=make_host(1))
    assert not found(gpu_count.gpu_count, ray)
    data = make_launch("--data-parallel-size=4", "-tp=2", host=make_host(4))
    assert "--data-parallel-size 4" in only(gpu_count.gpu_count, data).seen


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


def test_a_share_that_no_idle_gpu_has_free_is_the_users() -> None:
    """The driver itself holds a little, so all of a GPU is never free."""
    finding = only(
        memory.free_memory, launch(LLAMA, "--gpu-memory-utilization=1", host=make_host(1))
    )
    assert (finding.severity, finding.fault) == (Severity.FATAL, Fault.USER)
    assert "held by" not in finding.seen
    assert "end what holds it" not in finding.cure
    assert finding.cure.startswith("--vllm-serve-arg=--gpu-memory-utilization=0.9")


def test_without_a_start_up_check_the_weights_meet_what_others_hold() -> None:
    """VLLM checks what is free from 0.9.1 on; an older one runs out of memory while it loads."""
    host = make_host(1, used_bytes=MI300X[2] - 10 * GIB)
    older = launch(LLAMA, host=host, image="vllm/vllm-openai-rocm:v0.9.0")
    finding = only(memory.free_memory, older)
    assert (finding.severity, finding.fault, finding.ref) == (Severity.FATAL, Fault.HOST, "G7")
    assert "10.00 of 191.98 GiB are free, the weights of a rank take 1" in finding.seen
    assert not found(memory.fits, older)


def test_the_rules_judge_nvidia_gpus_as_they_judge_amds() -> None:
    gpus = (
        Gpu(index=0, name="H100", bdf="0:1", vram_total_bytes=79 * GIB, vram_used_bytes=60 * GIB),
    )
    shape = read_shape(public_configs()[LLAMA]["config"])
    host = HostFacts(memory_bytes=GIB, memory_free_bytes=GIB)
    facts = replace(launch(LLAMA, host=host, backend="process"), cuda_gpus=gpus)
    busy = with_forecast(facts, ModelMemory(name=LLAMA, shape=shape))
    finding = only(memory.free_memory, busy)
    assert "GPU 0: 19.00 of 79.00 GiB are free" in finding.seen
    assert not found(memory.fits, busy)


@pytest.mark.parametrize("percent", range(7, 28))
def test_only_what_is_sure_ends_a_run(percent: int) -> None:
    """Llama-3.1-8B loads 14.99 GiB, and 131,072 tokens of 128 KiB each are 16 GiB.

    What vLLM takes besides is an estimate: where it decides, the run goes on with a warning.
    """
    share = percent / 100
    facts = launch(LLAMA, f"--gpu-memory-utilization={share}", host=make_host(1))
    grave = [finding.severity for finding in found(memory.fits, facts)]
    spare = share * MI300X[2] / GIB - (14.989 + 16)
    doubt = 4  # 2 % of the device
    reserve = 2 + 1 + 2  # context, graphs, activation
    assert grave in ([Severity.FATAL], [Severity.WARNING], [])
    if grave == [Severity.FATAL]:
        assert spare < 0
    if spare < -(doubt + reserve):
        assert grave == [Severity.FATAL]
    if spare > 2 * (doubt + reserve):
        assert grave == []


@pytest.mark.parametrize("name", [V3, QWEN, "microsoft/phi-4"])
@pytest.mark.parametrize("tp", [1, 3, 8])
def test_forecast_and_preflight_agree_where_no_estimate_decides(name: str, tp: int) -> None:
    """DOES_NOT_FIT at an exact gate ends the run, and what ends a run is DOES_NOT_FIT."""
    exact = (Gate.INVALID, Gate.STARTUP, Gate.WEIGHTS)
    cases = (
        (),
        ("--gpu-memory-utilization=0.5",),
        ("--gpu-memory-utilization=0.04",),
        ("--max-model-len=1000000000",),
        ("--kv-cache-memory-bytes=190G",),
        ("--kv-cache-memory-bytes=100G",),
        ("--pipeline-parallel-size=2",),
        ("--quantization=fp8",),
    )
    rules = (*memory.RULES, *gpu_count.RULES, *fit.RULES)
    for args, (kind, count, used) in product(cases, HOSTS):
        host = make_host(count, kind, used_bytes=used)
        facts = launch(name, f"-tp={tp}", *args, host=host)
        grave = [one for rule in rules for one in rule(facts) if one.severity is Severity.FATAL]
        about_memory = [one for one in grave if one.ref not in ("G21", "G22", "H16", "H17")]
        forecast = facts.forecast
        assert forecast is not None
        seen = (args, kind, count, used, forecast.verdict, forecast.gate, forecast.reason, grave)
        if forecast.verdict is Fit.DOES_NOT_FIT and forecast.gate in exact:
            assert about_memory, seen
        if about_memory:
            assert forecast.verdict is Fit.DOES_NOT_FIT, seen


def test_a_size_that_neither_heads_nor_gpus_allow_has_one_cure() -> None:
    for host in (make_host(1), make_host(8)):
        facts = launch(QWEN, "-tp=3", host=host, gpus="0")
        cures = {only(gpu_count.gpu_count, facts).cure, only(fit.heads, facts).cure}
        assert cures == {"--vllm-serve-arg=--tensor-parallel-size=1"}
        assert not found(memory.fits, facts)


def test_a_length_beyond_the_model_is_told_once() -> None:
    facts = launch(QWEN, "--max-model-len=1000000", host=make_host(1))
    assert only(fit.length, facts).ref == "H19"
    assert not found(memory.fits, facts)


def test_weights_and_a_named_cache_above_the_gpu_need_no_estimate() -> None:
    facts = launch(QWEN, "--kv-cache-memory-bytes=180G", host=make_host(1))
    finding = only(memory.fits, facts)
    assert (finding.severity, finding.ref) == (Severity.FATAL, "G9")
    cure = finding.cure.split(", ")[0].removeprefix("--vllm-serve-arg=")
    assert cure.startswith("--kv-cache-memory-bytes=")
    assert not found(memory.fits, launch(QWEN, cure, host=make_host(1)))


def test_a_named_cache_that_only_others_forbid_is_the_hosts() -> None:
    host = make_host(1, used_bytes=60 * GIB)
    words = ("--kv-cache-memory-bytes=130G", "--gpu-memory-utilization=0.5")
    finding = only(memory.free_memory, launch(QWEN, *words, host=host))
    assert (finding.severity, finding.fault) == (Severity.FATAL, Fault.HOST)
    assert "the cache that was named 130.00" in finding.seen
    assert not found(memory.fits, launch(QWEN, *words, host=host))


def test_a_host_that_the_cpu_backend_would_refuse_deserves_a_warning() -> None:
    host = make_host(0, memory_bytes=16 * GIB, memory_free_bytes=10 * GIB)
    finding = only(memory.free_memory, launch(QWEN, host=host, backend="process"))
    assert (finding.severity, finding.fault) == (Severity.WARNING, Fault.HOST)
    assert "14.72 GiB (0.92 of 16.00 GiB), and 10.00 GiB are free" in finding.seen
    roomy = replace(host, memory_free_bytes=15 * GIB)
    sound = launch(QWEN, host=roomy, backend="process")
    assert only(memory.free_memory, sound).severity is Severity.NOT_APPLICABLE
