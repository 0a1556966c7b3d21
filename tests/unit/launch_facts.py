"""Facts about launches that were never made, for the rules of the preflight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.expectation import with_forecast
from pytest_vllm.domain.facts import LaunchFacts
from pytest_vllm.domain.facts.arguments import HelpFacts
from pytest_vllm.domain.facts.config import read_config
from pytest_vllm.domain.facts.host import Gpu, HostFacts
from pytest_vllm.domain.facts.image import ImageFacts
from pytest_vllm.domain.facts.model import ModelFacts, ModelKind, SupportFacts
from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.shape import UnknownShape
from pytest_vllm.domain.serve_parser import read_flags
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import Target, build_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.finding import Finding
    from pytest_vllm.domain.preflight import Rule

DATA = Path(__file__).parent.parent / "data"
MI300X = ("MI300X", "gfx942", 206_141_652_992)
MI250 = ("MI250", "gfx90a", 68_702_699_520)
IMAGE = "vllm/vllm-openai-rocm:v0.32.0"
KNOWN = SupportFacts(version="0.32.0", model_type=True, architecture=True)


def public_configs() -> dict[str, dict[str, Any]]:
    """Return config and weights of 20 public models, by ID."""
    document = json.loads((DATA / "models" / "configs.json").read_text("utf-8"))
    models: dict[str, dict[str, Any]] = document["models"]
    return models


def real_help(version: str = "0.32.0") -> HelpFacts:
    """Return the flags of a real server."""
    text = (DATA / "help" / f"vllm-{version}.txt").read_text("utf-8")
    return HelpFacts(version=version, flags=read_flags(text), source="test")


def make_target(*args: str, model: str = "org/model", **options: object) -> Target:
    """Make a target; `args` go to the server."""
    backend = options.pop("backend", None)
    named = {"image": IMAGE} if backend is None else {"backend": backend}
    given = {"model": model, "serve-arg": list(args) or None, **named}
    given |= {name.replace("_", "-"): value for name, value in options.items()}
    settings = resolve(Sources(options=given, env={}, ini={}), profile={}, profile_name="default")
    return build_target(settings, known_suites=("chat", "completions"))


def make_host(
    count: int = 0,
    kind: tuple[str, str, int] = MI300X,
    *,
    used_bytes: int = 300_000_000,
    **facts: Any,
) -> HostFacts:
    """Make a host with GPUs of one kind."""
    name, gfx, total = kind
    gpus = tuple(
        Gpu(
            index=index,
            name=name,
            gfx=gfx,
            render_node=f"/dev/dri/renderD{128 + index}",
            vram_total_bytes=total,
            vram_used_bytes=used_bytes,
        )
        for index in range(count)
    )
    reason = "" if gpus else "there is no /dev/kfd"
    return HostFacts(hostname="h", gpus=gpus, gpus_reason=reason, **facts)


def make_model(config: Mapping[str, Any] | None = None, **facts: Any) -> ModelFacts:
    """Make a sound model in a folder."""
    given = {
        "asked": "org/model",
        "kind": ModelKind.FOLDER,
        "path": "/models/m",
        "cached": True,
        "config": None if config is None else read_config(config),
        "config_file": "config.json",
        "weight_files": 1,
        "tokenizer": True,
        "chat_template": True,
        "native": None if config is None else KNOWN,
        **facts,
    }
    return ModelFacts(**given)


def make_launch(
    *args: str,
    model: ModelFacts | None = None,
    config: Mapping[str, Any] | None = None,
    host: HostFacts | None = None,
    image_env: Mapping[str, str] | None = None,
    help_facts: HelpFacts | None = None,
    **options: Any,
) -> LaunchFacts:
    """Make the facts of a launch, with the forecast.

    Args:
        args: Arguments of the server.
        model: The model, `None` when nothing is known of it.
        config: Its `config.json`, without which the forecast knows no shape.
        host: The host, by default one without GPUs.
        image_env: Variables of the image.
        help_facts: What the server's help says.
        options: Other facts, and options of the target.
    """
    facts = {
        name: options.pop(name) for name in ("network", "container", "engine") if name in options
    }
    target = make_target(*args, **options)
    image = ImageFacts(asked=IMAGE, id="sha256:1", runs="sha256:1", env=dict(image_env or {}))
    launch = LaunchFacts(
        target=target,
        host=host or make_host(),
        image=image if target.backend == "docker" else None,
        model=model,
        arguments=help_facts,
        **facts,
    )
    shape = UnknownShape(reason="no config") if config is None else read_shape(config)
    asked = "org/model" if model is None else model.asked
    return with_forecast(launch, ModelMemory(name=asked, shape=shape))


def found(rule: Rule, facts: LaunchFacts) -> list[Finding]:
    """Apply one rule."""
    return list(rule(facts))


def only(rule: Rule, facts: LaunchFacts) -> Finding:
    """Apply one rule that must find one thing."""
    findings = found(rule, facts)
    assert len(findings) == 1, findings
    return findings[0]
