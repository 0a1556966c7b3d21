"""Make a Docker image with vLLM on CPU: pulled where that works, else built on this machine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tools.provision.base import SUITE, make_base
from tools.provision.command import answer, failure, log_of, run, start, stop, tail
from tools.provision.package import install
from tools.provision.place import (
    ProvisionError,
    cache_root,
    disk_bytes,
    in_mb,
    locked,
    make_once,
    say,
)
from tools.provision.vllm import make_vllm, manylinux_platform, resolve_vllm

REPOSITORY = "pytest-vllm-demo"
OFFICIAL = "vllm/vllm-openai-cpu:v{version}"
RECIPE = "3"
"""Raise it with any change below, so that images of an older recipe are built again."""
RECIPE_LABEL = "io.github.pytest-vllm.recipe"
CONTAINER_PYTHON = "3.11"
PACKAGES_FOLDER = f"./usr/local/lib/python{CONTAINER_PYTHON}/dist-packages"
ASK_REGISTRY_S = 20
CHUNK_BYTES = 1 << 20
SAY_EVERY_BYTES = 500_000_000
FILES_CHANGED = 1
"""GNU tar's exit code when a folder grew as it was read: some other process that runs this vLLM
wrote a compiled module meanwhile, which the image does not need."""
CHANGES = (
    "ENV LANG=C.UTF-8",
    # vLLM reports its use to its makers unless told not to: an acceptance test stays at home
    "ENV VLLM_NO_USAGE_STATS=1",
    # the caches go where any user may write, also in a read-only container with a /tmp
    "ENV XDG_CACHE_HOME=/tmp/cache",
    # even with --enforce-eager vLLM compiles a helper of logprobs, which takes a C++ compiler and
    # Python's headers; without them the engine dies at the first request for logprobs [0.32.0]
    "ENV TORCHDYNAMO_DISABLE=1",
    "WORKDIR /",
    "EXPOSE 8000",
    'ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server"]',
)
VLLM_COMMAND = """#!/usr/bin/python3
import sys

from vllm.entrypoints.cli.main import main

if __name__ == "__main__":  # the engine's processes import this file again
    sys.exit(main())
