"""Run the programs that do the work: logged, with a sign of life, and stopped with us."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from tools.provision.place import HELD_LOCKS, ProvisionError, cache_root, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SIGN_OF_LIFE_S = 10
TAIL_LINES = 15

_running: list[subprocess.Popen[bytes]] = []


def run(
    step: str,
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a program, its output in the step's log, a line every ten seconds while it works.

    Raises `ProvisionError` with the last lines of the log if it ends with another code than 0.
    """
    log = log_of(step)
    with log.open("ab") as out:
        out.write(f"$ {shlex.join(map(str, argv))}\n".encode())
        out.flush()
        process = start(argv, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=cwd)
        code = wait(step, process, log)
    if code != 0:
        raise failure(step, argv, code, log)


def start(  # noqa: PLR0913 - the parts of one process
    argv: Sequence[str | Path],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in its own process group; it inherits the locks held for it."""
    try:
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            process_group=0,
            pass_fds=tuple(HELD_LOCKS),
        )
    except FileNotFoundError:
        raise ProvisionError(f"{argv[0]} is not installed, and {argv!r} needs it.") from None
    _running.append(process)
    return process


def wait(step: str, process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait for a program and return its exit code; say every ten seconds that it works."""
    began = time.monotonic()
    try:
        while True:
            try:
                return process.wait(timeout=SIGN_OF_LIFE_S)
            except subprocess.TimeoutExpired:
                lines = tail(log, 1)
                # before a program's first line, the last one is our own "$ command"
                text = lines[0][:100] if lines and not lines[0].startswith("$ ") else "working"
                say(step, f"{text} ({time.monotonic() - began:.0f} s)")
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program that still runs, with its children: first kindly, then for sure."""
    for sign, patience_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sign)
            process.wait(timeout=patience_s)
    with suppress(ValueError):  # the thread that waits for it stops it too
        _running.remove(process)


def stop_all() -> None:
    """End every program that was started and still runs; for an interrupt."""
    while _running:
        stop(_running[-1])


def answer(argv: Sequence[str | Path], *, timeout_s: float = 30) -> str | None:
    """Return what a short program prints, stripped; None if it fails, hangs or is not there."""
    try:
        done = subprocess.run(
            [str(part) for part in argv],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def log_of(step: str) -> Path:
    """Return the log file of a step, its folder made."""
    folder = cache_root() / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', step)}.log"


def tail(log: Path, count: int) -> list[str]:
    """Return the last lines of a log that are not blank; a progress bar's last state counts."""
    if not log.exists():
        return []
    lines = re.split(r"[\r\n]+", log.read_text(errors="replace"))
    return [line.rstrip() for line in lines if line.strip()][-count:]


def failure(step: str, argv: Sequence[str | Path], code: int, log: Path) -> ProvisionError:
    """Word the failure of a program: which, how it ended, its last lines, where the rest is."""
    ended = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    last = "\n".join(f"    {line}" for line in tail(log, TAIL_LINES))
    return ProvisionError(f"{step}: {argv[0]} {ended}. Last lines of {log}:\n{last}")
