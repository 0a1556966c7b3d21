"""The collector as seen from the program that wants a load: a process at the end of two pipes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pytest_vllm.adapters.load.asyncio_columns import lateness
from pytest_vllm.adapters.load.wire import file_in_memory, read_rows, write_plan
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.load.columns import CollectorFacts
from pytest_vllm.domain.load.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from urllib.parse import SplitResult

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.plan import LoadPlan

_ROOT = Path(__file__).parents[3]
_START = (
    "import sys; sys.path.append({root!r}); "
    "from pytest_vllm.adapters.load.worker import main; sys.exit(main())"
)
_SPARE_S = 60.0
"""Beyond the end of the load, for what a busy host needs to start and to write the columns."""
_TAIL = 500
_NS = 1e9


class RedirectedError(Exception):
    """The server sends requests elsewhere, which the collector does not follow."""


def run_collector(
    plan: LoadPlan, parts: SplitResult, *, progress: Callable[[Progress], None] | None
) -> Columns:
    """Have a process of its own send a load.

    Args:
        plan: What is sent.
        parts: The parts of its URL.
        progress: Told about twice a second how far it is.

    Raises:
        TargetError: The name of the server is not known.
        HostError: This host does not let the collector do its work.
        RedirectedError: The server redirects and served nothing.
    """
    with file_in_memory("load-plan") as order, file_in_memory("load-rows") as rows:
        write_plan(order, _head(plan, parts), plan.requests)
        last = _wait(plan, order.fileno(), rows.fileno(), progress)
        if "redirected" in last:
            raise RedirectedError(last["redirected"])
        if "unknown" in last:
            raise TargetError(
                f"the server's name {parts.hostname} is not known: {last['unknown']}",
                advice="see the URL and this host's DNS",
            )
        if "lacks" in last:
            raise HostError(
                f"the load's client cannot go on: {last['lacks']}",
                advice="lower the concurrency, or raise the limit of open files (ulimit -Hn)",
            )
        columns, facts = read_rows(rows)
    columns.facts = CollectorFacts(
        path="epoll",
        clock=facts["clock"],
        cpu_s=facts["cpu_s"],
        wall_s=(columns.finish_ns - columns.begin_ns) / _NS,
        peak_rss_bytes=last["peak_rss_bytes"],
        reads=facts["reads"],
        coalesced_reads=facts["coalesced_reads"],
        events=len(columns.event_ns),
        lateness_ns=lateness(columns, bytes.fromhex(facts["held"])),
        clock_shift_ns=facts["clock_shift_ns"],
        wait_s=facts["wait_s"],
        notes=tuple(facts["notes"]),
    )
    return columns


def _head(plan: LoadPlan, parts: SplitResult) -> dict[str, Any]:
    limits = plan.limits
    paths = dict.fromkeys(one.path for one in plan.requests)
    base = parts.path.rstrip("/")
    fields = {
        "host": parts.netloc,
        "user-agent": "pytest-vllm",
        "accept": "*/*",
        "content-type": "application/json",
    }
    fields.update((name.lower(), value) for name, value in plan.headers.items())
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return {
        "host": parts.hostname,
        "port": parts.port or 80,
        "heads": [f"POST {base}{path} HTTP/1.1\r\n{lines}content-length: " for path in paths],
        "concurrency": plan.concurrency,
        "ramp_s": plan.ramp_s,
        "reply_bytes": limits.reply_bytes,
        "limits": {
            name: getattr(limits, name) for name in ("request_s", "stall_s", "run_s", "connect_s")
        },
    }


def _wait(
    plan: LoadPlan, order: int, rows: int, progress: Callable[[Progress], None] | None
) -> dict[str, Any]:
    """Start the collector, pass on its reports, and return its last word."""
    last: dict[str, Any] = {}
    limit_s = plan.limits.run_s + plan.limits.connect_s + _SPARE_S
    with file_in_memory("load-errors") as errors:
        process = _started(order, rows, errors)
        try:
            for line in _lines(process, limit_s):
                last = json.loads(line)
                if "progress" in last and progress is not None:
                    progress(Progress(**last["progress"]))
            code = process.wait()
        finally:
            _end(process)
        if not last or "progress" in last or code:
            errors.seek(0)
            words = errors.read().decode("utf-8", "replace").strip()[-_TAIL:]
            raise HostError(
                f"the load's client ended with exit code {code} before the load did"
                + (f": {words}" if words else ""),
                advice="was it killed, for want of memory perhaps? Try again",
            )
    return last


def _started(order: int, rows: int, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", "-c", _START.format(root=str(_ROOT))]
    try:
        return subprocess.Popen(  # noqa: S603 - our own code
            [*command, str(os.getpid()), str(order), str(rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(order, rows),
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
    except OSError as error:
        raise HostError(
            f"the load's client cannot be started: {error}", advice="see this host's limits"
        ) from error


def _lines(process: subprocess.Popen[bytes], limit_s: float) -> Iterator[bytes]:
    """Give each line that the collector says until it ends, or its time is over."""
    fd, rest = process.stdout.fileno() if process.stdout else -1, b""
    deadline = time.monotonic() + limit_s
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([fd], [], [], left)[0]:
            break
        data = os.read(fd, 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    raise HostError(
        f"the load's client did not end within {limit_s:.0f} s", advice="the host may be overloaded"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the collector, whatever it does; nothing when it has ended."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
