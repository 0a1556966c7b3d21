"""What is known before a start: gathered once, judged by pure rules, kept in the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_vllm.domain.facts.arguments import HelpFacts
    from pytest_vllm.domain.facts.client import ClientFacts
    from pytest_vllm.domain.facts.container import ContainerFacts
    from pytest_vllm.domain.facts.engine import EngineFacts
    from pytest_vllm.domain.facts.host import Gpu, HostFacts
    from pytest_vllm.domain.facts.image import AbsentImage, ImageFacts
    from pytest_vllm.domain.facts.model import ModelFacts
    from pytest_vllm.domain.facts.network import NetworkFacts
    from pytest_vllm.domain.fit import Forecast
    from pytest_vllm.domain.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFacts:
    """Everything that the rules of the preflight look at; `None` is what nobody asked for.

    Attributes:
        target: What is to be launched.
        host: The host.
        engine: The Docker engine, `None` for other backends.
        image: The image, `None` for other backends or when the engine does not have it.
        absent: What is known of an image that the engine does not have.
        container: The container as it will be started, `None` without a compose override.
        client: The way to a server at a URL, `None` for other backends.
        model: The model, `None` when attached.
        arguments: What the server's own help says, `None` when it was not read.
        network: What the network looks like from inside, `None` when it was not tried.
        cuda_gpus: NVIDIA GPUs of the host, which only the forecast looks at.
        variables: Variables of the server that may change its memory.
        forecast: What the launch will make of the memory, `None` when it cannot be reckoned.
        idle: The same if nothing else were on the GPUs.
        no_forecast: Why there is none, empty when there is one.
    """

    target: Target
    host: HostFacts
    engine: EngineFacts | None = None
    image: ImageFacts | None = None
    absent: AbsentImage | None = None
    container: ContainerFacts | None = None
    client: ClientFacts | None = None
    model: ModelFacts | None = None
    arguments: HelpFacts | None = None
    network: NetworkFacts | None = None
    cuda_gpus: tuple[Gpu, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    forecast: Forecast | None = None
    idle: Forecast | None = None
    no_forecast: str = ""

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that `--vllm-gpus` hands over."""
        asked = self.target.gpus
        if asked == "none":
            return ()
        if asked == "all":
            return self.host.gpus
        wanted = {int(index) for index in asked.split(",")}
        return tuple(gpu for gpu in self.host.gpus if gpu.index in wanted)
