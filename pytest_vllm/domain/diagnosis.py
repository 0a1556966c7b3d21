"""The cause of a failed start, read from its log by rule.

The last exception is usually an envelope, so the rule looks for the first link: the first exception
of the innermost process that is not a known envelope (launch.md, section 2.1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_vllm.domain.phases import clean, split_process

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEVEL = re.compile(r"^(?:INFO|WARNING|ERROR|CRITICAL|DEBUG) [\d:. -]+\[?[\w./]+:\d+\]\s?")
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?(?P<name>[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout)):"
    r"\s*(?P<text>\S.*)"
)
_FATAL = re.compile(
    r"error: (?:unrecognized arguments|argument |the following arguments)"
    r"|^(?:/\S+/)?python\d?[\d.]*: (?:No module named|can't open file)"
    r"|Segmentation fault|^Killed$|executable file not found|Memory access fault"
)
_ENVELOPE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError"
    r"|validation error for \w*Config|LocalEntryNotFoundError|We couldn't connect to"
    r"|Cannot send a request, as the client has been closed"
)
_DEPTH = ("Worker", "VllmWorker", "EngineCore", "APIServer", "")
TAIL_LINES = 20
"""Log lines shown with a failure."""


def root_cause(lines: Sequence[str]) -> str:
    """Return the line that names the cause, or an empty text when none is recognized.

    Args:
        lines: The raw log, oldest first.
    """
    candidates: list[tuple[int, int, str]] = []
    texts = [split_process(clean(line)) for line in lines]
    for index, (process, rest) in enumerate(texts):
        text = _LEVEL.sub("", rest).strip()
        if _FATAL.search(text):
            return text
        if _EXCEPTION.match(text) or _validation_detail(texts, index):
            candidates.append((_depth(process), index, text))
    plain = [entry for entry in candidates if not _ENVELOPE.search(entry[2])]
    if not plain:
        return candidates[0][2] if candidates else ""
    return min(plain)[2]


def log_tail(lines: Sequence[str], count: int = TAIL_LINES) -> tuple[str, ...]:
    """Return the last lines that say something, without ANSI codes."""
    cleaned = [clean(line) for line in lines]
    return tuple(line for line in cleaned if line.strip())[-count:]


def _validation_detail(texts: Sequence[tuple[str, str]], index: int) -> bool:
    """Tell whether this line is the message that pydantic prints below its envelope."""
    previous = texts[index - 1][1] if index else ""
    return bool(re.search(r"\d+ validation errors? for \w*Config", previous))


def _depth(process: str) -> int:
    for depth, name in enumerate(_DEPTH):
        if name and process.startswith(name):
            return depth
    return len(_DEPTH)
