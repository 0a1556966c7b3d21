"""Values of a server's arguments, held against what vLLM's own converters take and no stricter."""

from __future__ import annotations

import json
import re
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from pytest_vllm.domain.quantization import OLDER_METHODS
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from pytest_vllm.domain.facts.arguments import Flag

_HUMAN = re.compile(r"\d+(?:\.\d+)?[kmgt]|\d+[KMGT]")
_STRINGS = re.compile(r'("(?:[^"\\]|\\.)*")')
_NUMBER_IN_JSON = re.compile(r"\b\d+(?:\.\d+)?[kKmMgGtT]\b")
_NONE = ("", "None")
_SHOWN = 8
_ALIKE = 0.6


class Value:
    """Converts nothing and refuses what the server would refuse; argparse calls it a type.

    Args:
        flag: The flag whose values they are.
    """

    def __init__(self, flag: Flag) -> None:
        self._flag = flag

    def __call__(self, text: str) -> str:
        """Return a value as it is.

        Raises:
            ArgumentTypeError: The server refuses it.
        """
        flag = self._flag
        if flag.choices and text not in flag.choices:
            raise ArgumentTypeError(
                f"invalid choice: {text!r}{closest(text, flag.choices, alike=_ALIKE)} "
                f"(choose from {', '.join(flag.choices)})"
            )
        wanted = _wanted(text, flag.kind)
        if wanted:
            raise ArgumentTypeError(f"{text!r} is not {wanted}")
        if flag.known and not _is_known(text, flag.known):
            raise ArgumentTypeError(_unknown(text, flag.known))
        return text


def _wanted(text: str, kind: str) -> str:
    """Return what a value is not but should be, nothing when it is in order."""
    if kind.endswith("?") and text in _NONE:
        return ""
    match kind.removesuffix("?"):
        case "int":
            return "" if _is(int, text) else "a whole number"
        case "float":
            return "" if _is(float, text) else "a number"
        case "human":
            fine = text.lower() == "auto" or _HUMAN.fullmatch(text.strip()) or _is(int, text)
            return "" if fine else "a whole number such as 8192 or 8k"
        case "json":
            return "" if _is_json(text) else 'JSON such as {"key": 1} (blanks in it need quotes)'
        case _:
            return ""


def _is(kind: type[int | float], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _is_json(text: str) -> bool:
    """Tell whether it is JSON; vLLM takes numbers such as `80m` in it, outside of strings."""
    parts = _STRINGS.split(text)
    parts[::2] = [_NUMBER_IN_JSON.sub("1", part) for part in parts[::2]]
    try:
        json.loads("".join(parts))
    except (ValueError, RecursionError):
        return False
    return True


def _is_known(text: str, known: tuple[str, ...]) -> bool:
    """Tell whether vLLM knows a value; one with a dot names a class that anybody may have."""
    return text in _NONE or "." in text or text.lower() in (name.lower() for name in known)


def _unknown(text: str, known: tuple[str, ...]) -> str:
    earlier = text.lower() in OLDER_METHODS and "fp8" in known
    hint = "" if earlier else closest(text.lower(), [name.lower() for name in known], alike=_ALIKE)
    more = ", ..." if len(known) > _SHOWN else ""
    return (
        f"{text!r} is unknown{' to this version, earlier ones had it' if earlier else hint} "
        f"(it has {', '.join(known[:_SHOWN])}{more}; leave out what only a plugin of yours adds)"
    )
