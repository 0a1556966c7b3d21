"""Why a server did not come up, or ended: signatures applied to its log and its end.

The last exception is usually an envelope, so the rules look for the first link: the first known
line of the innermost process that is not a known envelope (docs/diagnosis.md). What the
daemon says comes before how the server ended, that before the log, and silence comes last.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_vllm.domain.figures import FIGURES, Context
from pytest_vllm.domain.finding import Diagnosis, Evidence
from pytest_vllm.domain.logline import Log, read_line, split_lines
from pytest_vllm.domain.match import CHATTER, RETRY, groups, ranked_matches
from pytest_vllm.domain.phases import clean
from pytest_vllm.domain.root_cause import find_cut_traceback, find_envelope
from pytest_vllm.domain.signature import Role, filled
from pytest_vllm.domain.start_log import CAUSE_CHARS, ServerEnd, StartLog
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_vllm.domain.logline import Line
    from pytest_vllm.domain.match import Match
    from pytest_vllm.domain.signature import Pattern, Signature

__all__ = ["Context", "FatalWatch", "ServerEnd", "diagnose", "holds_start", "log_tail", "phase_of"]

TAIL_LINES = 20
"""Log lines shown with a failure."""
_QUIET = re.compile(r"(?:\(\w[^)]*\) ?)?(?:INFO|DEBUG|WARNING)[: ]")
"""Nearly all lines of a start, told in no time; the others are taken apart."""
_ONLY_ENVELOPE = (
    "only the envelope of a failure is in this text: the lines before it, which hold the cause, are"
    " missing"
)
_CUT = "a traceback is cut off before its last line, which names the error"
_EVIDENCE = 5
_ALIKE = 3


def diagnose(  # noqa: PLR0913 - all that a diagnosis hangs on
    lines: Iterable[str],
    signatures: Sequence[Signature],
    *,
    end: ServerEnd | None = None,
    daemon_error: str = "",
    context: Context | None = None,
    first_line: int = 1,
) -> tuple[Diagnosis, ...]:
    """Say what went wrong, the cause first.

    Args:
        lines: The log, oldest first, as it was written.
        signatures: What is known, see `adapters.knowledge`.
        end: How the server ended; `None` while it runs, or when nobody knows.
        daemon_error: What the Docker engine or compose said.
        context: What is known besides.
        first_line: Number of the first line, for the end of a log.

    Returns:
        All that fits, the likeliest first. Empty when nothing is wrong. One without an ID when
        something is, and nobody knows what: its cause is the line that says most.
    """
    start = StartLog(Log(split_lines(lines), first_line), end or ServerEnd())
    said = [text for text in (daemon_error, start.end.error) if text.strip()]
    found = ranked_matches(start, signatures, said)
    if found:
        return tuple(_explained(match, start, context or Context()) for match in found)
    unknown = _unknown(start, said)
    return () if unknown is None else (unknown,)


def phase_of(lines: Iterable[str]) -> str:
    """Return the last start-up phase that a log reaches."""
    return StartLog(Log(split_lines(lines)), ServerEnd()).phase


def holds_start(lines: Iterable[str]) -> bool:
    """Tell whether any line is vLLM's."""
    return StartLog(Log(split_lines(lines)), ServerEnd()).has_vllm_line


class FatalWatch:
    """Reads the log of a start line by line, until one proves that it has failed.

    Args:
        signatures: What is known.

    Attributes:
        found: The signature that matched, `None` so far.
    """

    def __init__(self, signatures: Sequence[Signature]) -> None:
        self.found: Signature | None = None
        self._after_frame = False
        self._patterns = [
            (pattern, signature)
            for signature in signatures
            if signature.fatal
            for pattern in signature.patterns
            if pattern.role is Role.CAUSE
        ]

    def feed(self, line: str) -> bool:
        """Read a line; tell whether the start has failed, by it or by one before."""
        for raw in split_lines((line,)):
            if self.found is None:
                self.found = self._judge(raw)
        return self.found is not None

    def _judge(self, raw: str) -> Signature | None:
        is_source, self._after_frame = self._after_frame, '  File "' in raw
        if _QUIET.match(raw):
            return None
        near = [entry for entry in self._patterns if entry[0].needle in raw]
        if not near or is_source or RETRY.search(raw):
            return None
        line = read_line(1, raw)
        if line.level in (*CHATTER, "WARNING"):
            return None
        return next((each for pattern, each in near if pattern.search(line.text)), None)


