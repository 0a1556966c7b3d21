"""The loads of the suite `memory`: as many requests as run at a time, and a long soak."""

from __future__ import annotations

import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.bounds import bound
from pytest_vllm.adapters.content import words
from pytest_vllm.domain.soak import Growth, growth, mixed_lengths, settled
from pytest_vllm.plugin.memory import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vllm.domain.soak import Piece
    from pytest_vllm.domain.target import Target
    from pytest_vllm.plugin.client import Client
    from pytest_vllm.plugin.memory import ServerMemory

COMPLETIONS = "/v1/completions"
CACHE = "vllm:cache_config_info"
PREEMPTIONS = ("vllm:num_preemptions_total", "vllm:num_preemptions")

_MOST_AT_ONCE = 256
_SOAKING = 64
_UNTOLD_AT_ONCE = 16
_PEAK_PROMPT, _PEAK_ANSWER = 64, 24
_EXCHANGES = 8
_LEG_SEEDS = 1_000_003
_LOOKS = 120
"""Looks at the memory during a soak, evenly spread over its requests."""


def most_at_once(target: Target, memory: ServerMemory) -> int:
    """Return how many requests the server runs at a time, up to what one client can send.

    Where the launch does not say so, a GPU runs at least 256 (vLLM's smallest default).
    """
    given = target.serve_args.value("--max-num-seqs") or ""
    untold = _MOST_AT_ONCE if memory.device == "gpu" else _UNTOLD_AT_ONCE
    return min(int(given) if given.isdigit() and int(given) else untold, _MOST_AT_ONCE)


def peak_load(vllm: Client, *, count: int, share: float) -> int:
    """Send as many short requests as run at a time; together they need a share of the cache.

    Args:
        vllm: The client of the check.
        count: Requests at a time.
        share: Largest share of the KV cache that they may need.

    Returns:
        How many were sent: fewer where that share holds no more.
    """
    tokens = stated_tokens(vllm)
    each = _PEAK_PROMPT + _PEAK_ANSWER
    block = block_size(vllm)
    room = int(share * tokens) // (math.ceil(each / block) * block) if tokens else count
    count = max(1, min(count, room))
    rng = random.Random(f"{vllm.seed}:peak")  # noqa: S311 - a load, no secret
    prompts = [_text(rng, _PEAK_PROMPT // 2) for _ in range(count)]
    ask = partial(answered, vllm, max_tokens=_PEAK_ANSWER)
    vllm.together([partial(ask, prompt) for prompt in prompts])
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Soaked:
    """What a soak came to.

    Attributes:
        requests: Requests that ended.
        seconds: How long they took.
        growths: Growth by what was looked at, of those with enough looks.
        first: Bytes in use at its begin, by what was looked at.
        last: Bytes in use at its end.
    """

    requests: int
    seconds: float
    growths: dict[str, Growth] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Describe it on one line."""
        parts = [f"{self.requests} requests in {self.seconds:.0f} s"]
        for name, begin in self.first.items():
            text = f"{name} {begin / 2**20:.0f} to {self.last[name] / 2**20:.0f} MiB"
            found = self.growths.get(name)
            if found is not None:
                text += f", {found.slope / 2**20:+.1f} MiB per 1,000 requests after warm-up"
            parts.append(text)
        return "; ".join(parts)


def soak(  # noqa: PLR0913 - what makes a load
    vllm: Client,
    memory: ServerMemory,
    *,
    count: int,
    limit_s: float,
    concurrency: int,
    leg: int = 0,
) -> Soaked:
    """Send many requests of mixed lengths, and look at the server's memory meanwhile.

    Args:
        vllm: The client of the check.
        memory: What is looked at.
        count: Requests to send.
        limit_s: Seconds after which no more are begun.
        concurrency: Requests at a time.
        leg: Number of the soak, so that a second one does not repeat the first.

    Raises:
        AssertionError: One of them was not answered.
    """
    concurrency = min(concurrency, _SOAKING)
    pieces = mixed_lengths(count, seed=_LEG_SEEDS * leg + vllm.seed, context=vllm.max_model_len)
    rng = random.Random(f"{vllm.seed}:words:{leg}")  # noqa: S311 - a load, no secret
    prompts = [_text(rng, piece.words) for piece in pieces]
    began, watch = time.monotonic(), Watch()
    step, answered, lock = max(1, count // _LOOKS), 0, threading.Lock()

    def send(number: int) -> None:
        nonlocal answered
        if time.monotonic() - began > limit_s:
            return
        _send_piece(vllm, pieces[number], prompts[number])
        with lock:
            answered += 1
            del vllm.exchanges[:-_EXCHANGES]  # thousands of replies are nobody's evidence
            if answered % step == 0:
                watch.note(answered, memory.use())

    watch.note(0, memory.use())
    _each(send, range(count), concurrency)
    looks = watch.looks
    growths = {
        name: found
        for name, seen in looks.items()
        if (found := growth(settled(seen, warm_up=bound("warm-up")))) is not None
    }
    return Soaked(
        requests=answered,
        seconds=time.monotonic() - began,
        growths=growths,
        first={name: seen[0][1] for name, seen in looks.items()},
        last={name: seen[-1][1] for name, seen in looks.items()},
    )


def _each(act: Callable[[int], None], numbers: Sequence[int], concurrency: int) -> None:
    """Do something for each number on a few threads; the first failure ends it all."""
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(act, number) for number in numbers]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _send_piece(vllm: Client, piece: Piece, prompt: str) -> None:
    body = _body(vllm, prompt, piece.max_tokens)
    if piece.given_up:
        vllm.abandon(COMPLETIONS, {**body, "stream": True}, after_lines=1)
    elif piece.streamed:
        reply = vllm.send("POST", COMPLETIONS, body={**body, "stream": True})
        assert reply.status == 200, f"a stream of the soak: {reply.status} {reply.text[:300]}"  # noqa: S101, PLR2004
    else:
        answered(vllm, prompt, max_tokens=piece.max_tokens)


def answered(
    vllm: Client, prompt: str | list[int], *, max_tokens: int, timeout_s: float | None = None
) -> None:
    """Send a request and see that it was answered in full; its text is for other suites."""
    body = _body(vllm, prompt, max_tokens)
    reply = vllm.send("POST", COMPLETIONS, body=body, timeout_s=timeout_s)
    assert reply.status == 200, f"a request of the load: {reply.status} {reply.text[:300]}"  # noqa: S101, PLR2004
    written = reply.json["usage"]["completion_tokens"]
    assert written == max_tokens, f"required {max_tokens} tokens, saw {written}"  # noqa: S101


def _body(vllm: Client, prompt: str | list[int], max_tokens: int) -> dict[str, Any]:
    return {
        "model": vllm.model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


def _text(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(words(), k=max(1, length)))


def stated_tokens(vllm: Client) -> int:
    """Return the tokens that the KV cache holds by `/metrics`, 0 where it does not say."""
    told = vllm.metrics().info(CACHE).get("kv_cache_size_tokens", "")
    return int(told) if told.isdigit() else 0


def block_size(vllm: Client) -> int:
    """Return the tokens of a block of the KV cache, 16 where nobody says."""
    told = vllm.metrics().info(CACHE).get("block_size", "")
    return int(told) if told.isdigit() and int(told) else 16
