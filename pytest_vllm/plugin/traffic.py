"""What a check sends and what comes back: every exchange is kept, nothing more is assumed."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_vllm.adapters.exposition import read_metrics
from pytest_vllm.adapters.schemas import unknown_types, violations
from pytest_vllm.domain import conventions
from pytest_vllm.domain.errors import HostError
from pytest_vllm.domain.observation import Observation, Sample
from pytest_vllm.domain.reply import Reply, StreamReply, TransportFailure
from pytest_vllm.domain.text import one_line
from pytest_vllm.plugin.skips import not_applicable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_vllm.adapters.http import Transport
    from pytest_vllm.domain.exchange import Exchange
    from pytest_vllm.domain.metrics import Metrics
    from pytest_vllm.domain.server import ServerInfo

T = TypeVar("T")
_POLL_S = 0.05
_REST_S = 10.0
_LOOKS = 5
"""A wait has so many looks at least: on a busy host, one may take as long as the whole wait."""


class Traffic:
    """Talks to the server under test on behalf of one check.

    Args:
        server: The server under test.
        transport: Connection to it, shared by all checks.
        seed: Number from which checks derive everything random, so that a run can be repeated.

    Attributes:
        exchanges: What was sent and came back so far.
        observations: What was seen and is not judged.
        samples: Replies for a person to read.
    """

    def __init__(self, server: ServerInfo, transport: Transport, *, seed: int = 0) -> None:
        self.server = server
        self.seed = seed
        self.exchanges: list[Exchange] = []
        self.observations: list[Observation] = []
        self.samples: list[Sample] = []
        self._transport = transport
        self._unknown: set[tuple[str, str]] = set()

    @property
    def model(self) -> str:
        """ID of the model that requests name."""
        return self.server.model

    @property
    def max_model_len(self) -> int | None:
        """Context length in tokens, `None` when the server does not say."""
        return self.server.max_model_len

    def get(self, path: str) -> Reply:
        """GET a path; any status is fine."""
        return self.send("GET", path)

    def send(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> StreamReply:
        """Send anything and return whatever comes back; nothing is filled in, nothing asserted.

        Args:
            method: HTTP method.
            path: Path with a leading slash.
            body: A value that is sent as JSON (also NaN and Infinity).
            content: The body as it is, instead of `body`; it is declared to be JSON, too.
            headers: More headers, or others than the usual ones.
            max_bytes: Bytes that the body of the reply may have, for a long one that is asked for.
            timeout_s: Seconds that it may take, where it waits behind others on purpose.

        Raises:
            AssertionError: No complete reply came, by the server's fault.
            HostError: A server that is not ours cannot be reached.
        """
        given: dict[str, Any] = {}
        if content is not None:
            given = {"content": content}
            headers = {"content-type": "application/json", **_lower(headers)}
        elif body is not None:
            given = {"json": body}
        try:
            reply = self._transport.send(
                method, path, headers=headers, max_bytes=max_bytes, timeout_s=timeout_s, **given
            )
        except TransportFailure as failure:
            self.exchanges.append(failure.exchange)
            message = f"{method} {path}: no reply ({failure})"
            if failure.kind == "refused" and not self.server.owned:
                raise HostError(message, advice=f"see whether {self.server.url} runs") from None
            raise AssertionError(message) from None
        self.exchanges.append(reply.exchange)
        return reply

    def abandon(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        after_lines: int | None = None,
        after_s: float | None = None,
    ) -> StreamReply:
        """Send a request and hang up before the reply is complete, as an impatient client does.

        Args:
            path: Path with a leading slash.
            body: A value that is sent as JSON.
            after_lines: Hang up when so many lines of the reply have come.
            after_s: Hang up after so many seconds.

        Raises:
            AssertionError: The server hung up first.
        """
        try:
            reply = self._transport.abandon(
                path, json=dict(body), after_lines=after_lines, after_s=after_s
            )
        except TransportFailure as failure:
            self.exchanges.append(failure.exchange)
            raise AssertionError(f"POST {path}: no reply ({failure})") from None
        self.exchanges.append(reply.exchange)
        return reply

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Do several things at the same time, each on a thread of its own.

        Returns:
            What they returned, in the order of `calls`.

        Raises:
            AssertionError: One of them did; all others have ended by then.
        """
        with ThreadPoolExecutor(max_workers=len(calls)) as pool:
            futures = [pool.submit(call) for call in calls]
        return [future.result() for future in futures]

    def metrics(self) -> Metrics:
        """Return what `/metrics` says now.

        Raises:
            AssertionError: It is not Prometheus' text format.
        """
        reply = self.get("/metrics")
        require(reply, conventions.status_violations(reply, (200,)))
        try:
            return read_metrics(reply.text)
        except ValueError as error:
            raise AssertionError(f"GET /metrics: required Prometheus' format: {error}") from None

    def metrics_when(self, holds: Callable[[Metrics], bool], *, within_s: float = 5.0) -> Metrics:
        """Look at `/metrics` until something holds there, and return the last look in any case.

        A server counts a request a moment after it was answered.

        Args:
            holds: What is waited for.
            within_s: Seconds after which no further look is begun, if there were a few.
        """
        for _ in looks(within_s):
            metrics = self.metrics()
            if holds(metrics):
                break
        return metrics

    def metrics_at_rest(self) -> Metrics:
        """Wait until the server does nothing, and return what `/metrics` says then.

        A server that is not ours may have other clients; then no count can be held against ours.

        Raises:
            AssertionError: It says that it is busy although its counters stand still.
        """
        now = self.metrics()
        for _ in looks(_REST_S, first_s=_POLL_S):
            before, now = now, self.metrics()
            if busy(now) == 0 and generated(before) == generated(now):
                return now
        if generated(before) != generated(now) and not self.server.owned:
            not_applicable("other clients use this server, so its counters cannot be told apart")
        raise AssertionError(
            f"GET /metrics: required no request running or waiting on a server at rest, saw "
            f"{busy(now):g} for {_REST_S:g} s"
        )

    def violations(self, schema: str, document: Any) -> list[str]:
        """Hold a document against a schema, and observe the fields that the schema does not name.

        Args:
            schema: Name of the schema, as `chat/chunk`.
            document: What came, as parsed JSON.

        Returns:
            One line for each violation. A field without a name is none.
        """
        lines = violations(schema, document)
        if lines:
            return lines
        for path, kind in unknown_types(schema, document).items():
            if (schema, path) not in self._unknown:
                self._unknown.add((schema, path))
                self.observe(f"unknown field: {schema} {path}", kind)
        return []

    def observe(self, name: str, value: object) -> None:
        """Note something about the server in the run's record, whatever it is.

        Args:
            name: What was looked at, as `models.retrieve.status`.
            value: What was seen; shown as text, at most 300 characters.
        """
        self.observations.append(Observation(name=name, value=one_line(str(value), 300)))

    def sample(self, title: str, prompt: str, text: str) -> None:
        """Keep a reply for a person to read in the reports.

        Args:
            title: What the request was.
            prompt: What the model was asked.
            text: What it wrote.
        """
        self.samples.append(Sample(title=title, prompt=prompt, text=text))

    def _judged(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        schema: str,
        max_bytes: int | None = None,
    ) -> Reply:
        reply = self.send(method, path, body=body, max_bytes=max_bytes)
        require(reply, conventions.status_violations(reply, (200,)))
        require(reply, conventions.media_type_violations(reply, "application/json"))
        require(reply, self.violations(schema, reply.json))
        return reply


def looks(within_s: float, *, first_s: float = 0.0) -> Iterator[int]:
    """Number the looks at something that takes a while to come; the last begins after that while.

    Args:
        within_s: How long it may take, in seconds.
        first_s: Seconds before the first look.
    """
    deadline = time.monotonic() + within_s
    time.sleep(first_s)
    for number in itertools.count(1):
        last = number >= _LOOKS and time.monotonic() > deadline
        yield number
        if last:
            return
        time.sleep(_POLL_S)


def busy(metrics: Metrics) -> float:
    """Return how many requests run or wait, as the gauges say."""
    return metrics.total("vllm:num_requests_running") + metrics.total("vllm:num_requests_waiting")


def generated(metrics: Metrics) -> tuple[float, float]:
    """Return how many tokens were read and written since the start."""
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    return metrics.total(names[0]), metrics.total(names[1])


def require(reply: Reply, lines: Sequence[str]) -> None:
    """Raise what is wrong with a reply, if anything is.

    Raises:
        AssertionError: There are lines; each gets the request in front of it.
    """
    if lines:
        raise AssertionError("\n".join(f"{reply.request}: {line}" for line in lines))


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}
