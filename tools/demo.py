"""The demo: real vLLM on CPU and a small model, set up and put through the acceptance suites."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.provision.__main__ import DEFAULT_VERSION, base_interpreter
from tools.provision.command import answer
from tools.provision.engine import can_start, engine_version, make_engine
from tools.provision.everything import make_served
from tools.provision.image import ask_registry, find_image, official_image
from tools.provision.package import install, resolve, uv
from tools.provision.place import cache_root, make_once, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SERVE_ARGUMENTS = (
    "--enforce-eager",
    "--max-model-len=2048",
    "--max-num-seqs=16",
    "--dtype=bfloat16",
)
SERVER_ENVIRONMENT = (
    "VLLM_CPU_KVCACHE_SPACE=1",  # GiB
    # a helper of logprobs is compiled even with --enforce-eager, and needs a C++ compiler
    "TORCHDYNAMO_DISABLE=1",
)
SOAK_REQUESTS = 100
"""A fraction of the suite's 2,000, which take six minutes on two cores."""
CONTAINER_INSTEAD = (
    "For vLLM in a container: as root on a Debian-like machine, ./dev demo --backend docker "
    "installs docker.io and debootstrap with apt-get, and starts the engine"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which backend the demo uses, and why."""

    backend: str
    why: str


def demo(arguments: Sequence[str], *, root: Path) -> int:
    """Set up, then become the pytest run; its exit code is the demo's."""
    options, rest = _parser().parse_known_args(arguments)
    choice = choose_backend(options.backend, version=options.version)
    say("demo", f"backend {choice.backend}: {choice.why}")
    in_docker = choice.backend == "docker"
    if in_docker:
        make_engine(install=options.backend == "docker" and os.geteuid() == 0)
    python = make_demo_environment(root)
    interpreter, model, image = make_served(
        options.version, python=base_interpreter(), pull=options.pull, with_image=in_docker
    )
    target = f"--vllm-image={image}" if in_docker else f"--vllm-python={interpreter}"
    argv = [
        *(str(python), "-m", "pytest"),
        *(f"--vllm-backend={choice.backend}", target, f"--vllm-model={model}"),
        *(f"--vllm-serve-arg={argument}" for argument in SERVE_ARGUMENTS),
        *(f"--vllm-env={setting}" for setting in SERVER_ENVIRONMENT),
        *(f"--vllm-suite={suite}" for suite in options.suite),
        f"--vllm-soak-requests={SOAK_REQUESTS}",
        *rest,
    ]
    say("demo", f"all is there; running {' '.join(argv)}")
    os.chdir(root)
    sys.stdout.flush()
    os.execv(python, argv)  # noqa: S606 - become it: its exit code and signals are ours


def choose_backend(asked: str | None, *, version: str) -> Choice:
    """Choose Docker where an engine is or can be started by us; else a process. Installs nothing.

    Only `--backend docker` as root lets the demo install docker.io, and it tells.
    """
    if asked:
        return Choice(backend=asked, why="as asked for by --backend")
    running = engine_version()
    if not running and not can_start():
        return Choice(backend="process", why=f"no Docker engine answers. {CONTAINER_INSTEAD}")
    if not _can_have_image(version):
        return Choice(
            backend="process",
            why="there is Docker, but no image of vLLM to pull, and building one takes root and "
            f"debootstrap. {CONTAINER_INSTEAD}",
        )
    if running:
        return Choice(backend="docker", why=f"a Docker engine answers (version {running})")
    return Choice(backend="docker", why="Docker is installed; its engine is started as root")


def _can_have_image(version: str) -> bool:
    """Tell whether an image is there, can be built, or can be pulled."""
    can_build = os.geteuid() == 0 and shutil.which("debootstrap") is not None
    return can_build or bool(find_image(version) or ask_registry(official_image(version)))


def make_demo_environment(root: Path) -> Path:
    """Make the environment with this checkout installed (editable); return its interpreter."""
    project = root / "pyproject.toml"
    extras = ("--extra", "compose") if answer(["docker", "compose", "version"]) is None else ()
    recipe = repr((project.read_text(), str(root), sys.base_prefix, sys.version_info[:2], extras))
    name = f"demo-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"

    def build(partial: Path) -> None:
        base = base_interpreter()
        lock = resolve(
            "demo",
            project,
            python=base,
            lock=cache_root() / f"pylock.{name}.toml",
            options=extras,
        )
        uv("demo", "venv", "--relocatable", "--python", str(base), "--allow-existing", str(partial))
        python = partial / "bin" / "python"
        install("demo", lock, python=python)
        uv("demo", *("pip", "install", "--no-deps", "--python", str(python)), "-e", str(root))

    return make_once(cache_root() / name, build) / "bin" / "python"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev demo",
        description="Set up real vLLM on CPU and a small model, and run the acceptance suites "
        "on it. Arguments not named here go to pytest.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--backend",
        choices=("docker", "process"),
        help="run vLLM in a container or as a local process; docker, as root, may install "
        "docker.io and debootstrap (default: docker where there is an engine)",
    )
    parser.add_argument("--suite", action="append", default=[], help="run only this suite; again")
    parser.add_argument("--version", default=DEFAULT_VERSION, help="of vLLM (%(default)s)")
    parser.add_argument(
        "--pull",
        choices=("auto", "never", "only"),
        default="auto",
        help="pull an image rather than build one (%(default)s)",
    )
    return parser
