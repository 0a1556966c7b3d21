"""Completions: identity, lengths, accounting, batches, echo, stop texts and the context."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm import ENDPOINTS, INFO, SHOULD, Client, Layer, check, not_applicable, suite
from pytest_vllm.domain.sampling import NEUTRAL

pytestmark = suite("completions", concurrent=True)

PROMPT = "The capital of France is"
COUNTRY = "France is a country in Europe. Its capital is"
COUNTING = "1, 2, 3, 4, 5, 6, 7, 8,"
GREEDY: dict[str, Any] = {**NEUTRAL, "temperature": 0}
SCRIPTS = ["東京は日本の首都です。", "مرحبا بالعالم", "Zażółć gęślą jaźń", "👩‍👩‍👧‍👦🎉 party"]
LONGEST = 16_384
"""Tokens of a context that a check fills; longer ones are left to the suite `content`."""


@ENDPOINTS
@check(
    "completions.reply.is-identified",
    ref="C01",
    catches=("created-zero", "created-an-hour-ago", "date-wrong", "id-empty", "id-repeated"),
)
def test_identity(vllm: Client, endpoint: str) -> None:
    """A reply MUST have an ID of its own and the time at which it was made."""
    first, second = (vllm.generate(endpoint, PROMPT, max_tokens=1) for _ in range(2))
    assert first.json["id"] != second.json["id"]


@ENDPOINTS
@check("completions.reply.is-plain-json", ref="C01", catches=("content-type-plain", "gzip-unasked"))
def test_plain_json(vllm: Client, endpoint: str) -> None:
    """A reply MUST be declared to be JSON, and not be compressed for who did not ask for it."""
    headers = vllm.generate(endpoint, PROMPT, max_tokens=1).headers
    assert headers.get("content-encoding", "identity") == "identity"


@ENDPOINTS
@check("completions.reply.names-the-model", ref="C01", catches=("model-rewritten",))
def test_model(vllm: Client, endpoint: str) -> None:
    """A reply MUST name the model that was asked for."""
    assert vllm.generate(endpoint, PROMPT, max_tokens=1).json["model"] == vllm.model


@ENDPOINTS
@check(
    "completions.finish-reason.is-known",
    ref="C01",
    catches=("finish-reason-unknown", "finish-reason-null", "finish-reason-missing"),
)
def test_known_reason(vllm: Client, endpoint: str) -> None:
    """A whole reply MUST give one of the finish reasons that clients know."""
    choice = vllm.generate(endpoint, PROMPT, max_tokens=4).json["choices"][0]
    assert choice["finish_reason"] in ("stop", "length")


@check("completions.usage.adds-up", ref="C01", catches=("total-tokens-plus-one", "usage-missing"))
def test_usage(vllm: Client) -> None:
    """`total_tokens` MUST equal `prompt_tokens` plus `completion_tokens`."""
    usage = vllm.complete(PROMPT, max_tokens=4).json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@check("completions.usage.cached-tokens", ref="C01 X06", catches=("cached-tokens-wrong",))
def test_cached_tokens(vllm: Client) -> None:
    """No more tokens of the prompt MUST be told to be cached than there are."""
    usage = vllm.complete(PROMPT, max_tokens=1).json["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    assert 0 <= cached <= usage["prompt_tokens"]


@check(
    "completions.length.exact",
    ref="C01",
    catches=(
        "max-tokens-plus-one",
        "completion-tokens-minus-one",
        "finish-reason-swapped",
        "finish-reason-null",
        "finish-reason-missing",
        "usage-missing",
    ),
)
def test_length(vllm: Client) -> None:
    """A completion that is cut at `max_tokens` MUST have that many tokens and say `length`."""
    body = vllm.complete(PROMPT, max_tokens=8, **GREEDY).json
    assert body["usage"]["completion_tokens"] == 8
    assert body["choices"][0]["finish_reason"] == "length"


@check("completions.text.not-empty", ref="C01", catches=("text-empty",))
def test_text(vllm: Client) -> None:
    """A completion of eight tokens MUST have a text."""
    assert vllm.complete(PROMPT, max_tokens=8, **GREEDY).json["choices"][0]["text"]


@check(
    "completions.greedy.repeats",
    ref="C02",
    catches=(
        "repeat-differs",
        "temperature-forced",
    ),
)
def test_greedy(vllm: Client) -> None:
    """The same greedy request MUST give the same text again, also from a warm prefix cache."""
    first, *others = (
        vllm.read(vllm.generate("completions", PROMPT, top=5, **GREEDY)) for _ in range(3)
    )
    for other in others:
        vllm.assert_same(first, other, "a repetition of an equal request")


@check("completions.max-tokens.default", level=SHOULD, layer=Layer.STRICT, ref="C03")
def test_default_length(vllm: Client) -> None:
    """Without `max_tokens`, a completion SHOULD have at most the 16 tokens of the OpenAI API."""
    reply = vllm.complete(PROMPT, max_tokens=None, temperature=0)
    assert reply.json["usage"]["completion_tokens"] <= 16


@check("completions.prompt.token-ids", ref="C05", catches=("token-ids-prompt-cut",))
def test_token_ids(vllm: Client) -> None:
    """A prompt of token IDs MUST be completed like the text that it stands for."""
    text = vllm.generate("completions", PROMPT, top=5, **GREEDY)
    tokens = vllm.tokenize(PROMPT)
    ids = vllm.generate("completions", tokens, top=5, **GREEDY)
    assert ids.json["usage"]["prompt_tokens"] == len(tokens)
    vllm.assert_same(vllm.read(text), vllm.read(ids), "a prompt as text and as token IDs")


@check("completions.usage.prompt-tokens", ref="C05", catches=("prompt-tokens-plus-one",))
def test_prompt_tokens(vllm: Client) -> None:
    """`prompt_tokens` MUST be the number of tokens that `/tokenize` makes of the prompt."""
    usage = vllm.complete(PROMPT, max_tokens=1).json["usage"]
    assert usage["prompt_tokens"] == len(vllm.tokenize(PROMPT))


@pytest.mark.parametrize("form", ["texts", "token-ids"])
@check(
    "completions.batch.in-order",
    ref="C06",
    catches=(
        "choices-swapped",
        "index-constant",
        "batch-first-only",
    ),
)
def test_batch(vllm: Client, form: str) -> None:
    """Two prompts in one request MUST give two choices, each completing its own prompt."""
    texts = [COUNTING, PROMPT]
    prompts: list[Any] = list(texts) if form == "texts" else [vllm.tokenize(text) for text in texts]
    batch = vllm.generate("completions", prompts, top=5, max_tokens=6, **GREEDY)
    assert [choice["index"] for choice in batch.json["choices"]] == [0, 1]
    for index, prompt in enumerate(prompts):
        solo = vllm.generate("completions", prompt, top=5, max_tokens=6, **GREEDY)
        vllm.assert_same(vllm.read(solo), vllm.read(batch, index), f"prompt {index} of a batch")


@check(
    "completions.n.choices",
    ref="C08",
    catches=(
        "n-ignored",
        "index-constant",
    ),
)
def test_n(vllm: Client) -> None:
    """`n=3` MUST give three choices with the indexes 0, 1 and 2."""
    body = vllm.complete("My favourite", n=3, max_tokens=4, temperature=1.0, seed=1).json
    assert sorted(choice["index"] for choice in body["choices"]) == [0, 1, 2]


@check("completions.n.differ", ref="C08", catches=("n-identical",))
def test_n_differ(vllm: Client) -> None:
    """Choices that are sampled hot MUST NOT all be the same."""
    params: dict[str, Any] = {"n": 3, "max_tokens": 24, "temperature": 1.5, "top_p": 1.0, "seed": 1}
    choices = vllm.complete("My favourite", **params).json["choices"]
    assert len({choice["text"] for choice in choices}) > 1


@pytest.mark.parametrize(
    "prompt",
    [PROMPT, "🎉🎊👩‍👩‍👧‍👦 party", "\ufb01ne \u2460 \uff21\uff22 x\u00b2 "],
    ids=["ascii", "emoji", "compatibility"],
)
@check(
    "completions.echo.exact",
    ref="C09",
    catches=(
        "echo-dropped",
        "mojibake",
        "prompts-normalized",
    ),
)
def test_echo(vllm: Client, prompt: str) -> None:
    """With `echo`, the text MUST begin with the prompt, character by character."""
    body = vllm.complete(prompt, echo=True, max_tokens=4, **GREEDY).json
    assert body["choices"][0]["text"][: len(prompt)] == prompt


@pytest.mark.parametrize("form", ["text", "list"])
@check(
    "completions.stop.cuts",
    ref="C15",
    catches=(
        "stop-kept",
        "stop-in-text",
        "stop-list-first-only",
    ),
)
def test_stop(vllm: Client, form: str) -> None:
    """A stop text MUST end the completion before it and give the reason `stop`."""
    whole = vllm.read(vllm.generate("completions", COUNTING, top=5, max_tokens=24, **GREEDY))
    stop = _later_word(whole.text)
    asked = stop if form == "text" else ["\u2603 never written", stop]
    reply = vllm.generate("completions", COUNTING, top=5, max_tokens=24, stop=asked, **GREEDY)
    cut = vllm.read(reply)
    assert stop not in cut.text
    pairs = zip(whole.tokens, cut.tokens, strict=False)
    if any(left.text != right.text for left, right in pairs):
        vllm.assert_same(whole, cut, "the same prompt with a stop text")  # only a near tie passes
        return
    assert cut.text == whole.text.partition(stop)[0]
    assert cut.finish_reason == "stop"


@check("completions.stop.reason-is-told", ref="C15", catches=("stop-reason-missing",))
def test_stop_reason(vllm: Client) -> None:
    """`stop_reason`, where a server has it, MUST be the stop text that was met."""
    stops = [" ", ",", "\n", "e"]
    choice = vllm.complete(COUNTING, max_tokens=24, stop=stops, **GREEDY).json["choices"][0]
    if choice["finish_reason"] == "stop" and "stop_reason" in choice:
        assert choice["stop_reason"] in stops


@check("completions.stop.inside-a-token", ref="C18", catches=("stop-in-text", "stop-kept"))
def test_stop_inside(vllm: Client) -> None:
    """A stop text that is only a part of a token MUST cut the completion inside of it."""
    whole = vllm.read(vllm.generate("completions", COUNTRY, top=5, max_tokens=12, **GREEDY))
    words = [token.text.strip() for token in whole.tokens[1:]]
    inner = next((word[1:3] for word in words if word.isascii() and len(word) > 3), None)
    if inner is None:
        not_applicable(f"no token of {whole.text!r} is long enough")
    reply = vllm.generate("completions", COUNTRY, top=5, max_tokens=12, stop=inner, **GREEDY)
    cut = vllm.read(reply)
    assert inner not in cut.text
    if whole.text.startswith(cut.text):  # else rounding turned a near tie
        assert cut.text == whole.text.partition(inner)[0]
        assert cut.finish_reason == "stop"


@check(
    "completions.temperature.default",
    level=SHOULD,
    ref="C04",
    catches=("always-greedy", "default-temperature-zero"),
)
def test_default_temperature(vllm: Client) -> None:
    """Without a temperature, completions SHOULD be sampled, unless the model's defaults differ."""
    body = vllm.complete(["My favourite"] * 6, max_tokens=12, ignore_eos=True).json
    assert len({choice["text"] for choice in body["choices"]}) > 1


