"""A load that fills the KV cache, to see whether it holds the tokens that the server states."""

from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_vllm.adapters.bounds import bound
from pytest_vllm.adapters.content import words
from pytest_vllm.plugin.loads import CACHE, PREEMPTIONS, answered, block_size, stated_tokens
from pytest_vllm.plugin.skips import not_applicable, out_of_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.domain.target import Target
    from pytest_vllm.plugin.client import Client

RUNNING = "vllm:num_requests_running"
USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_MOST_HELD = 1024
_ROOM = 0.96
"""Share of the cache that blocks may take when a load is rounded up to them."""
_MARGIN_TOKENS = 8
_TOKENS_PER_STEP = 1500
"""Prompt tokens of a step, at least: vLLM takes 2,048 (CPU, small GPUs) to 16,384."""
_LEAST_ANSWER = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a full cache came to.

    Attributes:
        tokens: Tokens that the server says its KV cache holds.
        load: Tokens of all requests, prompts and answers.
        wanted: The same as a share of the cache.
        peak: Largest share of the cache in use that was seen.
        excess: Largest use that was seen over what the requests that ran then can need; 0 for a
            layout in which a token does not take one place.
        preemptions: How often a request lost its place.
        seconds: How long it took.
        whole_s: How long a load of all that is wanted would have taken; 0 when this was it.
    """

    tokens: int
    load: int
    wanted: float
    peak: float
    excess: float
    preemptions: float
    seconds: float
    whole_s: float = 0.0

    def __str__(self) -> str:
        """Describe it on one line."""
        return (
            f"a load of {self.load:,} tokens ({self.wanted:.0%} of the stated {self.tokens:,}) "
            f"filled {self.peak:.0%} of the cache at most, in {self.seconds:.0f} s"
        )


def capacity_load(vllm: Client, target: Target, *, attempt: int = 0) -> Held:
    """Fill the KV cache with requests that run at the same time.

    Each prompt is another one, so that no two share a block, and each answer is long enough for the
    first request to be still there when the last prompt has been read. What takes longer than
    `--vllm-soak-limit` allows is cut to as many requests as it does allow.
    """
    tokens = stated_tokens(vllm)
    length = vllm.max_model_len or 0
    if not tokens or not length:
        not_applicable("this server tells neither the tokens of its KV cache nor its context")
    engines = vllm.metrics().engines
    if engines > 1:
        not_applicable(f"{engines} engines have a cache each; requests cannot be aimed at one")
    block = block_size(vllm)
    each = (length - _MARGIN_TOKENS) // block * block - 1
    goal = int(bound("capacity") * tokens)
    if each < 2 * _LEAST_ANSWER:
        not_applicable(f"a context of {length} tokens has no room for prompt and answer")
    given = target.serve_args.value("--max-num-seqs") or ""
    at_once = min(_MOST_HELD, int(given)) if given.isdigit() and int(given) else _MOST_HELD
    count = max(1, min(at_once, math.ceil(goal / each)))
    each = _filling(goal / count, block=block, most=each, room=int(_ROOM * tokens / count))
    if count * (each + block) < goal:
        not_applicable(
            f"at most {count} requests of {length:,} tokens run at a time (--max-num-seqs): "
            f"{count * each / tokens:.0%} of the {tokens:,} that the KV cache holds"
        )
    (shown,) = _distinct_prompts(vllm, 1, each - _answer(count, each), attempt=attempt)
    limit = target.seconds("soak-limit")
    # A request waits for all prompts before its own: the limit of one request is not for these.
    ask = partial(answered, vllm, timeout_s=limit + target.seconds("request-timeout"))
    speed = _speed(ask, shown[::-1])  # the load finds nothing of it in the cache
    whole_s = speed.seconds(count, each)
    if whole_s > limit:
        count = _most_within(speed, count, each, limit)
    load, answer = count * each, _answer(count, each)
    if not count:
        out_of_time(f"{too_long(whole_s, limit)}; not one request of {each:,} tokens ends in time")
    prompts = _distinct_prompts(vllm, count, each - answer, attempt=attempt)
    before = vllm.metrics_at_rest().total(*PREEMPTIONS)
    one = math.ceil(each / block) * block / tokens if _is_plain(vllm) else math.inf
    began, peak = time.monotonic(), _Peak(vllm, one=one)
    with peak:
        vllm.together([partial(ask, prompt, max_tokens=answer) for prompt in prompts])
    seconds = time.monotonic() - began
    return Held(
        tokens=tokens,
        load=load,
        wanted=load / tokens,
        peak=peak.seen,
        excess=peak.excess,
        preemptions=vllm.metrics_at_rest().total(*PREEMPTIONS) - before,
        seconds=seconds,
        whole_s=whole_s if whole_s > limit else 0.0,
    )


def too_long(whole_s: float, limit_s: float) -> str:
    """Say that filling the cache takes longer than is allowed, and what to do."""
    return (
        f"90 % of the cache would take about {whole_s:.0f} s, allowed are {limit_s:.0f}; raise "
        "--vllm-soak-limit, or shrink the cache with --kv-cache-memory-bytes"
    )


def _filling(tokens: float, *, block: int, most: int, room: int) -> int:
    """Return the length of one request that fills whole blocks, less the token that it ends with.

    Rounded up where there is room for that, else down.
    """
    up = math.ceil((tokens + 1) / block) * block
    down = max(int(min(tokens + 1, most + 1)) // block * block, 2 * _LEAST_ANSWER)
    return (up if up <= min(most + 1, room) else down) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speed:
    """How fast a server is, measured on one request at a time: many at once are faster.

    Attributes:
        reading: Seconds for a token of a prompt.
        writing: Seconds for a token of an answer.
    """

    reading: float
    writing: float

    def seconds(self, count: int, each: int) -> float:
        """Return what a load takes about: prompts are read one after the other."""
        return count * each * self.reading + _answer(count, each) * self.writing


def _speed(ask: Callable[..., None], prompt: list[int]) -> _Speed:
    # The faster of two: the first prompt of its length may have kernels compiled for it.
    reading = min(_seconds(ask, one, 1) for one in (prompt, prompt[1:])) / len(prompt)
    writing = _seconds(ask, prompt[:32], _LEAST_ANSWER) / _LEAST_ANSWER
    return _Speed(reading=reading, writing=writing)


def _most_within(speed: _Speed, count: int, each: int, limit_s: float) -> int:
    """Return how many of these requests can be held in time, 0 for none."""
    fit = (few for few in range(count, 0, -1) if speed.seconds(few, each) <= limit_s)
    return next(fit, 0)


def _answer(count: int, each: int) -> int:
    """Return the tokens of an answer that lasts until the last prompt has been read."""
    steps = math.ceil(count * each / _TOKENS_PER_STEP)
    return min(each // 2, max(_LEAST_ANSWER, steps + _LEAST_ANSWER))


def _seconds(ask: Callable[..., None], prompt: list[int], max_tokens: int) -> float:
    began = time.monotonic()
    ask(prompt, max_tokens=max_tokens)
    return time.monotonic() - began


class _Peak:
    """Looks at the use of the KV cache while requests run.

    Args:
        vllm: The client of the check.
        one: Share of the cache that one of the requests needs at most.

    Attributes:
        seen: Largest share in use.
        excess: Largest use over what the requests that ran then can need.
    """

    _FIRST_S, _SLOWER, _LAST_S = 0.01, 1.2, 0.5
    """Seconds between looks: a fast server is done in half a second, a slow one not disturbed."""

    def __init__(self, vllm: Client, *, one: float) -> None:
        self.seen = 0.0
        self.excess = 0.0
        self._one = one
        self._vllm = vllm
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="vllm-kv-cache", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        pause = self._FIRST_S
        while not self._end.wait(pause):
            pause = min(pause * self._SLOWER, self._LAST_S)
            metrics = self._vllm.metrics()
            use, running = metrics.total(*USAGE), metrics.total(RUNNING)
            self.seen = max(self.seen, use)
            if running:
                self.excess = max(self.excess, use / (running * self._one))


def _distinct_prompts(vllm: Client, count: int, length: int, *, attempt: int) -> list[list[int]]:
    """Make prompts of so many tokens, none like another, out of tokens that the model has."""
    known = sorted(set(vllm.tokenize(" ".join(words()))))
    rng = random.Random(f"{vllm.seed}:capacity:{attempt}")  # noqa: S311 - a load, no secret
    return [rng.choices(known, k=length) for _ in range(count)]


def _is_plain(vllm: Client) -> bool:
    """Tell whether every token takes one place in one block: no windows, no states."""
    config = vllm.metrics().info(CACHE)
    sizes = [config.get(name, "") for name in ("num_gpu_blocks", "block_size")]
    tokens = config.get("kv_cache_size_tokens", "")
    return all(map(str.isdigit, sizes)) and tokens == str(int(sizes[0]) * int(sizes[1]))
