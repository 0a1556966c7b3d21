"""Small rules about text that many modules share."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_SHAPE = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=[Bb]earer )[^\s'\"]+")
_SHORTEST_SECRET = 6


def closest(name: str, known: Sequence[str]) -> str:
    """Return `; did you mean X?` for the closest known name, or nothing."""
    matches = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def secrets_in(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables whose names say that they are secret."""
    return tuple(
        value
        for name, value in env.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
    )


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace secrets by `[redacted]`: given values, Hub tokens and bearer tokens."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    return _SECRET_SHAPE.sub("[redacted]", text)