@check("completions.batch.times-n", ref="C07", catches=("n-ignored", "index-constant"))
def test_batch_n(vllm: Client) -> None:
    """Two prompts with `n=2` MUST give four choices, those of the first prompt first."""
    prompts = [COUNTING, PROMPT]
    params: dict[str, Any] = {**NEUTRAL, "n": 2, "max_tokens": 2, "echo": True}
    choices = vllm.complete(prompts, **params).json["choices"]
    assert sorted(choice["index"] for choice in choices) == [0, 1, 2, 3]
    for choice in choices:
        assert choice["text"].startswith(prompts[choice["index"] // 2])


@check("completions.batch.usage", ref="C07", catches=("batch-usage-first-only",))
def test_batch_usage(vllm: Client) -> None:
    """The usage of a batch MUST count each prompt once and each choice."""
    prompts, params = [COUNTING, PROMPT], {**NEUTRAL, "n": 2, "max_tokens": 3}
    usage = vllm.complete(prompts, **params).json["usage"]
    assert usage["prompt_tokens"] == sum(len(vllm.tokenize(prompt)) for prompt in prompts)
    assert usage["completion_tokens"] == 4 * 3


@check(
    "completions.context.is-filled",
    ref="C20",
    catches=("context-length-doubled", "last-token-refused", "prompt-truncated"),
)
def test_context(vllm: Client) -> None:
    """A prompt that leaves room for one token MUST be completed with one."""
    length = vllm.max_model_len
    if length is None or length > LONGEST:
        not_applicable(f"a context of {length} tokens is too long to fill here")
    word = vllm.tokenize(" and", add_special_tokens=False)[-1]
    prompt = [*vllm.tokenize(PROMPT), *[word] * length][: length - 1]
    usage = vllm.complete(prompt, max_tokens=1, temperature=0).json["usage"]
    assert usage["prompt_tokens"] == length - 1
    assert usage["total_tokens"] == length


@check("completions.context.overrun", ref="C21")
def test_overrun(vllm: Client) -> None:
    """A bound of one token more than the context has room for MUST be cut or refused."""
    room = (vllm.max_model_len or 2**20) - len(vllm.tokenize(COUNTING))
    # Ends at once: after eight numbers with commas comes one of these.
    stops = [" ", ",", "9", "\n", "1"]
    body = {"model": vllm.model, "prompt": COUNTING, "stop": stops[:4], "temperature": 0}
    reply = vllm.send("POST", "/v1/completions", body={**body, "max_tokens": room + 1})
    assert reply.status in (200, 400, 422)
    vllm.observe("completions.context.overrun", reply.status)


@check("completions.prompt.any-script", ref="C22", catches=("non-bmp-refused", "mojibake"))
def test_scripts(vllm: Client) -> None:
    """Prompts in any script MUST be completed with text that has no broken characters inside."""
    body = vllm.complete(SCRIPTS, echo=True, max_tokens=2, temperature=0).json
    texts = {choice["index"]: choice["text"] for choice in body["choices"]}
    for index, prompt in enumerate(SCRIPTS):
        assert texts[index].startswith(prompt)


@check("completions.prompt.control-characters", ref="C22")
def test_control_characters(vllm: Client) -> None:
    """A prompt with control characters MUST be completed or refused, not break the server."""
    body = {"model": vllm.model, "prompt": "a\x00b\x1b[31m\r\n", "max_tokens": 1}
    assert vllm.send("POST", "/v1/completions", body=body).status in (200, 400, 422)
    vllm.complete(PROMPT, max_tokens=1)


@check("completions.user.is-accepted", ref="C25")
def test_user(vllm: Client) -> None:
    """The field `user` of the OpenAI API MUST be accepted."""
    vllm.complete(PROMPT, max_tokens=1, user="ada")


@pytest.mark.parametrize(
    ("field", "value"), [("best_of", 2), ("foo_bar", 1)], ids=["best-of", "unknown"]
)
@check("completions.fields.ignored", level=INFO, ref="C25")
def test_ignored(vllm: Client, field: str, value: object) -> None:
    """What becomes of fields that vLLM does not know, or no longer, is noted."""
    body = {"model": vllm.model, "prompt": PROMPT, "max_tokens": 1, field: value}
    reply = vllm.send("POST", "/v1/completions", body=body)
    choices = len(reply.json["choices"]) if reply.status == 200 else 0
    vllm.observe(f"completions.fields.{field}", f"{reply.status}, {choices} choices")


@pytest.mark.parametrize("model", ["omitted", "null", "empty"])
@check("completions.model.left-out", level=INFO, ref="C27")
def test_no_model(vllm: Client, model: str) -> None:
    """What a request without a model gets is noted."""
    names: dict[str, dict[str, Any]] = {"null": {"model": None}, "empty": {"model": ""}}
    given = names.get(model, {})
    reply = vllm.send("POST", "/v1/completions", body={"prompt": PROMPT, "max_tokens": 1, **given})
    vllm.observe(f"completions.model.{model}", reply.status)


@check("completions.max-tokens.one", ref="C19")
def test_one_token(vllm: Client) -> None:
    """`max_tokens=1` MUST give one token."""
    usage = vllm.complete(PROMPT, max_tokens=1).json["usage"]
    assert usage["completion_tokens"] == 1


def _later_word(text: str) -> str:
    """Return a word from the middle of a text, or a character if there is no blank in it."""
    words = text.split()
    assert words, f"required a text to stop in, saw {text!r}"
    return words[len(words) // 2] if len(words) > 1 else words[0][len(words[0]) // 2]