def log_tail(lines: Sequence[str], count: int = TAIL_LINES) -> tuple[str, ...]:
    """Return the last lines that say something, without ANSI codes."""
    cleaned = [clean(line) for line in lines]
    return tuple(line for line in cleaned if line.strip())[-count:]


def _explained(match: Match, start: StartLog, context: Context) -> Diagnosis:
    """Fill the templates of what was found."""
    signature = match.signature
    shown = [start.log.line(index) for index in match.hits[:_ALIKE]]
    values = {"root": start.root_text, "phase": start.phase} | match.values
    values["line"] = one_line(shown[0].text if shown else match.said, CAUSE_CHARS)
    for pattern in signature.details:
        detail = _detail(pattern, match, start.log)
        if detail:
            line, more = detail
            values = more | {name: text for name, text in values.items() if text}
            if line.level not in CHATTER:
                shown.append(line)
    for name in signature.figures:
        values |= FIGURES[name](values, context)
    return Diagnosis(
        id=signature.id,
        ref=signature.ref,
        fault=signature.fault,
        cause=one_line(filled(signature.cause, values), CAUSE_CHARS),
        cure=one_line(filled(signature.cure, values), CAUSE_CHARS),
        evidence=_evidence(match, shown, start),
        phase=start.phase,
    )


def _detail(pattern: Pattern, match: Match, log: Log) -> tuple[Line, dict[str, str]] | None:
    """Return the match of a further pattern that is nearest to what was found."""
    origin = match.hits[0] if match.hits else len(log)
    best: tuple[int, Line, dict[str, str]] | None = None
    for index in log.near(pattern):
        line = log.line(index)
        found = pattern.regex.search(line.text)
        if found and (best is None or abs(index - origin) < best[0]):
            best = (abs(index - origin), line, groups(found))
    return best and best[1:]


def _evidence(match: Match, shown: list[Line], start: StartLog) -> tuple[Evidence, ...]:
    """Return up to five lines: those that match, those with details, and the root of the log."""
    candidates = [*shown, *([start.root] if start.root is not None else [])]
    if not candidates:
        candidates = [line for line in start.tail if line.text.strip()][-_ALIKE:]
    said = (Evidence(line=0, text=one_line(match.said)),) if match.said else ()
    unique = list({line.number: line for line in candidates}.values())[: _EVIDENCE - len(said)]
    return said + _as_evidence(sorted(unique, key=lambda line: line.number))


def _unknown(start: StartLog, said: Sequence[str]) -> Diagnosis | None:
    """Say that something is wrong, if it is, with the line that says most."""
    cause = ""
    evidence: tuple[Evidence, ...] = ()
    if line := start.root or start.crash:
        cause = start.root_text if start.root else one_line(line.text, CAUSE_CHARS)
        evidence = _as_evidence([line])
    elif said:
        cause = one_line(said[0], CAUSE_CHARS)
        evidence = (Evidence(line=0, text=cause),)
    elif line := find_envelope(start.tail):
        cause, evidence = _ONLY_ENVELOPE, _as_evidence([line])
    elif line := find_cut_traceback(start.tail):
        cause, evidence = _CUT, _as_evidence([line])
    elif start.ended_badly:
        cause, evidence = _end_without_cause(start)
    if not cause:
        return None
    return Diagnosis(
        id=None, ref=None, fault=None, cause=cause, evidence=evidence, phase=start.phase
    )


def _end_without_cause(start: StartLog) -> tuple[str, tuple[Evidence, ...]]:
    if start.was_told_to_stop:
        line = start.log.line(start.stop)
        return f"somebody told it to stop: {one_line(line.text)}", _as_evidence([line])
    tail = [line for line in start.tail if line.text.strip()][-_EVIDENCE:]
    if start.end.hung:
        return "nothing moved any more; the log names no cause", _as_evidence(tail)
    code = start.end.exit_code
    return f"ended with exit code {code}; the log names no cause", _as_evidence(tail)


def _as_evidence(lines: Sequence[Line]) -> tuple[Evidence, ...]:
    return tuple(Evidence(line=line.number, text=one_line(line.shown)) for line in lines)
