"""Content sanity: whether the numbers behind the text are those of a working model.

Nothing here needs to know the model. Thresholds and the measurements that set them are in
`pytest_vllm/data/content/thresholds.toml`.
"""

from __future__ import annotations

import math
import random
import uuid
from typing import TYPE_CHECKING

from pytest_vllm import SHOULD, Client, check, not_applicable, suite
from pytest_vllm.adapters.content import prompts, threshold
from pytest_vllm.domain import content
from pytest_vllm.domain.generation import TIE_NATS
from pytest_vllm.domain.server import FIRST_PROMPT
from pytest_vllm.plugin.content import (
    beginning,
    periodic,
    room,
    score,
    text_ids,
    word_row,
    write,
)
from pytest_vllm.plugin.prefix_cache import (
    await_hits,
    hits,
    longer_than_blocks,
    require_attention,
)

if TYPE_CHECKING:
    from pytest_vllm.domain.content import Drift, Scored
    from pytest_vllm.domain.target import Target

pytestmark = suite("content", concurrent=True)

ROW = 100
"""Words in a row that is to be copied."""
WINDOW = 200
LONG_ROW = 400
"""Words in a row of which the second copy begins where short prompts have ended."""
SCORED_TOKENS = (2 * LONG_ROW, 8000)
"""Bounds of a prompt of which every token is scored, an eighth of the context in between: each
token costs a row of the vocabulary in the server and a line of the reply."""
BATCHES = (2, 3, 5, 7, 9, 17, 33)
"""Sizes odd or just above those that GPU graphs are captured for, so that they are padded."""
UNKNOWN_BATCH = 17
"""Largest batch where the launch does not tell `--max-num-seqs`."""
BORDERS = (16, 128, 512, 1024)
FARTHEST = 131_072
"""Longest prompt; a longer one may take more than the limit of a request."""


# --- numbers -------------------------------------------------------------------------------------


@check(
    "content.logprobs.finite",
    ref="Q01",
    needs=("tokenize",),
    catches=("logprob-nan", "logprob-null"),
)
def test_finite(vllm: Client) -> None:
    """Every log probability of prompt and reply MUST be a finite number of at most 0."""
    start = beginning(vllm)
    assert score(vllm, [start + text_ids(vllm, "code")], top=3)
    assert write(vllm, list(prompts().values()), tokens=4)


@check("content.tokens.vary", ref="Q02", catches=("constant-token",))
def test_tokens_vary(vllm: Client) -> None:
    """Greedy continuations of 16 tokens MUST NOT be one token over and over."""
    for prompt, written in zip(
        prompts().values(), write(vllm, list(prompts().values()), tokens=16), strict=True
    ):
        ids = [token.id for token in written]
        assert not content.is_constant(written), f"{prompt!r}: saw only the token {ids[0]}"


@check("content.english.above-shuffled", ref="Q03", needs=("tokenize",), catches=("weights-wrong",))
def test_english(vllm: Client) -> None:
    """English MUST be likelier than the same tokens shuffled, by at least 2 nats a token."""
    start, english = beginning(vllm), text_ids(vllm, "facts")
    shuffled = random.Random(f"{vllm.seed}:shuffle").sample(english, len(english))  # noqa: S311
    ordered, disordered = score(vllm, [start + english, start + shuffled])
    gain = content.mean(ordered) - content.mean(disordered)
    vllm.observe("content.english.mean-logprob", f"{content.mean(ordered):.3f}")
    vllm.observe("content.english.above-shuffled", f"{gain:.3f}")
    assert gain >= threshold("english-over-shuffled"), (
        f"English has {content.mean(ordered):.2f} nats a token, shuffled "
        f"{content.mean(disordered):.2f}"
    )


@check(
    "content.copy.second-row",
    ref="Q04",
    needs=("tokenize",),
    catches=("copy-lost", "logits-flat", "window-lost"),
)
def test_copy(vllm: Client) -> None:
    """A row of 100 words that comes a second time MUST be foreseen, far better than at first."""
    require_attention(vllm)
    start = beginning(vllm)
    room(vllm, 2 * ROW + len(start) + 1)
    rows = [word_row(vllm, ROW, number) for number in range(3)]
    scored = score(vllm, [start + row + row for row in rows])
    first = content.mean(token for one in scored for token in one[:-ROW])
    second = content.mean(token for one in scored for token in one[-ROW + 1 :])
    vllm.observe("content.copy.first-row", f"{first:.3f}")
    vllm.observe("content.copy.second-row", f"{second:.3f}")
    assert second >= threshold("copy-floor"), f"the second row has {second:.2f} nats a token"
    assert second - first >= threshold("copy-gain"), f"{first:.2f}, the second time {second:.2f}"


