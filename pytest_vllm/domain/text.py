"""Small rules about text that many modules share."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from difflib import get_close_matches
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SECRET_NAME = re.compile(r"TOKEN(?!IZER)|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_SHAPE = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"
    r"|(?<=\bBearer )[A-Za-z0-9._~+/-]{8,}=*"
    # written small it may be a word of a sentence, and few words have a digit
    r"|(?<=\bbearer )(?=[A-Za-z._~+/-]*[0-9])[A-Za-z0-9._~+/-]{8,}=*"
)
"""What a token looks like by itself: no quote, backslash or bracket, so no text loses its form.

https://datatracker.ietf.org/doc/html/rfc6750#section-2.1
"""
_SHORTEST_SECRET = 6
_ANSI = re.compile(
    r"\x1b\[[0-9:;<=>?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links
    r"|\x1b[ -/]*[0-Z\\^-~]"  # all other escapes
)
_JOINERS = "\u200c\u200d"  # parts of words and emoji


def closest(name: str, known: Sequence[str], *, alike: float = 0.5) -> str:
    """Return `; did you mean X?` for the closest known name, or nothing.

    Args:
        name: What was typed.
        known: What could have been meant.
        alike: How much it must be alike, from 0 to 1; with many known names something always is.
    """
    matches = get_close_matches(name, known, n=1, cutoff=alike)
    return f"; did you mean {matches[0]}?" if matches else ""


def printable(text: str) -> str:
    """Return the text as it can be shown anywhere; lines and tabs stay.

    Colour codes are dropped. Other control characters, lone surrogates and characters that turn
    the direction of writing are shown as their codes, such as x00 after a backslash.
    """
    if text.isprintable():  # almost all is, and a report has tens of thousands of texts
        return text
    lines = _ANSI.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(line if line.isprintable() else _shown(line) for line in lines)


def one_line(text: str, limit: int = 500) -> str:
    """Return a printable text on one line, cut at `limit` characters."""
    line = " ".join(printable(text[: 8 * limit]).split())
    return line if len(line) <= limit else f"{line[: max(limit - 3, 0)]}..."


def secrets_in(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables whose names say that they are secret."""
    return tuple(
        value
        for name, value in env.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
    )


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace secrets by `[redacted]`: given values, Hub tokens and bearer tokens.

    A given value is also found as JSON, XML, a URL or a shell word spells it.
    """
    spellings = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, "[redacted]")
    return _SECRET_SHAPE.sub("[redacted]", text)


def _spellings(secret: str) -> set[str]:
    encoded = secret.encode("utf-8", "replace")
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        html.escape(secret),
        html.escape(secret, quote=False),
        quote(encoded),
        quote(encoded, safe=""),
        secret.replace("'", "'\"'\"'"),
    }


def _shown(line: str) -> str:
    return "".join(char if char == "\t" or not _is_unsafe(char) else _code(char) for char in line)


def _is_unsafe(char: str) -> bool:
    return char not in _JOINERS and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _code(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
