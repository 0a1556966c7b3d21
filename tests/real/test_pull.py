"""Images are pulled by the real engine, from a registry on loopback."""

from __future__ import annotations

import os
import socket
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

import docker
import pytest
from docker.errors import ImageNotFound

from pytest_vllm.adapters.backends.pull import Layers, explain_pull, pull, pull_missing
from pytest_vllm.adapters.startup import Startup
from pytest_vllm.domain.errors import HostError, LaunchFailed
from pytest_vllm.domain.phases import Progress
from pytest_vllm.domain.target import ImageRef
from tests.adapters.test_ready import make_target
from tests.data.registry import CONFIG, MANIFEST, Image, digest, make_image, serve
from tests.real.registries import debian_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient

    from pytest_vllm.domain.phases import StartState

SIZES = (3_000_000, 2_000_000, 500)
SILENT_S = (1, 5, 25)
"""Tried in turn until the engine says that bytes come."""


@pytest.fixture
def client(real_image: str) -> Iterator[DockerClient]:
    """Talk to the engine that the real tests use."""
    del real_image  # names the engine's tests as such
    found = docker.from_env()
    yield found
    found.close()


@pytest.fixture(params=["stand-in", "docker-registry"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Serve an image as `accepted:1`, by our own stand-in and by Debian's registry."""
    image = make_image(SIZES, seed=os.getpid())
    if request.param == "stand-in":
        with serve(image) as address:
            yield address
    else:
        with debian_registry(tmp_path) as address:
            push(address, image)
            yield address


def push(address: str, image: Image) -> None:
    """Put an image into a registry: every blob, then the manifest."""

    def send(method: str, url: str, body: bytes, kind: str) -> str:
        request = urllib.request.Request(url, data=body, method=method)  # noqa: S310
        request.add_header("content-type", kind)
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return str(answer.headers.get("location") or "")

    base = f"http://{address}/v2/accepted"
    for blob in image.blobs.values():
        place = send("POST", f"{base}/blobs/uploads/", b"", CONFIG)
        joint = "&" if "?" in place else "?"
        send("PUT", f"{place}{joint}digest={digest(blob)}", blob, "application/octet-stream")
    send("PUT", f"{base}/manifests/1", image.manifest, MANIFEST)


def test_an_image_that_is_missing_is_pulled_in_a_phase_of_its_own(
    client: DockerClient, registry: str
) -> None:
    name = f"{registry}/accepted:1"
    target = make_target(image=name, model="org/m", pull="missing")
    states: list[StartState] = []
    startup = Startup(states.append)
    try:
        pull_missing(client, target, startup)
        assert client.images.get(name).attrs["RootFS"]["Layers"]
        startup.enter("config")
        phases = startup.finish()
        assert [phase.name for phase in phases] == ["pull", "start", "config"]
        assert phases[0].progress == Progress(done=3, total=3, unit="layers")
        assert any("fetched" in state.line for state in states)
        pull_missing(client, target, startup)  # it is there now: no second pull
        assert [phase.name for phase in startup.phases] == ["pull", "start", "config"]
    finally:
        with suppress(ImageNotFound):
            client.images.remove(name)


def test_nothing_is_pulled_unless_asked_for(client: DockerClient, registry: str) -> None:
    name = f"{registry}/accepted:1"
    pull_missing(client, make_target(image=name, model="org/m"), None)
    with pytest.raises(ImageNotFound):
        client.images.get(name)


@pytest.mark.parametrize(
    ("repository", "ref", "kind"),
    [
        ("missing", "D3", LaunchFailed),
        ("denied", "D4", LaunchFailed),
        ("login", "D4", LaunchFailed),
        ("limited", "D5", HostError),
    ],
)
def test_a_registry_that_refuses_is_diagnosed(
    client: DockerClient,
    repository: str,
    ref: str,
    kind: type[LaunchFailed | HostError],
) -> None:
    with serve(make_image((10,), seed=1)) as address:
        image = ImageRef.parse(f"{address}/{repository}:1")
        with pytest.raises(kind) as caught:
            pull(client, image)
    assert caught.value.diagnosis is not None
    assert caught.value.diagnosis.ref == ref
    assert caught.value.message.startswith(f"{image.text} cannot be pulled: ")
    assert caught.value.advice


def test_a_registry_that_is_not_there_is_diagnosed(client: DockerClient) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        image = ImageRef.parse(f"127.0.0.1:{closed.getsockname()[1]}/accepted:1")
        with pytest.raises(HostError, match="cannot reach the registry") as caught:
            pull(client, image)
    assert caught.value.diagnosis is not None
    assert caught.value.diagnosis.ref == "D6"


def test_a_pull_that_stands_still_ends_at_its_limit(client: DockerClient) -> None:
    """The engine says nothing before the first bytes either, for as long as a busy host takes."""
    seen: list[str] = []
    with serve(make_image((100, 4_000_000), seed=os.getpid() + 1)) as address:
        image = ImageRef.parse(f"{address}/slow:1")
        for silent_s in SILENT_S:
            words = rf"hangs in phase pull: nothing new for {silent_s} s"
            with pytest.raises(HostError, match=words) as caught:
                pull(
                    client, image, silent_s=silent_s, on_progress=lambda _, line: seen.append(line)
                )
            assert f"--vllm-phase-timeout=pull={2 * silent_s}" in caught.value.advice
            if any("downloading" in line for line in seen):
                break
        else:
            pytest.fail(f"no byte within {silent_s} s: {seen}")
        with pytest.raises(HostError, match="was not pulled after 2 s"):
            pull(client, image, silent_s=60.0, limit_s=2.0)


@pytest.mark.parametrize(
    ("said", "ref", "kind"),
    [
        (
            "failed to register layer: write /x: no space left on device",
            "D7",
            HostError,
        ),
        (
            "manifest for rocm/vllm:nope not found: manifest unknown: manifest unknown",
            "D3",
            LaunchFailed,
        ),
        ("the moon is full", None, HostError),
    ],
)
def test_what_the_engine_says_decides_whom_to_blame(
    said: str, ref: str | None, kind: type[Exception]
) -> None:
    error = explain_pull(said, ImageRef.parse("rocm/vllm:nope"))
    assert isinstance(error, kind)
    assert error.diagnosis is not None
    assert error.diagnosis.ref == ref


def test_layers_are_counted_as_the_engine_tells_of_them() -> None:
    layers = Layers()
    assert layers.progress == Progress(done=0, total=None, unit="layers")
    events = (
        {"status": "Pulling from rocm/vllm", "id": "latest"},
        {"status": "Already exists", "id": "a"},
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "b"},
        {"status": "Waiting", "progressDetail": {}, "id": "c"},
        {
            "status": "Downloading",
            "progressDetail": {"current": 2**30, "total": 2**32},
            "id": "b",
        },
    )
    for event in events:
        layers.feed(event)
    assert layers.progress == Progress(done=1, total=3, unit="layers")
    assert layers.line == "downloading, 1.0 of 4.0 GiB fetched"
    layers.feed({"status": "Extracting", "progressDetail": {"current": 1, "total": 9}, "id": "b"})
    assert layers.line == "extracting, 4.0 of 4.0 GiB fetched"
    layers.feed({"status": "Extracting", "progressDetail": {"units": "s"}, "id": "b"})
    for layer in "bc":
        layers.feed({"status": "Pull complete", "progressDetail": {}, "id": layer})
    layers.feed({"status": "Digest: sha256:abc"})
    assert layers.progress == Progress(done=3, total=3, unit="layers")
