"""Look at a server's `/metrics` before, during and after a load, without being in its way."""

from __future__ import annotations

import threading
import time
from typing import Self

from pytest_vllm.adapters.exposition import read_metrics
from pytest_vllm.adapters.http import Transport
from pytest_vllm.domain.load.server_looks import PREFIXES, ServerLook, ServerLooks, read_look
from pytest_vllm.domain.load.timeline import highest
from pytest_vllm.domain.reply import TransportFailure
from pytest_vllm.domain.text import one_line

INTERVAL_S = 1.0
"""Time between two looks: each takes some milliseconds of the loop that also sends tokens."""
LEAST_INTERVAL_S = 0.5
SHARE = 0.01
"""Share of the time that the server may be answering looks; where they take longer, they become
rarer."""
LIMIT = 1200
"""Most looks that are kept; above it every second one is dropped and the interval doubles. Those
with the highest value of a gauge always stay."""

_TIMEOUT_S = 5.0
_SETTLES_WITHIN_S = 2.0
_SETTLE_EVERY_S = 0.1
_MAX_BYTES = 2**24
_OK = 200
_MOST_NOTES = 5


class ServerWatch:
    """Watches a server for as long as the block lasts: `with ServerWatch(url) as watch: load()`.

    A server that does not answer, or says something else, is noted and never an error: the client's
    figures stand without it.

    Args:
        url: Root of the server.
        api_key: For a server that wants one at `/metrics` too.
        interval_s: Seconds between two looks, at least 0.5.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, interval_s: float = INTERVAL_S
    ) -> None:
        self._transport = Transport(
            url, api_key=api_key, timeout_s=_TIMEOUT_S, max_body_bytes=_MAX_BYTES
        )
        self._interval_s = max(LEAST_INTERVAL_S, interval_s)
        self._looks: list[ServerLook] = []
        self._failed = 0
        self._notes: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="vllm-server-watch", daemon=True)

    @property
    def looks(self) -> ServerLooks:
        """What was seen up to now, for `measure(server=...)`."""
        return ServerLooks(looks=tuple(self._looks), failed=self._failed, notes=tuple(self._notes))

    def __enter__(self) -> Self:
        """Look until what was asked before is counted, and begin."""
        self._settle()
        del self._looks[:-1]
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Look until nothing changes any more, and end."""
        self._ended.set()
        self._thread.join()
        if kind is None:
            self._settle()
        self._transport.close()

    def _poll(self) -> None:
        while not self._ended.wait(self._pause_s()):
            self._look()

    def _pause_s(self) -> float:
        """Return the time to the next look, longer where looks take the server long."""
        last = self._looks[-1].took_ns / 1e9 if self._looks else 0.0
        return max(self._interval_s, last / SHARE)

    def _settle(self) -> None:
        """Wait for the counts of the last requests, which vLLM adds just after their last token."""
        until = time.monotonic() + _SETTLES_WITHIN_S
        before = self._look()
        while before is not None:
            time.sleep(_SETTLE_EVERY_S)
            after = self._look()
            if after is None or time.monotonic() > until or _same(before, after):
                return
            before = after

    def _look(self) -> ServerLook | None:
        try:
            look = self._ask()
        except TransportFailure as failure:
            self._miss(f"GET /metrics: {failure}")
        except ValueError as error:
            self._miss(f"GET /metrics is not in Prometheus' format: {error}")
        else:
            if look is not None:
                self._keep(look)
            return look
        return None

    def _ask(self) -> ServerLook | None:
        at_ns = time.monotonic_ns()
        reply = self._transport.send("GET", "/metrics")
        took_ns = time.monotonic_ns() - at_ns
        if reply.status != _OK:
            self._miss(f"GET /metrics was answered with status {reply.status}")
            return None
        kept = [line for line, _ in reply.lines if line.startswith(PREFIXES)]
        return read_look(read_metrics("\n".join(kept) + "\n"), at_ns=at_ns, took_ns=took_ns)

    def _keep(self, look: ServerLook) -> None:
        if len(self._looks) >= LIMIT:
            stay = highest(self._looks)
            self._looks = [look for n, look in enumerate(self._looks) if n % 2 == 0 or n in stay]
            self._interval_s *= 2
        self._looks.append(look)

    def _miss(self, why: str) -> None:
        self._failed += 1
        note = one_line(why, 200)
        if note not in self._notes and len(self._notes) < _MOST_NOTES:
            self._notes.append(note)


def _same(one: ServerLook, other: ServerLook) -> bool:
    return one.counters == other.counters and one.histograms == other.histograms
