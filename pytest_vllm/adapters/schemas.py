"""Hold a reply against the JSON Schemas in `schemas/`: the one home of `jsonschema`.

Schemas are named by folder and file, such as "completions/response". What they do not name is
allowed, so that a new vLLM can add fields; `unknown_fields` reports such names as observations.

Two habits of the schema files matter here. Every `$ref` is absolute (`urn:pytest-vllm:schema:...`),
so no lookup leaves the folder. "This or null" is written as `if null, else this`: a violation then
arrives as itself, where `anyOf` would wrap it together with "is not null".

`jsonschema` and `referencing` cost 80 ms and are imported at the first call, not before.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from reprlib import Repr
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.matching import UnknownKeywordError, compile_schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator
    from referencing import Registry

    from pytest_vllm.adapters.matching import Fits

MAX_VIOLATIONS = 20
"""At most so many lines come back: whoever reads more has stopped reading."""

MAX_DEPTH = 64
"""Deeper documents are refused unread. The deepest healthy reply has nine levels."""

MAX_UNKNOWN_FIELDS = 100
"""At most so many names come back from `unknown_fields`."""

_SEEN_CHARS = 120
_NAME_CHARS = 40
_INTEGER_BITS = 1024  # beyond it no double can hold the value, and Python may refuse to print it
_URN = "urn:pytest-vllm:schema:"
_SHARED = "common/"  # definitions that other schemas refer to; no reply has their shape
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TYPE_NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} character(s)",
    "minItems": "at least {} item(s)",
    "minProperties": "at least {} field(s)",
    "pattern": "text that matches {}",
}


class UnknownSchemaError(KeyError):
    """There is no schema of this name; the message lists those that there are."""

    def __str__(self) -> str:
        """Give the plain message, where `KeyError` would quote it."""
        return str(self.args[0])


def schema_names() -> tuple[str, ...]:
    """List the schemas that a reply can be held against, sorted."""
    return tuple(sorted(name for name in _documents() if not name.startswith(_SHARED)))


def violations(schema: str, document: Any) -> list[str]:
    """Say where a parsed JSON document breaks a schema.

    Args:
        schema: a name of `schema_names()`, such as "chat/response".
        document: what `json.loads` returned.

    Returns:
        One line for each violation: JSON path, what was seen (at most 120 characters of it), what
        was required. Empty when the document is fine, at most `MAX_VIOLATIONS` lines otherwise.
        NaN, Infinity and lone surrogates are violations wherever they are, in unknown fields too.

    Raises:
        UnknownSchemaError: there is no such schema.
    """
    fits = _matcher(schema)
    if fits is not None and _is_sound(document) and fits(document):
        return []
    validator = _validator(_known(schema))
    hostile = next(_hostilities(document), None)
    if hostile is not None:
        # jsonschema compares and prints values by recursion: it must not see such a document.
        return [hostile]
    lines: dict[str, None] = {}
    for line in _all_lines(validator, document):
        lines[line] = None
        if len(lines) == MAX_VIOLATIONS:
            break
    return list(lines)


def unknown_fields(schema: str, document: object) -> list[str]:
    """List the fields of a document that a schema does not name: observations, never failures.

    Returns:
        Dotted paths, each once, in the order of the document; `[]` stands for every index and `*`
        for every key of a map. At most `MAX_UNKNOWN_FIELDS`.

    Raises:
        UnknownSchemaError: there is no such schema.
    """
    return list(unknown_types(schema, document))


def unknown_types(schema: str, document: object) -> dict[str, str]:
    """Do what `unknown_fields` does and name the JSON type of what stands there first."""
    found: dict[str, str] = {}
    for path, value in _strangers(_shape_of(_known(schema)), document, ""):
        found.setdefault(path, _TYPE_NAMES.get(type(value), "no JSON type"))
        if len(found) == MAX_UNKNOWN_FIELDS:
            break
    return found


# --- the schemas ---------------------------------------------------------------------------------


@cache
def _documents() -> dict[str, dict[str, Any]]:
    """Read every schema file, wherever the package lies: wheel, editable install, sources."""
    folder = files("pytest_vllm").joinpath("schemas")
    return {
        f"{area.name}/{file.name.removesuffix('.json')}": json.loads(file.read_text("utf-8"))
        for area in folder.iterdir()
        if area.is_dir()
        for file in area.iterdir()
        if file.name.endswith(".json")
    }


def _known(schema: str) -> str:
    if schema not in _documents() or schema.startswith(_SHARED):
        raise UnknownSchemaError(
            f"no schema is called {schema!r}; known are: {', '.join(schema_names())}"
        )
    return schema


@cache
def _registry() -> Registry[Any]:
    from referencing import Registry  # noqa: PLC0415 - 80 ms that only a check pays
    from referencing.jsonschema import DRAFT202012  # noqa: PLC0415

    # jsonschema enters a document that has `$schema` with its stock class for that draft, and so
    # loses our stricter integer behind every `$ref`.
    stripped = [
        {key: value for key, value in document.items() if key != "$schema"}
        for document in _documents().values()
    ]
    resources = map(DRAFT202012.create_resource, stripped)
    return Registry().with_resources((resource.id() or "", resource) for resource in resources)


@cache
def _validator(schema: str) -> Validator:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - 80 ms that only a check pays
    from jsonschema.validators import extend  # noqa: PLC0415

    # By the specification 8.0 is an integer. Typed clients (Go, Rust, the SDK in strict mode) do
    # not take it for one, so neither do we: https://json-schema.org/draft/2020-12/json-schema-core
    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    strict: type[Validator] = extend(  # type: ignore[no-untyped-call] # types-jsonschema 4.26
        Draft202012Validator, type_checker=checker
    )
    return strict(_documents()[schema], registry=_registry())


@cache
def _matcher(schema: str) -> Fits | None:
    """Return the quick answer to whether a document is fine, None when there is none."""
    lookup = _registry().resolver().lookup
    try:
        return compile_schema(_documents()[_known(schema)], lambda ref: lookup(ref).contents)
    except UnknownKeywordError:
        return None


def _is_integer(_checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# --- violations ----------------------------------------------------------------------------------


def _all_lines(validator: Validator, document: Any) -> Iterator[str]:
    for error in validator.iter_errors(document):
        yield from _lines(error)
    yield from _unsound_values(document)


def _lines(error: ValidationError) -> Iterator[str]:
    place = _json_path(error.absolute_path)
    if error.validator == "required":
        # One error comes for each missing field, and only its message tells which; so each of them
        # tells all, and the caller drops the repetitions.
        names: Any = error.validator_value
        instance: Any = error.instance
        for name in (name for name in names if name not in instance):
            yield f"{place}{_step(name)}: saw no such field, required it to be there"
        return
    what = "the field name " if "propertyNames" in error.absolute_schema_path else ""
    yield f"{place}: saw {what}{_shown(error.instance)}, required {_requirement(error)}"


def _requirement(error: ValidationError) -> str:
    value: Any = error.validator_value
    or_null = " or null" if _is_nullable(error) else ""
    match error.validator:
        case "type":
            return " or ".join([value] if isinstance(value, str) else value) + or_null
        case "const":
            return f"the constant {json.dumps(value)}{or_null}"
        case "enum":
            return f"one of {', '.join(map(json.dumps, value))}{or_null}"
        case str(bound) if bound in _BOUNDS:
            return _BOUNDS[bound].format(value) + or_null
        case _:
            return _shortened(error.message)


def _is_nullable(error: ValidationError) -> bool:
    """Tell whether the violated keyword stands right in the `else` of an "if null"."""
    above = [step for step in list(error.absolute_schema_path)[:-1] if step != "$ref"]
    return bool(above) and above[-1] == "else"


def _hostilities(document: object) -> Iterator[str]:
    """Find what must not reach a recursive reader: bottomless nesting, values that no JSON has."""
    for place, value, depth in _nodes(document):
        if depth > MAX_DEPTH:
            yield f"{_place(place)}: saw deeper nesting, required at most {MAX_DEPTH} levels"
        elif type(value) not in _TYPE_NAMES:
            yield f"{_place(place)}: saw a Python {type(value).__name__}, required a JSON value"
        elif isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
            yield (
                f"{_place(place)}: saw an integer of {value.bit_length()} bits, "
                f"required at most {_INTEGER_BITS}"
            )
        elif isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            yield f"{_place(place)}: saw a field name that is no text, required only texts"


def _unsound_values(document: object) -> Iterator[str]:
    """Find what Python's JSON reader lets through although JSON or Unicode do not have it."""
    for place, value, _depth in _nodes(document):
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{_place(place)}: saw {value!r}, required a finite number"
        elif isinstance(value, str) and _SURROGATE.search(value):
            yield f"{_place(place)}: saw {_shown(value)}, required text without lone surrogates"
        elif isinstance(value, dict) and any(map(_SURROGATE.search, value)):
            yield f"{_place(place)}: saw a field name with a lone surrogate, required none"


