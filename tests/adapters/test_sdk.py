"""The SDK's strict types against recorded replies, and the SDK against the schemas, both ways."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_vllm.adapters.schemas import violations
from pytest_vllm.adapters.sdk import DEVIATIONS, KINDS, MAX_VIOLATIONS, strict_violations

EXCHANGES = Path(__file__).parent.parent / "data" / "exchanges"
GONE = object()
SCHEMA_BY_KIND = {
    "completion": "completions/response",
    "completion.chunk": "completions/chunk",
    "chat.completion": "chat/response",
    "chat.completion.chunk": "chat/chunk",
    "models": "models/list",
}
KIND_BY_PATH = {
    "/v1/completions": "completion",
    "/v1/chat/completions": "chat.completion",
    "/v1/models": "models",
}


def recorded(name: str) -> Any:
    return json.loads((EXCHANGES / f"{name}.json").read_text("utf-8"))


def body(name: str) -> Any:
    return recorded(name)["body"]


def event_texts(name: str) -> list[str]:
    lines = (line.removeprefix("data: ") for line in recorded(name)["sse_lines"])
    return [line for line in lines if line.startswith("{")]


def all_texts() -> list[Any]:
    """List (kind, JSON text) of every recorded reply and event that the SDK has a type for."""
    texts = []
    for file in sorted(EXCHANGES.glob("*.json")):
        name = file.stem
        exchange = recorded(name)
        kind = KIND_BY_PATH.get(exchange["request"]["path"])
        if kind is None or exchange["status"] != 200 or name == "cc_add_gen_false":
            continue
        if "sse_lines" in exchange:
            texts += [
                pytest.param(f"{kind}.chunk", text, id=f"{name}-{number}")
                for number, text in enumerate(event_texts(name))
            ]
        else:
            texts.append(pytest.param(kind, json.dumps(exchange["body"]), id=name))
    return texts


def with_ids(cases: list[Any]) -> list[Any]:
    """Name each case by its number, kind and place, since pytest wants unique names."""
    return [pytest.param(*case, id=f"{n}-{case[0]}-{case[1]}") for n, case in enumerate(cases)]


def changed(document: Any, place: str, value: Any) -> Any:
    """Copy a document with another value (or none, for GONE) at a place like `choices.0.index`."""
    copy = deepcopy(document)
    *parents, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    target = copy
    for step in parents:
        target = target[step]
    if value is GONE:
        del target[last]
    else:
        target[last] = value
    return copy


# --- the SDK alone -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "text"), all_texts())
def test_a_recorded_reply_passes_the_strict_types(kind: str, text: str) -> None:
    """What vLLM 0.32.0 said, as one body or event by event, is what the SDK's types promise."""
    assert strict_violations(kind, text) == []
    assert strict_violations(kind, text.encode()) == []


def test_the_recordings_cover_every_kind() -> None:
    """No kind of reply is without a real one that it was tried on."""
    tried = {parameters.values[0] for parameters in all_texts()}
    assert tried == set(KINDS) - {"response", "response.event"}  # in test_dialect_schemas.py


def test_a_recorded_deviation_of_the_server_is_reported() -> None:
    """VLLM 0.32 answers as "user" when told to add no generation prompt: no client expects it."""
    text = json.dumps(body("cc_add_gen_false"))
    assert strict_violations("chat.completion", text) == [
        "$.choices[0].message.role: saw 'user': Input should be 'assistant'"
    ]


def test_a_line_has_place_value_and_message() -> None:
    """A refusal is one line that can be acted on."""
    text = json.dumps(changed(body("c_basic"), "usage.prompt_tokens", "5"))
    assert strict_violations("completion", text) == [
        "$.usage.prompt_tokens: saw '5': Input should be a valid integer"
    ]


def test_an_absent_field_is_a_line_without_a_value() -> None:
    """What is not there is not quoted."""
    text = json.dumps(changed(body("c_basic"), "model", GONE))
    assert strict_violations("completion", text) == ["$.model: Field required"]


