"""What a client has to do: the same for all of them, and decided by the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A closed loop against the truth server.

    Attributes:
        name: Name of the cell in the tables.
        streams: Requests in flight at a time.
        requests: Requests in all.
        tokens: Token events of each reply.
        ttft_ms: From a request to its first event; with `itl_ms` 0 the server floods.
        itl_ms: Between events.
        grid: Whether all streams get their events at the same moments, as from an engine's steps.
        events_per_write: Events that the server puts into one `send()`.
    """

    name: str
    streams: int
    requests: int
    tokens: int
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    grid: bool = True
    events_per_write: int = 1

    @property
    def events(self) -> int:
        """Token events of all replies."""
        return self.requests * self.tokens

    @property
    def flood(self) -> bool:
        """Whether the server sends as fast as it can."""
        return not self.ttft_ms and not self.itl_ms


def paced(streams: int, *, tokens: int = 128) -> Work:
    """Return a load of the pace of a busy engine: first token after 200 ms, then every 20 ms.

    Each stream asks once, up to 64 of them twice, so that there are times to first tokens enough.
    """
    waves = 2 if streams <= _FEW else 1
    return Work(
        name=f"paced-{streams}",
        streams=streams,
        requests=streams * waves,
        tokens=tokens,
        ttft_ms=200.0,
        itl_ms=20.0,
    )


def flood(events: int, *, streams: int = 32, tokens: int = 512) -> Work:
    """Return a load without pauses, with about so many events."""
    requests = max(streams, round(events / tokens))
    return Work(name="flood", streams=streams, requests=requests, tokens=tokens, grid=False)


_FEW = 64
IDLE = Work(name="idle", streams=1, requests=1, tokens=2, ttft_ms=20.0, itl_ms=20.0)
"""As good as no load: what a client costs before and after its work."""