# --- decode, cache and batch against prefill -----------------------------------------------------


@check(
    "content.decode.like-prefill",
    ref="Q05",
    needs=("tokenize",),
    catches=(
        "decode-logprobs-off",
        "decode-kv-wrong",
        "prompt-logprobs-shifted",
        "tokens-substituted",
    ),
)
def test_decode(vllm: Client) -> None:
    """Tokens that were decoded in a batch MUST have the same probabilities read as a prompt."""
    start = beginning(vllm)
    ids = [
        start + vllm.tokenize(text, add_special_tokens=False) for text in list(prompts().values())
    ]
    written = write(vllm, ids, tokens=24)
    drifts = _rescored(vllm, ids, written)
    _hold(vllm, "rescored", {f"prompt {n}": drift for n, drift in enumerate(drifts)})


@check(
    "content.decode.alone-like-prefill",
    ref="Q05",
    needs=("tokenize",),
    alone=True,
    catches=("decode-logprobs-off", "decode-kv-wrong"),
)
def test_decode_alone(vllm: Client) -> None:
    """Tokens decoded one at a time MUST have the same probabilities read as a prompt.

    Kernels for a batch of one are others than those for many.
    """
    ids = beginning(vllm) + text_ids(vllm, "technical") + text_ids(vllm, "facts")
    ids = ids[: 128 - 10]
    room(vllm, len(ids) + 40)
    written = write(vllm, [ids], tokens=32)
    _hold(vllm, "rescored", {"one prompt": _rescored(vllm, [ids], written)[0]})


@check(
    "content.cache.warm-like-cold",
    ref="Q08",
    alone=True,
    needs=("metrics", "tokenize"),
    catches=("cache-corrupt", "repeat-differs"),
)
def test_cache(vllm: Client) -> None:
    """A prompt MUST be continued from a warm prefix cache as from a cold one."""
    ids = longer_than_blocks(vllm)
    salt = uuid.uuid4().hex
    cold = write(vllm, [ids], tokens=6, cache_salt=salt)[0]
    before = hits(vllm)
    warm = write(vllm, [ids], tokens=6, cache_salt=salt)[0]
    await_hits(vllm, before)
    _hold(vllm, "repeated", {"warm cache": content.divergence(cold, warm)})


@check(
    "content.cache.salt-separates",
    ref="Q08",
    alone=True,
    needs=("metrics", "tokenize"),
    catches=("salt-ignored",),
)
def test_salt(vllm: Client) -> None:
    """Requests with different `cache_salt` MUST NOT share a prefix cache."""
    vllm.require_field("cache_salt")
    ids = longer_than_blocks(vllm)
    one = uuid.uuid4().hex
    vllm.complete(ids, max_tokens=1, cache_salt=one)
    before = hits(vllm)
    vllm.complete(ids, max_tokens=1, cache_salt=one)
    own = await_hits(vllm, before)
    vllm.complete(ids, max_tokens=1, cache_salt=uuid.uuid4().hex)
    vllm.complete(ids, max_tokens=1, cache_salt=one)  # after whose hits the other's are counted
    assert await_hits(vllm, own) - own <= own - before, "another salt hit the same cache"


@check(
    "content.batch.like-alone",
    ref="Q09",
    needs=("tokenize",),
    alone=True,
    catches=("batch-corrupt", "odd-batch-corrupt"),
)
def test_batch(vllm: Client, vllm_target: Target) -> None:
    """A prompt MUST be continued in a batch of any size as alone."""
    start, texts = beginning(vllm), list(prompts().values())
    ids = [start + vllm.tokenize(text, add_special_tokens=False) for text in texts]
    alone = [write(vllm, [one], tokens=4)[0] for one in ids]
    drifts = {}
    for size in _batch_sizes(vllm_target):
        chosen = [(place + size) % len(ids) for place in range(size)]
        batch = write(vllm, [ids[number] for number in chosen], tokens=4)
        for place, (number, written) in enumerate(zip(chosen, batch, strict=True)):
            drifts[f"place {place} of {size}"] = content.divergence(alone[number], written)
    _hold(vllm, "repeated", drifts)


