"""What a registry asks for when it wants to know who we are (`WWW-Authenticate`, RFC 9110)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a word of the grammar
_WORD = re.compile(
    rf'[\s,]*(?:(?P<key>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]*))'
    rf"|(?P<scheme>{_TOKEN}))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way to say who we are.

    Attributes:
        scheme: `basic` or `bearer`, in lower case.
        values: `realm`, `service`, `scope`, names in lower case.
    """

    scheme: str
    values: Mapping[str, str] = field(default_factory=dict)


def read_challenges(header: str) -> tuple[Challenge, ...]:
    """Read a header; what is no challenge ends it."""
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while match := _WORD.match(header, position):
        position = match.end()
        if match["scheme"]:
            found.append((match["scheme"].lower(), {}))
        elif found:
            quoted = match["quoted"]
            value = match["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1][match["key"].lower()] = value
    return tuple(Challenge(scheme=scheme, values=values) for scheme, values in found)
