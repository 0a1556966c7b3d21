"""The line that says most about a failure that no signature knows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_vllm.domain.logline import read_line, split_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.logline import Line

_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?(?P<name>[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout)):"
    r"\s*(?P<text>\S.*)"
)
_BARE = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception)(?P<colon>:?)\s*$")
_FATAL = re.compile(
    r"error: (?:unrecognized arguments|argument |the following arguments)"
    r"|^(?:/\S+/)?python\d?[\d.]*: (?:No module named|can't open file)"
    r"|^\[FATAL tini \(\d+\)\] exec |exec format error"
    r"|Segmentation fault|^Killed$|executable file not found|Memory access fault"
)
# Sentences that say more than the exception below them, which only names an HTTP status.
_TELLING = re.compile(
    r"You are trying to access a gated repo"
    r"|is not a local folder and is not a valid model identifier"
    r"|Invalid credentials in Authorization header|Invalid user token"
)
# What is left of a process that was killed, when no exception tells more.
_VANISHED = re.compile(r"engine core exited unexpectedly|\b[Dd]ied unexpectedly")
_RETRY_NOTE = re.compile(r",? retrying \d+ of \d+$")
_ENVELOPE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError"
    r"|validation errors? for \w*Config|We couldn't connect to"
    r"|LocalEntryNotFoundError(?!.*outgoing traffic has been disabled)"
    r"|Cannot send a request, as the client has been closed"
    r"|Exception in worker VllmWorkerProcess|RPCServer process died"
)
_NO_ERROR = ("INFO", "DEBUG", "WARNING")
_TRACEBACK = "Traceback (most recent call last):"
# How programs other than Python say that something failed, the most telling first.
_CRASHES = (
    re.compile(r"^what\(\):\s+\S"),
    re.compile(r"^terminate called (?:after|without) "),
    re.compile(r"Error response from daemon: "),
    re.compile(
        r"^(?:\S+: line \d+:\s+\d+ )?(?:Aborted|Illegal instruction)\s*(?:\(core dumped\)|$)"
    ),
    re.compile(r"^(?:[Cc]ontainer )?\S+ exited with code (?!0\b)\d+"),
)
_CRASH_WORDS = ("what():", "terminate ", "daemon: ", "Aborted", "Illegal ", "exited with ")
# The other end of a pipe is gone: its process says why.
_ECHO = re.compile(r"BrokenPipeError|ConnectionResetError|EOFError")
_VALIDATION = re.compile(r"\d+ validation errors? for \w*Config")
_WORDS = re.compile("Error|Exception|Interrupt|Exit|Timeout|error|unexpectedly|python|FATAL|Killed")
_MORE_WORDS = re.compile("fault|executable file|gated repo|valid model identifier|Invalid ")


def find_root(lines: Sequence[Line]) -> Line | None:
    """Return the line that names the cause; its text is the cause, `None` when none does.

    Args:
        lines: The log, oldest first.
    """
    found: list[tuple[bool, int, int]] = []
    vanished: int | None = None
    for index, line in enumerate(lines):
        text = line.text.strip()
        previous = lines[index - 1].text if index else ""
        if not _may_tell(text) and "validation error" not in previous:
            continue
        if vanished is None and _VANISHED.search(text):
            vanished = index
        if line.level in _NO_ERROR:
            continue
        if _FATAL.search(text) or _TELLING.search(text):
            return line
        is_exception = _BARE.match(text) or _EXCEPTION.match(text) or _VALIDATION.search(previous)
        if is_exception and not _ENVELOPE.search(text):
            found.append((bool(_ECHO.search(text)), line.depth, index))
    if found:
        is_echo, _, index = min(found)
        # That a process failed says more than that another noticed it.
        return None if is_echo and find_envelope(lines) else lines[index]
    return None if vanished is None else lines[vanished]


def find_envelope(lines: Sequence[Line]) -> Line | None:
    """Return the first line that says that something failed, and not what."""
    return next(
        (
            line
            for line in lines
            if line.level not in _NO_ERROR
            and _ENVELOPE.search(line.text)
            and _EXCEPTION.match(line.text.strip())
        ),
        None,
    )


def find_crash(lines: Sequence[Line]) -> Line | None:
    """Return the line in which no Python, but a library, a shell or an engine reports a failure."""
    found = [
        (rank, index)
        for index, line in enumerate(lines)
        if line.level not in _NO_ERROR and any(word in line.text for word in _CRASH_WORDS)
        for rank, crash in enumerate(_CRASHES)
        if crash.search(line.text.strip())
    ]
    return lines[min(found)[1]] if found else None


def find_cut_traceback(lines: Sequence[Line]) -> Line | None:
    """Return where a traceback ends without its last line, which would name the error."""
    starts = [
        index
        for index, line in enumerate(lines)
        if line.level not in _NO_ERROR and line.text.strip() == _TRACEBACK
    ]
    if not starts:
        return None
    begin = lines[starts[-1]]
    own = [line for line in lines[starts[-1] :] if line.process == begin.process]
    frames = [line for line in own[1:] if line.text.strip()]
    if any(not line.text.startswith(" ") for line in frames):
        return None
    return frames[-1] if frames else begin


def root_text(lines: Sequence[Line]) -> str:
    """Return what `find_root` finds as one line, with the text below a bare exception."""
    line = find_root(lines)
    if line is None:
        return ""
    text = line.text.strip()
    bare = _BARE.match(text)
    if bare and bare["colon"]:
        below = (other.text.strip() for other in lines[lines.index(line) + 1 :])
        text = f"{text} {next((other for other in below if other), '')}".strip()
    return _RETRY_NOTE.sub("", text)


def root_cause(log: Sequence[str]) -> str:
    """Return the line that names the cause, or an empty text when none is recognized.

    Args:
        log: The raw log, oldest first.
    """
    return root_text([read_line(number, raw) for number, raw in enumerate(split_lines(log), 1)])


def _may_tell(text: str) -> bool:
    return bool(_WORDS.search(text) or _MORE_WORDS.search(text))
