"""What the runs of the matrix accept: the stand-in, as a process and in an image, or real vLLM."""

from __future__ import annotations

import io
import tarfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import docker

import pytest_vllm

if TYPE_CHECKING:
    from collections.abc import Iterator

_TREE = Path(__file__).parent.parent.parent / "data" / "stand_in" / "tree"
_PACKAGE = Path(pytest_vllm.__file__).parent
_PARTS = ("__init__.py", "domain", "simulator")
_INSIDE = "/opt/stand_in"
_BUILD = f"""
COPY stand_in {_INSIDE}
ENV PYTHONPATH={_INSIDE} PYTHONDONTWRITEBYTECODE=1
ENV PATH={_INSIDE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN python3 -m compileall -q {_INSIDE}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that can be started as a process and in a container.

    Attributes:
        model: Folder of a model; it is looked at before a start.
        image: Image whose `vllm` serves.
        slow_image: Takes two minutes to print its help.
        broken_image: Names a `vllm` that is not there, so no container of it can start.
        python: Interpreter that has vLLM, empty for the one that runs the tests.
        words: What vLLM is told.
        path: Where the modules of a stand-in are, empty for real vLLM.
    """

    model: str
    image: str
    slow_image: str = ""
    broken_image: str = ""
    python: str = ""
    words: tuple[str, ...] = ()
    path: str = ""

    def arguments(self, backend: str) -> list[str]:
        """Return the options that name it."""
        words = [f"--vllm-backend={backend}", f"--vllm-model={self.model}", *self.words]
        if backend == "docker":
            return [*words, f"--vllm-image={self.image}"]
        return [*words, f"--vllm-python={self.python}"] if self.python else words


@contextmanager
def stand_in(base: str, model: str) -> Iterator[Server]:
    """Make images of the stand-in on top of one that has Python, and remove them again."""
    tag = f"stand-in-{uuid.uuid4().hex[:8]}"
    names = [f"pytest-vllm-test:{tag}{kind}" for kind in ("", "-slow", "-broken")]
    client = docker.from_env()
    try:
        _build(client, f"FROM {base}\n{_BUILD}", names[0])
        _build(client, f"FROM {names[0]}\nENV STAND_IN_HELP=slow\n", names[1])
        _build(client, f'FROM {names[0]}\nENTRYPOINT ["/nowhere/vllm"]\n', names[2])
        yield Server(
            model=model,
            image=names[0],
            slow_image=names[1],
            broken_image=names[2],
            path=str(_TREE),
        )
    finally:
        for name in reversed(names):
            if client.images.list(name):
                client.images.remove(name)
        client.close()


def _build(client: docker.DockerClient, text: str, name: str) -> None:
    client.images.build(fileobj=_context(text), custom_context=True, tag=name, rm=True)


def _context(text: str) -> io.BytesIO:
    """Pack the build file, the stand-in and what it needs of this project."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text.encode())
        archive.addfile(entry, io.BytesIO(text.encode()))
        add_stand_in(archive)
    packed.seek(0)
    return packed


def add_stand_in(archive: tarfile.TarFile) -> None:
    """Add the folder `stand_in`: the stand-in and what it needs of this project."""
    archive.add(_TREE, "stand_in", filter=_sources)
    for part in _PARTS:
        archive.add(_PACKAGE / part, f"stand_in/pytest_vllm/{part}", filter=_sources)


def _sources(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.mtime = 0  # so that the engine knows the layer again
    return None if "__pycache__" in entry.name else entry
