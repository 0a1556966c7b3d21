"""Asks AMD SMI, in a process of its own: the one home of `amdsmi`.

Without a ROCm library the import of the wheel prints to standard output and raises `KeyError`; with
one of another version it may raise anything, crash or hang. A child process keeps all that away
from the run. Only calls whose data have the same size in AMD SMI 6 and 7 are made (addresses and
64-bit counters); names come from sysfs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pytest_vllm.adapters.gpus import GpuFacts, no_gpus
from pytest_vllm.adapters.gpus.sysfs import SysfsMonitor
from pytest_vllm.domain.text import one_line

_MARK = "pytest-vllm gpus: "
_TIMEOUT_S = 20.0
_KILLED_S = 2.0
_CODES = {
    10: "no permission",
    31: "no GPU found",
    34: "driver amdgpu is not loaded",
}
_ABSENT = "cannot open shared object file: No such file"
_COUNTERS = ("vram_total_bytes", "vram_used_bytes")


class AmdMonitor:
    """Asks AMD SMI.

    Args:
        names: Where names, instruction sets and render nodes come from.
        timeout_s: Seconds after which AMD SMI counts as hung.
    """

    name = "amd"

    def __init__(self, names: SysfsMonitor | None = None, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._names = names or SysfsMonitor()
        self._timeout_s = timeout_s

    def facts(self) -> GpuFacts:
        """Ask now."""
        try:
            version("amdsmi")
        except PackageNotFoundError:
            return no_gpus(self.name, "Python package amdsmi is not installed")
        answer = _ask(self._timeout_s)
        if isinstance(answer, str):
            return no_gpus(self.name, answer)
        if not answer:
            return no_gpus(self.name, "AMD SMI sees no GPU")
        known = {gpu["bdf"]: gpu for gpu in self._names.facts()["gpus"]}
        empty = {"name": "", "gfx": "", "render_node": "", **dict.fromkeys(_COUNTERS)}
        gpus: list[dict[str, Any]] = []
        for gpu in sorted(answer, key=lambda gpu: str(gpu["bdf"])):
            counted = {key: value for key, value in gpu.items() if value is not None}
            index = {"index": len(gpus)}
            gpus.append(index | empty | known.get(gpu["bdf"], {}) | counted | index)
        return {"monitor": self.name, "reason": "", "gpus": gpus}


def _ask(timeout_s: float) -> list[dict[str, Any]] | str:
    """Return the GPUs that a child process saw, or why it saw none."""
    command = [sys.executable, "-P", "-m", __name__]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        child = subprocess.Popen(  # noqa: S603 - our own module
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"cannot start a process to ask AMD SMI: {error.strerror}"
    with child:
        try:
            output, _ = child.communicate(timeout=timeout_s)
        except BaseException as error:
            child.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                return _hung(child, timeout_s)
            raise
    return _understand(output.decode("utf-8", "replace"), child.returncode)


def _hung(child: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Say that AMD SMI hangs; a process inside the driver may not even die."""
    try:
        child.wait(_KILLED_S)
    except subprocess.TimeoutExpired:
        child.returncode = -9  # given up: nobody waits for it any more
    return f"AMD SMI did not answer within {timeout_s:g} s; see dmesg for a GPU that hangs"


def _understand(output: str, returncode: int) -> list[dict[str, Any]] | str:
    noise = [line for line in output.splitlines() if not line.startswith(_MARK) and line.strip()]
    answers = [line for line in output.splitlines() if line.startswith(_MARK)]
    if not answers:
        end = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
        said = f": {one_line(noise[-1], 200)}" if noise else ""
        return f"AMD SMI ended with {end} (do wheel {version('amdsmi')} and ROCm fit?){said}"
    answer = json.loads(answers[-1].removeprefix(_MARK))
    if isinstance(answer, list):
        return answer
    return _explain(answer["error"], answer["text"], answer["code"], noise)


def _explain(error: str, text: str, code: int | None, noise: list[str]) -> str:
    """Put an error of the wheel into words."""
    if code is not None:
        return f"AMD SMI: {_CODES.get(code, one_line(text, 200))} (error {code})"
    if error == "KeyError" and "libamd_smi" in text:
        detail = noise[0].strip() if noise else text
        if _ABSENT in detail:
            return "ROCm's library libamd_smi.so is not installed"
        return f"ROCm's library libamd_smi.so cannot be loaded ({one_line(detail, 200)})"
    symbol = re.search(r"undefined symbol: \w+", text)
    if symbol is not None:
        return f"amdsmi {version('amdsmi')} does not fit ROCm's libamd_smi.so ({symbol[0]})"
    return f"amdsmi {version('amdsmi')} cannot be used ({error}: {one_line(text, 200)})"


def _look() -> list[dict[str, Any]]:
    """Ask the library, inside the child process."""
    import amdsmi  # noqa: PLC0415 - it fails in many ways, and only here

    amdsmi.amdsmi_init()
    try:
        vram = amdsmi.AmdSmiMemoryType.VRAM
        return [
            {
                "bdf": str(amdsmi.amdsmi_get_gpu_device_bdf(handle)).lower(),
                "vram_total_bytes": _count(amdsmi.amdsmi_get_gpu_memory_total, handle, vram),
                "vram_used_bytes": _count(amdsmi.amdsmi_get_gpu_memory_usage, handle, vram),
            }
            for handle in amdsmi.amdsmi_get_processor_handles()
        ]
    finally:
        amdsmi.amdsmi_shut_down()


def _count(read: Any, handle: object, kind: object) -> int | None:
    """Read one counter; a GPU that does not tell it is still a GPU."""
    try:
        return int(read(handle, kind))
    except Exception:  # noqa: BLE001 - the wheel has no common error across its versions
        return None


def main() -> None:
    """Look and print the answer on a line of its own."""
    try:
        answer: Any = _look()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent words it
        code = getattr(error, "err_code", None)
        text = str(error) or repr(error)
        answer = {
            "error": type(error).__name__,
            "text": text,
            "code": code if isinstance(code, int) else None,
        }
    sys.stdout.write(f"\n{_MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
