"""Memory of this host, by the kernel (proc_meminfo(5))."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_vllm.domain.errors import HostError


def host_memory(proc: Path = Path("/proc")) -> tuple[int, int]:
    """Return the memory of this host and what a new process could get, in bytes.

    Raises:
        HostError: The kernel does not tell.
    """
    try:
        text = (proc / "meminfo").read_text("utf-8", "replace")
        sizes = dict(re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE))
        return int(sizes["MemTotal"]) * 1024, int(sizes["MemAvailable"]) * 1024
    except (OSError, KeyError) as error:
        raise HostError(
            f"{proc / 'meminfo'} does not tell the memory of this host: {error}"
        ) from None
