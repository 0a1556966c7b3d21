"""Concurrency and cancellation: many clients at once, and clients that hang up."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import SHOULD, Client, check, not_applicable, suite
from pytest_vllm.plugin.traffic import looks

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vllm.domain.reply import Reply
    from pytest_vllm.domain.target import Target

pytestmark = suite("concurrency", concurrent=True)

METRICS = ("metrics",)
PROMPTS = (
    "The capital of France is",
    "1, 2, 3, 4, 5, 6, 7, 8,",
    "Monday, Tuesday, Wednesday,",
    "def add(a, b):\n    return",
    "The opposite of hot is",
    "A, B, C, D, E, F, G,",
)
LONG = "Tell a very long story about a ship. "
GREEDY: dict[str, Any] = {
    "temperature": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
}
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
GENERATED = "vllm:generation_tokens_total"
KV_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
COMPLETIONS = "/v1/completions"
MOST_AT_ONCE = 64
FILLABLE_TOKENS = 40_000
BUSY_S = 30.0
"""A host may be busy with something else for so long; what a server loses stays lost."""


@check("concurrency.prompts.no-cross-talk", ref="L01", catches=("answers-swapped",))
def test_no_cross_talk(vllm: Client) -> None:
    """Different prompts at the same time MUST each get their own continuation."""
    solo = [_greedy(vllm, prompt) for prompt in PROMPTS]
    crowd = vllm.together([partial(_greedy, vllm, prompt) for prompt in PROMPTS * 2])
    for number, (prompt, seen) in enumerate(zip(PROMPTS * 2, crowd, strict=True)):
        wanted = vllm.read(solo[number % len(PROMPTS)])
        vllm.assert_same(wanted, vllm.read(seen), f"{prompt!r} alone and among others")


@check("concurrency.streams.no-cross-talk", ref="L01", catches=("answers-swapped",))
def test_streams(vllm: Client) -> None:
    """Streams at the same time MUST each carry their own continuation."""
    solo = [_greedy(vllm, prompt) for prompt in PROMPTS]
    stream = partial(vllm.stream, "completions", top=5, max_tokens=8, **GREEDY)
    crowd = vllm.together([partial(stream, prompt) for prompt in PROMPTS * 2])
    for number, seen in enumerate(crowd):
        prompt, wanted = PROMPTS[number % len(PROMPTS)], solo[number % len(PROMPTS)]
        vllm.assert_same(vllm.read(wanted), vllm.read(seen), f"{prompt!r} alone and in a stream")


@check(
    "concurrency.full-batch.all-answered",
    ref="L02",
    catches=("crowd-refused", "id-repeated"),
)
def test_full_batch(vllm: Client, vllm_target: Target) -> None:
    """As many requests as the server runs at a time MUST all be answered, each under its own ID."""
    count = _most_at_once(vllm_target)
    # Long enough that the first one still runs when the last one comes.
    answer = partial(vllm.complete, max_tokens=32, temperature=0, ignore_eos=True)
    replies = vllm.together([partial(answer, f"Number {n}:") for n in range(count)])
    assert len({reply.json["id"] for reply in replies}) == count


@check("concurrency.queue.all-answered", ref="L02")
def test_queue(vllm: Client, vllm_target: Target) -> None:
    """More requests than the server runs at a time MUST wait and be answered, not refused."""
    count = min(2 * _most_at_once(vllm_target), MOST_AT_ONCE)
    vllm.together([partial(vllm.complete, f"Item {n}:", max_tokens=1) for n in range(count)])


@check("concurrency.n.above-the-batch", ref="L03")
def test_n(vllm: Client, vllm_target: Target) -> None:
    """`n` above what the server runs at a time MUST give all choices."""
    count = _most_at_once(vllm_target) + 1
    body = vllm.complete("My favourite", n=count, max_tokens=1, temperature=1.0).json
    assert sorted(choice["index"] for choice in body["choices"]) == list(range(count))


@check("concurrency.kinds.side-by-side", ref="L02")
def test_kinds(vllm: Client) -> None:
    """Requests of different kinds in one batch MUST all be answered."""
    calls: list[Callable[[], object]] = [
        partial(vllm.complete, "Hello", max_tokens=4, temperature=0),
        partial(vllm.complete, "Hello", max_tokens=4, temperature=1.0, seed=1),
        partial(vllm.complete, "Hello", max_tokens=4, logprobs=2),
        partial(vllm.complete, ["Hello", "Bye"], max_tokens=2),
        partial(vllm.stream, "completions", "Hello", max_tokens=4),
    ]
    if "chat" in vllm.server.capabilities:
        calls += [
            partial(vllm.chat, "Hello", max_tokens=4),
            partial(vllm.stream, "chat", "Hello", max_tokens=4),
        ]
    vllm.together(calls)


@check("concurrency.refusals.leave-others-alone", ref="L02 E33")
def test_refusals(vllm: Client) -> None:
    """Bad requests MUST NOT disturb good ones that run at the same time."""
    solo = _greedy(vllm, PROMPTS[0])
    bad = partial(vllm.send, "POST", COMPLETIONS, body=_body(vllm, "Hello", temperature=-1))
    good = partial(_greedy, vllm, PROMPTS[0])
    calls: list[Callable[[], Reply]] = [good, bad, good, bad, good, bad]
    replies = vllm.together(calls)
    for reply in replies[::2]:
        vllm.assert_same(vllm.read(solo), vllm.read(reply), "alone and beside refused requests")
    assert {reply.status for reply in replies[1::2]} <= {400, 422}


@check("concurrency.request-id.twice", ref="L12", catches=("duplicate-id-kills",))
def test_same_id(vllm: Client) -> None:
    """Two requests with the same ID at the same time MUST NOT stop the server."""
    send = partial(
        vllm.send,
        "POST",
        COMPLETIONS,
        body=_body(vllm, "Hello", max_tokens=64),  # so many that the second finds the first
        headers={"x-request-id": f"twice-{vllm.seed}"},
    )
    replies = vllm.together([send, send])
    assert {reply.status for reply in replies} <= {200, 400, 409}
    vllm.complete("Hello", max_tokens=1)


@check(
    "concurrency.short.beside-long",
    ref="L07",
    catches=("requests-serialized",),
    alone=True,
)
def test_short_beside_long(vllm: Client, vllm_target: Target) -> None:
    """A short request MUST NOT wait for the end of a long one that came before it."""
    if vllm_target.serve_args.value("--max-num-seqs") == "1":
        not_applicable("the server was started to run one request at a time")
    long_body = _body(vllm, LONG, max_tokens=96, stream=True)
    for _ in range(3):  # a fast server may end the long one before the short one is sent
        # The short request starts when the first line of the long one has come.
        ends = _race(vllm, long_body)
        if ends["short"] < ends["long"]:
            return
    pytest.fail("a request of 1 token ended after one of 96 tokens, three times", pytrace=False)


@check(
    "concurrency.disconnect.ends-a-stream",
    needs=METRICS,
    ref="L04",
    catches=("abort-leaks",),
    alone=True,
)
def test_disconnect_stream(vllm: Client) -> None:
    """When the client of a stream hangs up, generation MUST end within five seconds."""
    vllm.metrics_at_rest()
    vllm.abandon(COMPLETIONS, _endless(vllm, stream=True), after_lines=2)
    _assert_freed(vllm)


@check(
    "concurrency.disconnect.ends-a-request",
    needs=METRICS,
    ref="L05",
    catches=("abort-leaks",),
    alone=True,
)
def test_disconnect_request(vllm: Client) -> None:
    """When a client without a stream hangs up, generation MUST end within five seconds."""
    vllm.metrics_at_rest()
    reply = vllm.abandon(COMPLETIONS, _endless(vllm), after_s=0.4)
    if reply.status:
        not_applicable("the reply was complete before the client could hang up")
    _assert_freed(vllm)


@check(
    "concurrency.disconnect.stops-the-tokens",
    needs=METRICS,
    ref="L04",
    catches=("disconnect-ignored",),
    alone=True,
)
def test_disconnect_tokens(vllm: Client) -> None:
    """After a client hung up, the server MUST NOT go on to write tokens for it."""
    before = vllm.metrics_at_rest().total(GENERATED)
    body = _endless(vllm, stream=True)
    vllm.abandon(COMPLETIONS, body, after_lines=2)
    vllm.metrics_when(_is_idle, within_s=30)
    first = vllm.metrics().total(GENERATED)
    assert first - before < body["max_tokens"] / 2, "it was generated to its end all the same"
    vllm.complete("Hello", max_tokens=1)
    vllm.metrics_when(lambda now: now.total(GENERATED) > first)
    assert vllm.metrics().total(GENERATED) - first <= 2


@check("concurrency.disconnect.same-answer-after", ref="L04", alone=True)
def test_same_after_disconnect(vllm: Client) -> None:
    """A prompt whose request was cut off MUST afterwards be answered as before."""
    before = _greedy(vllm, PROMPTS[1])
    for _ in range(3):
        vllm.abandon(
            COMPLETIONS,
            {**_endless(vllm, stream=True), "prompt": PROMPTS[1], "temperature": 0},
            after_lines=2,
        )
    vllm.assert_same(
        vllm.read(before), vllm.read(_greedy(vllm, PROMPTS[1])), "before and after three aborts"
    )


@check(
    "concurrency.aborts.free-their-places",
    ref="L06",
    catches=("slots-leak", "aborts-slow"),
    alone=True,
)
def test_many_aborts(vllm: Client, vllm_target: Target) -> None:
    """After fifty aborted requests, a full batch MUST be answered about as fast as before."""
    count = min(_most_at_once(vllm_target), 16)
    before = statistics.median(_batch_ms(vllm, count) for _ in range(3))
    hang_up = partial(vllm.abandon, COMPLETIONS, _endless(vllm, stream=True), after_lines=1)
    for _ in range(5):
        vllm.together([hang_up] * 10)
    if "metrics" in vllm.server.capabilities:
        vllm.metrics_at_rest()
    bound, after = 2 * before + 500, float("inf")
    for _ in looks(BUSY_S):
        after = min(after, _batch_ms(vllm, count))
        if after <= bound:
            return
    pytest.fail(f"{before:.0f} ms before and {after:.0f} ms after, at best", pytrace=False)


@check(
    "concurrency.sequence.every-one-answered",
    ref="L08",
    catches=("request-lost-503",),
    alone=True,
)
def test_sequence(vllm: Client) -> None:
    """Sixty requests one after the other MUST all be answered."""
    for number in range(60):
        vllm.complete(f"Request {number}:", max_tokens=1)


@check("concurrency.sequence.no-slowdown", level=SHOULD, ref="L08", alone=True)
def test_no_slowdown(vllm: Client) -> None:
    """Requests one after the other SHOULD NOT become slower and slower."""
    for _ in range(2):  # the host may be busy with something else for a while
        times = [vllm.complete("Hello", max_tokens=2).elapsed_ms for _ in range(30)]
        first, last = statistics.median(times[:10]), statistics.median(times[-10:])
        if last <= 1.5 * first + 20:
            return
    pytest.fail(f"{first:.0f} ms at first and {last:.0f} ms after 30 requests", pytrace=False)


@check("concurrency.kv-pressure.all-finish", needs=METRICS, ref="L09 L10", alone=True)
def test_kv_pressure(vllm: Client, vllm_target: Target) -> None:
    """Requests that together need more KV cache than there is MUST all finish, and be right."""
    size = vllm.metrics().info("vllm:cache_config_info").get("kv_cache_size_tokens", "")
    length = vllm.max_model_len or 0
    if not size.isdigit() or not 0 < int(size) <= FILLABLE_TOKENS:
        not_applicable(f"a KV cache of {size or 'unknown'} tokens is not filled in a short run")
    each = min(length, 2 * int(size) // _most_at_once(vllm_target))
    count = 2 * int(size) // each + 1
    if count > MOST_AT_ONCE or min(count, _most_at_once(vllm_target)) * each <= int(size):
        not_applicable(f"{count} requests of {each} tokens do not fill {size} tokens at a time")
    before = _greedy(vllm, PROMPTS[0])
    body = {"max_tokens": each // 2, **GREEDY}
    ids = vllm.tokenize(LONG)
    prompts = [[ids[0], *ids * (each // 2 // len(ids))][: each // 2 - 1 - n] for n in range(count)]
    vllm.together([partial(vllm.complete, prompt, **body) for prompt in prompts])
    vllm.assert_same(
        vllm.read(before), vllm.read(_greedy(vllm, PROMPTS[0])), "before and after the pressure"
    )


def _greedy(vllm: Client, prompt: str) -> Reply:
    return vllm.generate("completions", prompt, top=5, max_tokens=8, **GREEDY)


def _body(vllm: Client, prompt: str, **params: Any) -> dict[str, Any]:
    return {"model": vllm.model, "prompt": prompt, "max_tokens": 4, "ignore_eos": True, **params}


def _endless(vllm: Client, **params: Any) -> dict[str, Any]:
    """Return a request that nobody waits for: as long as the context allows, up to a bound."""
    length = min(1500, (vllm.max_model_len or 2048) - 64)
    return _body(vllm, LONG, max_tokens=max(length, 16), **params)


def _is_idle(metrics: Any) -> bool:
    return bool(metrics.total(RUNNING) == metrics.total(WAITING) == 0)


def _assert_freed(vllm: Client) -> None:
    metrics = vllm.metrics_when(lambda now: _is_idle(now) and now.total(*KV_USAGE) == 0)
    seen = {name: metrics.total(name) for name in (RUNNING, WAITING)}
    assert seen == {RUNNING: 0, WAITING: 0}
    assert metrics.total(*KV_USAGE) == 0


def _most_at_once(target: Target) -> int:
    """Return how many requests the server runs at a time, up to a bound."""
    given = target.serve_args.value("--max-num-seqs") or ""
    return min(int(given), MOST_AT_ONCE) if given.isdigit() and int(given) else 16


def _batch_ms(vllm: Client, count: int) -> float:
    short = partial(vllm.complete, "Hello", max_tokens=4, ignore_eos=True)
    return max(reply.elapsed_ms for reply in vllm.together([short] * count))


def _race(vllm: Client, long_body: dict[str, Any]) -> dict[str, float]:
    """Start a stream, then a short request; return in which order they end, as numbers."""
    order: list[str] = []

    def run_long() -> None:
        vllm.send("POST", COMPLETIONS, body=long_body)
        order.append("long")

    def run_short() -> None:
        if "metrics" in vllm.server.capabilities:
            vllm.metrics_when(lambda now: now.total(RUNNING) >= 1, within_s=2)
        vllm.complete("Hello", max_tokens=1)
        order.append("short")

    vllm.together([run_long, run_short])
    return {name: float(order.index(name)) for name in order}
