"""Streams of both endpoints: framing, order, accounting, and the same text as without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import ENDPOINTS, SHOULD, Client, check, suite

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

pytestmark = suite("stream", concurrent=True)

PROMPT = "Count: 1, 2, 3, 4, 5, 6, 7, 8,"
GLYPHS = "Repeat: 🎉 日本語 🎊 日本語 🎉 日本語 🎊 日本語 🎉 日本語 🎊"
# No end before the bound, so that lengths are known.
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
OBJECTS = {"completions": "text_completion", "chat": "chat.completion.chunk"}
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@ENDPOINTS
@check("stream.framing.lines", ref="S01")
def test_lines(vllm: Client, endpoint: str) -> None:
    """Every line of a stream MUST be blank, a comment or begin with `data:`."""
    lines = [line for line, _ in vllm.stream(endpoint, PROMPT, **GREEDY).lines]
    assert [line for line in lines if line and not line.startswith(("data:", ":"))] == []


@ENDPOINTS
@check("stream.framing.done", ref="S01")
def test_done(vllm: Client, endpoint: str) -> None:
    """A stream MUST end with one `data: [DONE]` and nothing after it."""
    said = [line for line, _ in vllm.stream(endpoint, PROMPT, **GREEDY).lines if line]
    assert said[-1] == "data: [DONE]"
    assert said.count("data: [DONE]") == 1


@ENDPOINTS
@pytest.mark.parametrize("prompt", [PROMPT, GLYPHS], ids=["ascii", "glyphs"])
@check("stream.text.as-without", ref="S02")
def test_text(vllm: Client, endpoint: str, prompt: str) -> None:
    """A greedy stream MUST add up to the reply without a stream: text and finish reason."""
    whole = vllm.read(vllm.generate(endpoint, prompt, top=5, **GREEDY))
    stream = vllm.stream(endpoint, prompt, top=5, **GREEDY)
    vllm.assert_same(whole, stream.generation(), "the reply without and with a stream")


@check("stream.text.stops-as-without", ref="S02")
def test_stop(vllm: Client) -> None:
    """A stream with stop texts MUST end where the reply without a stream does."""
    stops = ["\n", "12", "e"]
    params: dict[str, Any] = {"top": 5, "max_tokens": 24, "stop": stops, **GREEDY}
    whole = vllm.read(vllm.generate("completions", PROMPT, **params))
    stream = vllm.stream("completions", PROMPT, **params).generation()
    assert [stop for stop in stops if stop in stream.text] == []
    vllm.assert_same(whole, stream, "the reply without and with a stream")


@ENDPOINTS
@check("stream.chunks.identity", ref="S03")
def test_identity(vllm: Client, endpoint: str) -> None:
    """`id`, `created`, `model` and `object` MUST be the same in all chunks of a stream."""
    chunks = vllm.stream(endpoint, PROMPT, **GREEDY).chunks
    fields = ("id", "created", "model", "object")
    assert len({tuple(chunk[name] for name in fields) for chunk in chunks}) == 1
    assert chunks[0]["object"] == OBJECTS[endpoint]


@ENDPOINTS
@check("stream.finish-reason.once-at-the-end", ref="S04")
def test_finish_reason(vllm: Client, endpoint: str) -> None:
    """Each choice MUST give one finish reason, in its last chunk, and null before."""
    stream = vllm.stream(endpoint, PROMPT, n=2, temperature=1.0, seed=1)
    for index in (0, 1):
        reasons = [choice["finish_reason"] for choice in stream.choices(index)]
        assert reasons, f"required chunks of choice {index}, saw none"
        assert reasons[:-1] == [None] * (len(reasons) - 1)
        assert reasons[-1] is not None


@ENDPOINTS
@check("stream.finish-reason.length", ref="S04")
def test_length(vllm: Client, endpoint: str) -> None:
    """A stream that is cut at `max_tokens` MUST say `length`."""
    assert vllm.stream(endpoint, PROMPT, **GREEDY).finish_reasons() == ["length"]


@check("stream.role.first", needs=("chat",), ref="S05")
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
@check("stream.usage.last-chunk", ref="S06")
def test_usage(vllm: Client, endpoint: str) -> None:
    """With `include_usage`, one last chunk without choices MUST tell the usage, no other may."""
    stream = vllm.stream(endpoint, PROMPT, stream_options={"include_usage": True}, **GREEDY)
    empty = [chunk for chunk in stream.chunks if not chunk["choices"]]
    assert len(empty) == 1
    assert stream.chunks[-1] is empty[0]
    assert empty[0].get("usage")
    assert [chunk["usage"] for chunk in stream.chunks[:-1] if chunk.get("usage")] == []


@ENDPOINTS
@check("stream.usage.as-without", ref="S06")
def test_usage_equals(vllm: Client, endpoint: str) -> None:
    """The usage of a stream MUST be that of the same reply without a stream."""
    whole = vllm.generate(endpoint, PROMPT, **GREEDY).json["usage"]
    options = {"include_usage": True}
    usage = vllm.stream(endpoint, PROMPT, stream_options=options, **GREEDY).usage
    assert usage is not None
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [usage[name] for name in names] == [whole[name] for name in names]


@ENDPOINTS
@check("stream.logprobs.one-each", ref="S09")
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
@check("stream.logprobs.spell-the-text", ref="S09")
def test_logprobs_text(vllm: Client, endpoint: str) -> None:
    """The tokens of a stream's log probabilities MUST spell its text, as without a stream."""
    whole = vllm.read(vllm.generate(endpoint, PROMPT, top=1, **GREEDY))
    streamed = vllm.stream(endpoint, PROMPT, top=1, **GREEDY).generation()
    # Some tokenizers drop blanks when they show one token alone: then nothing can be compared.
    if "".join(token.text for token in whole.tokens) == whole.text:
        assert "".join(token.text for token in streamed.tokens) == streamed.text


