"""Read dataclasses back from JSON, held against their own type hints."""

from __future__ import annotations

import dataclasses
import math
import types
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")
_NOT_FINITE = ("nan", "inf", "-inf")
"""What JSON has no numbers for, as `record.to_json` writes it."""
_TOO_LARGE = 2**1023
"""Whole numbers beyond are no floats, which readers make of them; nothing measured is near."""
_DEEPEST = 100
"""Levels of plain data. No record has ten; Python ends at about a thousand of its own."""


def decode(kind: type[T], raw: object, *, names: Mapping[str, Any], where: str = "") -> T:
    """Make a dataclass out of what `dataclasses.asdict` made of it, also after JSON.

    Args:
        kind: The dataclass.
        raw: Mapping with a value for each field; fields with a default may be absent.
        names: Types that the hints name but their modules import for the type checker only.
        where: Path of the value, for error messages.

    Raises:
        ValueError: A value is missing, unknown or of another type; its path is named.
    """
    return cast("T", _read(kind, raw, names, where or kind.__name__))


def _read(hint: Any, raw: object, names: Mapping[str, Any], where: str) -> object:
    if hint is Any:
        _refuse_extremes(raw, where)
        return raw
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(cast("type[Any]", hint), raw, names, where)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(hint), raw, names, where)
    if origin is tuple and isinstance(raw, list | tuple):
        return _read_tuple(get_args(hint), raw, names, where)
    if origin is dict and isinstance(raw, dict) and all(isinstance(key, str) for key in raw):
        kind = get_args(hint)[1]
        return {key: _read(kind, value, names, f"{where}.{key}") for key, value in raw.items()}
    if isinstance(hint, type) and origin is None and _is(hint, raw):
        plain = not issubclass(hint, Enum) and raw not in _NOT_FINITE
        return raw if plain or hint is str else hint(raw)
    raise ValueError(f"{where} is a {type(raw).__name__}")


def _is(hint: type, raw: object) -> bool:
    """Tell whether a plain value fits; JSON writes whole floats as integers, and `true` is none."""
    if issubclass(hint, Enum):
        return isinstance(raw, str)
    if isinstance(raw, bool):
        return hint is bool
    if isinstance(raw, int) and abs(raw) >= _TOO_LARGE:
        return False
    if hint is float:
        return isinstance(raw, int | float) or raw in _NOT_FINITE
    return isinstance(raw, hint)


def _refuse_extremes(raw: object, where: str) -> None:
    """Refuse plain data that no reader can be expected to bear.

    Raises:
        ValueError: It is nested too deeply, or holds a number that is none or is too large.
    """
    level = [raw]
    for _ in range(_DEEPEST):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list | tuple):
                below += item
            elif isinstance(item, int) and abs(item) >= _TOO_LARGE:
                raise ValueError(f"{where} holds a number of {item.bit_length()} bits")
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"{where} holds {item}, which JSON has no number for")
        if not below:
            return
        level = below
    raise ValueError(f"{where} is nested too deeply")


def _read_dataclass(kind: type[Any], raw: object, names: Mapping[str, Any], where: str) -> object:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is a {type(raw).__name__}")  # noqa: TRY004 - bad data, not code
    hints = _hints(kind, names)
    unknown = [str(key) for key in raw if key not in hints]
    if unknown:
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}")
    for item in dataclasses.fields(kind):
        optional = (item.default, item.default_factory) != (dataclasses.MISSING,) * 2
        if item.name not in raw and not optional:
            raise ValueError(f"{where} has no {item.name!r}")
    return kind(
        **{key: _read(hints[key], value, names, f"{where}.{key}") for key, value in raw.items()}
    )


_KNOWN: dict[type[Any], dict[str, Any]] = {}
"""The hints of each dataclass once they were read, which takes far longer than to use them."""


def _hints(kind: type[Any], names: Mapping[str, Any]) -> dict[str, Any]:
    if kind not in _KNOWN:
        _KNOWN[kind] = get_type_hints(kind, localns=dict(names))
    return _KNOWN[kind]


def _read_union(
    kinds: tuple[Any, ...], raw: object, names: Mapping[str, Any], where: str
) -> object:
    if raw is None and type(None) in kinds:
        return None
    problem: ValueError | None = None
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _read(kind, raw, names, where)
        except ValueError as error:
            problem = error
    raise problem or ValueError(f"{where} is a {type(raw).__name__}")


def _read_tuple(
    kinds: tuple[Any, ...],
    raw: list[Any] | tuple[Any, ...],
    names: Mapping[str, Any],
    where: str,
) -> object:
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(raw)
    if len(kinds) != len(raw):
        raise ValueError(f"{where} has {len(raw)} items")
    return tuple(
        _read(kind, value, names, f"{where}[{index}]")
        for index, (kind, value) in enumerate(zip(kinds, raw, strict=True))
    )
