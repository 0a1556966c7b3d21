"""What a case of a provoked failure is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.data.hub.server import Hub

SERVE = "--enforce-eager --max-model-len=512 --max-num-seqs=4 --dtype=bfloat16"
ENV = ("--vllm-env=VLLM_CPU_KVCACHE_SPACE=1", "--vllm-env=TORCHDYNAMO_DISABLE=1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a case may build its failure of.

    Attributes:
        python: Interpreter with vLLM.
        model: Folder of a sound model.
        image: Image whose entrypoint is vLLM's server.
        folder: Empty folder of this run.
        hub: Stand-in for the Hub; it serves the sound model as `org/small`.
        tls: The same with a certificate that nobody knows.
        foreign_image: Image whose `vllm` is a program for another machine.
        broken: Makes a broken model of a kind and returns its folder.
        port: A port of this host that somebody else holds.
    """

    python: str
    model: str
    image: str
    folder: Path
    hub: Hub
    tls: Hub
    foreign_image: str
    broken: Callable[[str], Path]
    port: int

    def process(self, model: object = "", *more: str) -> tuple[str, ...]:
        """Return the options of the process backend."""
        where = (f"--vllm-python={self.python}", f"--vllm-model={model or self.model}")
        return ("--vllm-backend=process", *where, f"--vllm-serve-arg={SERVE}", *ENV, *more)

    def from_hub(self, model: str, *more: str, endpoint: str = "") -> tuple[str, ...]:
        """Return the options of the process backend with a model of a Hub, `""` the stand-in."""
        return self.process(model, f"--vllm-env=HF_ENDPOINT={endpoint or self.hub.url()}", *more)

    def container(self, *more: str, image: str = "", model: object = "") -> tuple[str, ...]:
        """Return the options of the docker backend."""
        where = (f"--vllm-image={image or self.image}", f"--vllm-model={model or self.model}")
        return (*where, f"--vllm-serve-arg={SERVE}", *ENV, *more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run has to end.

    Attributes:
        ref: Row of the failure table, `None` where it has to stay unknown.
        exit_code: Of pytest.
        cure: Pattern that the cure has to match.
        line: Pattern of the server's own line that tells the failure; empty where it writes none.
        phases: Phases in which it may have failed, empty for any.
    """

    ref: str | None
    exit_code: int
    cure: str
    line: str = ""
    phases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """A signal to a process of the server.

    Attributes:
        after: Pattern of the log after which it comes.
        who: Part of the command line of the process.
        signal: Its name.
    """

    after: str
    who: str
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A failure and how it is provoked.

    Attributes:
        name: Name of the case.
        what: What is broken, in a few words.
        options: Makes the options of the run.
        early: What preflight has to make of it, `None` where it cannot know.
        late: What has to come of it when preflight is told to let it pass, `None` where there is
            nothing that could be let pass.
        always: Whether the late part also runs outside of the nightly tests.
        env: Makes variables of the run.
        before: Makes words before the command of the run.
        override: Makes the service of a compose file laid over ours.
        blow: What is done to the running server.
        suite: Suite of the run.
    """

    name: str
    what: str
    options: Callable[[Place], tuple[str, ...]]
    early: Ending | None = None
    late: Ending | None = None
    always: bool = False
    env: Callable[[Place], Mapping[str, str]] = field(default=lambda _: {})
    before: Callable[[Place], tuple[str, ...]] = field(default=lambda _: ())
    override: Callable[[Place], Mapping[str, Any]] | None = None
    blow: Blow | None = None
    suite: str = "models"