@check("stream.logprobs.text-offsets", ref="S09")
def test_text_offsets(vllm: Client) -> None:
    """`text_offset` MUST go on from chunk to chunk."""
    parts = vllm.stream("completions", PROMPT, top=1, **GREEDY).choices()
    logprobs = [part["logprobs"] for part in parts if part["logprobs"]]
    offsets = [offset for entry in logprobs for offset in entry["text_offset"]]
    assert offsets
    assert offsets == sorted(offsets)
    assert offsets[-1] > offsets[0]


@ENDPOINTS
@check("stream.text.whole-characters", ref="S11")
def test_whole_characters(vllm: Client, endpoint: str) -> None:
    """A character of several bytes MUST NOT be torn apart between chunks."""
    whole = vllm.read(vllm.generate(endpoint, GLYPHS, max_tokens=32, **GREEDY)).text
    text = vllm.stream(endpoint, GLYPHS, max_tokens=32, **GREEDY).text()
    # The bound may cut a character at the very end; a model may also write broken text itself.
    if "\ufffd" not in whole.rstrip("\ufffd"):
        assert "\ufffd" not in text.rstrip("\ufffd")


@ENDPOINTS
@check("stream.delivery.incremental", ref="S13")
def test_incremental(vllm: Client, vllm_target: Target, endpoint: str) -> None:
    """Tokens MUST come while they are made, not in one burst at the end."""
    interval = vllm_target.serve_args.value("--stream-interval") or "1"
    tokens, seen = 48, []
    for _ in range(3):  # a busy host may delay one stream, but not each of three
        stream = vllm.stream(endpoint, PROMPT, max_tokens=tokens, **GREEDY)
        times = [at_ms for line, at_ms in stream.lines if line.startswith("data:")]
        spread = (times[-1] - times[0]) / stream.reply.elapsed_ms
        enough = len(times) >= tokens / 4 / int(interval)
        if enough and spread > 0.25:
            return
        seen.append(f"{len(times)} events over {spread:.0%} of the time")
    pytest.fail(f"{tokens} tokens came as {'; '.join(seen)}", pytrace=False)


@ENDPOINTS
@check("stream.errors.none-inside", ref="S16")
def test_no_error_inside(vllm: Client, endpoint: str) -> None:
    """A stream under status 200 MUST NOT carry an error."""
    stream = vllm.stream(endpoint, PROMPT, max_tokens=48, top=5, **GREEDY)
    assert [chunk for chunk in stream.chunks if "error" in chunk] == []


@ENDPOINTS
@check("stream.errors.before-the-stream", ref="S17")
def test_refused_before(vllm: Client, endpoint: str) -> None:
    """A bad request MUST be refused with a 4xx error in JSON although a stream was asked for."""
    what = {"prompt": PROMPT} if endpoint == "completions" else {"messages": [_turn()]}
    vllm.refuse(
        PATHS[endpoint], body={**what, "temperature": -1, "stream": True}, statuses=(400, 422)
    )


def _turn() -> dict[str, str]:
    return {"role": "user", "content": PROMPT}
