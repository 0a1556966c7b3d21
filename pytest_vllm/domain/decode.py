"""Read dataclasses back from JSON, held against their own type hints."""

from __future__ import annotations

import dataclasses
import types
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


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
        return hint(raw) if issubclass(hint, Enum) else raw
    raise ValueError(f"{where} is a {type(raw).__name__}")


def _is(hint: type, raw: object) -> bool:
    """Tell whether a plain value fits; JSON writes whole floats as integers, and `true` is none."""
    if issubclass(hint, Enum):
        return isinstance(raw, str)
    if isinstance(raw, bool):
        return hint is bool
    return isinstance(raw, int | float) if hint is float else isinstance(raw, hint)


def _read_dataclass(kind: type[Any], raw: object, names: Mapping[str, Any], where: str) -> object:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is a {type(raw).__name__}")  # noqa: TRY004 - bad data, not code
    hints = get_type_hints(kind, localns=dict(names))
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
