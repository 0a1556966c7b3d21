"""The collector's process: reads a plan, sends it, writes what came back. Stdlib only, no site."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.collector import Collector
from pytest_vllm.adapters.load.exchange import RedirectedError
from pytest_vllm.adapters.load.link import addresses
from pytest_vllm.adapters.load.spent import peak_rss_bytes
from pytest_vllm.adapters.load.timer import die_with_parent, tight_timers
from pytest_vllm.adapters.load.wire import Order, write_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTROL, _TOLD = 0, 1


def main() -> int:
    """Run one load; the arguments are the parent's process and two open files."""
    parent, plan_fd, rows_fd = (int(one) for one in sys.argv[1:4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process itself
    die_with_parent(parent)
    gc.disable()  # nothing here refers to itself, and the load is over soon
    tight_timers()
    os.set_blocking(_TOLD, False)
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with os.fdopen(plan_fd, "rb") as plan, os.fdopen(rows_fd, "wb") as rows:
        order = Order(plan)
        try:
            where = addresses(order.head["host"], order.head["port"])
        except (socket.gaierror, UnicodeError) as error:
            return _say({"unknown": str(error)})
        collector = Collector(order, where, control=_CONTROL, report=_report)
        try:
            collector.run()
        except RedirectedError as error:
            return _say({"redirected": str(error)})
        except OSError as error:
            return _say({"lacks": f"{error.strerror or error}"})
        facts = {
            "clock": "kernel" if collector.stamps.works else "user",
            "cpu_s": collector.spent.cpu_s,
            "wait_s": collector.spent.wait_s,
            "reads": collector.tally.reads,
            "coalesced_reads": collector.tally.coalesced,
            "clock_shift_ns": collector.stamps.moved_ns,
            "notes": _notes(collector),
        }
        write_rows(rows, collector.rows, facts | {"held": collector.held.hex()})
        return _say({"peak_rss_bytes": peak_rss_bytes()})


def _notes(collector: Collector) -> list[str]:
    tally, notes = collector.tally, []
    if not collector.stamps.works:
        notes.append(
            "the kernel gives no receive times (SO_TIMESTAMPNS): times are those after each read"
        )
    elif tally.unstamped:
        notes.append(
            f"{tally.unstamped} of {tally.reads} reads had no time of the kernel: "
            "for them it is the time after the read"
        )
    if tally.again:
        notes.append(
            f"{tally.again} requests were sent once more: the server closed their idle "
            "connection just then"
        )
    if collector.stamps.moved_ns:
        notes.append(
            f"the clock was set during the load, by {collector.stamps.moved_ns / 1e6:.3f} ms: "
            "times around that moment may be off by as much"
        )
    return notes


def _report(counts: Mapping[str, object]) -> None:
    with contextlib.suppress(BlockingIOError):  # nobody reads just now: the next report is soon
        os.write(_TOLD, json.dumps({"progress": counts}).encode() + b"\n")


def _say(last: Mapping[str, object]) -> int:
    os.set_blocking(_TOLD, True)
    os.write(_TOLD, json.dumps(last).encode() + b"\n")
    return 0
