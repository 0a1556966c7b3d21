"""JSON Schemas as grammars of documents that fit them.

A part of what a schema allows is generated, and always a text that ends: texts and lists without
an upper bound stay short, properties that are not required are left out unless none is required.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.expressions import expression
from pytest_vllm.simulator.grammar import (
    PRINTABLE,
    Chain,
    Either,
    GrammarError,
    Node,
    OneOf,
    Repeat,
    Rule,
    literal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_INSIDE = OneOf(PRINTABLE - {0x22, 0x5C})
_LONGEST_TEXT = 24
_MORE_ITEMS = 2
_INTEGERS = 100
_DEPTH = 2
_FORMATS = {
    "date": "20[0-2][0-9]-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])",
    "time": "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z",
    "date-time": "20[0-2][0-9]-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T[01][0-9]:[0-5][0-9]:00Z",
    "email": "[a-z]{3,8}@[a-z]{3,8}\\.org",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}",
    "ipv4": "10\\.[0-9]\\.[0-9]\\.[1-9]",
}


def document(schema: Any) -> Node:
    """Return the grammar of the documents of a schema.

    Raises:
        GrammarError: It is no schema.
    """
    return _Schema(schema).node(schema, 0)


def any_object() -> Node:
    """Return the grammar of JSON objects."""
    return _object_of_any(0)


class _Schema:
    """Reads one schema with its definitions."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._rules: dict[str, Rule] = {}

    def node(self, schema: Any, depth: int) -> Node:
        """Return the grammar of a schema inside."""
        if schema is True:
            return _any(depth)
        if not isinstance(schema, dict):
            raise GrammarError(f"Invalid schema: {schema!r}")
        for keyword, reader in (
            ("$ref", self._reference),
            ("const", _constant),
            ("enum", _enumeration),
            ("anyOf", self._alternatives),
            ("oneOf", self._alternatives),
            ("allOf", self._conjunction),
        ):
            if keyword in schema:
                return reader(schema, keyword, depth)
        return self._typed(schema, depth)

    def _alternatives(self, schema: Mapping[str, Any], keyword: str, depth: int) -> Node:
        base = {name: value for name, value in schema.items() if name != keyword}
        return Either(self.node({**base, **one}, depth) for one in schema[keyword])

    def _conjunction(self, schema: Mapping[str, Any], keyword: str, depth: int) -> Node:
        merged = {name: value for name, value in schema.items() if name != keyword}
        for one in schema[keyword]:
            merged = _merged(merged, one)
        return self.node(merged, depth)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Node:
        kind = schema.get("type")
        if isinstance(kind, list):
            return Either(self._typed({**schema, "type": one}, depth) for one in kind)
        if kind is None:
            implied = {"properties": "object", "items": "array"}
            kind = next((implied[name] for name in implied if name in schema), None)
            if kind is None:
                return _any(depth)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind not in _SIMPLE:
            raise GrammarError(f"Invalid type: {kind}")
        return _SIMPLE[kind](schema)

    def _reference(self, schema: Mapping[str, Any], keyword: str, depth: int) -> Node:
        name = str(schema[keyword])
        if name not in self._rules:
            found: Any = self._root
            for part in name.removeprefix("#").strip("/").split("/"):
                if part and (not isinstance(found, dict) or part not in found):
                    raise GrammarError(f"Unresolvable reference: {name}")
                found = found[part] if part else found
            self._rules[name] = Rule(name)
            self._rules[name].part = self.node(found, depth)
        return self._rules[name]

    def _object(self, schema: Mapping[str, Any], depth: int) -> Node:
        properties = schema.get("properties") or {}
        if not isinstance(properties, dict):
            raise GrammarError("properties must be an object")
        needed = list(schema.get("required") or ())
        if not properties and not needed:
            more = schema.get("additionalProperties", True)
            if more is False:
                return literal("{}")
            value = _any(depth + 1) if more is True else self.node(more, depth + 1)
            return _members(value)
        names = [name for name in properties if name in needed] or list(properties)
        names += [name for name in needed if name not in properties]
        parts: list[Node] = [literal("{")]
        for at, name in enumerate(names):
            parts.append(
                literal((", " if at else "") + json.dumps(name, ensure_ascii=False) + ": ")
            )
            parts.append(self.node(properties.get(name, True), depth + 1))
        return Chain([*parts, literal("}")])

    def _array(self, schema: Mapping[str, Any], depth: int) -> Node:
        fixed = [self.node(one, depth + 1) for one in schema.get("prefixItems") or ()]
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(least, 1) + _MORE_ITEMS))
        if most < least:
            raise GrammarError("maxItems is less than minItems")
        items = schema.get("items", True)
        if fixed and items in (True, False):
            return Chain([literal("["), *_separated(fixed), literal("]")])
        item = self.node(items, depth + 1)
        if not most:
            return literal("[]")
        more = Repeat(Chain([literal(", "), item]), max(0, least - 1), most - 1)
        filled = Chain([literal("["), item, more, literal("]")])
        return filled if least else Either([filled, literal("[]")])


