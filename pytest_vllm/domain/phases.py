"""Start-up phases of vLLM and how far each has come, read from its log."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROCESS = re.compile(r"^\((?P<process>(?:APIServer|EngineCore|Worker|VllmWorker)\S*)[^)]*\)\s*")

_LONGEST = 2_000
_MOST = 200

ORDER: tuple[str, ...] = (
    "pull",
    "start",
    "config",
    "download",
    "load",
    "compile",
    "aiter jit",
    "kv cache",
    "graph capture",
    "api up",
    "ready",
    "first token",
)
"""All phases in the order in which a start mostly passes them.

`start` lasts until vLLM tells its arguments (imports), `config` until a worker loads (engine and
worker processes come up in it), `load` until the first sign of compilation, `kv cache` includes the
warm-up of kernels, `graph capture` what is warmed up after it, `api up` begins when the engine says
that it is done.
"""
INTERLUDES: tuple[str, ...] = ("pull", "download", "aiter jit")
"""Phases that come in the middle of others and go back to them when they end.

AITER builds a module when it is first used: while the configuration is read, in the profiling run,
after the KV cache is there, or for the first token. Weights are fetched after vLLM has said that it
loads them. All other phases only go forward.
"""
# vLLM 0.6 to 0.32: a text that the line holds, and what it must match, too.
_SIGNS: tuple[tuple[str, str, str], ...] = (
    ("config", "vLLM API server version", ""),
    ("config", "non-default args:", ""),
    ("config", "Initializing a", r"Initializing an? (?:V\d )?LLM engine"),
    ("config", "Resolved architecture", ""),
    ("config", "Using max model len", ""),
    ("config", "world_size=", r"world_size=\d+ rank="),
    ("config", "in world size", r"rank \d+ in world size"),
    ("load", "Starting to load model", ""),
    ("load", "oading ", r"[Ll]oading (?:model from scratch|.*% Completed \||.*weights took)"),
    ("load", "Model loading took", ""),
    ("compile", "torch.compile", r"torch\.compile t(?:ook|akes)|for vLLM's torch\.compile"),
    ("compile", "Dynamo bytecode transform time", ""),
    ("compile", "Compiling a graph for", ""),
    ("compile", "Directly load ", r"Directly load (?:the compiled|AOT)"),
    ("compile", "Warming up model for the compilation", ""),
    ("kv cache", "Memory profiling ", r"Memory profiling (?:takes|results)"),
    ("kv cache", "Available KV cache memory", ""),
    ("kv cache", "GiB for KV cache on node", ""),
    ("kv cache", "KV cache size: ", r"KV cache size: [\d,]+ tokens"),
    ("kv cache", " blocks: ", r"# \w+ blocks: \d+"),
    ("graph capture", "Capturing ", r"Capturing (?:the model for CUDA|cudagraphs|.*CUDA graph)"),
    ("graph capture", "Graph capturing finished", ""),
    ("api up", "init engine (", ""),
    ("api up", "Starting vLLM ", r"Starting vLLM (?:API )?server"),
    ("api up", "Available routes are:", ""),
    ("api up", "Uvicorn running on", ""),
    ("ready", "Application startup complete", ""),
)
_RANK = {name: rank for rank, name in enumerate(ORDER)}
_COMPILED = tuple(
    (_RANK[name], needle, re.compile(pattern) if pattern else None)
    for name, needle, pattern in _SIGNS
)
_BUILD = re.compile(r"\b(?P<what>start|finish) build \[(?P<module>[^\]]+)\]")
_BATON = "waiting for baton release at"
_DOWNLOADED = re.compile(r"downloading weights for .*: (\d+(?:\.\d+)?) seconds")
_SHARDS = re.compile(r"% Completed \| (\d+)/(\d+) ")
_GRAPHS = re.compile(r"Capturing .*CUDA graph.*: +\d+%\|.*\| (\d+)/(\d+) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a phase has come.

    Attributes:
        done: So many are done.
        total: So many there are, `None` when that is unknown.
        unit: What is counted: `layers`, `bytes`, `shards`, `graphs` or `modules`.
    """

    done: int
    total: int | None
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase that was entered; those of `INTERLUDES` part the one that they interrupt.

    Attributes:
        name: Name out of `ORDER`.
        start_s: Seconds from the launch to its first sign.
        duration_s: Seconds until the next phase, `None` while it lasts.
        progress: How far it came, `None` where nothing is counted.
    """

    name: str
    start_s: float
    duration_s: float | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartState:
    """Where a start is, for whoever watches it.

    Attributes:
        phase: The phase that lasts.
        elapsed_s: Seconds since the launch.
        line: The last thing that was said.
        progress: How far the phase has come.
        phases: All phases so far; the last one ends now.
    """

    phase: str
    elapsed_s: float
    line: str = ""
    progress: Progress | None = None
    phases: tuple[Phase, ...] = ()


def clean(line: str) -> str:
    """Drop ANSI codes and what a carriage return has overwritten."""
    return _ANSI.sub("", line).rstrip("\r\n").rpartition("\r")[2]


def split_process(line: str) -> tuple[str, str]:
    """Split a clean line into the process that wrote it (empty if unnamed) and the rest."""
    match = _PROCESS.match(line)
    return (match["process"], line[match.end() :]) if match else ("", line)


@dataclass(slots=True)
class PhaseTracker:
    """Follow the phases of one start.

    Attributes:
        entered: Name and start in seconds of each phase, in the order in which they came.
        progress: How far each of them came.
    """

    entered: list[tuple[str, float]] = field(default_factory=lambda: [("start", 0.0)])
    progress: list[Progress | None] = field(default_factory=lambda: [None])
    _base: str = "start"
    _building: set[str] = field(default_factory=set)
    _built: int = 0

    @property
    def current(self) -> str:
        """The phase that lasts."""
        return self.entered[-1][0]

    @property
    def counted(self) -> Progress | None:
        """How far the phase that lasts has come."""
        return self.progress[-1]

    def enter(self, name: str, at_s: float) -> bool:
        """Enter a phase; tell whether it is a new one. A start never goes back by this.

        An interlude begins whenever it is entered, unless there were hundreds before. Any other
        phase ends it, also the one that it interrupted, unless that is behind what was reached.
        """
        if name in INTERLUDES:
            few = len(self.entered) < _MOST
            return few and self.current != name and self._begin(name, at_s)
        if _RANK[name] < _RANK[self._base] or name == self.current:
            return False
        self._base = name
        self._building.clear()
        return self._begin(name, at_s)

    def leave(self, name: str, at_s: float) -> bool:
        """Go back from an interlude to what it interrupted; nothing happens in another phase."""
        return self.current == name and self._begin(self._base, at_s)

    def count(self, progress: Progress) -> None:
        """Note how far the phase that lasts has come."""
        self.progress[-1] = progress

    def feed(self, line: str, at_s: float) -> bool:
        """Read a log line; tell whether it began another phase."""
        text = clean(line)[:_LONGEST]
        if "build [" in text or _BATON in text:
            return self._build(text, at_s)
        name = self._sign(text)
        new = name is not None and self.enter(name, at_s)
        if "Time spent downloading weights" in text and (match := _DOWNLOADED.search(text)):
            new = self._end_download(float(match[1]), at_s)
        if "%" in text:
            self._read_bar(text)
        return new

    def phases(self, end_s: float | None = None) -> tuple[Phase, ...]:
        """Return the phases with their durations.

        Args:
            end_s: When the last phase ended, `None` while it lasts.
        """
        ends = [start for _, start in self.entered[1:]] + [end_s]
        return tuple(
            Phase(
                name=name,
                start_s=start,
                duration_s=None if end is None else end - start,
                progress=progress,
            )
            for (name, start), end, progress in zip(self.entered, ends, self.progress, strict=True)
        )

    def _begin(self, name: str, at_s: float) -> bool:
        if name == "pull" and self.entered == [("start", 0.0)]:
            self.entered[0] = (name, 0.0)  # nothing was started yet
            return True
        self.entered.append((name, at_s))
        self.progress.append(None)
        return True

    def _sign(self, text: str) -> str | None:
        """Return the furthest phase that a line is a sign of and that is not behind us."""
        base = _RANK[self._base]
        found = -1
        for rank, needle, pattern in _COMPILED:
            if rank >= base and needle in text and (pattern is None or pattern.search(text)):
                found = rank
        if ORDER[found] == "graph capture" and base < _RANK["kv cache"]:
            return "kv cache"  # a trial, by which vLLM tells what graphs leave to the KV cache
        return ORDER[found] if found >= 0 else None

    def _build(self, text: str, at_s: float) -> bool:
        """Follow AITER's building of modules, in several processes perhaps."""
        match = _BUILD.search(text)
        if match is None:  # another process builds what this one waits for
            return self.enter("aiter jit", at_s)
        if match["what"] == "start":
            self._building.add(match["module"])
            new = self.enter("aiter jit", at_s)
            self._count_modules()
            return new
        self._built += match["module"] in self._building
        self._building.discard(match["module"])
        self._count_modules()
        return not self._building and self.leave("aiter jit", at_s)

    def _count_modules(self) -> None:
        if self.current == "aiter jit":
            self.count(Progress(done=self._built, total=None, unit="modules"))

    def _end_download(self, took_s: float, at_s: float) -> bool:
        """End a download; the log tells of it afterwards, in one line with its length."""
        if self.current != "download":
            self._begin("download", max(self.entered[-1][1], at_s - took_s))
        return self.leave("download", at_s)

    def _read_bar(self, text: str) -> None:
        for phase, pattern, unit in (
            ("load", _SHARDS, "shards"),
            ("graph capture", _GRAPHS, "graphs"),
        ):
            match = pattern.search(text) if self.current == phase else None
            if match:
                self.count(Progress(done=int(match[1]), total=int(match[2]), unit=unit))
