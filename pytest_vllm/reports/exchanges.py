"""A request and its reply as two texts, short enough to be read in a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.exchange import shorten
from pytest_vllm.domain.text import printable

if TYPE_CHECKING:
    from pytest_vllm.domain.exchange import Exchange

BODY_SHOWN = 2_000
"""Characters of a body, and of all headers, that a report shows."""


def exchange_texts(exchange: Exchange) -> tuple[str, str]:
    """Return what was sent and what came back, each as it would stand in a trace of HTTP."""
    request = [
        f"{exchange.method} {shorten(exchange.url, BODY_SHOWN)}",
        _headers(exchange.request_headers),
        _body(exchange.request_body),
    ]
    status = "no reply" if exchange.status is None else f"HTTP {exchange.status}"
    reply = [
        f"{status} after {exchange.elapsed_ms:.0f} ms",
        _headers(exchange.response_headers),
        shorten(exchange.failure, BODY_SHOWN),
        _body(exchange.response_body),
    ]
    return _joined(request), _joined(reply)


def _joined(parts: list[str]) -> str:
    return printable("\n".join(part for part in parts if part))


def _body(text: str) -> str:
    return f"\n{shorten(text, BODY_SHOWN)}" if text else ""


def _headers(headers: tuple[tuple[str, str], ...]) -> str:
    return shorten("\n".join(f"{name}: {value}" for name, value in headers), BODY_SHOWN)