"""


def make_image(version: str, *, python: Path, pull: str = "auto") -> str:
    """Make sure of an image of a vLLM version in the engine; return its reference.

    Args:
        version: the vLLM version.
        python: the base interpreter of the environment whose files a built image reuses.
        pull: `auto` (try first), `never`, or `only`.
    """
    step = f"image {version}"
    official = official_image(version)
    with locked(f"image-{version}"):
        found = find_image(version, pull=pull)
        if found:
            return found
        if pull != "never" and pull_image(step, official):
            return official
        if pull == "only":
            raise ProvisionError(
                f"{official} could not be pulled; name another in PYTEST_VLLM_DEMO_IMAGE, "
                "or allow a build with --pull auto."
            )
        base = make_base()
        packages = container_packages(version, make_vllm(version, python=python))
        return _import(step, version, base, packages)


def find_image(version: str, *, pull: str = "auto") -> str | None:
    """Return the image of a vLLM version that the engine has already, if it has one."""
    built, official = _built_image(version), official_image(version)
    if pull != "only" and _label(built) == f"{RECIPE} {version}":
        return built
    return official if pull != "never" and inspect(official) else None


def official_image(version: str) -> str:
    """Return the image that is pulled where that works (`PYTEST_VLLM_DEMO_IMAGE` names another)."""
    return os.environ.get("PYTEST_VLLM_DEMO_IMAGE") or OFFICIAL.format(version=version)


def _built_image(version: str) -> str:
    return f"{REPOSITORY}:vllm-cpu-{version}"


def make_bash_variant(image: str) -> str:
    """Make the same image as rocm/vllm starts: no entrypoint, `CMD ["/bin/bash"]`, `vllm` on PATH.

    A commit of a container that never ran: one more tag and one small file.
    """
    variant = f"{REPOSITORY}:{image.rpartition(':')[2]}-bash"
    with locked(variant.rpartition(":")[2]):
        return _vary(image, variant)


def _vary(image: str, variant: str) -> str:
    """Make the variant of an image unless it is there; return its tag."""
    facts, wanted = inspect(variant), inspect(image)
    if wanted is None:
        raise ProvisionError(f"There is no image {image} to vary. Make it first.")
    if facts and _substance(facts) == _substance(wanted) and not facts["Config"]["Entrypoint"]:
        return variant
    # `docker commit --change 'ENTRYPOINT []'` keeps the old one, an empty option drops it
    container = answer(["docker", "create", "--entrypoint", "", image, "/bin/bash"])
    if container is None:
        raise ProvisionError(f"docker create {image} failed; try it by hand to see why.")
    try:
        if (wanted["Config"]["Labels"] or {}).get(RECIPE_LABEL):
            _add_command(container, image.rpartition("-")[2])
        run("image", ["docker", "commit", container, variant])
    finally:
        answer(["docker", "rm", container])
    _forget_replaced()
    return variant


def _substance(facts: dict[str, Any]) -> object:
    """Return what an image and its variant share: the first layers, variables and labels."""
    config = facts["Config"]
    return facts["RootFS"]["Layers"][:1], config["Env"], config["Labels"]


def _forget_replaced() -> None:
    """Remove our own images that lost their tag to a newer build and that nothing uses."""
    answer(["docker", "image", "prune", "--force", "--filter", f"label={RECIPE_LABEL}"])


def _add_command(container: str, version: str) -> None:
    """Put `vllm` on PATH, as every published image has it.

    The package vllm-cpu does not bring the metadata of `vllm` that the command asks for; a version
    with `cpu` in it is how vLLM knows a build for CPU [0.32.0].
    """
    with TemporaryDirectory() as folder:
        command = Path(folder) / "vllm"
        command.write_text(VLLM_COMMAND, "utf-8")
        command.chmod(0o755)
        metadata = Path(folder) / f"vllm-{version}.dist-info"
        metadata.mkdir()
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
        (metadata / "METADATA").write_text(text, "utf-8")
        run("image", ["docker", "cp", str(command), f"{container}:/usr/local/bin/vllm"])
        packages = PACKAGES_FOLDER.removeprefix(".")
        run("image", ["docker", "cp", str(metadata), f"{container}:{packages}"])


def inspect(image: str) -> dict[str, Any] | None:
    """Return the engine's facts of an image; None if it has none."""
    text = answer(["docker", "image", "inspect", image])
    return None if text is None else dict(json.loads(text)[0])


def pull_image(step: str, image: str) -> bool:
    """Pull an image after telling its size; return False within seconds if it cannot be had."""
    listing = ask_registry(image)
    if listing is None:
        say(step, f"{image} cannot be asked for from here; building an image instead")
        return False
    size = manifest_bytes(json.loads(listing), _architecture())
    say(step, f"pulling {image}, {in_mb(size) if size else 'size not told'} to download")
    run(step, ["docker", "pull", image])
    return True


def ask_registry(image: str) -> str | None:
    """Return the registry's words on an image; None within seconds if it has none to say."""
    return answer(["docker", "manifest", "inspect", "-v", image], timeout_s=ASK_REGISTRY_S)


def manifest_bytes(listing: Any, architecture: str) -> int:
    """Add up the layers of one architecture in `docker manifest inspect -v`'s reply, in bytes."""
    entries = listing if isinstance(listing, list) else [listing]
    total = 0
    for entry in entries:
        platform = entry.get("Descriptor", {}).get("platform", {})
        if platform.get("architecture", architecture) != architecture:
            continue
        for key in ("SchemaV2Manifest", "OCIManifest"):
            total += sum(layer["size"] for layer in entry.get(key, {}).get("layers", []))
    return total


