"""Streams of both endpoints: framing, order, accounting, pace, and the same text as without."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import ENDPOINTS, INFO, SHOULD, Client, Layer, check, not_applicable, suite
from pytest_vllm.domain.sampling import NEUTRAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.target import Target

pytestmark = suite("stream", concurrent=True)

PROMPT = "Count: 1, 2, 3, 4, 5, 6, 7, 8,"
GLYPHS = "Repeat: 🎉 日本語 🎊 日本語 🎉 日本語 🎊 日本語 🎉 日本語 🎊"
# No end before the bound, so that lengths are known.
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
OBJECTS = {"completions": "text_completion", "chat": "chat.completion.chunk"}
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
# Written because a constraint leaves nothing else: the same with any model, in any batch.
FORCED = '{"Zürich": "🎉 日本"}'

LOST = ("chunk-dropped", "chunk-duplicated", "chunks-swapped", "cumulative-deltas", "stream-cut")


@ENDPOINTS
@check("stream.framing.lines", ref="S01", catches=("chunk-not-json", "stream-type-json"))
def test_lines(vllm: Client, endpoint: str) -> None:
    """Every line of a stream MUST be blank, a comment or begin with `data:`."""
    lines = [line for line, _ in vllm.stream(endpoint, PROMPT, **GREEDY).lines]
    assert [line for line in lines if line and not line.startswith(("data:", ":"))] == []


@ENDPOINTS
@check(
    "stream.framing.done",
    ref="S01",
    catches=("done-missing", "done-doubled", "event-after-done"),
)
def test_done(vllm: Client, endpoint: str) -> None:
    """A stream MUST end with one `data: [DONE]` and nothing after it."""
    said = [line for line, _ in vllm.stream(endpoint, PROMPT, **GREEDY).lines if line]
    assert said[-1] == "data: [DONE]"
    assert said.count("data: [DONE]") == 1


@ENDPOINTS
@pytest.mark.parametrize("prompt", [PROMPT, GLYPHS], ids=["ascii", "glyphs"])
@check("stream.text.as-without", ref="S02", catches=(*LOST, "last-character-cut"))
def test_text(vllm: Client, endpoint: str, prompt: str) -> None:
    """A greedy stream MUST add up to the reply without a stream: text and finish reason."""
    whole = vllm.read(vllm.generate(endpoint, prompt, top=5, **GREEDY))
    stream = vllm.stream(endpoint, prompt, top=5, **GREEDY)
    vllm.assert_same(whole, stream.generation(), "the reply without and with a stream")


@check(
    "stream.text.stops-as-without",
    ref="S02 S12",
    catches=("stop-kept", "stop-list-first-only", "stop-prefix-leaked"),
)
def test_stop(vllm: Client) -> None:
    """A stream with stop texts MUST end where the reply without a stream does."""
    stops = ["\n", "12", "e"]
    params: dict[str, Any] = {"top": 5, "max_tokens": 24, "stop": stops, **GREEDY}
    whole = vllm.read(vllm.generate("completions", PROMPT, **params))
    stream = vllm.stream("completions", PROMPT, **params).generation()
    assert [stop for stop in stops if stop in stream.text] == []
    vllm.assert_same(whole, stream, "the reply without and with a stream")


@check(
    "stream.text.stop-across-chunks",
    ref="S12",
    catches=("stop-kept", "stop-prefix-leaked"),
)
def test_stop_across(vllm: Client) -> None:
    """A stop text of several tokens MUST end the stream before it, and none of it may leak."""
    whole = vllm.read(vllm.generate("completions", PROMPT, top=5, **GREEDY))
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 6]
    if not stop or "\ufffd" in whole.text:
        not_applicable(f"this model writes {whole.text!r}, in which no stop can be chosen")
    cut = vllm.stream("completions", PROMPT, top=5, stop=stop, **GREEDY).generation()
    pairs = zip(whole.tokens, cut.tokens, strict=False)
    if any(left.text != right.text for left, right in pairs):
        vllm.assert_same(whole, cut, "the same prompt with a stop text")  # only a near tie passes
        return
    assert cut.text == whole.text.partition(stop)[0]
    assert cut.finish_reason == "stop"


@check("stream.text.held-back-is-flushed", ref="S12", catches=("stop-tail-lost",))
def test_held_back(vllm: Client) -> None:
    """Text that was held back because a stop begins like it MUST come when the stop does not."""
    whole = vllm.read(vllm.generate("completions", PROMPT, top=5, **GREEDY))
    stops = [f"{whole.text[-3:]}\u2603", "\u2603 never written"]
    stream = vllm.stream("completions", PROMPT, top=5, stop=stops, **GREEDY).generation()
    vllm.assert_same(whole, stream, "the reply without and with a stop that does not come")


@check("stream.text.seeded-as-without", ref="S02", catches=("seed-ignored",))
def test_seed(vllm: Client) -> None:
    """A seeded stream MUST draw what the same request draws without a stream."""
    # As `sampling.seed.repeats`: rounding in another batch turns up to 12 of 100 draws of three
    # tokens, and another seed all but 1 of 100.
    params = {**NEUTRAL, "n": 16, "max_tokens": 3, "temperature": 1.5, "seed": 7}
    whole = vllm.complete("My favourite", **params).json["choices"]
    stream = vllm.stream("completions", "My favourite", **params)
    same = sum(choice["text"] == stream.text(choice["index"]) for choice in whole)
    assert same >= 5, f"required at least 5 of 16 equal choices, saw {same}"


@check(
    "stream.text.forced",
    needs=("structured-outputs",),
    ref="S02 S11",
    catches=(*LOST, "characters-torn", "stream-constraint-ignored"),
)
def test_forced(vllm: Client) -> None:
    """A stream of a text that a constraint forces MUST be that text, character by character."""
    params: dict[str, Any] = {"max_tokens": 64, "structured_outputs": {"choice": [FORCED]}}
    if vllm.complete("City:", **params).json["choices"][0]["text"] != FORCED:
        not_applicable("completions are not constrained here, which suite structured judges")
    stream = vllm.stream("completions", "City:", **params)
    assert stream.text() == FORCED
    assert stream.finish_reasons() == ["stop"]


@ENDPOINTS
@check("stream.prompt.long", ref="S15", catches=("stream-long-prompt-dies", "prompt-truncated"))
def test_long_prompt(vllm: Client, endpoint: str) -> None:
    """A prompt of more than 512 tokens MUST be read in full and streamed like a short one."""
    if vllm.max_model_len is not None and vllm.max_model_len < 1024:
        not_applicable(f"the context has {vllm.max_model_len} tokens")
    prompt = "one two three four five six " * 100
    options = {"include_usage": True}
    stream = vllm.stream(endpoint, prompt, top=0, max_tokens=4, stream_options=options, **GREEDY)
    assert stream.usage is not None
    assert stream.usage["prompt_tokens"] > 512
    assert stream.generation().tokens
    assert stream.finish_reasons() == ["length"]


@check("stream.echo.begins", ref="S19", catches=("stream-echo-dropped", "echo-dropped"))
def test_echo(vllm: Client) -> None:
    """With `echo`, a stream MUST begin with the prompt."""
    stream = vllm.stream("completions", PROMPT, echo=True, max_tokens=2, **GREEDY)
    assert stream.text()[: len(PROMPT)] == PROMPT


@check("stream.echo.prompt-alone", level=SHOULD, ref="S19")
def test_echo_alone(vllm: Client) -> None:
    """With `echo` and `max_tokens=0`, a stream SHOULD be the prompt and nothing else."""
    assert vllm.stream("completions", PROMPT, echo=True, max_tokens=0).text() == PROMPT


@check("stream.choices.prompts-apart", ref="S10", catches=("stream-index-zero",))
def test_prompts(vllm: Client) -> None:
    """A stream for two prompts MUST tell by `index` which of them each chunk continues."""
    prompts = [PROMPT, "The capital of France is"]
    whole = vllm.generate("completions", prompts, top=5, max_tokens=6, **GREEDY)
    stream = vllm.stream("completions", prompts, top=5, max_tokens=6, **GREEDY)
    assert {choice["index"] for chunk in stream.chunks for choice in chunk["choices"]} == {0, 1}
    for index in (0, 1):
        what = f"prompt {index} without and with a stream"
        vllm.assert_same(vllm.read(whole, index), stream.generation(index), what)


@check("stream.token-ids.one-each", ref="S02", catches=("chunk-dropped", "chunk-duplicated"))
def test_token_ids(vllm: Client) -> None:
    """With `return_token_ids`, the chunks MUST have one ID for each token of the usage."""
    options = {"include_usage": True}
    stream = vllm.stream(
        "completions", PROMPT, return_token_ids=True, stream_options=options, **GREEDY
    )
    ids = [token for part in stream.choices() for token in part.get("token_ids") or ()]
    if not ids:
        not_applicable(f"vLLM {vllm.server.version} returns no token IDs")
    assert stream.usage is not None
    assert len(ids) == stream.usage["completion_tokens"]


@check("stream.interval.same-text", ref="S20", catches=("chunk-dropped",))
def test_interval(vllm: Client) -> None:
    """A stream that is asked for fewer events MUST have the same text, whether it obeys or not."""
    whole = vllm.read(vllm.generate("completions", PROMPT, top=5, **GREEDY))
    stream = vllm.stream("completions", PROMPT, top=5, stream_interval=2, **GREEDY)
    vllm.observe("stream.events of 16 tokens with stream_interval=2", len(stream.chunks))
    vllm.assert_same(whole, stream.generation(), "the reply without and with a stream")


@check("stream.sdk.reads-it", needs=("chat",), ref="S18", catches=("role-chunk-missing",))
def test_sdk(vllm: Client) -> None:
    """The stream helper of the openai SDK MUST make the reply of a stream's chunks."""
    stream = vllm.stream("chat", PROMPT, stream_options={"include_usage": True}, **GREEDY)
    reply = stream.as_sdk()
    choice = reply["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert (choice["message"]["content"] or "") == stream.text()
    assert choice["finish_reason"] == "length"
    assert reply["usage"]["total_tokens"] == (stream.usage or {})["total_tokens"]


@ENDPOINTS
@check(
    "stream.chunks.identity", ref="S03", catches=("id-changes", "created-changes", "object-wrong")
)
def test_identity(vllm: Client, endpoint: str) -> None:
    """`id`, `created`, `model` and `object` MUST be the same in all chunks of a stream."""
    chunks = vllm.stream(endpoint, PROMPT, **GREEDY).chunks
    fields = ("id", "created", "model", "object")
    assert len({tuple(chunk[name] for name in fields) for chunk in chunks}) == 1
    assert chunks[0]["object"] == OBJECTS[endpoint]


@ENDPOINTS
@check(
    "stream.finish-reason.once-at-the-end",
    ref="S04 S10",
    catches=(
        "finish-reason-key-missing",
        "finish-reason-absent",
        "finish-reason-twice",
        "stream-index-zero",
        "stream-cut",
    ),
)
def test_finish_reason(vllm: Client, endpoint: str) -> None:
    """Each choice MUST give one finish reason, in its last chunk, and null before."""
    stream = vllm.stream(endpoint, PROMPT, n=2, temperature=1.0, seed=1)
    for index in (0, 1):
        reasons = [choice["finish_reason"] for choice in stream.choices(index)]
        assert reasons, f"required chunks of choice {index}, saw none"
        assert reasons[:-1] == [None] * (len(reasons) - 1)
        assert reasons[-1] is not None


@ENDPOINTS
@check("stream.finish-reason.length", ref="S04", catches=("finish-reason-absent", "stream-cut"))
def test_length(vllm: Client, endpoint: str) -> None:
    """A stream that is cut at `max_tokens` MUST say `length`."""
    assert vllm.stream(endpoint, PROMPT, **GREEDY).finish_reasons() == ["length"]


@check("stream.role.first", needs=("chat",), ref="S05", catches=("role-chunk-missing",))
def test_role(vllm: Client) -> None:
    """The first chunk of a chat stream MUST name the role `assistant`."""
    first = vllm.stream("chat", PROMPT, **GREEDY).choices()[0]["delta"]
    assert first.get("role") == "assistant"


@check("stream.role.once", level=SHOULD, needs=("chat",), ref="S05")
def test_role_once(vllm: Client) -> None:
    """Later chunks of a chat stream SHOULD NOT name the role again."""
    later = vllm.stream("chat", PROMPT, **GREEDY).choices()[1:]
    assert [part["delta"]["role"] for part in later if part["delta"].get("role")] == []


@ENDPOINTS
@check("stream.usage.last-chunk", ref="S06", catches=("usage-chunk-missing", "usage-chunk-first"))
def test_usage(vllm: Client, endpoint: str) -> None:
    """With `include_usage`, one last chunk without choices MUST tell the usage, no other may."""
    stream = vllm.stream(endpoint, PROMPT, stream_options={"include_usage": True}, **GREEDY)
    empty = [chunk for chunk in stream.chunks if not chunk["choices"]]
    assert len(empty) == 1
    assert stream.chunks[-1] is empty[0]
    assert empty[0].get("usage")
    assert [chunk["usage"] for chunk in stream.chunks[:-1] if chunk.get("usage")] == []


@ENDPOINTS
@check("stream.usage.as-without", ref="S06", catches=("stream-usage-wrong", "usage-chunk-missing"))
def test_usage_equals(vllm: Client, endpoint: str) -> None:
    """The usage of a stream MUST be that of the same reply without a stream."""
    whole = vllm.generate(endpoint, PROMPT, **GREEDY).json["usage"]
    options = {"include_usage": True}
    usage = vllm.stream(endpoint, PROMPT, stream_options=options, **GREEDY).usage
    assert usage is not None
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [usage[name] for name in names] == [whole[name] for name in names]


@ENDPOINTS
@check("stream.usage.not-unasked", ref="S07", catches=("usage-unasked",))
def test_usage_unasked(vllm: Client, vllm_target: Target, endpoint: str) -> None:
    """A stream that was not asked for its usage MUST NOT tell it."""
    if vllm_target.serve_args.has("--enable-force-include-usage"):
        not_applicable("the server was started with --enable-force-include-usage")
    for options in ({}, {"stream_options": None}):
        stream = vllm.stream(endpoint, PROMPT, max_tokens=2, **options, **GREEDY)
        assert stream.usage is None
        assert [chunk for chunk in stream.chunks if not chunk["choices"]] == []


@check("stream.usage.empty-options", level=SHOULD, layer=Layer.STRICT, ref="S07")
def test_usage_empty_options(vllm: Client) -> None:
    """`stream_options` without `include_usage` SHOULD NOT make a stream tell its usage."""
    for options in ({}, {"continuous_usage_stats": True}):
        stream = vllm.stream("completions", PROMPT, max_tokens=2, stream_options=options, **GREEDY)
        assert stream.usage is None


@check("stream.usage.null-before", level=INFO, ref="S06")
def test_usage_null(vllm: Client) -> None:
    """Whether other chunks say `"usage": null`, as OpenAI does, is recorded; 0.32 leaves it out."""
    options = {"include_usage": True}
    stream = vllm.stream("completions", PROMPT, max_tokens=2, stream_options=options, **GREEDY)
    vllm.observe("stream.chunks before the last have usage", "usage" in stream.chunks[0])


@ENDPOINTS
@check("stream.usage.continuous", ref="S08", catches=("continuous-usage-constant",))
def test_usage_continuous(vllm: Client, endpoint: str) -> None:
    """With `continuous_usage_stats`, each chunk MUST tell a usage that grows to the final one."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = vllm.stream(endpoint, PROMPT, stream_options=options, **GREEDY)
    told = [chunk.get("usage") for chunk in stream.chunks]
    assert None not in told
    counts = [usage["completion_tokens"] for usage in told if usage]
    assert counts == sorted(counts)
    assert len(counts) < 4 or len(set(counts)) > 2


@ENDPOINTS
@check("stream.logprobs.one-each", ref="S09", catches=("stream-logprobs-lost", "chunk-dropped"))
def test_logprobs(vllm: Client, endpoint: str) -> None:
    """The log probabilities of a stream MUST have one entry for each token of the usage."""
    options = {"include_usage": True}
    stream = vllm.stream(endpoint, PROMPT, top=1, stream_options=options, **GREEDY)
    assert stream.usage is not None
    tokens, generation = stream.usage["completion_tokens"], stream.generation()
    if generation.reasoning:
        assert 0 < len(generation.tokens) <= tokens  # marks around reasoning may be left out
    else:
        assert len(generation.tokens) == tokens


@ENDPOINTS
@check("stream.logprobs.spell-the-text", ref="S09", catches=("cumulative-deltas",))
def test_logprobs_text(vllm: Client, endpoint: str) -> None:
    """The tokens of a stream's log probabilities MUST spell its text, as without a stream."""
    whole = vllm.read(vllm.generate(endpoint, PROMPT, top=1, **GREEDY))
    streamed = vllm.stream(endpoint, PROMPT, top=1, **GREEDY).generation()
    # Some tokenizers drop blanks when they show one token alone: then nothing can be compared.
    if "".join(token.text for token in whole.tokens) == whole.text:
        assert "".join(token.text for token in streamed.tokens) == streamed.text


@check("stream.logprobs.text-offsets", ref="S09", catches=("text-offsets-zero",))
def test_text_offsets(vllm: Client) -> None:
    """`text_offset` MUST go on from chunk to chunk."""
    parts = vllm.stream("completions", PROMPT, top=1, **GREEDY).choices()
    logprobs = [part["logprobs"] for part in parts if part["logprobs"]]
    offsets = [offset for entry in logprobs for offset in entry["text_offset"]]
    assert offsets
    assert offsets == sorted(offsets)
    assert offsets[-1] > offsets[0]


@ENDPOINTS
@check("stream.text.whole-characters", ref="S11", catches=("characters-torn",))
def test_whole_characters(vllm: Client, endpoint: str) -> None:
    """A character of several bytes MUST NOT be torn apart between chunks."""
    whole = vllm.read(vllm.generate(endpoint, GLYPHS, max_tokens=32, **GREEDY)).text
    text = vllm.stream(endpoint, GLYPHS, max_tokens=32, **GREEDY).text()
    # The bound may cut a character at the very end; a model may also write broken text itself.
    if "\ufffd" not in whole.rstrip("\ufffd"):
        assert "\ufffd" not in text.rstrip("\ufffd")


@ENDPOINTS
@check("stream.delivery.incremental", ref="S13", catches=("one-burst",), alone=True)
def test_incremental(vllm: Client, vllm_target: Target, endpoint: str) -> None:
    """Tokens MUST come while they are made, not in one burst at the end."""
    interval, tokens, seen = _interval(vllm_target), 32, []
    for _ in range(3):  # a busy host may delay one stream, but not each of three
        stream = vllm.stream(endpoint, PROMPT, max_tokens=tokens, **GREEDY)
        times = [at_ms for line, at_ms in stream.lines if line.startswith("data:")]
        spread = (times[-1] - times[0]) / stream.reply.elapsed_ms
        if len(times) >= tokens / 4 / interval and spread > 0.25:
            return
        seen.append(f"{len(times)} events over {spread:.0%} of the time")
    pytest.fail(f"{tokens} tokens came as {'; '.join(seen)}", pytrace=False)


@check("stream.delivery.no-stall", ref="S14", catches=("stream-stall",), alone=True)
def test_stall(vllm: Client) -> None:
    """No event of a stream MUST be as long in coming as five seconds and ten usual ones."""
    for _ in range(2):
        gaps = _gaps_ms(_times_ms(vllm))
        longest, usual = max(gaps), statistics.median(gaps)
        if longest < max(10 * usual, 5000):
            return
    pytest.fail(f"one event took {longest:.0f} ms, usual are {usual:.0f} ms", pytrace=False)


@check("stream.delivery.keeps-its-pace", ref="S14", catches=("decode-slows",), alone=True)
def test_pace(vllm: Client, vllm_target: Target) -> None:
    """The last tokens of a short stream MUST come about as quickly as the first."""
    if _interval(vllm_target) > 1:
        not_applicable("the server was started with --stream-interval")
    for _ in range(3):
        times = _times_ms(vllm)
        gaps = _gaps_ms(times)
        # A busy host may hold the first events up: then they come late, and all at once.
        first = max(statistics.median(gaps[1:12]), times[11] / 12) if len(gaps) > 12 else 0.0
        last = statistics.median(gaps[-8:])
        # Speculative decoding gives few events, each of several tokens.
        if len(gaps) < 24 or last < 3 * first + 20:
            return
    pytest.fail(f"an event took {first:.1f} ms at first, {last:.1f} ms at last", pytrace=False)


@ENDPOINTS
@check("stream.errors.none-inside", ref="S16", catches=("error-inside",))
def test_no_error_inside(vllm: Client, endpoint: str) -> None:
    """A stream under status 200 MUST NOT carry an error."""
    stream = vllm.stream(endpoint, PROMPT, top=5, **GREEDY)
    assert [chunk for chunk in stream.chunks if "error" in chunk] == []


@ENDPOINTS
@check(
    "stream.errors.before-the-stream",
    ref="S17",
    catches=("stream-refusal-inside", "refusal-500", "refusal-200", "refusal-html"),
)
def test_refused_before(vllm: Client, endpoint: str) -> None:
    """A bad request MUST be refused with a 4xx error in JSON although a stream was asked for."""
    turn = {"role": "user", "content": PROMPT}
    what = {"prompt": PROMPT} if endpoint == "completions" else {"messages": [turn]}
    bodies = {
        "temperature": {**what, "temperature": -1, "stream": True},
        "model": {**what, "model": "no-such-model", "stream": True},
    }
    vllm.refuse_each(PATHS[endpoint], bodies, statuses=(400, 404, 422))


def _interval(target: Target) -> int:
    """Return how many tokens the server puts into one event."""
    return int(target.serve_args.value("--stream-interval") or "1")


def _times_ms(vllm: Client) -> list[float]:
    """Return when the events of a stream of 40 tokens came, after it was asked for."""
    stream = vllm.stream("completions", PROMPT, max_tokens=40, **GREEDY)
    return [at_ms for line, at_ms in stream.lines if line.startswith("data:")]


def _gaps_ms(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]
