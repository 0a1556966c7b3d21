"""Read a JSON object that somebody else may have written."""

from __future__ import annotations

import json
from typing import Any

from pytest_vllm.domain.decode import decode
from pytest_vllm.domain.text import one_line

_LONGEST = 160


def read_object(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object that can be walked, compared and written again.

    Args:
        text: Anything.
        what: Words for it at the beginning of a message.

    Raises:
        ValueError: It is none, is nested too deeply, or holds NaN, an infinity or a huge number.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{what} is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{what} is no JSON object")  # noqa: TRY004 - bad data, not code
    try:
        return decode(dict[str, Any], found, names={}, where=what)
    except ValueError as error:
        raise ValueError(one_line(str(error), _LONGEST)) from None
