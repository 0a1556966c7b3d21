"""What a preflight found, as text for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.facts.model import Flaw
from pytest_vllm.domain.finding import Severity
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.facts import seconds
from pytest_vllm.reports.memory import at_gate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.model import ModelFacts
    from pytest_vllm.domain.finding import Finding
    from pytest_vllm.domain.preflight.outcome import Preflight

_GIB = 2**30
_SHOWN = 2000
_INCOMPLETE = (Flaw.MISSING, Flaw.DANGLING, Flaw.TRUNCATED, Flaw.POINTER)
_GROUPS = ((Severity.FATAL, "fatal"), (Severity.WARNING, "warning"), (Severity.NOTE, "note"))


def preflight_text(outcome: Preflight) -> str:
    """Show findings by gravity, then what was looked at, then what it comes to."""
    blocks = ["\n".join(finding_lines(outcome.findings)), "\n".join(_facts(outcome.facts))]
    blocks.append(_end(outcome))
    return "\n\n".join(block for block in blocks if block) + "\n"


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Show findings, each with its cure below it; rules that were not asked in one line."""
    lines: list[str] = []
    for severity, word in _GROUPS:
        for finding in findings:
            if finding.severity is severity:
                ref = f"{finding.ref} " if finding.ref else ""
                mark = (
                    f"{word}, ignored" if finding.ignored and severity is Severity.FATAL else word
                )
                lines.append(f"{mark}: {ref}{finding.id}: {one_line(finding.seen, _SHOWN)}")
                if finding.cure:
                    lines.append(f"  fix: {one_line(finding.cure, _SHOWN)}")
    return [*lines, *_not_applicable(findings)]


def finding_summary(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Say each finding with its gravity in one line, rules that were not asked together."""
    told = [
        f"{word}: {warning_line(finding)}"
        for severity, word in _GROUPS
        for finding in findings
        if finding.severity is severity
    ]
    return (*told, *_not_applicable(findings))


def warning_line(finding: Finding) -> str:
    """Say a finding and its cure in one line."""
    ref = f"{finding.ref} " if finding.ref else ""
    ignored = " (ignored)" if finding.ignored else ""
    cure = f"; fix: {one_line(finding.cure, _SHOWN)}" if finding.cure else ""
    return f"{ref}{finding.id}{ignored}: {one_line(finding.seen, _SHOWN)}{cure}"


def _not_applicable(findings: Sequence[Finding]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        if finding.severity is Severity.NOT_APPLICABLE:
            reasons.setdefault(finding.seen, []).append(finding.id)
    for reason, names in reasons.items():
        yield f"not applicable: {', '.join(dict.fromkeys(names))}: {one_line(reason, _SHOWN)}"


def _facts(facts: LaunchFacts) -> Iterator[str]:
    host, engine, image, model = facts.host, facts.engine, facts.image, facts.model
    gpus = [
        " ".join(filter(None, (gpu.name or "AMD GPU", gpu.gfx, _size(gpu.vram_total_bytes))))
        for gpu in (*host.gpus, *facts.cuda_gpus)
    ]
    kinds = [f"{gpus.count(kind)} x {kind}" for kind in dict.fromkeys(gpus)]
    found = ", ".join(kinds) or f"no AMD GPU ({host.gpus_reason})"
    where = f" (from {host.source})" if host.source else ""
    yield f"host    {host.hostname}{where}: {found}, memory {_size(host.memory_bytes) or 'unknown'}"
    if engine is not None and not engine.problem:
        disk = (
            f", {_size(engine.data_free_bytes)} free in {engine.data_root}"
            if engine.data_free_bytes
            else ""
        )
        yield f"engine  {engine.kind} {engine.version}, compose {engine.compose or 'none'}{disk}"
    if image is not None:
        gfx = f", for {' '.join(image.gfx)}" if image.gfx else ""
        yield f"image   {image.asked} = {image.runs}, {image.architecture}{gfx}"
    if model is not None:
        cached = _where(model)
        size = f", weights {_size(model.weights_bytes)}" if model.weights_bytes else ""
        yield f"model   {model.asked}, {cached}{size}"
    forecast = facts.forecast
    if forecast is not None:
        at = at_gate(forecast.gate)
        yield f"memory  {forecast.verdict}{at}: {one_line(forecast.reason, _SHOWN)}"
    elif facts.no_forecast:
        yield f"memory  no forecast: {one_line(facts.no_forecast, _SHOWN)}"


def _where(model: ModelFacts) -> str:
    if not model.local:
        return "not on this host"
    whole = model.cached and not any(flaw.flaw in _INCOMPLETE for flaw in model.flaws)
    return "on this host" if whole else "on this host, incomplete"


def _size(size: int | None) -> str:
    return "" if size is None else f"{size / _GIB:.1f} GiB"


def _end(outcome: Preflight) -> str:
    took = seconds(outcome.took_s)
    stopping = outcome.stopping
    if not stopping:
        return f"preflight: nothing stands against a start ({took})"
    count = "1 finding stands" if len(stopping) == 1 else f"{len(stopping)} findings stand"
    return f"preflight: {count} against a start ({took}); exit code {outcome.exit_code}"
