"""Start-up phases of vLLM, read from its log."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROCESS = re.compile(r"^\((?P<process>(?:APIServer|EngineCore|Worker|VllmWorker)\S*)[^)]*\)\s*")

# Patterns of vLLM 0.6 to 0.32 (launch.md, section 3); a later phase never falls back to an earlier.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("process", r"vLLM API server version|non-default args:|Automatically detected platform"),
    ("config", r"Initializing an LLM engine|Resolved architecture|Using max model len"),
    ("engine", r"Initializing a V1 LLM engine|world_size=\d+ rank=|rank \d+ in world size"),
    (
        "load",
        r"Starting to load model|Loading (?:model from scratch|\S+ checkpoint shards)",
    ),
    (
        "compile",
        (
            r"Dynamo bytecode transform time|Compiling a graph for|torch\.compile t(?:ook|akes)"
            r"|Warming up model for the compilation|\[aiter\] start build"
        ),
    ),
    ("kv cache", r"KV cache size: [\d,]+ tokens|# (?:GPU|CPU|cuda|cpu) blocks:"),
    ("graph capture", r"Capturing the model for CUDA graphs|Capturing CUDA graphs"),
    ("engine ready", r"init engine \("),
    ("api up", r"Starting vLLM (?:API )?server(?: \d+)? on|Uvicorn running on"),
)
_COMPILED = tuple((name, re.compile(pattern)) for name, pattern in _PATTERNS)
ORDER: tuple[str, ...] = ("start", *(name for name, _ in _PATTERNS), "ready", "first token")
"""All phases in the order in which they are passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase that was entered.

    Attributes:
        name: Name out of `ORDER`.
        start_s: Seconds from the launch to its first sign.
        duration_s: Seconds until the next phase, `None` while it lasts.
    """

    name: str
    start_s: float
    duration_s: float | None = None


def clean(line: str) -> str:
    """Drop ANSI codes and what a carriage return has overwritten."""
    return _ANSI.sub("", line).rstrip("\r\n").rpartition("\r")[2]


def split_process(line: str) -> tuple[str, str]:
    """Split a clean line into the process that wrote it (empty if unnamed) and the rest."""
    match = _PROCESS.match(line)
    return (match["process"], line[match.end() :]) if match else ("", line)


@dataclass(slots=True)
class PhaseTracker:
    """Follow the phases of one start; phases only go forward.

    Attributes:
        entered: Name and start in seconds of each phase, in order.
    """

    entered: list[tuple[str, float]] = field(default_factory=lambda: [("start", 0.0)])

    @property
    def current(self) -> str:
        """The phase that lasts."""
        return self.entered[-1][0]

    def enter(self, name: str, at_s: float) -> bool:
        """Enter a phase, unless it or a later one was entered before."""
        if ORDER.index(name) <= ORDER.index(self.current):
            return False
        self.entered.append((name, at_s))
        return True

    def feed(self, line: str, at_s: float) -> bool:
        """Read a log line; tell whether it began a new phase."""
        text = clean(line)
        found = [name for name, pattern in _COMPILED if pattern.search(text)]
        return bool(found) and self.enter(found[-1], at_s)

    def phases(self, end_s: float | None = None) -> tuple[Phase, ...]:
        """Return the phases with their durations.

        Args:
            end_s: When the last phase ended, `None` while it lasts.
        """
        ends = [start for _, start in self.entered[1:]] + [end_s]
        return tuple(
            Phase(name=name, start_s=start, duration_s=None if end is None else end - start)
            for (name, start), end in zip(self.entered, ends, strict=True)
        )