def _constant(schema: Mapping[str, Any], keyword: str, depth: int) -> Node:
    del depth
    return _json(schema[keyword])


def _enumeration(schema: Mapping[str, Any], keyword: str, depth: int) -> Node:
    del depth
    values = schema[keyword]
    if not isinstance(values, list) or not values:
        raise GrammarError("enum must be a list that is not empty")
    return Either(_json(value) for value in values)


def _json(value: Any) -> Node:
    return literal(json.dumps(value, ensure_ascii=False))


def _separated(parts: Sequence[Node]) -> list[Node]:
    found: list[Node] = []
    for at, part in enumerate(parts):
        found += [literal(", "), part] if at else [part]
    return found


def _string(schema: Mapping[str, Any]) -> Node:
    quote = literal('"')
    if "pattern" in schema:
        return Chain([quote, expression(str(schema["pattern"])), quote])
    if schema.get("format") in _FORMATS:
        return Chain([quote, expression(_FORMATS[schema["format"]]), quote])
    least = int(schema.get("minLength", 0))
    most = int(schema.get("maxLength", max(least, 1) + _LONGEST_TEXT))
    if most < least:
        raise GrammarError("maxLength is less than minLength")
    return Chain([quote, Repeat(_INSIDE, least, min(most, least + _LONGEST_TEXT)), quote])


def _number(schema: Mapping[str, Any], *, whole: bool) -> Node:
    step = schema.get("multipleOf", 1) if whole else 1
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and schema.get("exclusiveMinimum") is not None:
        low = schema["exclusiveMinimum"] + 1
    if high is None and schema.get("exclusiveMaximum") is not None:
        high = schema["exclusiveMaximum"] - 1
    if low is None and high is None and step == 1:
        digits = Either([literal("0"), expression("[1-9][0-9]{0,2}")])
        return digits if whole else Chain([digits, Repeat(expression("\\.[0-9]{1,2}"), 0, 1)])
    first = low if low is not None else min(0, high if high is not None else 0)
    last = high if high is not None else first + _INTEGERS * step
    if last < first:
        raise GrammarError("maximum is less than minimum")
    start = -(-first // step) * step
    values = [start + step * number for number in range(_INTEGERS) if start + step * number <= last]
    if not values:
        values = [first]
    return Either(literal(json.dumps(int(one) if int(one) == one else one)) for one in values)


def _boolean(schema: Mapping[str, Any]) -> Node:
    del schema
    return Either([literal("true"), literal("false")])


def _null(schema: Mapping[str, Any]) -> Node:
    del schema
    return literal("null")


_SIMPLE: Mapping[str, Callable[[Mapping[str, Any]], Node]] = {
    "string": _string,
    "integer": lambda schema: _number(schema, whole=True),
    "number": lambda schema: _number(schema, whole=False),
    "boolean": _boolean,
    "null": _null,
}


def _any(depth: int) -> Node:
    simple = [_SIMPLE[kind]({}) for kind in ("string", "number", "boolean", "null")]
    return Either(simple if depth >= _DEPTH else [*simple, _object_of_any(depth + 1)])


def _object_of_any(depth: int) -> Node:
    return _members(_any(depth + 1))


def _members(value: Node) -> Node:
    member = Chain([literal('"'), expression("[a-z]{1,8}"), literal('": '), value])
    more = Repeat(Chain([literal(", "), member]), 0, 2)
    return Chain([literal("{"), member, more, literal("}")])


def _merged(left: dict[str, Any], right: Any) -> dict[str, Any]:
    merged = {**left, **right}
    merged["properties"] = {**left.get("properties", {}), **right.get("properties", {})}
    merged["required"] = [*left.get("required", ()), *right.get("required", ())]
    if not merged["properties"]:
        merged.pop("properties")
    return merged
