"""Structured outputs: what is written keeps to a schema, an expression, a choice or a grammar.

The constraints here are such that no model would write what they allow by itself: a reply that fits
shows that the constraint works, not that the model is clever. All allow only short texts, so that a
small model comes to an end. vLLM before 0.11 called the fields `guided_*`; what a server does with
those is only noted.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm import ENDPOINTS, INFO, SHOULD, Client, check, not_applicable, suite

if TYPE_CHECKING:
    from pytest_vllm.domain.generation import Generation

pytestmark = suite("structured", concurrent=True)

STRUCTURED = ("structured-outputs",)
PROMPT = "What is the capital of France?"
COLOURS = ["mauve", "ochre", "teal"]
COUNTS = [37, 58, 93]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"type": "string", "enum": COLOURS},
        "count": {"enum": COUNTS},
        "large": {"type": "boolean"},
    },
    "required": ["colour", "count", "large"],
    "additionalProperties": False,
}
# What the SDK's `parse()` makes of a pydantic model with these fields.
RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "paint", "schema": SCHEMA, "strict": True},
}
CHOICES = ["yak-17", "emu-23"]
DATE = r"[0-9]{4}-[0-9]{2}"
GRAMMAR = 'root ::= "zig" | "zag"'
INVALID = (400, 422)
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@ENDPOINTS
@check("structured.json-schema.fits", needs=STRUCTURED, ref="G01 G12", catches=("schema-ignored",))
def test_json_schema(vllm: Client, endpoint: str) -> None:
    """With a `response_format` of JSON Schema, the text MUST be a document that fits it."""
    written = _write(vllm, endpoint, response_format=RESPONSE_FORMAT)
    _assert_kept(vllm, endpoint, written, kept=_is_paint(written))


@check("structured.json.fits", needs=STRUCTURED, ref="G01", catches=("schema-ignored",))
def test_json(vllm: Client) -> None:
    """With a schema under `structured_outputs`, the text MUST be a document that fits it."""
    endpoint = _endpoint(vllm)
    written = _write(vllm, endpoint, structured_outputs={"json": SCHEMA})
    _assert_kept(vllm, endpoint, written, kept=_is_paint(written))


@ENDPOINTS
@check(
    "structured.json-object.is-json", needs=STRUCTURED, ref="G02", catches=("json-object-ignored",)
)
def test_json_object(vllm: Client, endpoint: str) -> None:
    """With a `response_format` of JSON, the text MUST be a JSON document, or begin like one."""
    written = _write(vllm, endpoint, response_format={"type": "json_object"}, max_tokens=32)
    _assert_kept(vllm, endpoint, written, kept=_is_object(written))


@ENDPOINTS
@pytest.mark.parametrize("temperature", [0, 1.5])
@check("structured.regex.matches", needs=STRUCTURED, ref="G03", catches=("regex-ignored",))
def test_regex(vllm: Client, endpoint: str, temperature: float) -> None:
    """With a regular expression, the text MUST match all of it, also when drawn hot."""
    constraint = {"regex": DATE}
    written = _write(vllm, endpoint, structured_outputs=constraint, temperature=temperature)
    kept = bool(re.fullmatch(DATE, written.text)) and written.finish_reason == "stop"
    _assert_kept(vllm, endpoint, written, kept=kept)


@ENDPOINTS
@check("structured.choice.is-one", needs=STRUCTURED, ref="G04", catches=("choice-ignored",))
def test_choice(vllm: Client, endpoint: str) -> None:
    """With a list of choices, the text MUST be one of them."""
    written = _write(vllm, endpoint, structured_outputs={"choice": CHOICES})
    _assert_kept(vllm, endpoint, written, kept=written.text in CHOICES)


@check("structured.choice.each-of-n", needs=STRUCTURED, ref="G04", catches=("choice-ignored",))
def test_choice_n(vllm: Client) -> None:
    """With `n`, each of the replies MUST keep to the constraint."""
    endpoint, constraint = _endpoint(vllm), {"choice": CHOICES}
    params: dict[str, Any] = {"n": 3, "max_tokens": 24, "temperature": 1.0}
    reply = vllm.generate(endpoint, PROMPT, structured_outputs=constraint, **params)
    written = [vllm.read(reply, index) for index in range(3)]
    if any(one.reasoning for one in written):
        not_applicable("the model thinks aloud first")
    assert {one.text for one in written} <= set(CHOICES)


@check("structured.grammar.is-spoken", needs=STRUCTURED, ref="G05", catches=("grammar-ignored",))
def test_grammar(vllm: Client) -> None:
    """With a grammar, the text MUST be a sentence of it."""
    endpoint, constraint = _endpoint(vllm), {"grammar": GRAMMAR}
    body = {**_input(endpoint), "model": vllm.model, "max_tokens": 8}
    reply = vllm.send("POST", PATHS[endpoint], body={**body, "structured_outputs": constraint})
    if reply.status == 400 and "grammar" in reply.text.lower():
        not_applicable("the server's backend has no grammars")
    written = _write(vllm, endpoint, structured_outputs=constraint)
    _assert_kept(vllm, endpoint, written, kept=written.text in ("zig", "zag"))


@check("structured.length.cuts", needs=STRUCTURED, ref="G06")
def test_length(vllm: Client) -> None:
    """A constrained reply that meets `max_tokens` MUST be cut like any other."""
    params: dict[str, Any] = {
        "structured_outputs": {"json": SCHEMA},
        "max_tokens": 3,
        "temperature": 0,
    }
    body = vllm.generate(_endpoint(vllm), PROMPT, **params).json
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3


@ENDPOINTS
@check(
    "structured.invalid.refused", needs=STRUCTURED, ref="G07", catches=("bad-constraint-accepted",)
)
def test_invalid(vllm: Client, endpoint: str) -> None:
    """A constraint that cannot be meant MUST be refused."""
    bodies: dict[str, dict[str, Any]] = {
        "a schema of no type": {"structured_outputs": {"json": {"type": "no-such-type"}}},
        "a broken expression": {"structured_outputs": {"regex": "[0-9"}},
        "two constraints": {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        "an unknown format": {"response_format": {"type": "yaml"}},
    }
    inputs = _input(endpoint)
    bodies = {name: {**inputs, **body} for name, body in bodies.items()}
    vllm.refuse_each(PATHS[endpoint], bodies, statuses=INVALID)


@check(
    "structured.invalid.empty-refused",
    level=SHOULD,
    needs=STRUCTURED,
    ref="G07",
    catches=("bad-constraint-accepted",),
)
def test_invalid_empty(vllm: Client) -> None:
    """A constraint without content, or with a broken grammar, SHOULD be refused."""
    bodies: dict[str, dict[str, Any]] = {
        "no choices": {"structured_outputs": {"choice": []}},
        "a broken grammar": {"structured_outputs": {"grammar": "root ::= ("}},
        "no schema": {"response_format": {"type": "json_schema"}},
    }
    endpoint = _endpoint(vllm)
    bodies = {name: {**_input(endpoint), **body} for name, body in bodies.items()}
    vllm.refuse_each(PATHS[endpoint], bodies, statuses=INVALID)


@check("structured.invalid.survived", needs=STRUCTURED, ref="G08", catches=("bad-grammar-kills",))
def test_survives(vllm: Client) -> None:
    """A malformed grammar between two good constraints MUST NOT harm the engine."""
    endpoint = _endpoint(vllm)
    for _ in range(2):
        written = _write(vllm, endpoint, structured_outputs={"choice": CHOICES})
        _assert_kept(vllm, endpoint, written, kept=written.text in CHOICES)
        body = {**_input(endpoint), "structured_outputs": {"grammar": 'root ::= "a" | ('}}
        vllm.send("POST", PATHS[endpoint], body={**body, "model": vllm.model, "max_tokens": 4})


@pytest.mark.parametrize("field", ["guided_choice", "guided_json"])
@check("structured.legacy.effect", level=INFO, ref="G09")
def test_legacy(vllm: Client, field: str) -> None:
    """Whether the field of vLLM before 0.11 is kept to, refused or ignored is noted."""
    value: Any = CHOICES if field == "guided_choice" else SCHEMA
    body = {"model": vllm.model, "prompt": PROMPT, "max_tokens": 24, field: value}
    reply = vllm.send("POST", "/v1/completions", body=body)
    effect = f"status {reply.status}"
    if reply.status == 200:
        text = vllm.read(reply).text
        kept = text in CHOICES if field == "guided_choice" else text.lstrip().startswith("{")
        effect = "kept to" if kept else "ignored without a word"
    vllm.observe(f"structured.legacy.{field}", effect)


@ENDPOINTS
@check(
    "structured.stream.fits", needs=STRUCTURED, ref="G10", catches=("stream-constraint-ignored",)
)
def test_stream(vllm: Client, endpoint: str) -> None:
    """A constrained stream MUST add up to a text that keeps to the constraint."""
    params: dict[str, Any] = {"max_tokens": 24, "temperature": 0}
    stream = vllm.stream(endpoint, PROMPT, structured_outputs={"regex": DATE}, **params)
    written = stream.generation()
    _assert_kept(vllm, endpoint, written, kept=bool(re.fullmatch(DATE, written.text)))


@check("structured.concurrent.own", needs=STRUCTURED, ref="G11", catches=("constraints-mixed-up",))
def test_concurrent(vllm: Client) -> None:
    """Of several requests at a time, each MUST keep to its own constraint."""
    expressions = ["[0-3]{6}", "[4-7]{6}", "[a-d]{6}", "[u-x]{6}"]
    endpoint = _endpoint(vllm)

    def write(expression: str) -> Generation:
        return _write(vllm, endpoint, structured_outputs={"regex": expression})

    with ThreadPoolExecutor(len(expressions)) as pool:
        for expression, written in zip(expressions, pool.map(write, expressions), strict=True):
            kept = bool(re.fullmatch(expression, written.text))
            _assert_kept(vllm, endpoint, written, kept=kept)


@check("structured.concurrent.spares-others", needs=STRUCTURED, ref="G11")
def test_bystander(vllm: Client) -> None:
    """A constraint MUST NOT touch a free request that runs at the same time."""
    params: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}

    def free() -> Generation:
        return vllm.read(vllm.generate("completions", PROMPT, top=5, **params))

    alone = free()
    with ThreadPoolExecutor(2) as pool:
        constrained = pool.submit(_write, vllm, _endpoint(vllm), structured_outputs={"regex": DATE})
        beside = pool.submit(free).result()
        assert constrained.result().text
    vllm.assert_same(alone, beside, "a free reply alone and beside a constrained one")


def _endpoint(vllm: Client) -> str:
    """Return `chat` where there is one: it tells reasoning, which no constraint holds, apart."""
    return "chat" if "chat" in vllm.server.capabilities else "completions"


def _input(endpoint: str) -> dict[str, Any]:
    if endpoint == "completions":
        return {"prompt": PROMPT}
    return {"messages": [{"role": "user", "content": PROMPT}]}


def _write(vllm: Client, endpoint: str, **params: Any) -> Generation:
    """Write under a constraint, without thinking aloud before."""
    params = {"max_tokens": 64, "temperature": 0, **params}
    written = vllm.read(vllm.generate(endpoint, PROMPT, **params))
    if written.reasoning and not written.text:
        quiet: dict[str, Any] = {
            "chat_template_kwargs": {"enable_thinking": False, "thinking": False}
        }
        written = vllm.read(vllm.generate(endpoint, PROMPT, **params, **quiet))
    return written


def _assert_kept(vllm: Client, endpoint: str, written: Generation, *, kept: bool) -> None:
    """Assert that a constraint was kept to, where the server constrains this reply at all.

    With a reasoning parser, vLLM holds constraints back until the model has done thinking, which in
    a completion may be never.
    """
    if kept:
        return
    thinks = bool(written.reasoning) and not written.text
    if endpoint == "completions" and "chat" in vllm.server.capabilities:
        thinks = bool(vllm.read(vllm.chat(PROMPT, max_tokens=4, temperature=0)).reasoning)
    if thinks:
        not_applicable("the model thinks aloud before it keeps to a constraint")
    pytest.fail(f"the text does not keep to the constraint: {written.text!r}", pytrace=False)


def _is_paint(written: Generation) -> bool:
    """Tell whether a text fits `SCHEMA`, or begins like it when it was cut."""
    if written.finish_reason == "length":  # some backends allow any white space, for ever
        return _begins_like_json(written.text)
    try:
        document = json.loads(written.text)
    except ValueError:
        return False
    return (
        isinstance(document, dict)
        and set(document) == set(SCHEMA["required"])
        and document["colour"] in COLOURS
        and document["count"] in COUNTS
        and isinstance(document["large"], bool)
    )


def _is_object(written: Generation) -> bool:
    if written.finish_reason == "length":
        return _begins_like_json(written.text)
    try:
        return isinstance(json.loads(written.text), dict)
    except ValueError:
        return False


def _begins_like_json(text: str) -> bool:
    return re.match(r'\s*(\{\s*("|\Z)|\Z)', text) is not None
