"""Types of the fields of requests, with the liberties that pydantic takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.errors import InvalidFieldsError, invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TRUE, _FALSE = {"true", "yes", "on", "1", "t", "y"}, {"false", "no", "off", "0", "f", "n"}
_INT64 = 2**63 - 1


class WrongTypeError(Exception):
    """A value of the wrong type.

    Args:
        entries: What `InvalidFieldsError` takes.
    """

    def __init__(self, *entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self.entries = entries


def integer(place: str, value: Any) -> int:
    """Read an integer; `true`, `2.0` and `"2"` are some."""
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value) and value == int(value):
            return int(value)
        text = "Input should be a valid integer, got a number with a fractional part"
        raise WrongTypeError(invalid("int_from_float", place, text, value))
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            text = "Input should be a valid integer, unable to parse string as an integer"
            raise WrongTypeError(invalid("int_parsing", place, text, value)) from None
    text = "Input should be a valid integer"
    raise WrongTypeError(invalid("int_type", place, text, value))


def long(place: str, value: Any) -> int:
    """Read an integer of 64 bits."""
    number = integer(place, value)
    if number > _INT64:
        text = f"Input should be less than or equal to {_INT64}"
        raise WrongTypeError(invalid("less_than_equal", place, text, value, le=_INT64))
    if number < -_INT64 - 1:
        text = f"Input should be greater than or equal to {-_INT64 - 1}"
        raise WrongTypeError(invalid("greater_than_equal", place, text, value, ge=-_INT64 - 1))
    return number


def number(place: str, value: Any) -> float:
    """Read a number, also out of a text."""
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            text = "Input should be a valid number, unable to parse string as a number"
            raise WrongTypeError(invalid("float_parsing", place, text, value)) from None
    text = "Input should be a valid number"
    raise WrongTypeError(invalid("float_type", place, text, value))


def boolean(place: str, value: Any) -> bool:
    """Read a boolean; 0, 1 and words for them are some."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in {0, 1}:
        return bool(value)
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    if isinstance(value, int | float | str):
        text = "Input should be a valid boolean, unable to interpret input"
        raise WrongTypeError(invalid("bool_parsing", place, text, value))
    text = "Input should be a valid boolean"
    raise WrongTypeError(invalid("bool_type", place, text, value))


def string(place: str, value: Any) -> str:
    """Read a text; numbers are none."""
    if isinstance(value, str):
        return value
    text = "Input should be a valid string"
    raise WrongTypeError(invalid("string_type", place, text, value))


def array(place: str, value: Any) -> list[Any]:
    """Read a list."""
    if isinstance(value, list):
        return value
    text = "Input should be a valid list"
    raise WrongTypeError(invalid("list_type", place, text, value))


def mapping(place: str, value: Any) -> dict[str, Any]:
    """Read an object."""
    if isinstance(value, dict):
        return value
    text = "Input should be a valid dictionary"
    raise WrongTypeError(invalid("dict_type", place, text, value))


def integers(place: str, value: Any) -> list[int]:
    """Read a list of integers."""
    return [integer(f"{place}.{at}", item) for at, item in enumerate(array(place, value))]


def strings(place: str, value: Any) -> list[str]:
    """Read a list of texts."""
    return [string(f"{place}.{at}", item) for at, item in enumerate(array(place, value))]


def stops(place: str, value: Any) -> list[str]:
    """Read stop texts: one, or up to four."""
    if isinstance(value, str):
        return [value]
    wrong = invalid("string_type", place, "Input should be a valid string", value)
    if not isinstance(value, list):
        text = "Input should be a valid list"
        raise WrongTypeError(wrong, invalid("list_type", place, text, value))
    limit = 4
    if len(value) > limit:
        text = f"List should have at most {limit} items after validation, not {len(value)}"
        context = {"field_type": "List", "max_length": limit, "actual_length": len(value)}
        raise WrongTypeError(wrong, invalid("too_long", place, text, value, **context))
    return strings(place, value)


def prompt(place: str, value: Any) -> Any:
    """Read a prompt: a text, token IDs, or a list of either."""
    if isinstance(value, str):
        return value
    wrong = [
        invalid("list_type", place, "Input should be a valid list", value),
        invalid("list_type", place, "Input should be a valid list", value),
        invalid("string_type", place, "Input should be a valid string", value),
        invalid("list_type", place, "Input should be a valid list", value),
    ]
    if not isinstance(value, list):
        raise WrongTypeError(*wrong)
    if all(isinstance(item, str) for item in value):
        return value
    if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
        _positive(place, value)
        return value
    if all(isinstance(item, list) for item in value):
        for at, item in enumerate(value):
            _positive(f"{place}.{at}", integers(f"{place}.{at}", item))
        return value
    raise WrongTypeError(*(entry | {"loc": f"{place}.0"} for entry in wrong))


def _positive(place: str, ids: list[int]) -> None:
    for at, token in enumerate(ids):
        if token < 0:
            text = "Input should be greater than or equal to 0"
            entry = invalid("greater_than_equal", f"{place}.{at}", text, token, ge=0)
            raise WrongTypeError(entry)


def read(
    document: Mapping[str, Any], kinds: Mapping[str, Callable[[str, Any], Any]]
) -> dict[str, Any]:
    """Read the known fields of a request; `null` is as good as none.

    Args:
        document: The request.
        kinds: A reader for each field.

    Raises:
        InvalidFieldsError: Some have the wrong type.
    """
    values: dict[str, Any] = {}
    wrong: list[dict[str, Any]] = []
    for name, value in document.items():
        reader = kinds.get(name)
        if reader is None or value is None:
            continue
        try:
            values[name] = reader(f"body.{name}", value)
        except WrongTypeError as error:
            wrong.extend(error.entries)
    if wrong:
        raise InvalidFieldsError(wrong)
    return values


def required(document: Mapping[str, Any], *names: str) -> None:
    """Require fields to be there.

    Raises:
        InvalidFieldsError: Some are not.
    """
    missing = [
        invalid("missing", f"body.{name}", "Field required", dict(document))
        for name in names
        if name not in document
    ]
    if missing:
        raise InvalidFieldsError(missing)