def _is_sound(value: Any, levels: int = MAX_DEPTH) -> bool:
    """Tell quickly whether neither `_hostilities` nor `_unsound_values` find anything."""
    kind = type(value)
    if kind is dict:
        return levels > 0 and all(
            type(key) is str and _is_whole(key) and _is_sound(child, levels - 1)
            for key, child in value.items()
        )
    if kind is list:
        return levels > 0 and all(_is_sound(child, levels - 1) for child in value)
    if kind is str:
        return _is_whole(value)
    if kind is float:
        return math.isfinite(value)
    return kind is bool or value is None or (kind is int and value.bit_length() <= _INTEGER_BITS)


def _is_whole(text: str) -> bool:
    return text.isascii() or _SURROGATE.search(text) is None


_Place = tuple["_Place", str | int] | None
"""A linked path, last step first: costs nothing for the many nodes that have nothing to report."""


def _nodes(document: object) -> Iterator[tuple[_Place, object, int]]:
    """Visit every value without recursion, parents first; levels below the limit stay unvisited."""
    todo: list[tuple[_Place, object, int]] = [(None, document, 1)]
    while todo:
        place, value, depth = todo.pop()
        yield place, value, depth
        if depth > MAX_DEPTH:
            continue
        if isinstance(value, dict):
            todo.extend(((place, key), value[key], depth + 1) for key in reversed(value))
        elif isinstance(value, list):
            todo.extend(
                ((place, index), value[index], depth + 1) for index in reversed(range(len(value)))
            )


