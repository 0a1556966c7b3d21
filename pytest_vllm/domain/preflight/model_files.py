"""Rules about the files of a model: all there, whole, and what their names say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.facts.model import Flaw, ModelKind
from pytest_vllm.domain.finding import Fault, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.model import FlawedFile, ModelFacts

_CONFIG_FILES = ("config.json", "params.json")
_TOKENIZER_FILES = ("tokenizer", "vocab", "tekken", "spiece", "sentencepiece", "tokenization")
_WEIGHT_ENDS = (".safetensors", ".bin", ".pt", ".gguf", ".index.json")
_READ_AS_FILES = (None, "auto", "hf", "safetensors", "pt", "npcache", "mistral", "fastsafetensors")
_ROUGHLY = 0.99
_SHOWN = 3


def config(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The config must be there and be JSON."""
    model = facts.model
    if model is None or model.kind not in (ModelKind.FOLDER, ModelKind.CACHED):
        return
    if not model.config_file:
        yield Finding(
            id="model.no-config",
            severity=_unless_fetched(model),
            fault=Fault.USER,
            seen=f"{model.path} holds no {' and no '.join(_CONFIG_FILES)}",
            cure="--vllm-model=FOLDER that holds config.json, the tokenizer and the weights"
            if model.kind is ModelKind.FOLDER
            else _fetch(model),
            ref="H12",
        )
    for flaw in model.flaws:
        if flaw.name in _CONFIG_FILES:
            yield Finding(
                id="model.broken-config",
                severity=Severity.FATAL,
                fault=Fault.MODEL,
                seen=f"{flaw.name} of {model.asked} is no JSON object: {_said(flaw)}",
                cure=_fetch(model),
                ref="H23",
            )


def missing_weights(facts: LaunchFacts, /) -> Iterator[Finding]:
    """All weights that an index names must be there, and without one, some."""
    model = facts.model
    if model is None or not _reads_files(facts, model):
        return
    gone = [flaw for flaw in _weights(model) if flaw.flaw in (Flaw.MISSING, Flaw.DANGLING)]
    if gone:
        there = f"{model.weight_files} of {model.weight_files + len(_weights(model))}"
        yield Finding(
            id="model.missing-weights",
            severity=_unless_fetched(model),
            fault=Fault.MODEL,
            seen=f"{model.asked}: {_count(gone)} of weights missing ({there} are there): "
            f"{_names(gone)}",
            cure=_fetch(model),
            ref="H20",
        )
    elif not model.weight_files and not _weights(model) and model.config_file:
        yield Finding(
            id="model.no-weights",
            severity=_unless_fetched(model),
            fault=Fault.MODEL,
            seen=f"{model.path} holds no weights (*.safetensors, *.bin or *.pt)",
            cure=_fetch(model),
            ref="H20",
        )