def container_packages(version: str, environment: Path) -> Path:
    """Return the packages for the container's Python: the environment's own if it is the same."""
    own = environment.parent.parent / "lib" / f"python{CONTAINER_PYTHON}" / "site-packages"
    if own.exists():
        return own
    step = f"image {version}"

    def build(partial: Path) -> None:
        target = ("--python-version", CONTAINER_PYTHON, "--python-platform", manylinux_platform())
        lock = resolve_vllm(step, version, python=environment, options=target)
        folder = ("--target", str(partial / "site-packages"))
        install(step, lock, python=environment, options=(*target, *folder))

    final = cache_root() / f"vllm-{version}-packages-py{CONTAINER_PYTHON}"
    return make_once(final, build) / "site-packages"


def _import(step: str, version: str, base: Path, packages: Path) -> str:
    """Stream the base and the packages into the engine in one pass; return the tag given."""
    tag = _built_image(version)
    total = disk_bytes(base) + disk_bytes(packages)
    say(step, f"building {tag} from {in_mb(total)} of files on this disk; nothing to download")
    labels = {
        "org.opencontainers.image.title": "vLLM on CPU for the demo and tests of pytest-vllm",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.base.name": f"debian:{SUITE}",
        RECIPE_LABEL: f"{RECIPE} {version}",
    }
    changes = [*CHANGES, *(f"LABEL {key}={json.dumps(value)}" for key, value in labels.items())]
    pack = [
        *("tar", "--create", "--exclude=*.pyc.*", f"--exclude={PACKAGES_FOLDER}"),
        *(f"--directory={base}", "."),
        *(f"--directory={packages.parent}", f"--transform=s,^site-packages,{PACKAGES_FOLDER},rSh"),
        packages.name,
    ]
    # a name of its own: a cut stream must not count as the image, and no prune may take it
    partial = f"{REPOSITORY}:partial-{version}"
    load = ["docker", "import", *(f"--change={change}" for change in changes), "-", partial]
    log = log_of(step)
    with log.open("ab") as out:
        packer = start(pack, stdout=subprocess.PIPE, stderr=out)
        loader = start(load, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out)
        try:
            _pump(step, packer, loader, total)
            if packer.wait() not in (0, FILES_CHANGED):
                raise failure(step, pack, packer.returncode, log)
            loader.communicate()
        finally:
            stop(packer)
            stop(loader)
    if loader.returncode != 0:
        raise failure(step, load[:2], loader.returncode, log)
    run(step, ["docker", "tag", partial, tag])
    run(step, ["docker", "image", "rm", partial])
    _forget_replaced()
    say(step, f"ready, {tag}")
    return tag


def _pump(
    step: str, packer: subprocess.Popen[bytes], loader: subprocess.Popen[bytes], total: int
) -> None:
    """Move the bytes, and tell how many have gone; leaves the loader's input open."""
    if packer.stdout is None or loader.stdin is None:  # both were asked for as pipes
        return
    moved = said = 0
    try:
        while chunk := packer.stdout.read(CHUNK_BYTES):
            loader.stdin.write(chunk)
            moved += len(chunk)
            if moved - said >= SAY_EVERY_BYTES:
                said = moved
                say(step, f"{in_mb(moved)} of {in_mb(total)}")
        loader.stdin.flush()
    except BrokenPipeError:
        loader.wait()
        last = " / ".join(tail(log_of(step), 2))
        raise ProvisionError(f"docker import gave up after {in_mb(moved)}: {last}") from None


def _label(image: str) -> str | None:
    """Return the recipe that an image was built by; None if there is no such image."""
    facts = inspect(image)
    return None if facts is None else (facts["Config"].get("Labels") or {}).get(RECIPE_LABEL)


def _architecture() -> str:
    """Return the engine's architecture in Docker's words, `amd64` or `arm64`."""
    return answer(["docker", "version", "--format", "{{.Server.Arch}}"]) or "amd64"
