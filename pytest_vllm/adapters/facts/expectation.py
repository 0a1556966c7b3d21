"""Gathers what the forecast of a launch needs besides the host: model, variables, NVIDIA GPUs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import fields
from typing import TYPE_CHECKING

from pytest_vllm.adapters.gpus import probe
from pytest_vllm.adapters.model_memory import Network, gather
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.facts.host import Gpu
from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.shape import UnknownShape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.facts.host import HostFacts
    from pytest_vllm.domain.facts.image import ImageFacts
    from pytest_vllm.domain.target import Target

_PREFIX = "VLLM_"


def gather_memory(target: Target, env: Mapping[str, str]) -> ModelMemory | None:
    """Read what is known here of a model's memory; the Hub is never asked.

    Returns:
        What is known, if only why nothing is; `None` where no model is named.
    """
    if target.model is None:
        return None
    name, revision = target.model, target.revision
    try:
        return gather(name, env=env, revision=revision, network=Network.NEVER)
    except TargetError as error:
        return ModelMemory(name=name, shape=UnknownShape(reason=error.message))


def server_variables(
    target: Target, image: ImageFacts | None, env: Mapping[str, str]
) -> dict[str, str]:
    """Return vLLM's own variables as the server gets them: a container inherits none of ours."""
    seen = dict(env) if target.backend == "process" else dict(image.env) if image else {}
    for variable in target.env:
        value = env.get(variable.name) if variable.value is None else variable.value
        if value is not None:
            seen[variable.name] = value
    return {name: value for name, value in seen.items() if name.startswith(_PREFIX)}


def gather_cuda(host: HostFacts, *, monitor: str) -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs of a host without AMD's; none where another monitor is forced.

    Args:
        host: The host; another one than this has none.
        monitor: `--vllm-monitor`.
    """
    there = any("nvidia" in node for node in host.other_accelerators)
    asked = monitor == "nvidia" or (monitor == "auto" and there and not host.gpus)
    if not asked or not host.here:
        return ()
    names = {item.name for item in fields(Gpu)} - {"gid", "shared_with"}
    with closing(probe("nvidia")) as nvidia:
        return tuple(
            Gpu(**{name: value for name, value in gpu.items() if name in names})
            for gpu in nvidia.facts()["gpus"]
        )
