"""Pull an image through the engine's API, with progress, and say why when it cannot be had."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.knowledge import signatures
from pytest_vllm.domain.diagnosis import diagnose
from pytest_vllm.domain.errors import HostError, LaunchFailed
from pytest_vllm.domain.figures import Context
from pytest_vllm.domain.limits import LIMITS, OPTION
from pytest_vllm.domain.phases import Progress
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker import DockerClient

    from pytest_vllm.adapters.startup import Startup
    from pytest_vllm.domain.target import ImageRef, Target

_GIB = 2**30
_MIB = 2**20
_LOOK_S = 0.25
_HERE = ("Pull complete", "Already exists")
_LAYER = ("Pulling fs layer", "Waiting", *_HERE)
_FETCHED = ("Verifying Checksum", "Download complete", "Extracting", "Pull complete")
_CAUSE = 300


@dataclass(slots=True)
class Layers:
    """The layers of an image that is pulled, as the engine tells of them.

    https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImageCreate
    """

    _states: dict[str, str] = field(default_factory=dict)
    _bytes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def feed(self, event: dict[str, Any]) -> None:
        """Take in one message of the stream; what is none of a layer changes nothing."""
        layer, status = str(event.get("id") or ""), str(event.get("status") or "")
        detail = event.get("progressDetail") or {}
        current, total = detail.get("current"), detail.get("total")
        if not layer or not (layer in self._states or status in _LAYER or "Downloading" in status):
            return
        self._states[layer] = status
        if status == "Downloading" and isinstance(current, int) and isinstance(total, int):
            self._bytes[layer] = (current, total)
        elif status in _FETCHED and layer in self._bytes:
            whole = self._bytes[layer][1]
            self._bytes[layer] = (whole, whole)

    @property
    def progress(self) -> Progress:
        """How many layers are here, of those that the image has."""
        here = sum(status in _HERE for status in self._states.values())
        return Progress(done=here, total=len(self._states) or None, unit="layers")

    @property
    def line(self) -> str:
        """What is done at the moment, with the bytes of all layers whose size is known."""
        states = list(self._states.values())
        fetched = sum(current for current, _ in self._bytes.values())
        size = sum(total for _, total in self._bytes.values())
        unit, name = (_GIB, "GiB") if size >= _GIB else (_MIB, "MiB")
        working = [word for word in ("Downloading", "Extracting") if word in states]
        what = " and ".join(working).lower() or "waiting for the registry"
        return f"{what}, {fetched / unit:.1f} of {size / unit:.1f} {name} fetched" if size else what


def pull_missing(client: DockerClient, target: Target, startup: Startup | None) -> None:
    """Pull the image of a target when the engine does not have it and `--vllm-pull` allows it.

    Raises:
        LaunchFailed: There is no such image.
        HostError: The registry or the engine's disk stands in the way, or nothing moves any more.
    """
    from docker.errors import ImageNotFound  # noqa: PLC0415 - loaded when used

    if target.text("pull") != "missing" or target.image is None:
        return
    try:
        client.images.get(target.image.text)
    except ImageNotFound:
        silent_s = target.phase_limits.get("pull", LIMITS["pull"])
        if startup is None:
            pull(client, target.image, silent_s=silent_s, limit_s=target.seconds("timeout"))
            return
        startup.enter("pull")
        pull(
            client,
            target.image,
            on_progress=startup.count,
            silent_s=silent_s,
            limit_s=target.seconds("timeout"),
        )
        startup.leave("pull")


def pull(
    client: DockerClient,
    image: ImageRef,
    *,
    on_progress: Callable[[Progress, str], None] = lambda *_: None,
    silent_s: float = LIMITS["pull"],
    limit_s: float = float("inf"),
) -> None:
    """Pull an image.

    Args:
        client: The engine; it pulls with the user's own registry login.
        image: What to pull.
        on_progress: Told how many layers are here, and in words what is done, several times a
            second.
        silent_s: Seconds without any change after which it is given up.
        limit_s: Seconds after which it is given up in any case.

    Raises:
        LaunchFailed: There is no such image.
        HostError: The registry or the engine's disk stands in the way, or nothing moves any more.
    """
    layers = Layers()
    started = moved = time.monotonic()
    for event in _events(client, image):
        now = time.monotonic()
        if event is not None:
            said = event.get("error") or (event.get("errorDetail") or {}).get("message")
            if said:
                raise explain_pull(str(said), image)
            layers.feed(event)
            moved = now
        on_progress(layers.progress, layers.line)
        if now - moved > silent_s:
            raise HostError(
                f"the pull of {image.text} hangs in phase pull: nothing new for {silent_s:g} s "
                f"({layers.line})",
                advice=f"pull it by hand: docker pull {image.text}, "
                f"or give it time: {OPTION}=pull={2 * silent_s:g}",
            )
        if now - started > limit_s:
            raise HostError(
                f"{image.text} was not pulled after {limit_s:g} s ({layers.line})",
                advice="pull it before the run, or raise --vllm-timeout",
            )


def explain_pull(said: str, image: ImageRef) -> HostError | LaunchFailed:
    """Make an error out of what the engine says of a pull that failed."""
    found = diagnose((), signatures(), daemon_error=said, context=Context(image=image.text))
    cause = found[0].cause if found else one_line(said, _CAUSE)
    cure = found[0].cure if found else ""
    fault = found[0].fault if found else None
    message = f"{image.text} cannot be pulled: {cause}"
    advice = cure or f"see what the engine says to: docker pull {image.text}"
    if fault is not None and fault.rejects:
        return LaunchFailed(message, advice=advice, phase="pull", diagnoses=found)
    return HostError(message, advice=advice, diagnoses=found)


def _events(client: DockerClient, image: ImageRef) -> Iterator[dict[str, Any] | None]:
    """Yield the messages of a pull as they come, and `None` where none came for a moment.

    A thread reads them, since the engine may fall silent for ever. It ends with the connection.
    """
    from docker.errors import APIError, DockerException  # noqa: PLC0415
    from requests.exceptions import RequestException  # noqa: PLC0415

    messages: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()

    def read() -> None:
        try:
            for event in client.api.pull(image.text, stream=True, decode=True):
                messages.put(event)
            messages.put(None)
        except Exception as error:  # noqa: BLE001 - told in the caller's thread
            messages.put(error)

    threading.Thread(target=read, name="vllm-pull", daemon=True).start()
    while True:
        try:
            message = messages.get(timeout=_LOOK_S)
        except queue.Empty:
            yield None
            continue
        if message is None:
            return
        if isinstance(message, APIError):
            raise explain_pull(str(message.explanation or message), image) from None
        if isinstance(message, DockerException | RequestException | OSError):
            raise HostError(
                f"the Docker engine broke off the pull of {image.text}: {one_line(str(message))}",
                advice="look at the engine's own log: journalctl -u docker",
            ) from None
        if isinstance(message, Exception):
            raise message
        yield message