@pytest.mark.parametrize(
    "text",
    ["", "<html>502 Bad Gateway</html>", "[]", "null", "{", b"\xff\xfe", '{"id": "\\ud800"}'],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_reply_at_all_is_a_violation(kind: str, text: str | bytes) -> None:
    """HTML, broken JSON and broken text are lines, never exceptions."""
    assert strict_violations(kind, text)


def test_deep_nesting_is_a_violation_and_no_crash() -> None:
    """The parser gives up on bottomless nesting with a line."""
    (line,) = strict_violations("completion", '{"choices": ' + "[" * 100_000)
    assert "recursion limit" in line


def test_violations_are_bounded_in_number_and_length() -> None:
    """A reply with very many and very long mistakes gives a screen, not a log file."""
    text = json.dumps(changed(body("c_basic"), "choices", ["x\n" * 1000] * 1000))
    lines = strict_violations("completion", text)
    assert len(lines) == MAX_VIOLATIONS
    assert all(len(line) < 400 and line.isprintable() for line in lines)


def test_an_unknown_kind_names_the_known_ones() -> None:
    """A wrong kind is the caller's error, and its message helps."""
    with pytest.raises(ValueError, match=r"'reply'; known are: completion, completion.chunk"):
        strict_violations("reply", "{}")


# --- deviations ----------------------------------------------------------------------------------


VALUES = [deviation for deviation in DEVIATIONS if not deviation.absent]


@pytest.mark.parametrize("deviation", VALUES, ids=range(len(VALUES)))
def test_every_deviation_is_one_that_the_sdk_really_refuses(deviation: Any) -> None:
    """An allowance that a newer SDK no longer needs fails here and can go."""
    from openai.types import Completion  # noqa: PLC0415 - only the tests of deviations pay
    from pydantic import ValidationError  # noqa: PLC0415

    reply = body("c_lp0")
    place = ".".join(map(str, deviation.place)).replace("*", "0")
    with pytest.raises(ValidationError, match=place):
        Completion.model_validate(changed(reply, place, deviation.value), strict=True)


@pytest.mark.parametrize(
    ("kind", "name", "place", "value"),
    [
        ("completion", "c_echo_lp", "choices.0.logprobs.token_logprobs.1", None),
        ("completion", "c_echo_lp", "choices.0.logprobs.top_logprobs.1", None),
        ("completion", "c_echo_lp", "choices.0.logprobs.token_logprobs.0", "x"),
        ("completion", "c_basic", "choices.0.finish_reason", None),
        ("completion", "c_basic", "choices.0.finish_reason", GONE),
        ("completion", "c_basic", "choices.0.finish_reason", "repetitions"),
        ("completion", "c_basic", "choices.0.finish_reason", "tool_calls"),
        ("chat.completion", "cc_basic", "choices.0.finish_reason", None),
        ("chat.completion", "cc_basic", "choices.0.message.role", "repetition"),
    ],
)
def test_a_deviation_covers_nothing_beside_it(kind: str, name: str, place: str, value: Any) -> None:
    """The same value elsewhere, another value there, and no value at all stay refused."""
    document = changed(body(name), place, value)
    assert len(strict_violations(kind, json.dumps(document))) == 1
    assert len(violations(SCHEMA_BY_KIND[kind], document)) == 1


def test_an_event_without_finish_reason_is_refused() -> None:
    """Null is allowed in an event of a completion, absence is not (vLLM PR 19662)."""
    event = changed(json.loads(event_texts("s_c_basic")[0]), "choices.0.finish_reason", GONE)
    assert strict_violations("completion.chunk", json.dumps(event)) == [
        "$.choices[0].finish_reason: Field required"
    ]


# --- the SDK and the schemas, both ways ----------------------------------------------------------

HEALTHY = {
    "completion": [body("c_basic"), body("c_lp0"), body("c_n3")],
    "chat.completion": [body("cc_basic"), body("cc_lp_top3"), body("cc_n2")],
    "completion.chunk": [json.loads(text) for text in event_texts("s_c_usage_cont")[-2:]],
    "chat.completion.chunk": [json.loads(text) for text in event_texts("s_cc_logprobs")],
    "models": [body("svc_models")],
}

BOTH_REFUSE = [
    ("completion", "id", 5),
    ("completion", "id", None),
    ("completion", "object", "chat.completion"),
    ("completion", "object", GONE),
    ("completion", "created", "1795362738"),
    ("completion", "created", 1.0),
    ("completion", "model", GONE),
    ("completion", "choices", {}),
    ("completion", "choices", None),
    ("completion", "choices.0", "text"),
    ("completion", "choices.0.text", None),
    ("completion", "choices.0.index", "0"),
    ("completion", "choices.0.index", True),
    ("completion", "choices.0.finish_reason", "banana"),
    ("completion", "choices.0.finish_reason", "abort"),
    ("completion", "choices.0.logprobs", []),
    ("completion", "usage", []),
    ("completion", "usage.prompt_tokens", GONE),
    ("completion", "usage.total_tokens", 1.5),
    ("completion", "usage.completion_tokens", None),
    ("completion", "system_fingerprint", 5),
    ("completion", "usage.prompt_tokens_details", "none"),
    ("chat.completion", "choices.0.message", None),
    ("chat.completion", "choices.0.message.role", "user"),
    ("chat.completion", "choices.0.message.role", GONE),
    ("chat.completion", "choices.0.message.content", ["parts"]),
    ("chat.completion", "choices.0.message.tool_calls", [{"id": "a", "type": "function"}]),
    ("chat.completion", "choices.0.message.function_call", {"name": "f"}),
    ("chat.completion", "choices.0.message.annotations", {}),
    ("chat.completion", "choices.0.finish_reason", "eos"),
    ("chat.completion", "choices.0.logprobs", {"content": [{"token": "a"}]}),
    ("chat.completion", "service_tier", "gold"),
    ("chat.completion.chunk", "choices.0.delta", None),
    ("chat.completion.chunk", "choices.0.delta.role", "robot"),
    ("chat.completion.chunk", "choices.0.delta.tool_calls", [{"id": "a"}]),
    ("chat.completion.chunk", "choices.0.finish_reason", "eos"),
    ("chat.completion.chunk", "object", "chat.completion"),
    ("completion.chunk", "choices.0.text", GONE),
    ("completion.chunk", "usage.prompt_tokens", "5"),
    ("models", "data", None),
    ("models", "object", GONE),
    ("models", "data.0.id", GONE),
    ("models", "data.0.object", "card"),
    ("models", "data.0.created", "now"),
    ("models", "data.0.owned_by", None),
]

ONLY_THE_SCHEMA_REFUSES = [
    ("completion", "id", "", "the SDK takes an empty ID"),
    ("completion", "created", 0, "the SDK takes any integer for a time"),
    ("completion", "choices", [], "the SDK does not ask for a choice"),
    ("completion", "usage", None, "usage is optional to the SDK, as OpenAI may leave it out"),
    ("completion", "usage", GONE, "the same"),
    ("completion", "usage.prompt_tokens", -1, "the SDK takes negative counts"),
    ("completion", "choices.0.index", -1, "the same"),
    ("completion", "choices.0.logprobs", {}, "every list of logprobs is optional to the SDK"),
    ("completion", "choices.0.token_ids", "abc", "extensions of vLLM are unknown to the SDK"),
    ("completion", "choices.0.stop_reason", [], "the same"),
    ("completion", "service_tier", "gold", "the SDK knows it for chat only"),
    ("chat.completion", "choices.0.message.content", GONE, "optional to the SDK"),
    ("chat.completion", "choices.0.message.reasoning", 5, "an extension of vLLM"),
    ("chat.completion", "prompt_token_ids", ["a"], "an extension of vLLM"),
    ("chat.completion.chunk", "choices.0.finish_reason", GONE, "optional to the SDK in events"),
    ("models", "object", "models", "the SDK takes any text there"),
    ("models", "data.0.max_model_len", "2048", "an extension of vLLM"),
]


@pytest.mark.parametrize(("kind", "place", "value"), with_ids(BOTH_REFUSE))
def test_what_is_wrong_is_refused_by_both(kind: str, place: str, value: Any) -> None:
    """Two independent readers of the OpenAI reference agree that this breaks clients."""
    document = changed(HEALTHY[kind][0], place, value)
    assert strict_violations(kind, json.dumps(document))
    assert violations(SCHEMA_BY_KIND[kind], document)


@pytest.mark.parametrize(("kind", "place", "value", "why"), with_ids(ONLY_THE_SCHEMA_REFUSES))
def test_what_only_the_schema_refuses_is_known(kind: str, place: str, value: Any, why: str) -> None:
    """Where the schema asks for more than the SDK, it is on this list with the reason."""
    assert why
    document = changed(HEALTHY[kind][0], place, value)
    assert strict_violations(kind, json.dumps(document)) == []
    assert violations(SCHEMA_BY_KIND[kind], document)


def test_only_the_schema_refuses_nan() -> None:
    """The SDK's parser reads NaN and Infinity, which are no JSON; the schema refuses them."""
    document = changed(body("c_lp0"), "choices.0.logprobs.token_logprobs.0", float("nan"))
    assert strict_violations("completion", json.dumps(document)) == []
    assert violations("completions/response", document)


def places(value: Any, prefix: str = "") -> list[str]:
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    found = []
    for key, child in children:
        if "." in str(key):
            continue  # a token as a key; the path syntax here has no way to say it
        found += [f"{prefix}{key}", *places(child, f"{prefix}{key}.")]
    return found


PLACES = [
    (kind, number, place)
    for kind, documents in HEALTHY.items()
    for number, document in enumerate(documents)
    for place in places(document)
]
JSON = st.recursive(
    st.sampled_from([None, True, 0, -1, 1.0, 0.5, "", "stop", "repetition", "assistant"])
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["id", "index", "content", "name"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=400)
@given(at=st.sampled_from(PLACES), value=st.just(GONE) | JSON)
def test_what_the_sdk_refuses_the_schema_refuses(at: tuple[str, int, str], value: Any) -> None:
    """Any mutation of a healthy reply that breaks the SDK is caught by the schema as well."""
    kind, number, place = at
    document = changed(HEALTHY[kind][number], place, value)
    refusals = strict_violations(kind, json.dumps(document))
    if refusals:
        assert violations(SCHEMA_BY_KIND[kind], document), refusals


# --- cost ----------------------------------------------------------------------------------------


def test_importing_the_module_loads_no_openai() -> None:
    """The SDK costs 700 ms and stays out until a reply is read."""
    code = (
        "import sys, pytest_vllm.adapters.sdk as sdk\n"
        "assert not {'openai', 'pydantic', 'httpx2', 'httpx'} & set(sys.modules)\n"
        "sdk.strict_violations('completion', '{}')\n"
        "assert 'openai' in sys.modules\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