@check("content.first-request.like-later", ref="Q13", catches=("first-request-wrong",))
def test_first_request(vllm: Client) -> None:
    """The first request after launch MUST have been answered like a later one."""
    first = vllm.server.first_text
    if not first.strip():
        not_applicable("the first token shows no text")
    reply = vllm.generate("completions", FIRST_PROMPT, top=5, max_tokens=1, temperature=0)
    top = vllm.read(reply).tokens[0].top
    near = [text for text, logprob in top.items() if max(top.values()) - logprob <= TIE_NATS]
    assert first in near, f"the first token was {first!r}, later the best are {near}"


# --- lengths -------------------------------------------------------------------------------------


@check(
    "content.length.borders",
    ref="Q11",
    needs=("tokenize",),
    catches=("nan-late", "long-context-lost"),
)
def test_borders(vllm: Client) -> None:
    """A repeated text MUST be continued at lengths around borders of blocks and padded graphs."""
    limit = room(vllm, 64)
    lengths = [1, *(border + step for border in BORDERS for step in (-1, 0, 1))]
    _continue_at(vllm, [length for length in lengths if length + 2 <= limit])


@check(
    "content.length.up-to-served",
    ref="Q10 Q11",
    needs=("tokenize",),
    catches=("long-context-lost", "nan-late"),
)
def test_served_length(vllm: Client) -> None:
    """A text that repeats itself MUST be continued at long lengths, up to the served one."""
    limit = room(vllm, 64)
    longest = min(limit - 2, FARTHEST)
    doubled = [2**power + 1 for power in range(11, 18)]
    _continue_at(vllm, [*(length for length in doubled if length < longest), longest])