def whole_weights(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Weight files must be weights, as long as their headers say."""
    model = facts.model
    if model is None or not _reads_files(facts, model):
        return
    flaws = _weights(model)
    pointers = [flaw for flaw in flaws if flaw.flaw is Flaw.POINTER]
    cut = [flaw for flaw in flaws if flaw.flaw in (Flaw.TRUNCATED, Flaw.BROKEN)]
    closed = [flaw for flaw in flaws if flaw.flaw is Flaw.UNREADABLE]
    if pointers:
        yield Finding(
            id="model.lfs-pointer",
            severity=Severity.FATAL,
            fault=Fault.MODEL,
            seen=f"{model.asked}: Git LFS pointers of some 130 bytes in place of "
            f"{_count(pointers)} of weights: {_names(pointers)}",
            cure=f"git -C {model.path} lfs pull, or {_fetch(model)}",
            ref="H21",
        )
    if cut:
        yield Finding(
            id="model.truncated",
            severity=Severity.FATAL,
            fault=Fault.MODEL,
            seen=f"{model.asked}: {_count(cut)} of weights cut off or broken: {_names(cut)}",
            cure=_fetch(model, again=True),
            ref="H21",
        )
    if closed:
        yield Finding(
            id="model.unreadable",
            severity=Severity.WARNING,
            fault=Fault.HOST,
            seen=f"{model.asked}: {_count(closed)} that we cannot read: {_names(closed)}",
            cure=f"chmod -R a+rX {model.path}",
            ref="H11",
        )


def index_size(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The weights should be as large as their index says."""
    model = facts.model
    if model is None or not model.index_bytes or _weights(model):
        return
    total = sum(model.tensor_bytes.values())
    if total and total < _ROUGHLY * model.index_bytes:
        yield Finding(
            id="model.index-size",
            severity=Severity.WARNING,
            fault=Fault.MODEL,
            seen=f"the weights of {model.asked} hold {total} bytes of tensors, their index says "
            f"{model.index_bytes}",
            cure=_fetch(model, again=True),
            ref="H20",
        )


def tokenizer(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A tokenizer must be there, unless it comes from elsewhere or none is wanted."""
    model, args = facts.model, facts.target.serve_args
    elsewhere = ("--tokenizer", "--skip-tokenizer-init", "--hf-overrides")
    if model is None or not model.config_file or any(args.has(flag) for flag in elsewhere):
        return
    broken = [flaw for flaw in model.flaws if flaw.name.startswith(_TOKENIZER_FILES)]
    if broken:
        yield Finding(
            id="model.broken-tokenizer",
            severity=Severity.FATAL,
            fault=Fault.MODEL,
            seen=f"the tokenizer of {model.asked} is broken: {_names(broken)}",
            cure=_fetch(model, again=True),
            ref="H22",
        )
    elif model.tokenizer is False:
        yield Finding(
            id="model.no-tokenizer",
            severity=_unless_fetched(model),
            fault=Fault.MODEL,
            seen=f"{model.path} holds no tokenizer (tokenizer.json, tokenizer.model, vocab.json)",
            cure=f"--vllm-serve-arg=--tokenizer=ORG/NAME, or {_fetch(model)}",
            ref="H22",
        )


def generation_config(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Other files that are no JSON are worth a word."""
    model = facts.model
    flaws = model.flaws if model is not None else ()
    odd = [flaw for flaw in flaws if flaw.name == "generation_config.json"]
    if model is not None and odd:
        yield Finding(
            id="model.broken-generation-config",
            severity=Severity.WARNING,
            fault=Fault.MODEL,
            seen=f"of {model.asked}: {_names(odd)}",
            cure=_fetch(model, again=True),
        )


def links(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A container sees the folder that is mounted, not what links in it lead out to."""
    model = facts.model
    if model is None or facts.target.backend != "docker" or not model.links_out:
        return
    yield Finding(
        id="model.link-out",
        severity=Severity.FATAL,
        fault=Fault.USER,
        seen=f"{model.links_out[0]}: a container cannot follow a link that leaves the folder"
        + (f" ({len(model.links_out) - 1} more)" if len(model.links_out) > 1 else ""),
        cure=f"cp -rL {model.path} COPY and --vllm-model=COPY",
        ref="H12",
    )


def _reads_files(facts: LaunchFacts, model: ModelFacts) -> bool:
    loaded = facts.target.serve_args.value("--load-format")
    return model.local and loaded in _READ_AS_FILES


def _weights(model: ModelFacts) -> list[FlawedFile]:
    gguf = model.kind is ModelKind.GGUF
    return [flaw for flaw in model.flaws if gguf or flaw.name.endswith(_WEIGHT_ENDS)]


def _unless_fetched(model: ModelFacts) -> Severity:
    """What a cache lacks is fetched on the way, unless the Hub may not be asked."""
    fetched = model.kind is ModelKind.CACHED and not model.offline
    return Severity.WARNING if fetched else Severity.FATAL


def _fetch(model: ModelFacts, *, again: bool = False) -> str:
    if model.kind is not ModelKind.CACHED:
        return "copy or download the model's folder again, whole"
    revision = f" --revision {model.revision}" if model.revision else ""
    force = " --force-download" if again else ""
    return f"hf download {model.asked}{revision}{force}"


def _count(flaws: list[FlawedFile]) -> str:
    return f"{len(flaws)} file{'s' if len(flaws) > 1 else ''}"


def _names(flaws: list[FlawedFile]) -> str:
    more = f", and {len(flaws) - _SHOWN} more" if len(flaws) > _SHOWN else ""
    return ", ".join(f"{flaw.name} ({_said(flaw)})" for flaw in flaws[:_SHOWN]) + more


def _said(flaw: FlawedFile) -> str:
    return f"{flaw.flaw}, {flaw.detail}" if flaw.detail else str(flaw.flaw)


RULES = (
    config,
    missing_weights,
    whole_weights,
    index_size,
    tokenizer,
    generation_config,
    links,
)
IDS = (
    "model.no-config",
    "model.broken-config",
    "model.missing-weights",
    "model.no-weights",
    "model.lfs-pointer",
    "model.truncated",
    "model.unreadable",
    "model.index-size",
    "model.broken-tokenizer",
    "model.no-tokenizer",
    "model.broken-generation-config",
    "model.link-out",
)
