"""A whole run of pytest that has to fail, watched from outside: what it says, when, what it leaves.

All times are seconds of the machine's monotonic clock.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pytest_vllm.domain.record import RunRecord, from_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.failures.case import Blow, Case, Place

ROOT = Path(__file__).parents[3]
STAMPS = ROOT / "tests" / "data" / "stamps"
BEGIN = "[a server begins]"
"""What the notes of a server's lines begin with (tests/data/stamps/note.py)."""
LIMIT_S = 600
GONE_S = 20
LOOK_S = 0.2
_FOREIGN = ("PYTEST_", "HF_", "HUGGING_FACE_", "VLLM_")
_VERDICT = re.compile(r"\b(PROMOTE|REJECT|INCONCLUSIVE)\b|^ERROR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of a run.

    Attributes:
        command: How it was started.
        exit_code: Of pytest.
        output: All that it wrote.
        record: Its `run.json`, `None` where there is none.
        log: The server's log as the evidence holds it.
        took_s: How long the command took.
        began: Whether a server was started at all.
        lived_s: From the start of the server to the failure, `None` where either is not known.
        report_s: From the failure to the verdict on the screen, `None` where nothing outside told
            when the failure was.
        left: What is left of it.
    """

    command: tuple[str, ...]
    exit_code: int
    output: str
    record: RunRecord | None
    log: str
    took_s: float
    began: bool
    lived_s: float | None
    report_s: float | None
    left: tuple[str, ...]


@dataclass(slots=True)
class Watch:
    """What is noted while a run goes on.

    Attributes:
        process: The run.
        stamps: Where the server's lines are noted with their times.
        members: Every process that descended from it.
        output: Lines and when they came.
        hit_s: When the blow was struck.
        over: Set when the run has ended.
    """

    process: subprocess.Popen[str]
    stamps: Path
    members: dict[int, psutil.Process] = field(default_factory=dict)
    output: list[tuple[float, str]] = field(default_factory=list)
    hit_s: float | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def look(self, blow: Blow | None) -> None:
        """Collect descendants, and strike when the line is there, until the run is over."""
        while not self.over.wait(LOOK_S):
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    self.members[child.pid] = child
            if blow is not None and self.hit_s is None and self._said(blow.after):
                self._strike(blow)

    def _said(self, pattern: str) -> bool:
        return re.search(pattern, "\n".join(line for _, line in self.stamped())) is not None

    def _strike(self, blow: Blow) -> None:
        for member in self.members.values():
            with suppress(psutil.NoSuchProcess):
                if blow.who in " ".join(member.cmdline()):
                    member.send_signal(signal.Signals[blow.signal])
                    self.hit_s = time.monotonic()
                    return

    def stamped(self) -> Iterator[tuple[float, str]]:
        """Return the server's lines with their times."""
        if not self.stamps.exists():
            return
        for entry in self.stamps.read_text("utf-8", "replace").splitlines():
            at, tab, line = entry.partition("\t")
            if tab and re.fullmatch(r"\d+\.\d+", at):
                yield float(at), line

    def alive(self) -> list[str]:
        """Return the descendants that do not go away in a fair time."""
        _, rest = psutil.wait_procs(list(self.members.values()), timeout=GONE_S)
        found = []
        for process in rest:
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"process {process.pid} {process.cmdline()}")
        return found


