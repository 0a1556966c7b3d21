"""A load as it is sent: every request with its bytes, and when each is due."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of a load.

    Attributes:
        body: JSON text of the request, as it is sent.
        path: Path of the endpoint.
        due_ns: When it is due after the begin of the load, in an open loop. `None` in a closed
            loop: as soon as one of `LoadPlan.concurrency` places is free, in the plan's order.
        after: Number of the request whose end it waits for, such as the turn before in a
            conversation; it is due `pause_ns` later. `None`: it waits for none.
        pause_ns: Time between that end and this request.
        prompt_tokens: Tokens of the prompt, 0 where nobody counted them.
        want_tokens: Tokens that must be written (`ignore_eos`), 0 where the model may end.
        warm_up: Whether it only warms up; it is in no figure.
    """

    body: bytes
    path: str = "/v1/completions"
    due_ns: int | None = None
    after: int | None = None
    pause_ns: int = 0
    prompt_tokens: int = 0
    want_tokens: int = 0
    warm_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a load in time and memory, whatever the server does.

    Attributes:
        request_s: Seconds from the send to the end of one request; past it, it failed.
        stall_s: Seconds without a byte after which a request failed whose first token had come (or
            that the server did not read). Before that it may wait in the server's queue, which
            `request_s` alone bounds.
        run_s: Seconds after which nothing more is sent; what is in flight then is cut.
        reply_bytes: Bytes of one reply; past it, the request failed.
        connect_s: Seconds for a connection.
    """

    request_s: float = 600.0
    stall_s: float = 120.0
    run_s: float = 3600.0
    reply_bytes: int = 64 * 2**20
    connect_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A load, ready to be sent.

    Attributes:
        url: Root of the server, such as `http://127.0.0.1:8000`.
        requests: What is sent.
        headers: More headers of each request, such as the API key's.
        concurrency: Places of a closed loop; in an open loop the most that may be in flight at a
            time (0: no bound). A request past that bound waits, and its lateness counts.
        ramp_s: Seconds over which a closed loop fills its places, evenly.
        limits: Bounds.
        description: What made the plan (traffic, workload, seed), as plain data for the record.
    """

    url: str
    requests: tuple[Request, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 0
    ramp_s: float = 0.0
    limits: Limits = field(default_factory=Limits)
    description: Mapping[str, object] = field(default_factory=dict)
