"""What works is let pass: public models with usual arguments on hosts that hold them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from pytest_vllm.adapters.model_facts import look_up_names
from pytest_vllm.domain.facts.config import read_config
from pytest_vllm.domain.finding import Severity
from pytest_vllm.domain.preflight import (
    arguments,
    fit,
    gpu_count,
    memory,
    model,
    model_files,
    visibility,
)
from tests.unit.launch_facts import (
    make_host,
    make_launch,
    make_model,
    public_configs,
    real_help,
)

RULES = tuple(
    rule
    for module in (model, model_files, fit, gpu_count, memory, arguments, visibility)
    for rule in module.RULES
)
CONFIGS = public_configs()
ARGUMENTS = (
    (),
    ("--gpu-memory-utilization=0.9", "--max-num-seqs=256"),
    ("--max-model-len=1024", "--enforce-eager"),
    ("--max_model_len", "auto", "--dtype", "bfloat16"),
    ("--served-model-name", "a", "b", "--seed", "0", "-O3"),
    ("--trust-remote-code", "--kv-cache-dtype=fp8", "--no-enable-prefix-caching"),
    ("--compilation-config", '{"cudagraph_mode":"NONE"}', "--max-num-batched-tokens", "8k"),
)
HELP = real_help()


def judged(name: str, *args: str, **more: Any) -> list[Any]:
    entry = CONFIGS[name]
    size = entry["weights_bytes"] or 14 * 2**30
    config = read_config(entry["config"])
    facts = make_model(
        entry["config"],
        asked=name,
        weights_bytes=size,
        native=look_up_names(config),
        chat_template=True,
    )
    launch = make_launch(
        *args, model=facts, config=entry["config"], help_facts=HELP, host=make_host(8), **more
    )
    return [
        finding
        for rule in RULES
        for finding in rule(launch)
        if finding.severity in (Severity.FATAL, Severity.WARNING)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_public_models_on_eight_mi300x_are_let_pass(name: str) -> None:
    heads = read_config(CONFIGS[name]["config"]).heads or 1
    tp = next(size for size in (8, 5, 4, 2, 1) if size in fit.valid_sizes(_config(name)))
    assert heads % tp == 0
    images = ("vllm/vllm-openai-rocm:v0.32.0", "vllm/vllm-openai-rocm:nightly")
    for args, image in product(ARGUMENTS, images):
        assert judged(name, f"-tp={tp}", *args, image=image) == []


@pytest.mark.parametrize("name", CONFIGS)
def test_the_longest_sequences_of_public_models_are_let_pass(name: str) -> None:
    context = read_config(CONFIGS[name]["config"]).context
    tp = max(size for size in fit.valid_sizes(_config(name)) if size <= 8)
    assert judged(name, f"-tp={tp}", f"--max-model-len={context}") == []
    assert judged(name, f"-tp={tp}", f"--max-model-len={(context or 0) + 1}")


@pytest.mark.parametrize(
    "args",
    [
        ("--data-parallel-size=4", "--data-parallel-rank=0"),
        ("--data-parallel-size=4", "--data-parallel-external-lb"),
        ("--data-parallel-size=4", "--data-parallel-size-local=1"),
        ("--data-parallel-size=4", "--data-parallel-backend=ray"),
        ("--data-parallel-size=4", "--distributed-executor-backend=ray"),
    ],
)
def test_copies_on_other_hosts_need_no_gpu_here(args: tuple[str, ...]) -> None:
    """Eight GPUs hold the one copy of eight ranks that is started here, though not all four."""
    assert judged("deepseek-ai/DeepSeek-V3", "-tp=8", *args) == []
    alone = judged("deepseek-ai/DeepSeek-V3", "-tp=8", args[0])
    assert [finding.id for finding in alone] == ["model.gpus"]


def _config(name: str) -> Any:
    return read_config(CONFIGS[name]["config"])
