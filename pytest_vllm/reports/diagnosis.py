"""A diagnosis in words, for a terminal and for the other reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.domain.finding import Diagnosis, Evidence

_EVIDENCE_CHARS = 240
UNKNOWN = "unknown"


def diagnosis_name(diagnosis: Diagnosis) -> str:
    """Return row and ID, such as `G7 gpu.free-memory`."""
    return UNKNOWN if diagnosis.id is None else f"{diagnosis.ref} {diagnosis.id}".strip()


def evidence_line(evidence: Evidence) -> str:
    """Return a line of the log with its number; what stands in no log has none."""
    where = f"line {evidence.line}" if evidence.line else "engine"
    return f"{where}: {one_line(evidence.text, _EVIDENCE_CHARS)}"


def diagnosis_lines(found: Sequence[Diagnosis], *, nothing: str = "") -> Iterator[str]:
    """Yield the lines that show what was found.

    Args:
        found: The cause first.
        nothing: What to say when nothing is wrong.
    """
    if not found:
        yield nothing
        return
    first, *others = found
    yield f"{diagnosis_name(first)}{_fault(first)}"
    yield f"  cause: {first.cause}"
    if first.id is None:
        yield "  no known failure looks like this: read the lines around it"
    if first.cure:
        yield f"  fix:   {first.cure}"
    if first.phase:
        yield f"  phase: {first.phase}"
    yield from (f"  {evidence_line(evidence)}" for evidence in first.evidence)
    for other in others:
        yield f"also fits: {diagnosis_name(other)}: {other.cause}"


def diagnosis_json(
    found: Sequence[Diagnosis], *, nothing: str, phase: str, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the JSON form: `outcome`, the cause, `others` in its form, and `warnings`.

    Args:
        found: The cause first.
        nothing: What `cause` says when nothing is wrong.
        phase: Phase that was reached when nothing is wrong.
        warnings: What is unsafe about how the server was started.
    """
    healthy = _fields(None, None, None, nothing) | {"phase": phase}
    first = _plain(found[0]) if found else healthy
    others = [_plain(other) for other in found[1:]]
    outcome = {"outcome": outcome_of(found)}
    return outcome | first | {"others": others, "warnings": list(warnings)}


def outcome_of(found: Sequence[Diagnosis]) -> str:
    """Return `failure` for a known one, `unknown` for any other, `none` when nothing is wrong."""
    if not found:
        return "none"
    return UNKNOWN if found[0].id is None else "failure"


def _plain(diagnosis: Diagnosis) -> dict[str, Any]:
    fault = None if diagnosis.fault is None else str(diagnosis.fault)
    return _fields(diagnosis.id, diagnosis.ref, fault, diagnosis.cause) | {
        "cure": diagnosis.cure,
        "evidence": [{"line": item.line, "text": item.text} for item in diagnosis.evidence],
        "phase": diagnosis.phase,
    }


def _fields(name: str | None, ref: str | None, fault: str | None, cause: str) -> dict[str, Any]:
    return {
        "id": name,
        "ref": ref,
        "class": fault,
        "cause": cause,
        "cure": "",
        "evidence": [],
        "phase": "",
    }


def _fault(diagnosis: Diagnosis) -> str:
    return "" if diagnosis.fault is None else f" (class {diagnosis.fault})"