# --- fields without a name in the schema ---------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What a schema names, and no more: fields of an object, values of a map, items of an array.

    None stands for "look no further": a scalar, or an object that the schema leaves open.
    """

    fields: dict[str, _Shape | None]
    values: _Shape | None
    is_map: bool
    items: _Shape | None


@cache
def _shape_of(schema: str) -> _Shape | None:
    return _shape([_documents()[schema]])


def _shape(schemas: Iterable[Any]) -> _Shape | None:
    """Merge schemas that hold for the same value, with all they refer to, into one shape."""
    parts = [part for schema in schemas for part in _parts(schema)]
    if not parts:
        return None
    fields: dict[str, list[Any]] = {}
    for part in parts:
        for name, schema in part.get("properties", {}).items():
            fields.setdefault(name, []).append(schema)
    maps = [part["additionalProperties"] for part in parts if "additionalProperties" in part]
    items = [part["items"] for part in parts if "items" in part]
    items += [schema for part in parts for schema in part.get("prefixItems", [])]
    shape = _Shape(
        fields={name: _shape(schemas) for name, schemas in fields.items()},
        values=_shape(maps),
        is_map=bool(maps),
        items=_shape(items),
    )
    return shape if shape.fields or shape.values or shape.items else None


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(schema, dict):
        return  # `true`: anything goes
    yield schema
    if "$ref" in schema:
        yield from _parts(_registry().resolver().lookup(schema["$ref"]).contents)
    for branch in ("then", "else"):
        if branch in schema:
            yield from _parts(schema[branch])


def _strangers(shape: _Shape | None, value: object, path: str) -> Iterator[tuple[str, object]]:
    """Walk document and shape side by side; the shape, which is finite, bounds the recursion."""
    if shape is None:
        return
    if isinstance(value, list):
        for item in value:
            yield from _strangers(shape.items, item, f"{path}[]")
    elif isinstance(value, dict):
        dot = "." if path else ""
        for name, child in value.items():
            if name in shape.fields:
                yield from _strangers(shape.fields[name], child, f"{path}{dot}{name}")
            elif shape.is_map:
                yield from _strangers(shape.values, child, f"{path}{dot}*")
            elif shape.fields:
                yield f"{path}{dot}{_name(name)}", child


# --- how values and places are shown -------------------------------------------------------------


def _place(place: _Place) -> str:
    """Show a linked path, shortened, since only hostile documents have long ones."""
    steps: list[str | int] = []
    while place is not None:
        place, step = place
        steps.append(step)
    return _shortened(_json_path(reversed(steps)))


def _json_path(steps: Iterable[str | int]) -> str:
    return "$" + "".join(map(_step, steps))


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _name(step) == step else f"[{_name(step)}]"


def _name(name: object) -> str:
    """Keep a plain field name; quote, escape and shorten any other, since a server chose it."""
    text = str(name)
    if len(text) <= _NAME_CHARS and _PLAIN_NAME.match(text):
        return text
    return json.dumps(text if len(text) <= _NAME_CHARS else text[:_NAME_CHARS] + "…")


def _shown(value: object) -> str:
    return f"{_shortened(_REPR.repr(value))} ({_TYPE_NAMES.get(type(value), 'no JSON type')})"


def _shortened(text: str) -> str:
    return text if len(text) <= _SEEN_CHARS else f"{text[: _SEEN_CHARS - 1]}…"


def _bounded_repr() -> Repr:
    bounded = Repr()
    bounded.maxlevel = 3
    bounded.maxlist = bounded.maxdict = 6
    bounded.maxstring = bounded.maxlong = bounded.maxother = _SEEN_CHARS
    return bounded


_REPR = _bounded_repr()
