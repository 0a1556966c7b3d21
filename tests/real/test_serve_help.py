"""The help of a real vLLM is read in a throw-away container, of which nothing stays."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import docker
import pytest

from pytest_vllm.adapters.backends.container import OWNER_LABEL
from pytest_vllm.adapters.backends.image import read_image
from pytest_vllm.adapters.serve_help import read_help
from pytest_vllm.domain.serve_parser import ServeArgumentError, check
from pytest_vllm.domain.target import ImageRef
from tests.unit.launch_facts import make_target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient


@pytest.fixture
def client() -> Iterator[DockerClient]:
    """Talk to the engine."""
    found = docker.from_env()
    yield found
    found.close()


def test_the_help_of_an_image_is_read_once_and_leaves_nothing(
    client: DockerClient, real_image_bash: str, tmp_path: Path
) -> None:
    target = make_target(image=real_image_bash)
    image = read_image(client, ImageRef.parse(real_image_bash))
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    before = {found.id for found in client.containers.list(all=True)}
    facts = read_help(target, image, client, env)
    assert facts.problem == ""
    assert len(facts.flags) > 250
    check(["--max-model-len", "4096", "-tp=1", "--enforce-eager"], facts.flags)
    with pytest.raises(ServeArgumentError, match="--max-modle-len"):
        check(["--max-modle-len=4096"], facts.flags)
    ours = [
        found
        for found in client.containers.list(all=True, filters={"label": OWNER_LABEL})
        if found.id not in before and found.attrs["Config"]["Cmd"] == ["--help=all"]
    ]
    assert ours == []
    started = time.monotonic()
    assert read_help(target, image, client, env).flags == facts.flags
    assert time.monotonic() - started < 2


def test_an_image_without_vllm_has_no_help(client: DockerClient, real_image_bash: str) -> None:
    target = make_target(image=real_image_bash, entrypoint="vllm")
    image = read_image(client, ImageRef.parse(real_image_bash))
    broken = type(image)(
        asked=image.asked, id="sha256:none", runs=image.runs, entrypoint=("/no/vllm", "serve")
    )
    facts = read_help(target, broken, client, {**os.environ, "XDG_CACHE_HOME": "/dev/null"})
    assert facts.flags == ()
    assert facts.problem
