"""A middleware for real vLLM that keeps a mebibyte of every completion it sees."""

from __future__ import annotations

from typing import Any

KEPT: list[bytearray] = []


async def leak(request: Any, call_next: Any) -> Any:
    """Take the memory for good, then let the request through."""
    if request.url.path == "/v1/completions":
        KEPT.append(bytearray(b"\1") * 2**20)
    return await call_next(request)
