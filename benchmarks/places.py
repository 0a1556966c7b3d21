"""An environment of its own for each peer, in the cache folder, by uv; versions are pinned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tools.provision.package import uv_environment, uv_program
from tools.provision.place import cache_root, locked, say

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a peer is installed.

    Attributes:
        name: Name of the environment.
        packages: What is in it, pinned.
        python: Oldest Python that it runs on.
    """

    name: str
    packages: tuple[str, ...]
    python: tuple[int, int] = (3, 11)

    @property
    def folder(self) -> Path:
        """The environment's folder."""
        pins = "-".join(pin.replace("==", "-") for pin in self.packages)
        return cache_root() / "peers" / pins

    def program(self, name: str) -> str:
        """Return a program of the environment."""
        return str(self.folder / "bin" / name)


CLIENTS = Place(name="clients", packages=("httpx==0.28.1", "openai==2.46.0"))
LOCUST = Place(name="locust", packages=("locust==2.47.0",))
AIPERF = Place(name="aiperf", packages=("aiperf==0.13.0",))
GUIDELLM = Place(name="guidellm", packages=("guidellm==0.8.1",))
INFERENCE_PERF = Place(name="inference-perf", packages=("inference-perf==0.7.0",), python=(3, 12))
PLACES = (CLIENTS, LOCUST, AIPERF, GUIDELLM, INFERENCE_PERF)


def provide(places: Sequence[Place]) -> None:
    """Make the environments that are not there yet."""
    for place in places:
        stamp = place.folder / "complete"
        with locked(f"peers-{place.name}"):
            if stamp.exists():
                continue
            python = _interpreter(place.python)
            say(place.name, f"installing {', '.join(place.packages)} for {python}")
            shutil.rmtree(place.folder, ignore_errors=True)
            _uv("venv", "--python", python, str(place.folder))
            _uv("pip", "install", "--python", place.program("python"), *place.packages)
            stamp.touch()


def _uv(*arguments: str) -> None:
    done = subprocess.run(
        [uv_program(), *arguments],
        env=os.environ | uv_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"error: uv {' '.join(arguments)} failed:\n{done.stderr.strip()}")


def _interpreter(oldest: tuple[int, int]) -> str:
    """Return a Python that is new enough: this one, else one of PATH or pyenv."""
    if sys.version_info[:2] >= oldest:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for minor in range(oldest[1], oldest[1] + 3):
        name = f"python3.{minor}"
        found = [*pyenv.glob(f"versions/3.{minor}.*/bin/{name}")]
        if found:
            return str(found[0])
        on_path = shutil.which(name)
        if on_path:
            return on_path
    raise SystemExit(
        f"error: a peer needs Python {oldest[0]}.{oldest[1]} or later, and there is none on PATH "
        "or in pyenv. Install one, or leave the peer out with --only."
    )
