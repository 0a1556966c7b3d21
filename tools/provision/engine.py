"""Make sure of a Docker engine that answers, and of what building an image needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

from tools.provision.browser import BROWSER_PACKAGES
from tools.provision.command import answer, run, tail
from tools.provision.place import ProvisionError, cache_root, locked, say

if TYPE_CHECKING:
    from collections.abc import Mapping

STEP = "engine"
ANSWERS_WITHIN_S = 60
PACKAGES = {"docker": "docker.io", "dockerd": "docker.io", "debootstrap": "debootstrap"}
"""Program -> Debian packages."""
TEST_PACKAGES = {
    "docker-registry": "docker-registry",
    "gcc": "gcc libc6-dev",
    "openssl": "openssl",
    **BROWSER_PACKAGES,
}
"""What only tests need: they pull from a registry on loopback, compile a stand-in of a library of
ROCm (a compiler is of no use without the headers of the C library), make keys, and open pages."""
CURE = (
    "Start one, add yourself to its group (usermod -aG docker USER, then log in again), or name "
    "one in DOCKER_HOST; as root on a Debian-like machine, ./dev provision engine --install does "
    "it all. Without Docker: --backend process."
)


def engine_version() -> str | None:
    """Return the version of the engine that answers; None if none does."""
    return answer(["docker", "version", "--format", "{{.Server.Version}}"], timeout_s=20) or None


def can_start() -> bool:
    """Tell whether this user could start an engine here without installing anything."""
    remote = os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT")
    tools = shutil.which("docker") and shutil.which("dockerd")
    return bool(tools) and os.geteuid() == 0 and not remote


def make_engine(*, install: bool) -> str:
    """Make sure of an engine; return its version.

    Args:
        install: may put docker.io and debootstrap on the machine with apt-get, as root.
    """
    if install:
        install_packages(PACKAGES)
    version = engine_version()
    if version is None:
        with locked("engine"):
            version = engine_version() or _start_engine()
    return version


def install_packages(packages: Mapping[str, str]) -> None:
    """Install what is missing with apt-get, telling what and how large; nothing if all is there.

    Args:
        packages: Debian package of each program, several separated by blanks.
    """
    missing = {package for program, package in packages.items() if shutil.which(program) is None}
    if engine_version() is not None:
        missing.discard("docker.io")
    if not missing:
        return
    wanted = sorted(name for names in missing for name in names.split())
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ProvisionError(f"{' and '.join(wanted)} must be installed, by root with apt-get.")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    say(STEP, f"apt-get install {' '.join(wanted)} (missing here)")
    run(STEP, ["apt-get", "update"], env=quiet)
    get = ["apt-get", "install", "--no-install-recommends", *wanted]
    preview = subprocess.run(
        [*get, "--assume-no"], capture_output=True, text=True, check=False, env=os.environ
    ).stdout
    for line in re.findall(r"(?m)^(?:Need to get|After this operation).*$", preview):
        say(STEP, line)
    run(STEP, [*get, "--yes"], env=quiet)


def _start_engine() -> str:
    """Start dockerd in a session of its own and wait until it answers."""
    host = os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT")
    if host:
        raise ProvisionError(f"The Docker engine named in the environment ({host}) is silent.")
    if not can_start():
        raise ProvisionError(f"No Docker engine answers. {CURE}")
    log = cache_root() / "logs" / "dockerd.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as out:
        daemon = subprocess.Popen(
            ["dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    say(STEP, f"started dockerd, process {daemon.pid}; it stays (kill {daemon.pid} ends it)")
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < deadline:
        version = engine_version()
        if version is not None:
            return version
        if daemon.poll() is not None:
            raise ProvisionError(f"dockerd ended with code {daemon.returncode}. {_last(log)}")
        time.sleep(0.2)
    daemon.terminate()
    raise ProvisionError(f"dockerd did not answer within {ANSWERS_WITHIN_S} s. {_last(log)}")


def _last(log: os.PathLike[str]) -> str:
    lines = "\n".join(f"    {line}" for line in tail(cache_root() / log, 8))
    return f"Last lines of {log}:\n{lines}"
