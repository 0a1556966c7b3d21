"""Rules about the image."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight import not_applicable, without_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.image import AbsentImage, ImageFacts

_SHORTEST_ID = 4
"""Docker takes fewer digits of an ID, too; so few are more likely a name."""
_SHELLS = ("bash", "sh", "zsh", "dash", "ash")
# docs/signatures.md: what a registry answers -> row, fault.
_ANSWERS = (
    (r"manifest unknown|not found|no such manifest", "D3", Fault.IMAGE),
    (r"toomanyrequests", "D5", Fault.NETWORK),
    (r"denied|unauthorized|authentication required", "D4", Fault.IMAGE),
    (r"dial tcp|lookup |i/o timeout|connection refused|no answer", "D6", Fault.NETWORK),
)
_REASONS = {
    "D3": "the registry does not know this tag (nightly tags expire)",
    "D4": "the registry refuses it or does not know the repository",
    "D5": "the registry's pull limit is reached",
    "D6": "its registry cannot be reached",
}


def present(facts: LaunchFacts, /) -> Iterator[Finding]:
    """An image must be on the engine, or be pulled because the user says so."""
    absent = facts.absent
    if absent is None:
        return
    pulls = facts.target.text("pull") == "missing"
    if not facts.host.here:
        yield Finding(
            id="image.absent",
            severity=Severity.NOTE,
            fault=Fault.IMAGE,
            seen=f"{absent.asked} is not on the engine of this host, so it is not looked at",
        )
    elif pulls and absent.registry == "found":
        yield from _platform(facts, absent)
        yield Finding(
            id="image.pulled",
            severity=Severity.NOTE,
            fault=Fault.IMAGE,
            seen=f"{absent.asked} is not on the engine; it will be pulled"
            + (f" as {absent.digest}" if absent.digest else ""),
        )
    elif pulls:
        yield _cannot_pull(absent)
    else:
        yield _absent(absent)


def _absent(absent: AbsentImage) -> Finding:
    """Say what is missing; what the registry says counts only when it knows something."""
    ref = _row(absent.answer)[0] if absent.registry == "error" else "D3"
    found = absent.registry == "found"
    told = absent.registry == "error" and ref in ("D3", "D4")
    known = (
        "; its registry has it" if found else f"; {_REASONS[ref]}{_said(absent)}" if told else ""
    )
    near = f"; on this engine: {', '.join(absent.near)}" if absent.near else ""
    pull = f"docker pull {shlex.quote(absent.asked)}, or --vllm-pull=missing"
    use = f"--vllm-image={shlex.quote(absent.near[0])}" if absent.near else ""
    ways = [pull, use] if found else [use, pull]
    return Finding(
        id="image.absent",
        severity=Severity.FATAL,
        fault=Fault.IMAGE,
        seen=f"{absent.asked} is not on this Docker engine{known}{near}",
        cure=", or ".join(way for way in ways if way),
        ref=ref if told else "D3",
    )


def _cannot_pull(absent: AbsentImage) -> Finding:
    ref, fault = _row(absent.answer)
    near = f"; on this engine: {', '.join(absent.near)}" if absent.near else ""
    cures = {
        "D3": "check the tag, or name a digest",
        "D4": f"check the name, or docker login {absent.asked.partition('/')[0]}",
        "D5": "docker login, or name a mirror",
        "D6": "--vllm-pull=never with an image loaded by docker load, or set the engine's proxy",
    }
    return Finding(
        id="image.not-pullable",
        severity=Severity.FATAL if absent.registry == "error" else Severity.WARNING,
        fault=fault,
        seen=f"{absent.asked} is not on this engine and cannot be pulled: {_REASONS[ref]}"
        f"{_said(absent)}{near}",
        cure=cures[ref],
        ref=ref,
    )


def _row(answer: str) -> tuple[str, Fault]:
    for pattern, ref, fault in _ANSWERS:
        if re.search(pattern, answer, re.IGNORECASE):
            return ref, fault
    return "D6", Fault.NETWORK


def _said(absent: AbsentImage) -> str:
    return f' (registry: "{absent.answer}")' if absent.answer else ""


def _platform(facts: LaunchFacts, absent: AbsentImage) -> Iterator[Finding]:
    engine = facts.engine
    wanted = f"linux/{engine.architecture}" if engine is not None else ""
    if engine is None or not engine.architecture or not absent.platforms:
        return
    if wanted not in absent.platforms:
        yield _wrong_platform(absent.asked, ", ".join(absent.platforms), wanted)


def architecture(facts: LaunchFacts, /) -> Iterator[Finding]:
    """An image for another machine ends in `exec format error`."""
    image, engine = facts.image, facts.engine
    machine = (
        facts.host.architecture if not facts.host.here else engine.architecture if engine else ""
    )
    if image is None or not image.architecture or not machine or image.architecture == machine:
        return
    yield _wrong_platform(image.asked, image.architecture, machine)


def _wrong_platform(asked: str, has: str, wanted: str) -> Finding:
    return Finding(
        id="image.architecture",
        severity=Severity.FATAL,
        fault=Fault.IMAGE,
        seen=f"{asked} is built for {has}, the engine runs {wanted}",
        cure=f"--vllm-image=IMAGE with a build for {wanted}",
        ref="D20",
    )


def instruction_sets(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Every GPU that the server gets must be one that the image was compiled for."""
    image = facts.image
    why = without_gpu(facts)
    if why:
        yield not_applicable("image.gfx", why)
        return
    if image is None or image.cuda:
        return
    if not image.gfx:
        yield _unknown_gfx(facts, image)
        return
    compiled = {name.partition(":")[0] for name in image.gfx}
    if any("generic" in name for name in compiled):
        return  # code for a family; which members it covers is up to ROCm
    missing = sorted({gpu.gfx for gpu in facts.gpus if gpu.gfx} - compiled)
    if not missing:
        return
    some = [str(gpu.index) for gpu in facts.gpus if gpu.gfx in compiled]
    others = f", or --vllm-gpus={','.join(some)}" if some else ""
    yield Finding(
        id="image.gfx",
        severity=Severity.FATAL,
        fault=Fault.IMAGE,
        seen=f"{image.asked} is compiled for {', '.join(image.gfx)} (PYTORCH_ROCM_ARCH), "
        f"this host has {', '.join(missing)}",
        cure=f"--vllm-image=IMAGE whose PYTORCH_ROCM_ARCH holds {missing[0]}{others}",
        ref="G3",
    )