@check(
    "content.length.windows",
    ref="Q10",
    needs=("tokenize",),
    catches=("long-context-lost", "prompt-truncated", "window-lost"),
)
def test_windows(vllm: Client) -> None:
    """A row of 400 words that comes again MUST be foreseen in every window of 200 tokens."""
    require_attention(vllm)
    start = beginning(vllm)
    least, most = SCORED_TOKENS
    limit = room(vllm, len(start) + least + 1)
    rows = max(least, min(limit // 8, most)) // LONG_ROW
    ids = start + word_row(vllm, LONG_ROW, 3) * rows
    found = content.windows(score(vllm, [ids])[0][-(rows - 1) * LONG_ROW :], WINDOW)
    shown = " ".join(f"{value:.2f}" for value in found)
    vllm.observe("content.length.windows", shown)
    assert min(found) >= threshold("copy-window"), f"windows after the first row: {shown}"


# --- what a person would look at -----------------------------------------------------------------


@check("content.story.san-francisco", ref="Q02", catches=("text-empty",))
def test_san_francisco(vllm: Client) -> None:
    """`San Francisco is a` MUST be completed by some text of 1 to 7 tokens."""
    prompt = "San Francisco is a"
    body = vllm.complete(prompt, max_tokens=7, temperature=0).json
    text = body["choices"][0]["text"]
    vllm.sample("Completion, 7 tokens, temperature 0", prompt, text)
    assert text.strip()
    assert 1 <= body["usage"]["completion_tokens"] <= 7


@check("content.story.poem", ref="Q02")
def test_poem(vllm: Client) -> None:
    """A poem MUST have at most 100 tokens, and be a text unless the model ends at once."""
    prompt = "Write a short poem about the stars."
    endpoint = "chat" if "chat" in vllm.server.capabilities else "completions"
    for _ in range(3):  # a base model may end at once by chance
        reply = vllm.generate(endpoint, prompt, max_tokens=100, temperature=0.7)
        poem = vllm.read(reply)
        if (poem.reasoning + poem.text).strip():
            break
    vllm.sample(f"{endpoint}, 100 tokens, temperature 0.7", prompt, poem.reasoning + poem.text)
    assert 1 <= reply.json["usage"]["completion_tokens"] <= 100
    # A model may end at once; one that writes to the bound must have written something.
    assert (poem.reasoning + poem.text).strip() or poem.finish_reason == "stop"


@check("content.text.is-varied", level=SHOULD, ref="Q12", catches=("constant-token",))
def test_varied(vllm: Client) -> None:
    """Free text at temperature 0.8 SHOULD neither repeat itself nor be unprintable."""
    choice = vllm.complete(
        prompts()["sea"], max_tokens=60, temperature=0.8, seed=vllm.seed, ignore_eos=True
    ).json["choices"][0]
    text = choice["text"]
    pairs = content.distinct_pairs([ord(one) for one in text])
    words = text.split()
    distinct = content.distinct_pairs([hash(word) for word in words]) if len(words) > 9 else pairs
    assert distinct >= threshold("free-distinct"), text
    assert content.compressibility(text) >= threshold("free-compressed"), text
    odd = [one for one in text.rstrip("\ufffd") if not (one.isprintable() or one.isspace())]
    assert len(odd) <= len(text) / 20, text


FACTS = (
    ("What is the capital of France?", ("paris",)),
    ("What is 2 + 2?", ("4", "four")),
    ("What is the capital of Japan?", ("tokyo", "tokio", "東京")),
)


@check("content.facts.known", level=SHOULD, ref="Q14", needs=("chat",))
def test_facts(vllm: Client) -> None:
    """An instruct model of a billion parameters or more SHOULD know two of three plain facts."""
    names = (vllm.model, vllm.server.launch_model, *(str(e.get("root")) for e in vllm.models()))
    size = content.billions(*names)
    if size is None:
        not_applicable(f"the names {names} do not tell how large the model is")
    if size < 1:
        not_applicable(f"a model of {size:g} billion parameters need not know anything")
    right = 0
    for question, answers in FACTS:
        reply = vllm.generate(
            "chat", f"{question} Answer in one word.", max_tokens=300, temperature=0
        )
        text = vllm.read(reply).reasoning + vllm.read(reply).text
        vllm.sample("Fact", question, text)
        right += any(answer in text.lower() for answer in answers)
    assert right >= 2, f"{right} of {len(FACTS)} answers are right"


# --- inside --------------------------------------------------------------------------------------


def _rescored(vllm: Client, ids: list[list[int]], written: list[tuple[Scored, ...]]) -> list[Drift]:
    whole = [one + [token.id for token in more] for one, more in zip(ids, written, strict=True)]
    scored = score(vllm, whole, top=1)
    return [
        content.rescoring(more, one[-len(more) :], gap=threshold("rescored-gap"))
        for more, one in zip(written, scored, strict=True)
    ]


def _hold(vllm: Client, kind: str, drifts: dict[str, Drift]) -> None:
    mean = max(drift.mean for drift in drifts.values())
    worst = max(drift.worst for drift in drifts.values())
    vllm.observe(f"content.{kind}", f"mean {mean:.4f}, worst {worst:.4f} nats")
    limits = {name: threshold(f"{kind}-{name}") for name in ("mean", "worst")}
    bad = [
        f"{what}: mean {drift.mean:.3f}, worst {drift.worst:.3f} nats off; {drift.parted}"
        for what, drift in drifts.items()
        if drift.exceeds(**limits)
    ]
    assert not bad, "\n".join(bad)


def _continue_at(vllm: Client, lengths: list[int]) -> None:
    """Continue a text that repeats itself at each length; its next two tokens are known.

    The prompts begin alike, so that a prefix cache makes this about as cheap as the longest one.
    """
    start, period = beginning(vllm), len(text_ids(vllm, "facts"))
    text = start + periodic(vllm, max(lengths) + 2, "facts")
    bad = []
    for length in lengths:
        written = write(vllm, [text[:length]], tokens=2)[0]
        if length < 3 * period:
            continue  # too short to be foreseen; that the numbers are finite was judged
        next_two = [
            token.top.get(text[length + place], -math.inf) for place, token in enumerate(written)
        ]
        if sum(next_two) / 2 < threshold("periodic-next"):
            shown = ", ".join(f"{value:.2f}" for value in next_two)
            bad.append(f"after {length} tokens the next two have {shown} nats")
    assert not bad, "\n".join(bad)


def _batch_sizes(target: Target) -> list[int]:
    told = target.serve_args.value("--max-num-seqs")
    limit = int(told) if told and told.isdecimal() else UNKNOWN_BATCH
    return [size for size in BATCHES if size <= limit]
