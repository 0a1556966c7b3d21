"""Why a server did not come up, or ended: signatures applied to its log and its end.

The last exception is usually an envelope, so the rules look for the first link: the first known
line of the innermost process that is not a known envelope (launch.md, section 2.1). What the
daemon says comes before how the server ended, that before the log, and silence comes last.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_vllm.domain.figures import FIGURES, Context
from pytest_vllm.domain.finding import Diagnosis, Evidence
from pytest_vllm.domain.logline import Line, read_line, split_lines
from pytest_vllm.domain.phases import PhaseTracker, clean
from pytest_vllm.domain.root_cause import find_root, root_cause, root_text
from pytest_vllm.domain.signature import Pattern, Role, Signature, filled
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Context", "FatalWatch", "ServerEnd", "diagnose", "log_tail", "root_cause"]

_EVIDENCE = 5
_ALIKE = 3
_BETWEEN = 17
"""How far above a frame may stand: workers that fail together mix their lines."""
_CAUSE = 400
_EXCERPT_LINES = 12
_READY = Pattern(
    regex=re.compile(r"Application startup complete"), needle="Application startup complete"
)
_STARTED = re.compile(
    r"vLLM API server version|non-default args:|LLM engine \(v|version \d+\.\d+"
    r"|Automatically detected platform|Started server process"
)
_STOPPED = re.compile(r"^(?:Shutting down|Finished server process)")
_SILENCE = re.compile(
    r"No available (?:shared memory broadcast )?block found in|vLLM hangs in phase"
)
_RETRY = re.compile(
    r"[Rr]etrying (?:in |\d+ of )|thrown while requesting|\[Retry \d+/\d+\]|Error retrieving "
)
_FRAME = re.compile(r'^\s*File "[^"]+", line \d+')
_CHATTER = ("INFO", "DEBUG")
_STOP_CODES = (0, 130, 143)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEnd:
    """How a server ended without being asked to, or that it no longer moves.

    Attributes:
        exit_code: Its exit status, `None` while it runs.
        oom_killed: Whether the kernel killed it for want of memory (Docker's State.OOMKilled).
        error: What the engine notes about the end (Docker's State.Error).
        hung: Whether it was given up because nothing moved.
        stopped: Whether somebody may have stopped it: an orderly end is nothing wrong then.
    """

    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    hung: bool = False
    stopped: bool = False


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
    log = _Log(split_lines(lines), first_line)
    case = _Case(log, signatures, end or ServerEnd(), daemon_error, context or Context())
    found = case.ranked()
    return tuple(case.explain(item) for item in found) if found else case.unknown()


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
            (pattern.needle, pattern.regex, signature)
            for signature in signatures
            if signature.fatal
            for pattern in signature.patterns
            if pattern.role is Role.CAUSE
        ]

    def feed(self, line: str) -> bool:
        """Read a line; tell whether the start has failed, by it or by one before."""
        if self.found is not None:
            return True
        for raw in split_lines((line,)):
            is_source, self._after_frame = self._after_frame, '  File "' in raw
            near = [entry for entry in self._patterns if entry[0] in raw]
            if not near or is_source or _RETRY.search(raw):
                continue
            read = read_line(1, raw)
            if read.level in (*_CHATTER, "WARNING"):
                continue
            for _, regex, signature in near:
                if regex.search(read.text):
                    self.found = signature
                    return True
        return False


class _Log:
    """Lines that are taken apart when they are looked at."""

    def __init__(self, raw: list[str], first: int) -> None:
        self.raw = raw
        self._first = first
        self._read: dict[int, Line] = {}

    @cached_property
    def _text(self) -> str:
        return "\n".join(self.raw)

    @cached_property
    def _starts(self) -> list[int]:
        starts, position = [], 0
        for raw in self.raw:
            starts.append(position)
            position += len(raw) + 1
        return starts

    def line(self, index: int) -> Line:
        if index not in self._read:
            self._read[index] = read_line(self._first + index, self.raw[index])
        return self._read[index]

    def lines(self, start: int = 0) -> list[Line]:
        return [self.line(index) for index in range(start, len(self.raw))]

    def near(self, pattern: Pattern) -> Iterator[int]:
        """Yield the indices of lines that hold the pattern's needle."""
        if not pattern.needle:
            yield from range(len(self.raw))
            return
        position = self._text.find(pattern.needle)
        while position >= 0:
            index = bisect_right(self._starts, position) - 1
            yield index
            if index + 1 == len(self.raw):
                return
            position = self._text.find(pattern.needle, self._starts[index + 1])


@dataclass(slots=True)
class _Found:
    """A signature that fits.

    Attributes:
        signature: It.
        rank: What sorts: kind of evidence, depth of the process, index of the line.
        hits: Indices of the lines that match.
        values: Named groups.
        said: What the daemon said, when it was that.
    """

    signature: Signature
    rank: tuple[int, int, int]
    hits: list[int] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    said: str = ""


_BY_DAEMON, _BY_OOM, _BY_LOG, _BY_SILENCE, _BY_CONSEQUENCE, _BY_HINT, _BY_REQUEST = range(7)


class _Case:
    """A log and an end that are compared with the signatures."""

    def __init__(
        self,
        log: _Log,
        signatures: Sequence[Signature],
        end: ServerEnd,
        daemon_error: str,
        context: Context,
    ) -> None:
        self._log = log
        self._signatures = signatures
        self._end = end
        self._said = [text for text in (daemon_error, end.error) if text.strip()]
        self._context = context
        self._ready = max(
            (index for index in log.near(_READY) if _READY.search(log.raw[index])), default=-1
        )

    @cached_property
    def _head(self) -> list[str]:
        return [raw for raw in self._log.raw if raw.strip()]

    @cached_property
    def _is_excerpt(self) -> bool:
        """Whether somebody cut out a few lines: these are what is asked about."""
        few = len(self._head) <= _EXCERPT_LINES
        return few and not any(_STARTED.search(raw) for raw in self._head)

    @cached_property
    def _tail(self) -> list[Line]:
        """Lines since the server was up, all of them when it never was."""
        lines = self._log.lines(self._ready + 1)
        if self._ready < 0 or self._end.exit_code is not None:
            return lines
        # A server that lives reports bad requests with tracebacks; only its engine counts.
        return [line for line in lines if line.depth < 2]  # noqa: PLR2004 - the API server

    @cached_property
    def _root(self) -> str:
        return one_line(root_text(self._tail), _CAUSE)

    @property
    def _was_stopped(self) -> bool:
        return (
            self._end.stopped
            and self._end.exit_code in _STOP_CODES
            and any(_STOPPED.search(line.text) for line in self._tail)
        )

    @property
    def _ended_badly(self) -> bool:
        return self._end.hung or (self._end.exit_code is not None and not self._was_stopped)

    @cached_property
    def _phase(self) -> str:
        tracker = PhaseTracker()
        for raw in self._log.raw:
            tracker.feed(raw, 0.0)
        return "ready" if self._ready >= 0 else tracker.current

    def ranked(self) -> list[_Found]:
        """Return what fits, the likeliest first, each signature once."""
        found = [*self._daemon(), *self._ends()]
        for signature in self._signatures:
            found += self._in_log(signature)
        best: dict[str, _Found] = {}
        for item in sorted(found, key=lambda item: item.rank):
            best.setdefault(item.signature.id, item)
        kept = list(best.values())
        sure = [item for item in kept if item.rank[0] < _BY_HINT]
        if sure:
            return sure
        if self._is_excerpt or self._ended_badly or self._root:
            hints = [item for item in kept if item.rank[0] == _BY_HINT]
            if hints or self._ended_badly:
                return hints
        return kept

    def _daemon(self) -> Iterator[_Found]:
        for said in self._said:
            text = one_line(said, 4000)
            for signature in self._signatures:
                matches = [
                    (0 if pattern.role is Role.CAUSE else 1, match.start(), _groups(match))
                    for pattern in signature.patterns
                    if pattern.role is not Role.REQUEST and (match := pattern.search(text))
                ]
                if matches:
                    weight, start, values = min(matches, key=lambda entry: entry[:2])
                    yield _Found(signature, (_BY_DAEMON, weight, start), values=values, said=text)

    def _ends(self) -> Iterator[_Found]:
        code = self._end.exit_code
        for signature in self._signatures:
            sign = signature.exit
            if sign is None:
                continue
            if sign.oom_killed and self._end.oom_killed:
                yield _Found(signature, (_BY_OOM, 0, 0))
            elif code in sign.codes and not self._was_stopped:
                if sign.no_vllm_line and self._has_vllm_line:
                    continue
                yield _Found(signature, (_BY_CONSEQUENCE, 3, 0))

    @cached_property
    def _has_vllm_line(self) -> bool:
        return any(
            _STARTED.search(raw) or (line := self._log.line(index)).process or line.level
            for index, raw in enumerate(self._log.raw)
        )

    def _in_log(self, signature: Signature) -> Iterator[_Found]:
        if signature.exit and signature.exit.no_vllm_line and self._has_vllm_line:
            return
        hits: dict[int, tuple[int, dict[str, str]]] = {}
        for pattern in signature.patterns:
            for index in self._log.near(pattern):
                weight = self._weight(signature, pattern, index)
                if weight is None or (index in hits and hits[index][0] <= weight):
                    continue
                match = pattern.regex.search(self._log.line(index).text)
                if match:
                    hits[index] = (weight, _groups(match))
        if signature.hang is not None:
            hits = self._hanging(signature, hits)
        if len(hits) < signature.count:
            return
        index = min(hits, key=lambda at: (hits[at][0], self._log.line(at).depth, at))
        weight, values = hits[index]
        rank = (weight, self._log.line(index).depth, index)
        alike = [at for at, (other, _) in sorted(hits.items()) if other == weight and at != index]
        yield _Found(signature, rank, hits=[index, *alike], values=values)

    def _weight(self, signature: Signature, pattern: Pattern, index: int) -> int | None:
        """Return what a match in this line would be worth, `None` for nothing."""
        if not self._is_in_time(signature, index) or self._is_source(index):
            return None
        line = self._log.line(index)
        if signature.hang is not None:
            return _BY_SILENCE
        if pattern.role is Role.REQUEST:
            return _BY_REQUEST
        if line.level in _CHATTER:
            return None
        # A warning or a retry proves nothing: what it warns of may go well.
        if pattern.role is Role.HINT or line.level == "WARNING" or _RETRY.search(line.text):
            return _BY_HINT
        return _BY_CONSEQUENCE if pattern.role is Role.CONSEQUENCE else _BY_LOG

    def _is_source(self, index: int) -> bool:
        """Tell whether the line is the source that a traceback shows below a frame."""
        line = self._log.line(index)
        if not line.text.startswith("    "):
            return False
        above = (self._log.line(at) for at in range(index - 1, max(index - _BETWEEN, -1), -1))
        own = next((other for other in above if other.process == line.process), None)
        return own is not None and _FRAME.match(own.text) is not None

    def _is_in_time(self, signature: Signature, index: int) -> bool:
        """Tell whether the line belongs to the part of the log that the signature is about."""
        if signature.serving:
            return index > self._ready >= 0 or self._is_excerpt
        if signature.hang is not None and self._ready >= 0:
            return False
        return index > self._ready

    def _hanging(
        self, signature: Signature, hits: dict[int, tuple[int, dict[str, str]]]
    ) -> dict[int, tuple[int, dict[str, str]]]:
        """Keep the hits since when nothing has moved, if nothing moves for long."""
        moved = max(
            (
                index
                for pattern in signature.hang or ()
                for index in self._log.near(pattern)
                if pattern.regex.search(self._log.line(index).text)
            ),
            default=-1,
        )
        kept = {index: hit for index, hit in hits.items() if index > moved}
        if not kept or signature.count > 1:
            return kept
        last = max(kept)
        after = self._log.lines(last + 1)
        silent = self._end.hung or any(_SILENCE.search(line.text) for line in after)
        return {last: kept[last]} if silent or self._is_excerpt else {}

    def explain(self, item: _Found) -> Diagnosis:
        """Fill the templates of what was found."""
        signature = item.signature
        shown = [self._log.line(index) for index in item.hits[:_ALIKE]]
        values = {"root": self._root, "phase": self._phase} | item.values
        if self._end.exit_code is not None:
            values["exit_code"] = str(self._end.exit_code)
        values["line"] = one_line(shown[0].text if shown else item.said, _CAUSE)
        for pattern in signature.details:
            detail = self._detail(pattern, item)
            if detail:
                line, groups = detail
                if line.level not in _CHATTER:
                    shown.append(line)
                values = groups | {name: text for name, text in values.items() if text}
        for name in signature.figures:
            values |= FIGURES[name](values, self._context)
        return Diagnosis(
            id=signature.id,
            ref=signature.ref,
            fault=signature.fault,
            cause=one_line(filled(signature.cause, values), _CAUSE),
            cure=filled(signature.cure, values),
            evidence=self._evidence(item, shown),
            phase=self._phase,
        )

    def _detail(self, pattern: Pattern, item: _Found) -> tuple[Line, dict[str, str]] | None:
        """Return the match nearest to what was found, before it rather than behind."""
        origin = item.hits[0] if item.hits else len(self._log.raw)
        best: tuple[int, Line, dict[str, str]] | None = None
        for index in self._log.near(pattern):
            line = self._log.line(index)
            match = pattern.regex.search(line.text)
            if match and (best is None or abs(index - origin) < best[0]):
                best = (abs(index - origin), line, _groups(match))
        return best and best[1:]

    def _evidence(self, item: _Found, shown: list[Line]) -> tuple[Evidence, ...]:
        root = find_root(self._tail)
        lines = {line.number: line for line in [*shown, *([root] if root else [])]}
        if not lines:
            last = [line for line in self._tail if line.text.strip()][-3:]
            lines = {line.number: line for line in last}
        said = [Evidence(line=0, text=one_line(item.said))] if item.said else []
        kept = sorted(list(lines)[: _EVIDENCE - len(said)])
        return (*said, *(Evidence(line=n, text=one_line(lines[n].shown)) for n in kept))

    def unknown(self) -> tuple[Diagnosis, ...]:
        """Say that something is wrong, if it is, with the line that says most."""
        root = find_root(self._tail)
        if root is not None:
            return (self._unnamed(self._root, self._shown([root])),)
        if self._said:
            said = one_line(self._said[0], _CAUSE)
            return (self._unnamed(said, (Evidence(line=0, text=said),)),)
        if not self._ended_badly:
            return ()
        tail = [line for line in self._tail if line.text.strip()][-_EVIDENCE:]
        evidence = self._shown(tail)
        if self._end.hung:
            return (self._unnamed("nothing moved any more; the log names no cause", evidence),)
        code = self._end.exit_code
        return (self._unnamed(f"ended with exit code {code}; the log names no cause", evidence),)

    def _shown(self, lines: list[Line]) -> tuple[Evidence, ...]:
        return tuple(Evidence(line=line.number, text=one_line(line.shown)) for line in lines)

    def _unnamed(self, cause: str, evidence: tuple[Evidence, ...]) -> Diagnosis:
        return Diagnosis(
            id=None,
            ref=None,
            fault=None,
            cause=cause,
            evidence=evidence,
            phase=self._phase,
        )


def _groups(match: re.Match[str]) -> dict[str, str]:
    return {name: text for name, text in match.groupdict().items() if text is not None}


# launch.md, section 2.2: what the cause says -> what to do.
_ADVICE = (
    (
        r"unrecognized arguments",
        "this vLLM does not know that flag: correct --vllm-serve-arg, see vllm serve --help=all",
    ),
    (r"error: argument ", "correct the value in --vllm-serve-arg"),
    (
        r"\[FATAL tini|executable file not found|No module named",
        "the image lacks what we start: choose --vllm-entrypoint=vllm or module",
    ),
    (r"exec format error", "the image is for another CPU architecture"),
    (r"Address already in use", "end what holds the port, or drop --port"),
    (r"max_model_len", "pass a smaller --vllm-serve-arg='--max-model-len=N'"),
    (
        r"Free memory on device",
        "end what holds the GPU, or pass --vllm-serve-arg='--gpu-memory-utilization=0.N'",
    ),
    (
        r"deserializing header|Cannot find any model weights|MemoryError|Unterminated string",
        "the weights are missing or cut short: fetch the model again and compare sizes",
    ),
    (r"gated repo", "accept the model's licence on the Hub and export HF_TOKEN"),
    (r"Invalid credentials|Invalid user token", "renew HF_TOKEN, or unset it for a public model"),
    (r"not a valid model identifier", "correct --vllm-model; a private one needs HF_TOKEN"),
    (
        r"Name or service not known|Failed to resolve|Connection refused|Network is unreachable",
        "the server cannot reach the Hub: download the model first and name its folder",
    ),
    (r"outgoing traffic has been disabled", "download the model first, or unset HF_HUB_OFFLINE"),
    (
        r"custom code which must be executed",
        "add --vllm-serve-arg=--trust-remote-code, with a pinned --vllm-revision only",
    ),
    (r"No HIP GPUs are available", "check --vllm-gpus, /dev/kfd and the groups of the container"),
    (r"are not supported for now|does not recognize this architecture", "use a newer image"),
)
# launch.md, section 2.2, classes host and network: the same image may start elsewhere or later.
_HOST_FAULT = re.compile(
    r"Name or service not known|Temporary failure in name resolution|Failed to resolve"
    r"|\[Errno -[235]\]|Connection refused|Network is unreachable|Connection timed out"
    r"|CERTIFICATE_VERIFY_FAILED|429 Too Many Requests|Server error '5\d\d"
    r"|Address already in use|No space left on device|Free memory on device"
    r"|No HIP GPUs are available|Unable to open /dev/kfd|HSA_STATUS_ERROR_OUT_OF_RESOURCES"
    r"|OOMKilled|^Killed$|Docker engine.* no longer answers"
)
TAIL_LINES = 20
"""Log lines shown with a failure."""


def advise(cause: str) -> str:
    """Return what to do about a cause, empty when it is none that is known."""
    return next((text for pattern, text in _ADVICE if re.search(pattern, cause)), "")


def blames_host(cause: str) -> bool:
    """Tell whether a cause lies with the host or the network, not with image or model.

    Args:
        cause: What `root_cause` found, or what the engine notes about a death.
    """
    return _HOST_FAULT.search(cause) is not None


def log_tail(lines: Sequence[str], count: int = TAIL_LINES) -> tuple[str, ...]:
    """Return the last lines that say something, without ANSI codes."""
    cleaned = [clean(line) for line in lines]
    return tuple(line for line in cleaned if line.strip())[-count:]
