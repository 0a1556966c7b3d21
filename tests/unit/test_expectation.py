"""The forecast of a launch: for which devices, on what platform, by which version; or why none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_vllm.domain.expectation import plain_forecast, with_forecast
from pytest_vllm.domain.facts.host import DeviceNode, Gpu, HostFacts
from pytest_vllm.domain.facts.image import ImageFacts
from pytest_vllm.domain.facts.model import ModelKind
from pytest_vllm.domain.fit import Fit, ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.preflight.outcome import Preflight
from pytest_vllm.reports.preflight import preflight_text
from tests.unit.launch_facts import MI300X, make_host, make_launch, make_model, public_configs

GIB = 2**30
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
CONFIG = public_configs()[LLAMA]["config"]


def launch(*args: str, **facts: Any) -> Any:
    """Make the facts of a launch of Llama-3.1-8B."""
    return make_launch(*args, model=make_model(CONFIG, asked=LLAMA), config=CONFIG, **facts)


def nodes(facts: Any) -> list[str]:
    """Return the render nodes of the devices, in their order."""
    assert facts.forecast is not None, facts.no_forecast
    return [
        device.render_node.removeprefix("/dev/dri/renderD") for device in facts.forecast.devices
    ]


def test_all_gpus_are_the_devices_when_nothing_hides_any() -> None:
    facts = launch("-tp=2", host=make_host(4))
    assert nodes(facts) == ["128", "129", "130", "131"]
    assert facts.forecast.serving.platform is Platform.ROCM
    assert facts.forecast.serving.tensor_parallel == 2
    assert facts.forecast.verdict is Fit.FITS


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"gpus": "2,3"}, ["130", "131"]),
        ({"env": ["HIP_VISIBLE_DEVICES=3,1"]}, ["131", "129"]),
        ({"env": ["CUDA_VISIBLE_DEVICES=1"]}, ["129"]),
        ({"env": ["ROCR_VISIBLE_DEVICES=2,3", "HIP_VISIBLE_DEVICES=1"]}, ["131"]),
        ({"gpus": "1,3", "env": ["HIP_VISIBLE_DEVICES=1"]}, ["131"]),
        ({"gpus": "3", "backend": "process"}, ["131"]),
        ({"env": ["ROCR_VISIBLE_DEVICES=GPU-abcdef0123456789"]}, ["128", "129", "130", "131"]),
    ],
)
def test_the_devices_are_those_that_the_server_sees(
    options: dict[str, Any], seen: list[str]
) -> None:
    """HIP counts what ROCr leaves; of a choice by UUID it is not known which it is."""
    assert nodes(launch(host=make_host(4), **options)) == seen


def test_hip_counts_in_its_own_order_where_the_monitor_tells_it() -> None:
    host = make_host(3)
    gpus = tuple(replace(gpu, hip_index=2 - gpu.index) for gpu in host.gpus)
    facts = launch(host=replace(host, gpus=gpus), env=["HIP_VISIBLE_DEVICES=0"])
    assert nodes(facts) == ["130"]


def test_a_partition_gets_its_share_also_when_the_others_are_not_handed_over() -> None:
    """In CPX each of eight partitions reports the whole MI300X."""
    host = make_host(8)
    gpus = tuple(
        replace(gpu, bdf=f"0000:05:00.{gpu.index}", partition="CPX/NPS1") for gpu in host.gpus
    )
    facts = launch(host=replace(host, gpus=gpus), gpus="0")
    (device,) = facts.forecast.devices
    assert device.total_bytes == MI300X[2] // 8


def test_an_idle_host_is_reckoned_with_beside_the_one_that_is_in_use() -> None:
    facts = launch("--gpu-memory-utilization=0.9", host=make_host(1, used_bytes=30 * GIB))
    assert facts.forecast.devices[0].free_bytes == MI300X[2] - 30 * GIB
    assert facts.forecast.verdict is Fit.DOES_NOT_FIT
    assert facts.idle.verdict is Fit.FITS
    assert MI300X[2] - facts.idle.devices[0].free_bytes < GIB


def test_the_version_decides_the_default_share() -> None:
    shares = {
        tag: launch(host=make_host(1), image=f"vllm/vllm-openai-rocm:{tag}").forecast.utilization
        for tag in ("v0.32.0", "v0.9.2", "nightly")
    }
    assert shares == {"v0.32.0": 0.92, "v0.9.2": 0.9, "nightly": 0.92}


def test_a_host_without_gpus_serves_on_its_cpu() -> None:
    host = HostFacts(memory_bytes=64 * GIB, memory_free_bytes=60 * GIB)
    facts = launch(host=host, backend="process")
    assert facts.forecast.serving.platform is Platform.CPU
    (device,) = facts.forecast.devices
    assert (device.total_bytes, device.free_bytes) == (64 * GIB, 60 * GIB)
    assert launch(host=make_host(4, memory_bytes=64 * GIB), gpus="none").forecast.devices == (
        replace(device, free_bytes=64 * GIB),
    )


def test_nvidia_gpus_are_devices_of_cuda() -> None:
    gpus = tuple(
        Gpu(
            index=index,
            name="NVIDIA H100",
            bdf=f"0000:{index}a:00.0",
            vram_total_bytes=round(79.18 * GIB),
            vram_used_bytes=0,
        )
        for index in range(2)
    )
    facts = launch(host=HostFacts(memory_bytes=GIB), backend="process", gpus="1")
    shape = read_shape(CONFIG)
    facts = with_forecast(replace(facts, cuda_gpus=gpus), ModelMemory(name=LLAMA, shape=shape))
    assert facts.forecast is not None
    assert facts.forecast.serving.platform is Platform.CUDA
    assert [device.bdf for device in facts.forecast.devices] == ["0000:1a:00.0"]


KFD = DeviceNode(path="/dev/kfd", gid=0)


@pytest.mark.parametrize(
    ("args", "facts", "why"),
    [
        (("--config=serve.yaml",), {"host": make_host(1)}, "--config names a file"),
        (("--max-model-len=many",), {"host": make_host(1)}, "--max-model-len"),
        ((), {"host": make_host(0, kfd=KFD)}, "no GPU is known on this host"),
        ((), {"host": make_host(1, ("8060S", "gfx1151", GIB // 2))}, "how much memory"),
        ((), {"host": HostFacts()}, "how much memory"),
        ((), {"backend": "attach", "url": "http://h:1", "host": HostFacts()}, "no monitor sees"),
    ],
)
def test_where_nothing_can_be_reckoned_the_reason_is_kept(
    args: tuple[str, ...], facts: dict[str, Any], why: str
) -> None:
    made = launch(*args, **facts)
    assert made.forecast is None
    assert why in made.no_forecast
    assert plain_forecast(made) == {"notes": [f"no forecast: {made.no_forecast}"]}


def test_a_server_that_runs_already_holds_its_memory_itself() -> None:
    host = make_host(1, used_bytes=170 * GIB)
    facts = launch(backend="attach", url="http://h:1", host=host)
    assert facts.forecast.verdict is Fit.FITS
    plain = plain_forecast(facts)
    assert plain["verdict"] == "FITS"
    assert plain["weights_bytes_per_rank"] == facts.forecast.weights[0].total_bytes


def test_the_preflight_shows_gpus_of_both_vendors_and_the_forecast() -> None:
    cuda = (Gpu(index=0, name="NVIDIA H100 80GB HBM3", vram_total_bytes=80 * GIB),)
    host = HostFacts(memory_bytes=64 * GIB, memory_free_bytes=60 * GIB)
    facts = launch(host=host, backend="process")
    shown = Preflight(facts=replace(facts, cuda_gpus=cuda), findings=(), took_s=0.1)
    text = preflight_text(shown)
    assert "1 x NVIDIA H100 80GB HBM3 80.0 GiB" in text
    assert f"memory  FITS: {facts.forecast.reason}" in text
    none = launch("--config=x.yaml", host=host, backend="process")
    text = preflight_text(Preflight(facts=none, findings=(), took_s=0.1))
    assert "memory  no forecast: --config names a file" in text


def test_an_image_that_is_not_here_gets_no_forecast_for_the_cpu() -> None:
    """It may be one for ROCm, which would not start on this host at all."""
    host = HostFacts(memory_bytes=16 * GIB, memory_free_bytes=10 * GIB)
    shape = ModelMemory(name=LLAMA, shape=read_shape(CONFIG))
    for name, known in (("rocm/vllm:v0.9.0", False), ("vllm/vllm-openai-cpu:v0.32.0", True)):
        absent = replace(launch(host=host, image=name), image=None)
        facts = with_forecast(absent, shape)
        assert (facts.forecast is not None) is known
        assert (f"{name} is for the CPU is not known" in facts.no_forecast) is not known
    cuda = ImageFacts(asked="i", id="i", runs="i", env={"CUDA_VERSION": "13.0"})
    facts = with_forecast(replace(launch(host=host), image=cuda), shape)
    assert "no GPU is known on this host" in facts.no_forecast


def test_of_gguf_nothing_is_foretold_but_a_start_that_is_refused() -> None:
    model = make_model(kind=ModelKind.GGUF, weights_bytes=8)
    facts = make_launch(model=model, host=make_host(1))
    assert facts.forecast is None
    assert "GGUF" in facts.no_forecast
    busy = make_launch(model=model, host=make_host(1, used_bytes=150 * GIB))
    assert busy.forecast is not None
    assert busy.forecast.verdict is Fit.DOES_NOT_FIT