def _unknown_gfx(facts: LaunchFacts, image: ImageFacts) -> Finding:
    """Say that nothing was compared; a build for the CPU would leave the GPUs unused."""
    has = ", ".join(sorted({gpu.gfx or "AMD GPUs" for gpu in facts.gpus}))
    cpu = not image.rocm and _looks_like_cpu(image)
    looks = "; it looks like a build for the CPU" if cpu else ""
    return Finding(
        id="image.gfx-unknown",
        severity=Severity.WARNING if cpu else Severity.NOTE,
        fault=Fault.IMAGE,
        seen=f"{image.asked} does not say what GPUs it is compiled for (no PYTORCH_ROCM_ARCH), so "
        f"that was not compared with this host's {has}{looks}",
        cure="--vllm-image=vllm/vllm-openai-rocm:TAG, the build for ROCm" if cpu else "",
        ref="G3",
    )


def _looks_like_cpu(image: ImageFacts) -> bool:
    """Tell whether the name or the variables say so; vLLM's own builds do."""
    named = re.search(r"(?<![a-z])cpu(?![a-z])", image.asked, re.IGNORECASE)
    target = image.env.get("VLLM_TARGET_DEVICE", "")
    return target == "cpu" or (
        not target and bool(named or any(name.startswith("VLLM_CPU_") for name in image.env))
    )


def vendor(facts: LaunchFacts, /) -> Iterator[Finding]:
    """An image for CUDA cannot use an AMD GPU."""
    image = facts.image
    why = without_gpu(facts)
    if why:
        yield not_applicable("image.cuda", why)
        return
    if image is None or not image.cuda:
        return
    version = image.env.get("CUDA_VERSION", "")
    yield Finding(
        id="image.cuda",
        severity=Severity.FATAL,
        fault=Fault.IMAGE,
        seen=f"{image.asked} is built for CUDA{f' {version}' if version else ''}, "
        f"this host has {facts.host.gpus[0].name or 'AMD GPUs'}",
        cure="--vllm-image=vllm/vllm-openai-rocm:TAG, the build for ROCm",
        ref="D20",
    )


def tag(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A name without a fixed tag says nothing about what runs."""
    asked = facts.target.image
    if asked is None or not asked.mutable or _is_id(asked.text, facts.image):
        return
    digests = facts.image.repo_digests if facts.image is not None else ()
    pinned = digests[0] if digests else f"{asked.repository}:TAG"
    yield Finding(
        id="image.mutable-tag",
        severity=Severity.WARNING,
        fault=Fault.USER,
        seen=f"image {asked.text} has no fixed tag; its content can change, "
        "so profile promote refuses it",
        cure=f"--vllm-image={shlex.quote(pinned)}",
    )


def rivals(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A tag of which the engine knows several digests says not what a registry has under it."""
    image = facts.image
    if image is None or not image.rivals:
        return
    yield Finding(
        id="image.several-digests",
        severity=Severity.WARNING,
        fault=Fault.USER,
        seen=f"{image.asked} is on this engine by {len(image.rivals)} digests, and which of them "
        "the tag has is not known here; profile promote refuses it",
        cure=", or ".join(f"--vllm-image={shlex.quote(each)}" for each in image.rivals),
    )


def _is_id(text: str, image: ImageFacts | None) -> bool:
    """Tell whether a name is the start of the image's ID, which fixes the content."""
    digits = image.id.removeprefix("sha256:") if image is not None else ""
    return len(text) >= _SHORTEST_ID and digits.startswith(text)


def entrypoint(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Tell what the image would start by itself, which is never relied on."""
    image = facts.image
    if image is None:
        return
    words = [*image.entrypoint, *image.cmd]
    name = words[0].rpartition("/")[2] if words else ""
    if not words:
        seen = f"{image.asked} starts nothing by itself"
    elif len(words) == 1 and name in _SHELLS:
        seen = f"{image.asked} starts {shlex.join(words)}, which ends at once without a terminal"
    else:
        return
    yield Finding(
        id="image.starts-no-server",
        severity=Severity.NOTE,
        fault=Fault.IMAGE,
        seen=f"{seen}; the server is started by an entrypoint of our own",
        ref="D16",
    )


RULES = (present, architecture, instruction_sets, vendor, tag, rivals, entrypoint)
IDS = (
    "image.absent",
    "image.pulled",
    "image.not-pullable",
    "image.architecture",
    "image.gfx",
    "image.gfx-unknown",
    "image.cuda",
    "image.mutable-tag",
    "image.several-digests",
    "image.starts-no-server",
)
