"""Rules about which model is asked for and whether vLLM knows what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.facts.model import Flaw, ModelKind
from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight.version import known_to_be_listed, server_version
from pytest_vllm.domain.quantization import LISTED_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.model import ModelFacts

_FOUND = range(200, 400)


def hub_id(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A Hub ID has one owner and one name, or is the path of a folder that exists."""
    model = facts.model
    if model is None or model.kind is not ModelKind.MALFORMED:
        return
    seen = f"{model.asked!r} is no Hub ID (ORG/NAME) and no folder"
    yield Finding(
        id="model.malformed-id",
        severity=Severity.FATAL,
        fault=Fault.USER,
        seen=seen,
        cure=_instead(model) or "--vllm-model=ORG/NAME, or the path of a folder",
        ref="H8",
    )


def known_id(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A Hub ID that nobody knows is most often a slip."""
    model = facts.model
    if model is None or model.kind is not ModelKind.HUB or model.listed:
        return
    if model.offline:
        severity, why = Severity.FATAL, "the server may not ask the Hub (HF_HUB_OFFLINE)"
    elif facts.network is None or not facts.network.stage:
        severity, why = Severity.WARNING, "the Hub was not asked"
    elif facts.network.model_status is not None:
        return  # the Hub has spoken
    else:
        severity, why = Severity.WARNING, "the Hub could not be asked"
    if "VLLM_USE_MODELSCOPE" in model.variables and severity is Severity.WARNING:
        return
    shadow = f"; there is a folder {model.path_like}, but no {model.asked} in it"
    yield Finding(
        id="model.unknown-id",
        severity=severity,
        fault=Fault.USER,
        seen=f"{model.asked} is neither in the cache {model.cache} nor a well-known model, and "
        f"{why}{shadow if model.path_like else ''}{_did_you_mean(model)}",
        cure=_instead(model) or "--vllm-model=ORG/NAME as the Hub spells it",
        ref="H7",
    )


def cached(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Without the Hub, the cache must have the model."""
    model = facts.model
    if model is None or model.kind is not ModelKind.HUB:
        return
    unfinished = [flaw for flaw in model.flaws if flaw.flaw is Flaw.INCOMPLETE]
    if model.offline:
        revision = f" at revision {model.revision}" if model.revision else ""
        yield Finding(
            id="model.not-cached",
            severity=Severity.FATAL,
            fault=Fault.USER,
            seen=f"the server may not ask the Hub (HF_HUB_OFFLINE), and the cache {model.cache} "
            f"has no {model.asked}{revision}",
            cure=f"drop HF_HUB_OFFLINE, hf download {model.asked} beforehand, or set HF_HUB_CACHE "
            "to the cache that has it",
            ref="H9",
        )
    elif unfinished:
        yield Finding(
            id="model.unfinished-download",
            severity=Severity.NOTE,
            fault=Fault.NETWORK,
            seen=f"{len(unfinished)} unfinished downloads of {model.asked} are in the cache "
            f"{model.cache}; the server will go on with them",
            cure=f"hf download {model.asked} beforehand",
        )


def remote_code(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Code that comes with a model runs only when that is allowed.

    vLLM takes its own and transformers' classes first, so `auto_map` alone means nothing.
    """
    model = facts.model
    if model is None or model.config is None or model.native is None:
        return
    allowed = _has(facts, "--trust-remote-code")
    if "AutoConfig" not in model.config.auto_map or model.native.model_type or allowed:
        return
    if not model.config.model_type and model.native.architecture:
        return  # vLLM finds the class by the architecture
    version = server_version(facts)
    later = version is not None and version[:2] > LISTED_VERSION[:2]
    pin = "" if facts.target.model_is_path else " with --vllm-revision=COMMIT that somebody read"
    yield Finding(
        id="model.remote-code",
        severity=Severity.WARNING if later or _overridden(facts) else Severity.FATAL,
        fault=Fault.USER,
        seen=f"{model.asked} brings its own code ({', '.join(model.config.auto_map)}) for model "
        f"type {model.config.model_type!r}, which vLLM {model.native.version} has no class for",
        cure=f"--vllm-serve-arg=--trust-remote-code{pin}",
        ref="H15",
    )


def architecture(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The model's type and architecture must be known to vLLM or transformers."""
    model = facts.model
    if model is None or model.config is None or model.native is None or _overridden(facts):
        return
    config, native = model.config, model.native
    own_code = bool(config.auto_map)
    if not native.model_type and not own_code and config.model_type:
        yield Finding(
            id="model.unknown-type",
            severity=known_to_be_listed(facts),
            fault=Fault.IMAGE,
            seen=f"config.json of {model.asked} names model type {config.model_type!r}, which the "
            f"transformers of vLLM {native.version} does not know",
            cure="use an image with a newer vLLM, or correct model_type in config.json",
            ref="H13",
        )
    elif not native.architecture and not own_code:
        near = f"; did you mean {native.similar}?" if native.similar else ""
        yield Finding(
            id="model.unknown-architecture",
            severity=known_to_be_listed(facts),
            fault=Fault.IMAGE,
            seen=f"config.json of {model.asked} names architecture "
            f"{', '.join(config.architectures)}, which vLLM {native.version} does not have{near}",
            cure="use an image with a newer vLLM, or correct architectures in config.json",
            ref="H14",
        )
    elif native.removed_after:
        yield Finding(
            id="model.removed-architecture",
            severity=Severity.WARNING,
            fault=Fault.MODEL,
            seen=f"{config.architectures[0]} was served by vLLM up to {native.removed_after}; "
            "later ones have at most the slower implementation of transformers",
            cure=f"use an image with vLLM {native.removed_after}",
            ref="H14",
        )


def chat_template(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A base model completes text; it cannot chat."""
    model = facts.model
    if model is None or model.chat_template is not False or _has(facts, "--chat-template"):
        return
    if model.config is None or model.config.pooling:
        return
    asked = [name for name in facts.target.suites if "chat" in name]
    yield Finding(
        id="model.no-chat-template",
        severity=Severity.WARNING if asked else Severity.NOTE,
        fault=Fault.USER,
        seen=f"{model.asked} has no chat template: /v1/chat/completions will answer 400, and "
        "checks of chats do not apply (a base model; /v1/completions works)",
        cure="--vllm-serve-arg=--chat-template=FILE, or --vllm-model of a chat model"
        + (f" such as {model.similar[0]}" if model.similar else ""),
        ref="Q1",
    )


def _did_you_mean(model: ModelFacts) -> str:
    return f"; did you mean {' or '.join(model.similar)}?" if model.similar else ""


def _instead(model: ModelFacts) -> str:
    return f"--vllm-model={model.similar[0]}" if model.similar else ""


def _has(facts: LaunchFacts, flag: str) -> bool:
    return facts.target.serve_args.has(flag)


def _overridden(facts: LaunchFacts) -> bool:
    """Whether the user changes the config on the way, so that its names say less."""
    return any(_has(facts, flag) for flag in ("--hf-overrides", "--hf-config-path"))


RULES = (hub_id, cached, known_id, remote_code, architecture, chat_template)
IDS = (
    "model.malformed-id",
    "model.unknown-id",
    "model.not-cached",
    "model.unfinished-download",
    "model.remote-code",
    "model.unknown-type",
    "model.unknown-architecture",
    "model.removed-architecture",
    "model.no-chat-template",
)
