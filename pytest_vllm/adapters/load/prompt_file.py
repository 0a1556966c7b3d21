"""Read prompts and recorded traces out of JSONL and JSON files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.rows import read_row
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.load.rows import Row

_SEEN = 80


def read_rows(name: str) -> Iterator[Row]:
    """Read the prompts of a file: one JSON object a line, or one JSON array of objects.

    Args:
        name: The file.

    Raises:
        TargetError: It cannot be read, or a line is none of the known layouts; names the line.
    """
    path, empty = Path(name), True
    try:
        with path.open(encoding="utf-8") as lines:
            if path.suffix == ".json":
                entries = json.load(lines)
                if not isinstance(entries, list):
                    raise TargetError(f"{name} is no JSON array of prompts")
                for number, entry in enumerate(entries, start=1):
                    empty = False
                    yield read_row(entry, where=f"{name}, entry {number}")
            else:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        empty = False
                        yield read_row(_json(line, name, number), where=f"{name}, line {number}")
    except OSError as error:
        raise TargetError(f"cannot read the prompts of {name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise TargetError(f"{name} is no JSON in UTF-8: {one_line(str(error))}") from None
    if empty:
        raise TargetError(f"{name} has no prompts", advice="write one JSON object a line")


def digest(name: str) -> str:
    """Return what tells two files of prompts apart."""
    with Path(name).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _json(line: str, name: str, number: int) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TargetError(
            f"{name}, line {number} is no JSON ({error}): {one_line(line, _SEEN)}",
            advice="write one JSON object a line",
        ) from None
