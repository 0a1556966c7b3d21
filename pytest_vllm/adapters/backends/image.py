"""What an image is: its digest, and how a server is started in it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import LaunchFailed
from pytest_vllm.domain.facts.image import ImageFacts
from pytest_vllm.domain.finding import Diagnosis, Fault
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from docker import DockerClient

    from pytest_vllm.domain.target import ImageRef

MODULE = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a server is started.

    Attributes:
        entrypoint: Words before the model.
        model_flag: `--model`, or empty when the model is a positional argument.
        why: Why so, for the record.
    """

    entrypoint: tuple[str, ...]
    model_flag: str
    why: str

    def words(self, model: str) -> tuple[str, ...]:
        """Return the words that name the model."""
        return (self.model_flag, model) if self.model_flag else (model,)


def read_image(client: DockerClient, image: ImageRef) -> ImageFacts:
    """Resolve the name of an image to its content, once. Never pulls.

    Raises:
        LaunchFailed: The image is not on this engine.
    """
    from docker.errors import ImageNotFound, NotFound  # noqa: PLC0415 - loaded when used

    try:
        attributes: dict[str, Any] = client.images.get(image.text).attrs
    except (ImageNotFound, NotFound):
        tags = [tag for known in client.images.list() for tag in known.tags]
        cause = f"{image.text} is not on this Docker engine{closest(image.text, tags)}"
        cure = f"docker pull {image.text}, or --vllm-pull=missing"
        missing = Diagnosis(
            id="image.absent", ref="D3", fault=Fault.IMAGE, cause=cause, cure=cure, phase="pull"
        )
        raise LaunchFailed(cause, advice=cure, phase="pull", diagnoses=(missing,)) from None
    return facts_of(attributes, image)


def facts_of(attributes: Mapping[str, Any], image: ImageRef) -> ImageFacts:
    """Read what `docker image inspect` says."""
    config = attributes.get("Config") or {}
    digests = tuple(attributes.get("RepoDigests") or ())
    image_id = str(attributes["Id"])
    return ImageFacts(
        asked=image.text,
        id=image_id,
        repo_digests=digests,
        runs=_address(image, digests, image_id),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        cmd=tuple(config.get("Cmd") or ()),
        env=dict(word.partition("=")[::2] for word in config.get("Env") or ()),
        labels=dict(config.get("Labels") or {}),
        user=str(config.get("User") or ""),
        architecture=str(attributes.get("Architecture") or ""),
        size_bytes=int(attributes.get("Size") or 0),
    )


def _address(image: ImageRef, digests: Sequence[str], image_id: str) -> str:
    """Return the digest of the asked repository, else the image ID.

    An image may have several digests in one repository, of an index and of its manifest for one:
    the one that was asked for counts.
    """
    wanted = _familiar(image.repository)
    found = [each for each in digests if wanted and _familiar(each.partition("@")[0]) == wanted]
    asked = [each for each in found if image.digest and each.endswith(f"@{image.digest}")]
    return next(iter((*asked, *found)), image_id)


def _familiar(repository: str) -> str:
    """Drop the parts of a name that mean Docker Hub."""
    for prefix in ("docker.io/", "index.docker.io/"):
        repository = repository.removeprefix(prefix)
    return repository.removeprefix("library/")


def choose_start(
    kind: str, *, entrypoint: Sequence[str] | None, cmd: Sequence[str] | None = ()
) -> Start:
    """Decide how to start the server; the entrypoint of the image is never relied on.

    Args:
        kind: `auto`, `vllm` or `module` (`--vllm-entrypoint`).
        entrypoint: Words of the image's entrypoint, `None` when the image could not be read.
        cmd: Words of its default command.
    """
    words = _unwrap([*(entrypoint or ()), *(cmd or ())])
    shown = shlex.join([*(entrypoint or ()), *(cmd or ())]) or "nothing"
    if kind == "vllm":
        return Start(entrypoint=(*_vllm(words), "serve"), model_flag="", why="--vllm-entrypoint")
    if kind == "module":
        return _module(words, why="--vllm-entrypoint")
    if entrypoint is None:
        return _serve(words, why="the image could not be read, so its entrypoint is not known")
    if MODULE in words:
        return _module(words, why=f"the image starts {shown}")
    if words[:1] and PurePosixPath(words[0]).name == "vllm":
        return _serve(words, why=f"the image starts {shown}")
    return _serve(words, why=f"the image starts {shown}, which is no vLLM server")


def _serve(words: Sequence[str], *, why: str) -> Start:
    return Start(entrypoint=(*_vllm(words), "serve"), model_flag="", why=why)


def _module(words: Sequence[str], *, why: str) -> Start:
    python = "python3"
    if MODULE in words:
        before = list(words[: words.index(MODULE)])
        named = [word for word in before if PurePosixPath(word).name.startswith("python")]
        python = named[-1] if named else python
    return Start(entrypoint=(python, "-m", MODULE), model_flag="--model", why=why)


def _vllm(words: Sequence[str]) -> tuple[str, ...]:
    """Return the image's own `vllm` command if it names one."""
    named = [word for word in words[:1] if PurePosixPath(word).name == "vllm"]
    return (named[0] if named else "vllm",)


def _unwrap(words: list[str]) -> list[str]:
    """Split what a shell form (`/bin/sh -c "exec python -m ..."`) hides in one word."""
    if len(words) > 2 and words[1] in ("-c", "-lc"):  # noqa: PLR2004 - shell, -c, script
        try:
            inner = shlex.split(words[2])
        except ValueError:
            return words
        return inner[1:] if inner[:1] == ["exec"] else inner
    return words


def record_image(image: ImageFacts) -> dict[str, Any]:
    """Return the facts as they go into the record."""
    return {
        "asked": image.asked,
        "runs": image.runs,
        "id": image.id,
        "repo_digests": list(image.repo_digests),
        "entrypoint": list(image.entrypoint),
        "cmd": list(image.cmd),
        "gfx": list(image.gfx),
        "labels": dict(image.labels),
        "user": image.user,
        "architecture": image.architecture,
        "size_bytes": image.size_bytes,
    }
