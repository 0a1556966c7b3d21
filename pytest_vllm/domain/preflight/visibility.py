"""Rules about the variables that choose GPUs.

ROCr reads its own first and hides the others; HIP counts what ROCr left from 0. Each takes indexes
up to the first that is none (`amd_filter_device.h` of ROCr, `rocdevice.cpp` of HIP).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight import not_applicable, without_gpu
from pytest_vllm.domain.preflight.fit import parallel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.host import Gpu

_Gpu = TypeVar("_Gpu")

_HIP, _CUDA, _ROCR = "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
_NAMES = (_ROCR, _HIP, _CUDA)
_UUID = re.compile(r"(?i:GPU)-[0-9a-fA-F]+")
_HIDDEN, _CONFLICT = "arguments.hidden-gpus", "arguments.visible-devices"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What a list leaves of some GPUs.

    Attributes:
        count: How many at most, `None` for a list in words that are not understood.
        beyond: The first index that is none of them, empty when all are.
        indexes: Which, in the order of the list; `None` where it names them in other words.
    """

    count: int | None
    beyond: str = ""
    indexes: tuple[int, ...] | None = None


def agreement(facts: LaunchFacts, /) -> Iterator[Finding]:
    """HIP and CUDA name the same list; vLLM for ROCm refuses two that differ, GPU or not."""
    seen = _visible(facts)
    hip, cuda = seen.get(_HIP, ""), seen.get(_CUDA, "")
    if facts.target.backend == "attach" or not hip or not cuda or hip == cuda:
        return
    rocm = bool(facts.gpus) or (facts.image is not None and facts.image.rocm)
    yield Finding(
        id=_CONFLICT,
        severity=Severity.FATAL if rocm else Severity.WARNING,
        fault=Fault.USER,
        seen=f"{_HIP}={hip} and {_CUDA}={cuda} contradict each other, and vLLM refuses that on "
        "ROCm",
        cure="set neither, and choose with --vllm-gpus=0,1",
    )


def visibility(facts: LaunchFacts, /) -> Iterator[Finding]:
    """What the variables leave of the GPUs must be as many as are needed."""
    why = without_gpu(facts)
    told = any(True for _ in agreement(facts))
    if why:
        names = (_HIDDEN,) if told else (_HIDDEN, _CONFLICT)
        yield from (not_applicable(name, why) for name in names)
        return
    if told:
        return
    seen = _visible(facts)
    given = [name for name in _NAMES if name in seen]
    listed = _HIP if seen.get(_HIP) else _CUDA
    total = len(facts.gpus if _is_bounded(facts) else facts.host.gpus)
    by_rocr = _choose(seen[_ROCR], total) if _ROCR in seen else _Choice(count=total)
    choice = by_rocr
    if seen.get(listed) and by_rocr.count is not None:
        choice = _choose(seen[listed], by_rocr.count)
    elif _ROCR not in seen and seen.get(_HIP) == "":
        yield _empty()
        return
    telling = [name for name in given if name == _ROCR or seen[name]]
    if choice.count is None or not telling:
        return
    needed = (parallel(facts, "--tensor-parallel-size") or 1) * (
        parallel(facts, "--pipeline-parallel-size") or 1
    )
    beyond = choice.beyond or by_rocr.beyond
    fatal = choice.count < min(needed, total)  # more than there are is told elsewhere
    if not fatal and not beyond:
        return
    named = " and ".join(f"{name}={seen[name]}" for name in telling)
    none = f"; GPU {beyond} is none of those that it counts" if beyond else ""
    chain = f" ({listed} counts the {by_rocr.count} that ROCr leaves from 0)"
    both = _ROCR in seen and bool(seen.get(listed))
    yield Finding(
        id=_CONFLICT if both or not fatal else _HIDDEN,
        severity=Severity.FATAL if fatal else Severity.WARNING,
        fault=Fault.USER,
        seen=f"of {total} GPUs {named} {'leave' if both else 'leaves'} the server "
        f"{choice.count or 'none'}, and it needs {needed}{none}{chain if both else ''}",
        cure=f"drop {' and '.join(given)}, and choose with --vllm-gpus"
        if not _is_ours(facts)
        else f"drop {listed}, since --vllm-gpus chooses already",
        ref="G6" if choice.count else "G1",
    )


