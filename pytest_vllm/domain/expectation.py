"""What a launch is expected to make of the memory: the forecast, out of the facts before it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.devices import usable_devices
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.facts.model import ModelKind
from pytest_vllm.domain.fit import Device, Fit, Gate, forecast
from pytest_vllm.domain.memory import MIB
from pytest_vllm.domain.memory.plain import to_json
from pytest_vllm.domain.memory.reading import read_serving
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import UnknownShape
from pytest_vllm.domain.preflight.version import server_version
from pytest_vllm.domain.preflight.visibility import visible_gpus
from pytest_vllm.domain.quantization import LISTED_VERSION

if TYPE_CHECKING:
    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.host import Gpu
    from pytest_vllm.domain.fit import Forecast, ModelMemory

SHARED_MEMORY = ("gfx115", "gfx1103")
"""APUs, whose memory is that of the host: what the driver calls VRAM is not what HIP gives."""
_CPU = "CPU"
_HALVED = ("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "mxfp8")
_OF_DRIVER = 512 * MIB
"""What an idle GPU may show as used: an MI300X 297 771 008 bytes (ROCm#4750)."""


def with_forecast(facts: LaunchFacts, model: ModelMemory) -> LaunchFacts:
    """Return the facts with the forecast, or with the reason why there is none.

    Args:
        facts: Everything else that is known.
        model: What is known of the model's memory.
    """
    platform, why = _platform(facts)
    devices = () if platform is None else _devices(facts, platform)
    if not why and not devices:
        why = "nobody tells how much memory the devices have"
    if facts.target.serve_args.has("--config"):
        why = "--config names a file that is not read here"
    if why or platform is None:
        return replace(facts, forecast=None, idle=None, no_forecast=why)
    known = server_version(facts)
    version = known or LISTED_VERSION
    args = facts.target.serve_args
    try:
        serving = read_serving(args, facts.variables, version=version, platform=platform)
        serving = replace(serving, version_assumed=known is None)
    except TargetError as error:
        return replace(facts, forecast=None, idle=None, no_forecast=error.message)
    if isinstance(model.shape, UnknownShape):
        model = replace(model, files_bytes=loaded_bytes(facts))
    empty = tuple(replace(device, free_bytes=_without_others(device)) for device in devices)
    idle = forecast(model, empty, serving)
    # A server that runs already holds the memory itself.
    runs = empty == devices or facts.target.backend == "attach"
    now = idle if runs else forecast(model, devices, serving)
    unknown = _unknown(facts, idle)
    if unknown and now.verdict is not Fit.DOES_NOT_FIT:
        return replace(facts, forecast=None, idle=None, no_forecast=unknown)
    return replace(facts, forecast=now, idle=idle, no_forecast="")


def _unknown(facts: LaunchFacts, idle: Forecast) -> str:
    """Say why nothing is known of what the weights take; empty when something is."""
    if facts.model is not None and facts.model.kind is ModelKind.GGUF:
        return "of GGUF vLLM makes weights that no formula here knows"
    weighed = any(rank.total_bytes for rank in idle.weights)
    return "" if weighed or idle.gate is Gate.INVALID else "the size of the weights is not known"


def loaded_bytes(facts: LaunchFacts) -> int | None:
    """Return what the files of a model come to on the GPUs, low rather than high.

    Weights in 32 bits are loaded in 16; layers for multi-token prediction are not loaded. Files
    that are flawed tell nothing.
    """
    model, args = facts.model, facts.target.serve_args
    if model is None or any(flaw.name.endswith(".safetensors") for flaw in model.flaws):
        return None
    size = sum(model.tensor_bytes.values()) or model.weights_bytes
    if size is None:
        return None
    if args.value("--dtype") not in ("float32", "float"):
        size -= model.tensor_bytes.get("F32", 0) // 2
    if not args.has("--speculative-config"):
        size -= model.spare_bytes
    online = args.value("--quantization")
    if online and model.config is not None and not model.config.quantization:
        return size // 2 if online in _HALVED else None
    return size


def plain_forecast(facts: LaunchFacts) -> dict[str, Any]:
    """Write the forecast as the record keeps it; the reason as a note where there is none."""
    if facts.forecast is None:
        return {"notes": [f"no forecast: {facts.no_forecast or 'nobody asked for one'}"]}
    return to_json(facts.forecast)


def _platform(facts: LaunchFacts) -> tuple[Platform | None, str]:
    """Return what the server will run on, or why that is not known."""
    target = facts.target
    if target.gpus != "none":
        if facts.host.gpus:
            return Platform.ROCM, ""
        if facts.cuda_gpus:
            return Platform.CUDA, ""
    if target.backend == "attach":
        return None, "no monitor sees the GPUs of the server at the URL"
    rocm = facts.image is not None and (facts.image.rocm or facts.image.cuda)
    if target.image is not None and facts.image is None and "cpu" not in target.image.text.lower():
        return None, f"whether {target.image.text} is for the CPU is not known before it is here"
    hidden = facts.host.kfd is not None or bool(facts.host.other_accelerators)
    if rocm or (hidden and target.gpus != "none"):
        reason = facts.host.gpus_reason
        return None, f"no GPU is known on this host{f' ({reason})' if reason else ''}"
    return Platform.CPU, ""


def _devices(facts: LaunchFacts, platform: Platform) -> tuple[Device, ...]:
    """Return the devices of the ranks, in the order in which the server counts them."""
    host = facts.host
    if platform is Platform.CPU:
        if host.memory_bytes is None:
            return ()
        free = host.memory_bytes if host.memory_free_bytes is None else host.memory_free_bytes
        return (Device(name=_CPU, total_bytes=host.memory_bytes, free_bytes=free),)
    every, seen = (
        (host.gpus, visible_gpus(facts))
        if platform is Platform.ROCM
        else (facts.cuda_gpus, _chosen(facts))
    )
    if any(gpu.gfx.startswith(SHARED_MEMORY) or not gpu.vram_total_bytes for gpu in seen):
        return ()
    # A partition's share depends on all of its socket, also on those that are not handed over.
    known = dict(_usable(every))
    return tuple(known[gpu.index] for gpu in seen)


def _without_others(device: Device) -> int:
    """Return what would be free if nobody else used the device."""
    used = device.total_bytes - device.free_bytes
    return device.total_bytes - min(used, _OF_DRIVER)


def _usable(gpus: tuple[Gpu, ...]) -> list[tuple[int, Device]]:
    """Return what a rank may take of each GPU, by its index."""
    told = [gpu for gpu in gpus if gpu.vram_total_bytes]
    names = {_name(gpu.bdf, gpu.render_node): gpu.index for gpu in told}
    devices = usable_devices({"gpus": [asdict(gpu) for gpu in told]})
    return [(names[_name(device.bdf, device.render_node)], device) for device in devices]


def _name(bdf: str, render_node: str) -> str:
    return bdf or render_node


def _chosen(facts: LaunchFacts) -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that `--vllm-gpus` hands over."""
    asked = facts.target.gpus
    wanted = None if asked == "all" else {int(index) for index in asked.split(",")}
    return tuple(gpu for gpu in facts.cuda_gpus if wanted is None or gpu.index in wanted)
