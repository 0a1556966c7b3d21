"""What the content checks read off a server's metrics: its prefix cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain import content
from pytest_vllm.plugin.content import beginning, periodic, room
from pytest_vllm.plugin.skips import not_applicable
from pytest_vllm.plugin.traffic import looks

if TYPE_CHECKING:
    from pytest_vllm.plugin.client import Client

HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total")
"""The counter's name, today's and that of the first V1 engines."""

_PATIENCE_S = 5.0


def cache_facts(vllm: Client) -> dict[str, str]:
    """Return the labels of `vllm:cache_config_info`, none when it is not there."""
    return content.metric_labels(vllm.get("/metrics").text, "vllm:cache_config_info")


def require_attention(vllm: Client) -> None:
    """End the check where the model has no attention layer: such a model need not copy."""
    if "metrics" not in vllm.server.capabilities:
        return
    if cache_facts(vllm).get("is_attention_free") == "True":
        not_applicable("a model without attention need not copy")


def longer_than_blocks(vllm: Client) -> list[int]:
    """Return a prompt that fills more than two blocks of the prefix cache."""
    facts = cache_facts(vllm)
    if facts.get("enable_prefix_caching") != "True":
        not_applicable("prefix caching is off, or /metrics does not tell")
    if vllm.metrics().engines > 1:
        not_applicable("the next request may go to another engine, which has a cache of its own")
    told = facts.get("block_size", "")
    block = int(told) if told.isdigit() and int(told) else 16
    length = 2 * block + 17
    room(vllm, length + 8)
    return beginning(vllm) + periodic(vllm, length, "letter")


def hits(vllm: Client) -> float:
    """Return the tokens that were found in the prefix cache so far."""
    total = content.metric_total(vllm.get("/metrics").text, HITS)
    if total is None:
        not_applicable(f"/metrics has none of {', '.join(HITS)}")
    return total


def await_hits(vllm: Client, before: float) -> float:
    """Return the hits when they have risen; the server counts them after it has answered."""
    for _ in looks(_PATIENCE_S):
        seen = hits(vllm)
        if seen > before:
            return seen
    raise AssertionError(f"the same prompt again hit no prefix cache: {HITS[0]} stays {before:g}")
