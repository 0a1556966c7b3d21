"""Keeps a vendor's library in a process of its own: it may print, raise, crash or hang there.

The process lives as long as it is asked, so that a sample costs a line in each direction and not a
start; when it dies or hangs it is started again, a bounded number of times.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any

from pytest_vllm.domain.text import one_line

_STARTS = 5
_KILLED_S = 2.0
_NOISE_BYTES = 8192
_CHUNK = 65536
_DRAINED = 16  # chunks; a library may print faster than they are read


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a companion answered.

    Attributes:
        answer: JSON data, `None` when there was none.
        error: `kind`, `text` and `code` of what the library raised, empty for nothing.
        down: Why there was no reply at all, empty when there was one.
        noise: The last lines that the library printed.
        cpu_s: Seconds of a core that the answer took there.
    """

    answer: Any = None
    error: dict[str, Any] | None = None
    down: str = ""
    noise: tuple[str, ...] = ()
    cpu_s: float = 0.0


class Companion:
    """Starts the process when it is first asked.

    Args:
        module: Program of the far end.
        what: Name of the library for messages.
        first_s: Seconds that the first answer may take, for the library has to be loaded.
    """

    def __init__(self, module: str, *, what: str, first_s: float) -> None:
        self._module = module
        self._what = what
        self._first_s = first_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[..., Companion] | None = None
        self._starts = 0
        self._closed = threading.Event()
        self._last = ""
        self._noise = b""

    def ask(self, word: str, *, timeout_s: float) -> Reply:
        """Send a word and wait for the answer.

        Args:
            word: What is asked; no line ends in it.
            timeout_s: Seconds after which the library counts as hung.
        """
        with self._lock:
            try:
                before = self._starts
                down = self._start()
                limit_s = timeout_s if self._starts == before else max(timeout_s, self._first_s)
                return Reply(down=down) if down else self._exchange(word, limit_s)
            except BaseException:  # in the middle of an answer: the channel is of no use any more
                self._kill()
                raise

    def close(self) -> None:
        """End the process at once; who waits for an answer is told that it ended."""
        self._closed.set()
        child = self._child
        if child is not None:
            child.kill()  # without the lock: another thread may hold it for as long as it waits
        if self._lock.acquire(timeout=_KILLED_S):
            try:
                self._kill()
            finally:
                self._lock.release()

    def _start(self) -> str:
        """Make sure of the process; return why there is none."""
        if self._child is not None and self._child.poll() is None:
            return ""
        if self._closed.is_set():
            return f"{self._what} is asked no more"
        if self._child is not None:
            self._kill()
        if self._starts >= _STARTS:
            return f"{self._last} ({self._starts} times; it is not asked again)"
        self._starts += 1
        self._noise = b""
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            child = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", self._module],
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot start a process to ask {self._what}: {error.strerror}"
        self._child = child
        self._finalizer = weakref.finalize(self, _end, child)
        if self._closed.is_set():  # closed by another thread just now
            child.kill()
        return ""

    def _exchange(self, word: str, timeout_s: float) -> Reply:
        child = self._child
        assert child is not None  # noqa: S101 - started just now
        assert child.stdin is not None  # noqa: S101 - pipes were asked for
        try:
            child.stdin.write(f"{word}\n".encode())
            line = self._read_line(child, timeout_s)
        except BrokenPipeError:
            line = b""
        if line is None:
            self._last = f"{self._what} did not answer within {timeout_s:g} s"
            self._kill()
            return Reply(down=self._last, noise=self._lines())
        if not line.endswith(b"\n"):
            return Reply(down=self._name_the_end(child), noise=self._lines())
        reply = json.loads(line)
        return Reply(
            answer=reply.get("answer"),
            error=reply.get("error"),
            noise=self._lines(),
            cpu_s=float(reply["cpu_s"]),
        )

    def _read_line(self, child: subprocess.Popen[bytes], timeout_s: float) -> bytes | None:
        """Return the answer, what came before the end of the process, or `None` for a hang."""
        assert child.stdout is not None  # noqa: S101 - pipes were asked for
        assert child.stderr is not None  # noqa: S101 - pipes were asked for
        end = time.monotonic() + timeout_s
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            selector.register(child.stderr, selectors.EVENT_READ)
            while child.stdout in selector.get_map():
                left_s = end - time.monotonic()
                ready = selector.select(max(left_s, 0))
                answers = any(key.fileobj is child.stdout for key, _ in ready)
                if not ready or (left_s < 0 and not answers):  # silent, or printing for ever
                    return None
                for key, _ in ready:
                    data = os.read(key.fd, _CHUNK)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is child.stderr:
                        self._noise = (self._noise + data)[-_NOISE_BYTES:]
                    else:
                        line += data
                if line.endswith(b"\n"):
                    break
            self._drain(selector, child.stderr)
        return line

    def _drain(self, selector: selectors.BaseSelector, stderr: Any) -> None:
        """Take what the library has printed up to now; it printed before it answered."""
        if selector.get_map().get(stderr) is None:
            return
        for key in list(selector.get_map().values()):
            if key.fileobj is not stderr:
                selector.unregister(key.fileobj)
        for _ in range(_DRAINED):
            data = os.read(stderr.fileno(), _CHUNK) if selector.select(0) else b""
            if not data:
                return
            self._noise = (self._noise + data)[-_NOISE_BYTES:]

    def _name_the_end(self, child: subprocess.Popen[bytes]) -> str:
        try:
            code = child.wait(_KILLED_S)
        except subprocess.TimeoutExpired:
            code = -9
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._last = f"{self._what} ended with {end}"
        self._kill()
        return self._last

    def _lines(self) -> tuple[str, ...]:
        lines = self._noise.decode("utf-8", "replace").splitlines()
        return tuple(text for line in lines if (text := one_line(line, 200)))

    def _kill(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._child = self._finalizer = None


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process and close its pipes; one that is inside the driver may not even die."""
    child.kill()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    try:
        child.wait(_KILLED_S)
    except subprocess.TimeoutExpired:
        child.returncode = -9  # given up: nobody waits for it any more
