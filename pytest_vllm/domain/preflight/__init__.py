"""Rules over facts: what can be known before anything heavy starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_vllm.domain.finding import Fault, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.facts import LaunchFacts

GIB = 2**30


class Rule(Protocol):
    """A pure function: facts in, findings out."""

    def __call__(self, facts: LaunchFacts, /) -> Iterable[Finding]:
        """Judge the facts."""


def without_gpu(facts: LaunchFacts) -> str:
    """Say why no question about GPUs can be asked; empty when there are GPUs to ask about."""
    if facts.target.backend == "attach":
        return "the server at the URL has the GPUs of its own host"
    if facts.target.gpus == "none":
        return "no GPU is handed over (--vllm-gpus=none)"
    if not facts.host.gpus:
        reason = facts.host.gpus_reason
        return f"this host has no AMD GPU{f' ({reason})' if reason else ''}"
    return ""


def not_applicable(rule: str, why: str) -> Finding:
    """Make the finding of a rule that cannot be asked; reports show those of one reason as one."""
    return Finding(id=rule, severity=Severity.NOT_APPLICABLE, fault=Fault.HOST, seen=why)
