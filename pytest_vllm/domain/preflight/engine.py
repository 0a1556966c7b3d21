"""Rules about the Docker engine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts

_OLDEST_API = (1, 40)
"""Docker 19.03: what Compose v2 and health of `init` containers need."""
_BARE_LEAST_GIB = 1
"""What a container with its log and a compile cache needs beside its image."""
_PULL_GIB = 60
"""What a published ROCm image takes when it is unpacked, with room for its layers meanwhile."""
_INSTALL = "pip install 'pytest-vllm[compose]'"


def reachable(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Stop where no engine answers; on a plan for another host that only narrows what is known."""
    engine = facts.engine
    if engine is None or not engine.problem:
        return
    if not facts.host.here:
        yield Finding(
            id="engine.not-asked",
            severity=Severity.NOTE,
            fault=Fault.HOST,
            seen=f"the image is not looked at: {engine.problem}",
        )
        return
    yield Finding(
        id="engine.permission" if engine.ref == "D2" else "engine.unreachable",
        severity=Severity.FATAL,
        fault=Fault.HOST,
        seen=engine.problem,
        cure=engine.cure,
        ref=engine.ref,
    )


def compose(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Compose starts the container."""
    engine = facts.engine
    if engine is None or not engine.compose_problem or not facts.host.here:
        return
    yield Finding(
        id="engine.no-compose",
        severity=Severity.FATAL,
        fault=Fault.HOST,
        seen=engine.compose_problem,
        cure=_INSTALL,
        ref="D15",
    )


def age(facts: LaunchFacts, /) -> Iterator[Finding]:
    """An engine from before 2019 lacks what our compose file asks for."""
    engine = facts.engine
    match = re.fullmatch(r"(\d+)\.(\d+)", engine.api) if engine is not None else None
    if engine is None or match is None or (int(match[1]), int(match[2])) >= _OLDEST_API:
        return
    yield Finding(
        id="engine.old",
        severity=Severity.WARNING,
        fault=Fault.HOST,
        seen=f"engine {engine.version} speaks API {engine.api}; nothing below 1.40 is tried",
        cure="update the engine to Docker 19.03 or newer",
        ref="D13",
    )


def kind(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Say where the engine differs from a root daemon of Docker on this host."""
    engine = facts.engine
    if engine is None or engine.problem:
        return
    words = [
        word
        for word, said in (
            ("podman", engine.kind == "podman"),
            ("rootless", engine.rootless),
            ("remote", engine.remote),
        )
        if said
    ]
    if not words:
        return
    groups = "; GPU groups need keep-groups there" if engine.rootless else ""
    yield Finding(
        id="engine.kind",
        severity=Severity.WARNING if engine.rootless and facts.host.gpus else Severity.NOTE,
        fault=Fault.HOST,
        seen=f"the engine at {engine.endpoint} is {' and '.join(words)}{groups}",
        cure="a compose file with `group_add: [keep-groups]` as --vllm-compose-override"
        if groups and facts.host.gpus
        else "",
        ref="G2" if groups else "",
    )


def disk(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Free space where images and containers live."""
    engine = facts.engine
    if engine is None or engine.data_free_bytes is None:
        return
    free_gib = engine.data_free_bytes / GIB
    pulls = facts.absent is not None and facts.target.text("pull") == "missing"
    if free_gib < _BARE_LEAST_GIB:
        need = f"{_BARE_LEAST_GIB} GiB is the least for a container with its log"
        severity = Severity.FATAL
    elif pulls and free_gib < _PULL_GIB:
        need = f"a ROCm image takes up to {_PULL_GIB} GiB while it is unpacked"
        severity = Severity.WARNING
    else:
        return
    yield Finding(
        id="engine.disk",
        severity=severity,
        fault=Fault.HOST,
        seen=f"{free_gib:.1f} GiB free in the engine's {engine.data_root}; {need}",
        cure=f"docker system df, then docker system prune; df {engine.data_root}",
        ref="D7",
    )


RULES = (reachable, compose, age, kind, disk)
IDS = (
    "engine.not-asked",
    "engine.permission",
    "engine.unreachable",
    "engine.no-compose",
    "engine.old",
    "engine.kind",
    "engine.disk",
)