def provoke(case: Case, place: Place, *, early: bool) -> Seen:
    """Run pytest so that it fails; `early` leaves preflight in its place."""
    stamps = place.folder / "stamps"
    words = [*case.before(place), sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    words += [*case.options(place), f"--vllm-suite={case.suite}"]
    if "--vllm-backend=process" in words:
        words += [f"--vllm-env=PYTHONPATH={STAMPS}", f"--vllm-env=STAMPS={stamps}"]
    words += [] if early else ["--vllm-preflight-ignore=all"]
    if case.override is not None:
        file = place.folder / "override.json"
        file.write_text(json.dumps({"services": {"vllm": dict(case.override(place))}}), "utf-8")
        words.append(f"--vllm-compose-override={file}")
    started, since = time.monotonic(), time.time()
    watch = _run(words, case, place, stamps)
    ended = time.monotonic()
    record = _record(place.folder)
    life = _life(record.run_id, since=since) if record is not None else {}
    begun, failed = _moments(
        watch, case, early=early, life={what: at - since + started for what, at in life.items()}
    )
    shown = [at for at, line in watch.output if _VERDICT.search(line)]
    promoted = watch.process.returncode == 0  # by a second start: the verdict is not on the first
    left = watch.alive() + (_containers(record.run_id) if record is not None else [])
    return Seen(
        command=tuple(words),
        exit_code=watch.process.returncode,
        output="".join(line for _, line in watch.output),
        record=record,
        log=_log(place.folder),
        took_s=ended - started,
        began=begun is not None,
        lived_s=None if failed is None or begun is None else failed - begun,
        report_s=None if failed is None or promoted else max(shown[-1:], default=ended) - failed,
        left=tuple(left),
    )


def _run(words: list[str], case: Case, place: Place, stamps: Path) -> Watch:
    env = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    env |= {"PYTHONUNBUFFERED": "1", "COLUMNS": "200", "HF_HOME": str(place.folder / "hf")}
    process = subprocess.Popen(
        words,
        cwd=place.folder,
        env=env | dict(case.env(place)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    watch = Watch(process=process, stamps=stamps)
    looker = threading.Thread(target=watch.look, args=(case.blow,), daemon=True)
    limit = threading.Timer(LIMIT_S, process.terminate)
    looker.start()
    limit.start()
    try:
        with process:
            for line in process.stdout or ():
                watch.output.append((time.monotonic(), line))
    finally:
        limit.cancel()
        watch.over.set()
        looker.join()
    return watch


def _moments(
    watch: Watch, case: Case, *, early: bool, life: dict[str, float]
) -> tuple[float | None, float | None]:
    """Return when the server began and when it failed, by what the outside knows.

    That is the blow, else the server's own line, else the end of its container; those of the last
    start where a flaky one was tried again.
    """
    lines = list(watch.stamped())
    until = watch.hit_s or float("inf")
    starts = [index for index, (at, line) in enumerate(lines) if line == BEGIN and at <= until]
    lines = lines[max(starts, default=0) :]
    begun = lines[0][0] if lines else life.get("start")
    if early or case.late is None:
        return begun, None
    if watch.hit_s is not None:
        return begun, watch.hit_s
    told = [at for at, line in lines if case.late.line and re.search(case.late.line, line)]
    return begun, told[0] if told else life.get("die")


def _record(folder: Path) -> RunRecord | None:
    found = list(folder.glob(".vllm/*/run.json"))
    return from_json(found[0].read_text("utf-8"), where=str(found[0])) if found else None


def _log(folder: Path) -> str:
    return "".join(file.read_text("utf-8", "replace") for file in folder.glob(".vllm/*/server.log"))


def _docker(*words: str) -> list[str]:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def _life(run_id: str, *, since: float) -> dict[str, float]:
    """Ask the engine when the container of a run began and ended (seconds of the wall clock)."""
    mine = f"label=com.docker.compose.project=pv-{run_id}"
    span = ("--since", f"{since:.3f}", "--until", f"{time.time():.3f}")
    events = _docker("events", *span, "--filter", mine, "--format", "{{json .}}")
    seen = [json.loads(event) for event in events]
    kinds = ("start", "die")
    return {e["Action"]: e["timeNano"] / 1e9 for e in seen if e.get("Action") in kinds}


def _containers(run_id: str) -> list[str]:
    """List what the engine still has of a run."""
    mine = ("--filter", f"label=com.docker.compose.project=pv-{run_id}")
    labelled = ("--filter", f"label=pytest-vllm.run={run_id}")
    kinds = (("ps", "-aq"), ("network", "ls", "-q"), ("volume", "ls", "-q"))
    found = [f"{kind[0]} {name}" for kind in kinds for name in _docker(*kind, *mine)]
    return found + [f"container {name}" for name in _docker("ps", "-aq", *labelled)]
