"""Asks AMD SMI, in a process of its own (`amd_child`), and sysfs for what AMD SMI does not tell."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pytest_vllm.adapters.gpus import UNKNOWN_GPU, GpuFacts, no_gpus
from pytest_vllm.adapters.gpus.companion import Companion, Reply
from pytest_vllm.adapters.gpus.naming import fill_names
from pytest_vllm.adapters.gpus.sysfs import SysfsMonitor
from pytest_vllm.domain.devices import mark_shared
from pytest_vllm.domain.gpu_samples import QUANTITIES, RARE, Look
from pytest_vllm.domain.text import one_line

_TIMEOUT_S = 20.0
_SAMPLE_TIMEOUT_S = 5.0
_CODES = {
    2: "not supported: may this user open /dev/dri/renderD*? (group render)",
    10: "no permission: this user may not use the GPUs (add it to the groups render and video)",
    31: "no GPU found",
    32: "the library was not initialised",
    34: "driver amdgpu is not loaded (modprobe amdgpu; dmesg tells why it is not)",
}
_ABSENT = "cannot open shared object file: No such file"


class AmdMonitor:
    """Asks AMD SMI.

    Args:
        names: Where names, instruction sets, render nodes, power and processes come from.
        timeout_s: Seconds after which AMD SMI counts as hung.
    """

    name = "amd"

    def __init__(self, names: SysfsMonitor | None = None, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._names = names or SysfsMonitor()
        self._timeout_s = timeout_s
        self._companion = Companion(
            "pytest_vllm.adapters.gpus.amd_child", what="AMD SMI", first_s=timeout_s
        )

    def facts(self) -> GpuFacts:
        """Ask now."""
        reply = self._companion.ask("facts", timeout_s=self._timeout_s)
        if reply.down or reply.error is not None:
            return no_gpus(self.name, _explain(reply))
        nameless = reply.answer["nameless"]
        lost = f"AMD SMI sees {nameless} GPUs that tell no address; see dmesg" if nameless else ""
        if not reply.answer["gpus"]:
            return no_gpus(self.name, lost or "AMD SMI sees no GPU")
        known = {gpu["bdf"]: gpu for gpu in self._names.facts()["gpus"]}
        gpus: list[dict[str, Any]] = []
        for gpu in sorted(reply.answer["gpus"], key=lambda gpu: str(gpu["bdf"])):
            told = {key: value for key, value in gpu.items() if value not in (None, "")}
            by_sysfs = known.get(gpu["bdf"], {})
            gpus.append(UNKNOWN_GPU | by_sysfs | told | {"index": len(gpus)})
        return {
            "monitor": self.name,
            "reason": lost,
            "source": reply.answer["source"],
            "gpus": mark_shared(fill_names(gpus)),
        }

    def sample(self, *, rare: bool) -> Look:
        """Ask for what changes; what AMD SMI does not tell is read from sysfs."""
        timeout_s = min(self._timeout_s, _SAMPLE_TIMEOUT_S)
        reply = self._companion.ask("sample rare" if rare else "sample", timeout_s=timeout_s)
        problem = _explain(reply) if reply.down or reply.error is not None else ""
        told: dict[str, dict[str, Any]] = {} if problem else reply.answer
        wanted = frozenset(QUANTITIES) - (frozenset() if rare else frozenset(RARE))
        missing = frozenset(
            name
            for name in wanted
            if problem or any(gpu.get(name) is None for gpu in told.values())
        )
        by_sysfs = self._names.read(missing)
        readings = {
            bdf: by_sysfs.get(bdf, {})
            | {name: value for name, value in told.get(bdf, {}).items() if value is not None}
            for bdf in {**by_sysfs, **told}
        }
        return Look(readings=readings, problem=problem, cpu_s=reply.cpu_s)

    def close(self) -> None:
        """End the process that asks."""
        self._companion.close()


def _explain(reply: Reply) -> str:
    """Put into words why AMD SMI told nothing."""
    noise = [one_line(line, 200) for line in reply.noise]
    if reply.down:
        return _explain_end(reply.down, noise)
    error = reply.error or {}
    kind, text, code = str(error.get("kind")), str(error.get("text")), error.get("code")
    if kind == "ModuleNotFoundError" and "amdsmi" in text:
        return "Python package amdsmi is not installed, and ROCm's own is not there"
    if code is not None:
        return f"AMD SMI: {_CODES.get(code, one_line(text, 200))} (error {code})"
    if kind == "KeyError" and "libamd_smi" in text:
        return _explain_absence(noise)
    symbol = re.search(r"undefined symbol: \w+", text)
    if symbol is not None:
        return (
            f"{_wheel()} does not fit ROCm's libamd_smi.so ({symbol[0]}); install the wheel of "
            "ROCm's version (/opt/rocm/.info/version)"
        )
    return f"{_wheel()} cannot be used ({kind}: {one_line(text, 200)})"


def _explain_end(down: str, noise: list[str]) -> str:
    """Say what to look at when the process that asks hangs or has ended, with its last words."""
    if "did not answer" in down:
        return f"{down}; see dmesg for a GPU that hangs"
    if "ended with" not in down:
        return down
    said = f": {noise[-1]}" if noise else ""
    return f"{down} (do {_wheel()} and ROCm fit?){said}"


def _explain_absence(noise: list[str]) -> str:
    """Tell a library that is not there from one that cannot be loaded; the wheel prints which."""
    detail = next((line for line in noise if "libamd_smi" in line), "")
    if not detail or _ABSENT in detail:
        return "ROCm's library libamd_smi.so is not installed"
    return f"ROCm's library libamd_smi.so cannot be loaded ({detail})"


def _wheel() -> str:
    try:
        return f"amdsmi {version('amdsmi')}"
    except PackageNotFoundError:
        return "amdsmi"
