"""The end of a server in the middle of a run: how, when, and why."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.adapters.knowledge import signatures
from pytest_vllm.adapters.watch import server_end
from pytest_vllm.domain.diagnosis import diagnose
from pytest_vllm.domain.errors import HostError
from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from pytest_vllm.adapters.backends import Backend, ExitStatus
    from pytest_vllm.domain.figures import Context
    from pytest_vllm.domain.finding import Diagnosis

_PATIENCE_S = 5.0
_POLL_S = 0.1
_LOST_ENGINE = re.compile(r"EngineDeadError|Engine core proc \S+ died|EngineCore.* fatal error")
_CAUSE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a server ended.

    Attributes:
        said: One sentence for the verdict.
        at: When, in seconds since the epoch.
        by_host: Whether the host or the engine is to blame, so that nothing is proven.
        explanation: What a check that was under way has to say.
        findings: The same for the record.
    """

    said: str
    at: float
    by_host: bool
    explanation: str
    findings: tuple[Finding, ...] = ()


def look_for_death(
    backend: Backend, *, ready_at: float, patient: bool, context: Context | None
) -> Death | None:
    """Return how the server ended, `None` while it lives.

    Args:
        backend: The server.
        ready_at: When it was ready, in seconds since the epoch.
        patient: Whether a server that says that its engine is lost is given time to end.
        context: What the look before the launch tells a diagnosis.
    """
    try:
        status = backend.exit_status()
        if status is None and patient and _has_lost_engine(backend, ready_at):
            end = time.monotonic() + _PATIENCE_S
            while status is None and time.monotonic() < end:
                time.sleep(_POLL_S)
                status = backend.exit_status()
    except HostError as error:
        return Death(
            said=error.message, at=_end_of_log(backend), by_host=True, explanation=str(error)
        )
    return None if status is None else _explain(backend, status, ready_at, context)


def _has_lost_engine(backend: Backend, ready_at: float) -> bool:
    after = _since_launch(backend, ready_at)
    return any(line.at_s >= after and _LOST_ENGINE.search(line.text) for line in backend.log)


def _explain(
    backend: Backend, status: ExitStatus, ready_at: float, context: Context | None
) -> Death:
    note = f" ({status.note})" if status.note else ""
    said = f"the server ended in mid-run with exit code {status.code}{note}"
    lines = [line.text for line in backend.log]
    found = diagnose(lines, signatures(), end=server_end(status), context=context)
    first = found[0] if found else None
    if first is None:
        return Death(
            said=said, at=_end_of_log(backend), by_host=False, explanation=said, findings=()
        )
    by_host = first.fault is not None and not first.fault.rejects
    cause = one_line(first.cause, _CAUSE)
    text = [f"{said}: {cause}"]
    text += [f"fix: {first.cure}"] if first.cure else []
    text += [f"server.log:{seen.line}: {one_line(seen.text, _CAUSE)}" for seen in first.evidence]
    finding = Finding(
        id=first.id or "server.ended",
        severity=Severity.WARNING,
        fault=first.fault or Fault.IMAGE,
        seen=f"{said}: {cause}",
        cure=first.cure,
        ref=first.ref or "",
    )
    return Death(
        said=f"{said}: {cause}",
        at=_moment(backend, first, ready_at),
        by_host=by_host,
        explanation="\n".join(text),
        findings=(finding,),
    )


def _moment(backend: Backend, diagnosis: Diagnosis, ready_at: float) -> float:
    """Return when the server broke: at the first line that shows it, else when its log ended."""
    after = _since_launch(backend, ready_at)
    log = backend.log
    shown = [log[seen.line - 1].at_s for seen in diagnosis.evidence if seen.line <= len(log)]
    moments = [at_s for at_s in shown if at_s >= after]
    if not moments or backend.reader is None:
        return _end_of_log(backend)
    return _since_epoch(backend.reader.started + min(moments))


def _end_of_log(backend: Backend) -> float:
    reader = backend.reader
    if reader is None or reader.ended_s is None:
        return time.time()
    return _since_epoch(reader.started + reader.ended_s)


def _since_launch(backend: Backend, moment: float) -> float:
    """Turn seconds since the epoch into seconds after the launch."""
    if backend.reader is None:
        return 0.0
    return moment - _since_epoch(backend.reader.started)


def _since_epoch(monotonic_s: float) -> float:
    return time.time() - time.monotonic() + monotonic_s
