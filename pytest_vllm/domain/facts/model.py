"""Facts about the model, read from its files on this host."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pytest_vllm.domain.facts.config import ConfigFacts  # noqa: TC001 - decoded by its hints


class ModelKind(StrEnum):
    """Where the model is."""

    FOLDER = "folder"
    GGUF = "GGUF"
    """One file, or a folder of them without a config."""
    CACHED = "Hub cache"
    """A Hub ID with a snapshot in the cache, complete or not."""
    HUB = "Hub"
    """A Hub ID of which the cache has nothing."""
    MALFORMED = "malformed"
    """Neither a path that exists nor a possible Hub ID."""


class Flaw(StrEnum):
    """What is wrong with a file of a model."""

    MISSING = "missing"
    DANGLING = "dangling link"
    POINTER = "Git LFS pointer"
    TRUNCATED = "truncated"
    INCOMPLETE = "unfinished download"
    UNREADABLE = "unreadable"
    BROKEN = "broken"
    """Not the JSON or safetensors that its name says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlawedFile:
    """A file that is not as it should be.

    Attributes:
        name: Name inside the model.
        flaw: What is wrong.
        detail: Sizes in bytes, or what the reader said.
    """

    name: str
    flaw: Flaw
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportFacts:
    """What a version of vLLM knows of the model's names.

    Attributes:
        version: Version of vLLM that the shipped list was read from.
        model_type: Whether transformers or vLLM of that version know the model type.
        architecture: Whether vLLM or transformers of that version have one of the architectures.
        removed_after: Last version of vLLM that served the architecture, empty when it still does.
        similar: The closest known architecture, empty for none.
    """

    version: str
    model_type: bool
    architecture: bool
    removed_after: str = ""
    similar: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The model as its files describe it; for one that is not here, as the shipped table does.

    Attributes:
        asked: As the user named it.
        kind: Where it is.
        path: Folder or file that was read, empty for none.
        revision: Commit of the cached snapshot, else what the user asked for.
        cached: Whether its files are on this host, complete.
        config: Its `config.json`, `None` when there is none to read.
        config_file: `config.json` or `params.json`, empty for none.
        flaws: Files that are not as they should be.
        weights_bytes: Size of all weights, from files or from the table of known models.
        weight_files: Weight files that are there.
        tensor_bytes: Bytes of the tensors by their type, such as `BF16`, from the files' headers.
        spare_bytes: Bytes of layers beyond the main model (multi-token prediction), not loaded.
        index_bytes: `total_size` of the index of the weights, `None` without one.
        tokenizer: Whether a tokenizer is there, `None` when not looked for.
        chat_template: Whether a chat template is there, `None` when unknown.
        native: What vLLM knows of its names, `None` without a config.
        listed: Whether it is in the list of well-known models.
        similar: Closest names in the cache and in that list, best first.
        path_like: A path that exists under the name of a Hub ID, or that a path was meant by it.
        offline: Whether the server may not ask the Hub.
        cache: The Hub cache of this host.
        links_out: Links that lead out of its folder, each as `file -> target`.
        variables: Variables of the server that change how it reads the model.
        server_version: vLLM of the interpreter that will serve it, empty when not known.
    """

    asked: str
    kind: ModelKind = ModelKind.HUB
    path: str = ""
    revision: str = ""
    cached: bool = False
    config: ConfigFacts | None = None
    config_file: str = ""
    flaws: tuple[FlawedFile, ...] = ()
    weights_bytes: int | None = None
    weight_files: int = 0
    tensor_bytes: dict[str, int] = field(default_factory=dict)
    spare_bytes: int = 0
    index_bytes: int | None = None
    tokenizer: bool | None = None
    chat_template: bool | None = None
    native: SupportFacts | None = None
    listed: bool = False
    similar: tuple[str, ...] = ()
    path_like: str = ""
    offline: bool = False
    cache: str = ""
    links_out: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    server_version: str = ""

    @property
    def local(self) -> bool:
        """Whether its files are on this host, complete or not."""
        return self.kind in (ModelKind.FOLDER, ModelKind.GGUF, ModelKind.CACHED)
