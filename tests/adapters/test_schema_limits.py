"""What schemas leave open and what they are safe from: unknown fields, hostile documents, cost."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pytest_vllm.adapters import schemas
from pytest_vllm.adapters.schemas import (
    MAX_DEPTH,
    MAX_UNKNOWN_FIELDS,
    MAX_VIOLATIONS,
    unknown_fields,
    unknown_types,
    violations,
)

EXCHANGES = Path(__file__).parent.parent / "data" / "exchanges"
DEEP = 100_000


def body(name: str) -> Any:
    return json.loads((EXCHANGES / f"{name}.json").read_text("utf-8"))["body"]


def changed(document: Any, place: str, value: Any) -> Any:
    """Copy a document with another value at a place like `choices.0.index`."""
    copy = deepcopy(document)
    *parents, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    target = copy
    for step in parents:
        target = target[step]
    target[last] = value
    return copy


def nested(levels: int) -> list[Any]:
    document: list[Any] = []
    for _ in range(levels):
        document = [document]
    return document


# --- observations --------------------------------------------------------------------------------


def test_a_field_without_a_name_is_allowed_and_reported() -> None:
    """A new vLLM may add fields anywhere: no violation, one dotted path for all indexes."""
    reply = body("c_batch_n2")
    reply["new"] = {"inside": 1}
    for choice in reply["choices"]:
        choice["colour"] = "red"
    reply["usage"]["joules"] = 5
    assert violations("completions/response", reply) == []
    assert unknown_fields("completions/response", reply) == [
        "choices[].colour",
        "usage.joules",
        "new",
    ]


def test_unknown_fields_inside_maps_lists_and_null_or_object() -> None:
    """Names are looked for below maps, list items and objects that may be null."""
    reply = body("c_plp")
    for position in reply["choices"][0]["prompt_logprobs"][1:]:
        for entry in position.values():
            entry["odd"] = 1
    reply["metrics"] = {"watts": 1, "queue_time_ms": 2.5}
    assert violations("completions/response", reply) == []
    assert unknown_fields("completions/response", reply) == [
        "choices[].prompt_logprobs[].*.odd",
        "metrics.watts",
    ]


def test_free_form_fields_are_not_observed() -> None:
    """What vLLM documents as free form holds anything."""
    reply = changed(body("c_basic"), "kv_transfer_params", {"remote": {"host": "a", "ports": [1]}})
    assert unknown_fields("completions/response", reply) == []
    assert violations("completions/response", reply) == []


def test_an_unknown_field_is_told_with_the_type_of_its_first_value() -> None:
    """What a run records of a field is its place and a type, never what a server put there."""
    reply = {**body("svc_version"), "new": {"a": [1]}, "text": "secret"}
    assert unknown_types("server/version", reply) == {"new": "object", "text": "string"}


def test_an_odd_field_name_is_quoted_and_shortened() -> None:
    """A server chooses field names: control characters and length do not reach the report."""
    reply = {**body("svc_version"), "\x1b[31m" + "x" * 500: 1}
    (line,) = unknown_fields("server/version", reply)
    assert line.isprintable()
    assert len(line) < 80


def test_unknown_fields_are_bounded() -> None:
    """A reply with very many unknown names gives a bounded list."""
    reply = {f"field{number}": number for number in range(10_000)}
    assert len(unknown_fields("server/version", reply)) == MAX_UNKNOWN_FIELDS


# --- hostile documents ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["choices", "id", "kv_transfer_params", "unheard_of"])
def test_deep_nesting_is_a_violation_and_no_crash(place: str) -> None:
    """A document of a hundred thousand levels is refused without recursion."""
    reply = {**body("c_basic"), place: nested(DEEP)}
    (line,) = violations("completions/response", reply)
    assert f"required at most {MAX_DEPTH} levels" in line
    assert len(line) < 300
    unknown_fields("completions/response", reply)


def test_nesting_within_the_limit_is_read() -> None:
    """The limit is where it says: one level less is an unknown field, no violation."""
    at_limit = {**body("c_basic"), "unheard_of": nested(MAX_DEPTH - 2)}
    assert violations("completions/response", at_limit) == []
    beyond = {**body("c_basic"), "unheard_of": nested(MAX_DEPTH - 1)}
    assert len(violations("completions/response", beyond)) == 1


def test_violations_are_bounded_in_number_and_length() -> None:
    """A reply with very many and very long mistakes gives a screen, not a log file."""
    reply = changed(body("c_basic"), "choices", ["x" * 10_000] * 10_000)
    lines = violations("completions/response", reply)
    assert len(lines) == MAX_VIOLATIONS
    assert all(len(line) < 250 for line in lines)


@pytest.mark.parametrize("value", ["\x1b[2J\n\u202e", ["\x1b[2J\n"], {"\x1b[2J\n": 1}])
def test_what_a_server_said_is_shown_escaped(value: Any) -> None:
    """Control characters of a reply do not reach the terminal, and a violation stays one line."""
    (line,) = violations("completions/response", changed(body("c_basic"), "created", value))
    assert line.isprintable()


@pytest.mark.parametrize(
    "value",
    [{1, 2}, b"bytes", {5: "key"}, 10**5000, object()],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_no_json_has_is_a_violation(value: Any) -> None:
    """A mistaken caller gets a line, not a traceback from inside jsonschema."""
    assert len(violations("completions/response", {**body("c_basic"), "extra": value})) == 1


def test_a_document_that_contains_itself_is_a_violation() -> None:
    """No JSON can, but a loop would otherwise hang the run."""
    reply = body("c_basic")
    reply["self"] = [reply, reply]
    (line,) = violations("completions/response", reply)
    assert "levels" in line


def test_a_lone_surrogate_is_refused_in_a_text_and_in_a_name() -> None:
    """Half a character cannot be encoded again: neither as a text nor as a token that is a key."""
    as_text = {**body("c_basic"), "extra": ["\udc80"]}
    assert violations("completions/response", as_text) == [
        "$.extra[0]: saw '\\udc80' (string), required text without lone surrogates"
    ]
    place = "choices.0.logprobs.top_logprobs.0"
    as_name = changed(body("c_lp0"), place, {"\udc80": -0.5})
    (line,) = violations("completions/response", as_name)
    assert line.startswith("$.choices[0].logprobs.top_logprobs[0]: saw a field name with a lone")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_number_is_infinite_not_even_in_an_unknown_field(number: float) -> None:
    """Python writes and reads NaN and Infinity, JSON has neither and other clients crash."""
    (line,) = violations("completions/response", {**body("c_basic"), "score": {"a": [number]}})
    assert line == f"$.score.a[0]: saw {number!r}, required a finite number"


# --- cost ----------------------------------------------------------------------------------------

COST = """
import sys
import pytest_vllm.adapters.schemas as schemas
assert not {"jsonschema", "referencing"} & set(sys.modules), "imported before use"
import jsonschema.validators, referencing, time
started = time.process_time()
schemas.violations("chat/response", {})
schemas.unknown_fields("chat/response", {})
print(time.process_time() - started)
"""
TRIES = 3
"""Of which the cheapest counts: a host that others load takes more CPU time for the same work."""


def first_use_s() -> float:
    """CPU time that the first use takes in a new process."""
    ran = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return float(ran.stdout)


def test_the_module_is_cheap_until_used_and_quick_at_first_use() -> None:
    """Importing loads no jsonschema; reading the schemas at first use takes under 150 ms of CPU."""
    assert any(first_use_s() < 0.150 for _ in range(TRIES))


def test_validators_are_built_once() -> None:
    """A second reply of the same kind costs no second compilation."""
    assert schemas._validator("chat/response") is schemas._validator("chat/response")