def visible_gpus(facts: LaunchFacts) -> tuple[Gpu, ...]:
    """Return the GPUs that the server will see, in its order; all where that cannot be told."""
    seen = _visible(facts)
    gpus = facts.gpus if _is_bounded(facts) else facts.host.gpus
    if not gpus:
        return ()
    if all(gpu.hip_index is not None for gpu in gpus):
        gpus = tuple(sorted(gpus, key=lambda gpu: gpu.hip_index or 0))
    left = visible(gpus, seen)
    return facts.gpus if left is None else left


def visible(gpus: tuple[_Gpu, ...], variables: Mapping[str, str]) -> tuple[_Gpu, ...] | None:
    """Return what the variables leave of GPUs in HIP's order, `None` for words not understood."""
    for name in (_ROCR, _HIP if variables.get(_HIP) else _CUDA):
        listed = variables.get(name)
        if not listed:
            continue
        chosen = _choose(listed, len(gpus)).indexes
        if chosen is None:
            return None
        gpus = tuple(gpus[index] for index in chosen)
    return gpus


def _is_bounded(facts: LaunchFacts) -> bool:
    """Tell whether the server gets the devices of `--vllm-gpus` only."""
    flags = facts.target.text("docker-flags")
    return facts.target.backend == "docker" and flags != "documented"


def _empty() -> Finding:
    """HIP takes an empty list for none at all, PyTorch for a list without GPUs."""
    return Finding(
        id=_HIDDEN,
        severity=Severity.WARNING,
        fault=Fault.USER,
        seen=f"{_HIP} is empty: PyTorch counts no GPU then, though HIP shows all of them",
        cure=f"drop {_HIP}, and choose with --vllm-gpus",
        ref="G1",
    )


def _visible(facts: LaunchFacts) -> Mapping[str, str]:
    """Return the variables as the server gets them: a container inherits none of ours."""
    target, ours = facts.target, facts.host.variables
    seen = dict(ours) if target.backend == "process" else {}
    if facts.image is not None:
        seen.update({name: facts.image.env[name] for name in _NAMES if name in facts.image.env})
    if _is_ours(facts):
        seen[_ROCR] = target.gpus
    for variable in target.env:
        if variable.name not in _NAMES:
            continue
        value = ours.get(variable.name) if variable.value is None else variable.value
        if value is not None:
            seen[variable.name] = value
    return {name: value.strip() for name, value in seen.items() if name in _NAMES}


def _is_ours(facts: LaunchFacts) -> bool:
    """Tell whether the process backend sets ROCr's variable itself, for `--vllm-gpus`."""
    target = facts.target
    named = any(variable.name == _ROCR for variable in target.env)
    return target.backend == "process" and target.gpus not in ("all", "none") and not named


def _choose(text: str, total: int) -> _Choice:
    """Read a list as the runtime does: indexes up to the first that is none, and UUIDs."""
    shown: list[str] = []
    for item in (part.strip() for part in text.split(",")):
        if item in ("", "-1"):
            break
        if not item.isdecimal() and not _UUID.fullmatch(item):
            return _Choice(count=None)
        if item.isdecimal() and int(item) >= total:
            return _Choice(count=len(shown), beyond=item, indexes=_indexes(shown))
        if item not in shown:
            shown.append(item)
    return _Choice(count=min(len(shown), total), indexes=_indexes(shown))


def _indexes(shown: list[str]) -> tuple[int, ...] | None:
    return tuple(int(item) for item in shown) if all(map(str.isdecimal, shown)) else None


RULES = (agreement, visibility)
IDS = (_CONFLICT, _HIDDEN)
