"""Tell quickly whether a document fits a JSON Schema; `schemas` says in words where it does not.

Nearly all replies are fine, and a run judges thousands of chunks on threads beside the server.
`jsonschema` takes 0.1 to 1 ms for one; a schema that was turned into functions once takes a
twentieth of it. Only the keywords that our schema files use are known here. A schema with any other
has no quick answer, and a document that does not fit is held against `jsonschema` in any case.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Fits = Callable[[Any], bool]
    Find = Callable[[str], Any]
    """Returns the schema that a `$ref` names."""

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),  # 8.0 is none: typed clients do not take it for one
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_SILENT = {"$schema", "$id", "$defs", "title", "description", "then", "else", "prefixItems"}


class UnknownKeywordError(ValueError):
    """A schema uses a keyword that is not known here."""


def compile_schema(schema: Any, find: Find) -> Fits:
    """Make a function that tells whether a JSON document fits a schema.

    The document must be sound: JSON types only, no deeper than Python can recurse.

    Args:
        schema: A schema of draft 2020-12, without a loop of references.
        find: Looks a `$ref` up.

    Raises:
        UnknownKeywordError: The schema asks for something that only `jsonschema` can tell.
    """
    if schema is True:
        return lambda _: True
    if not isinstance(schema, dict):
        raise UnknownKeywordError(f"schema {schema!r}")
    demands = [_demand(keyword, schema, find) for keyword in schema if keyword not in _SILENT]
    if "prefixItems" in schema and "items" not in schema:
        raise UnknownKeywordError("prefixItems without items")
    if len(demands) == 1:
        return demands[0]
    return lambda value: all(fits(value) for fits in demands)


def _demand(keyword: str, schema: Mapping[str, Any], find: Find) -> Fits:  # noqa: C901, PLR0911, PLR0912 - flat
    wanted = schema[keyword]
    match keyword:
        case "$ref":
            return compile_schema(find(wanted), find)
        case "type":
            names = [wanted] if isinstance(wanted, str) else wanted
            accepted = frozenset(of for name in names for of in _TYPES[name])
            return lambda value: type(value) in accepted
        case "const" | "enum":
            # 1 == True in Python, not in JSON: the types are compared, too.
            values = [wanted] if keyword == "const" else wanted
            known = frozenset((type(value), value) for value in values)
            return lambda value: (type(value), value) in known if _is_scalar(value) else False
        case "required":
            names_needed = frozenset(wanted)
            return lambda value: type(value) is not dict or names_needed <= value.keys()
        case "properties":
            return _properties(wanted, find)
        case "additionalProperties":
            return _additional(wanted, frozenset(schema.get("properties", ())), find)
        case "propertyNames":
            name_fits = compile_schema(wanted, find)
            return lambda value: type(value) is not dict or all(map(name_fits, value))
        case "items":
            return _items(wanted, schema.get("prefixItems", []), find)
        case "if":
            return _branches(schema, find)
        case "pattern":
            pattern = re.compile(wanted)
            return lambda value: type(value) is not str or pattern.search(value) is not None
        case "minimum":
            return lambda value: type(value) not in _NUMBERS or value >= wanted
        case "maximum":
            return lambda value: type(value) not in _NUMBERS or value <= wanted
        case "minLength":
            return lambda value: type(value) is not str or len(value) >= wanted
        case "minItems":
            return lambda value: type(value) is not list or len(value) >= wanted
        case "minProperties":
            return lambda value: type(value) is not dict or len(value) >= wanted
        case _:
            raise UnknownKeywordError(keyword)


_NUMBERS = (int, float)


def _is_scalar(value: object) -> bool:
    return not isinstance(value, list | dict)


def _properties(wanted: Mapping[str, Any], find: Find) -> Fits:
    fields = {name: compile_schema(schema, find) for name, schema in wanted.items()}

    def fits(value: Any) -> bool:
        if type(value) is not dict:
            return True
        for name, child in value.items():
            field = fields.get(name)
            if field is not None and not field(child):
                return False
        return True

    return fits


def _additional(wanted: Any, named: frozenset[str], find: Find) -> Fits:
    if wanted is False:
        return lambda value: type(value) is not dict or value.keys() <= named
    field = compile_schema(wanted, find)
    return lambda value: (
        type(value) is not dict
        or all(name in named or field(child) for name, child in value.items())
    )


def _items(wanted: Any, first: list[Any], find: Find) -> Fits:
    leading = [compile_schema(schema, find) for schema in first]
    following = compile_schema(wanted, find)
    count = len(leading)

    def fits(value: Any) -> bool:
        if type(value) is not list:
            return True
        if not all(item_fits(item) for item_fits, item in zip(leading, value, strict=False)):
            return False
        return all(map(following, value[count:] if count else value))

    return fits


def _branches(schema: Mapping[str, Any], find: Find) -> Fits:
    condition = compile_schema(schema["if"], find)
    yes = compile_schema(schema.get("then", True), find)
    no = compile_schema(schema.get("else", True), find)
    return lambda value: yes(value) if condition(value) else no(value)
