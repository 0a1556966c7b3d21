"""The simulator's structured outputs: what it writes fits what was asked."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import pytest

from pytest_vllm.simulator.errors import ApiError
from pytest_vllm.simulator.expressions import expression
from pytest_vllm.simulator.grammar import Grammar, GrammarError
from pytest_vllm.simulator.knowledge import knowledge
from pytest_vllm.simulator.model import Context
from pytest_vllm.simulator.rules import rules
from pytest_vllm.simulator.structured import constraint_factory, tool_constraint_factory
from pytest_vllm.simulator.tokens import TURN_END

KNOWN = knowledge()
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
        "home": {"$ref": "#/$defs/home"},
        "score": {"type": ["number", "null"]},
        "day": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
    },
    "required": ["name", "age", "tags", "home", "score", "day", "code"],
    "additionalProperties": False,
    "$defs": {
        "home": {
            "type": "object",
            "properties": {"city": {"const": "Köln"}, "old": {"type": "boolean"}},
            "required": ["city", "old"],
        }
    },
}


def written(values: dict[str, Any], seed: int) -> str:
    """Write a text under a constraint, choosing at random among what is allowed."""
    make = constraint_factory(KNOWN.tokenizer, values)
    assert make is not None
    return _walk(make(), seed)


def _walk(constraint: Any, seed: int) -> str:
    chooser = random.Random(seed)  # noqa: S311 - a test's choice
    context = Context(KNOWN.tokenizer.encode("A person as JSON:"))
    start = len(context.tokens)
    for _ in range(400):
        raw = KNOWN.model.predict(context)
        token = chooser.choice(sorted(constraint.allowed(raw)))
        if token == TURN_END:
            return KNOWN.tokenizer.decode(context.tokens[start:])
        constraint.take(token)
        context.append(token)
    raise AssertionError("the text does not end")


def accepts(grammar: Grammar, text: str) -> bool:
    return None in grammar.move_all(grammar.start, text.encode())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "pattern",
    [
        "[0-9]{4}-[0-9]{2}",
        "(yes|no)!?",
        r"\d+\.\d{2} (EUR|USD)",
        "[^a-z]{3}",
        "a.c",
        "x*y+",
        "日本?",
    ],
)
def test_expressions_are_matched(pattern: str, seed: int) -> None:
    text = written({"structured_outputs": {"regex": pattern}}, seed)
    assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("text", ["(a", "a)", "[a", "a{", "*a", "a{3,1}", "[z-a]", "(?=a)", "\\"])
def test_broken_expressions_are_refused(text: str) -> None:
    with pytest.raises(GrammarError):
        expression(text)


@pytest.mark.parametrize("seed", range(12))
def test_documents_fit_their_schema(seed: int) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
    document = json.loads(written({"response_format": shape}, seed))
    jsonschema.validate(document, PERSON, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"type": "integer", "exclusiveMinimum": 5}, {"const": "x"}]},
        {"allOf": [{"properties": {"a": {"type": "null"}}, "required": ["a"]}, {"type": "object"}]},
        {"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": [7]}], "items": False},
        {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 40},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "array", "maxItems": 0},
        {"type": "object", "properties": {}, "additionalProperties": False},
    ],
)
def test_other_schemas_are_fitted_too(schema: dict[str, Any]) -> None:
    for seed in range(6):
        text = written({"structured_outputs": {"json": schema}}, seed)
        jsonschema.validate(json.loads(text), schema)


def test_json_objects_are_objects() -> None:
    for seed in range(8):
        shape = {"type": "json_object"}
        assert isinstance(json.loads(written({"response_format": shape}, seed)), dict)


@pytest.mark.parametrize(
    "text",
    ['root ::= "yes" | "no"', 'start: answer\nanswer: "yes" | NO\nNO: /no/', 'root ::= [n] "o"'],
)
def test_rules_are_read_in_both_dialects(text: str) -> None:
    grammar = Grammar(rules(text))
    assert accepts(grammar, "no")
    assert not accepts(grammar, "nono")


@pytest.mark.parametrize(
    "text", ["", "root ::= (", 'root ::= "a" |', "root ::= other", 'rule ::= "a"', "root ::= ]"]
)
def test_broken_rules_are_refused(text: str) -> None:
    with pytest.raises(GrammarError):
        rules(text)


def test_a_rule_that_begins_with_itself_is_refused() -> None:
    with pytest.raises(GrammarError, match="begins with itself"):
        Grammar(rules('root ::= root "a" | "b"'))


def test_a_rule_may_use_itself_inside() -> None:
    grammar = Grammar(rules('root ::= "(" root ")" | "x"'))
    assert accepts(grammar, "((x))")
    assert not accepts(grammar, "((x)")


@pytest.mark.parametrize(
    "values",
    [
        {"structured_outputs": {}},
        {"structured_outputs": {"choice": []}},
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        {"structured_outputs": {"regex": "[a"}},
        {"structured_outputs": {"json": {"type": "nonsense"}}},
        {"structured_outputs": {"json": {"$ref": "#/$defs/none"}}},
        {"structured_outputs": {"grammar": "root ::= ("}},
        {"response_format": {"type": "yaml"}},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_constraints_that_cannot_be_meant_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        constraint_factory(KNOWN.tokenizer, values)
    assert caught.value.status == 400


def test_free_text_has_no_constraint() -> None:
    assert constraint_factory(KNOWN.tokenizer, {"response_format": {"type": "text"}}) is None


def test_a_call_names_one_of_the_functions() -> None:
    functions: list[dict[str, Any]] = [{"name": "add", "parameters": PERSON}, {"name": "stop"}]
    make = tool_constraint_factory(KNOWN.tokenizer, functions)
    for seed in range(6):
        text = _walk(make(), seed)
        said = json.loads(text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        if said["name"] == "add":
            jsonschema.validate(said["arguments"], PERSON)
        else:
            assert said == {"name": "stop", "arguments": {}}
