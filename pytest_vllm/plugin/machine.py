"""What pytest-benchmark's files say of a measurement: the server, its image, its GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_vllm.plugin.launch import ServerRun
    from pytest_vllm.plugin.state import RunState

_OF_A_GPU = ("name", "gfx", "bdf", "driver", "partition", "vram_total_bytes")


def machine_facts(state: RunState, run: ServerRun | None) -> dict[str, Any]:
    """Return the part of `machine_info` that is about the server under test.

    Args:
        state: What the run knows.
        run: The launch, `None` before it.
    """
    server = state.server
    image = run.facts().get("image") if run is not None else None
    gpus = [gpu for gpu in state.gpus.get("gpus") or () if isinstance(gpu, dict)]
    return {
        "version": server.version if server is not None else "",
        "model": server.model if server is not None else "",
        "launch_model": server.launch_model if server is not None else "",
        "backend": state.target.backend,
        "arguments": list(state.target.serve_args.argv),
        "image": str(image.get("runs") or "") if isinstance(image, dict) else "",
        "gpus": [{key: gpu[key] for key in _OF_A_GPU if key in gpu} for gpu in gpus],
        "gpu_monitor": str(state.gpus.get("monitor") or ""),
        "run": state.run_name,
    }
