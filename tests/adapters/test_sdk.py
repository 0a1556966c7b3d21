"""The SDK's strict types against recorded replies, and the SDK against the schemas, both ways."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

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


def test_only_the_schema_refuses_nan() -> None:
    """The SDK's parser reads NaN and Infinity, which are no JSON; the schema refuses them."""
    document = changed(body("c_lp0"), "choices.0.logprobs.token_logprobs.0", float("nan"))
    assert strict_violations("completion", json.dumps(document)) == []
    assert violations("completions/response", document)


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
