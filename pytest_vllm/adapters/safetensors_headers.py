"""Names, types and shapes of tensors out of the headers of safetensors files, without their data.

https://github.com/huggingface/safetensors#format: 8 bytes of length, a JSON header, the data.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.weights import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Row = tuple[str, str, tuple[int, ...]]
"""Name, type and shape of a tensor."""

LENGTH_BYTES = 8
LONGEST = 100_000_000
"""Bytes of a header; safetensors refuses longer ones."""
_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


class HeaderError(ValueError):
    """Bytes that are no header of safetensors."""


def read_files(paths: Iterable[Path]) -> tuple[Tensor, ...]:
    """Read the headers of files.

    Raises:
        HeaderError: One of them is none; the message names it.
        OSError: One of them cannot be read.
    """
    return together(row for path in paths for row in _read_file(path))


def together(rows: Iterable[Row]) -> tuple[Tensor, ...]:
    """Make tensors of all rows of a checkpoint; experts of a layer that are alike become one.

    DeepSeek-V3 has 92,000 tensors and 1,400 that differ in more than the number of the expert.
    """
    counts: Counter[Row] = Counter(
        (_EXPERT.sub("0", name) if ".experts." in name else name, dtype, shape)
        for name, dtype, shape in rows
    )
    return tuple(
        Tensor(name=name, dtype=dtype, shape=shape, count=count)
        for (name, dtype, shape), count in counts.items()
    )


def header_bytes(start: bytes) -> int:
    """Return how long a header is, of the first bytes of its file.

    Raises:
        HeaderError: It is too long for a header, or there are not enough bytes.
    """
    if len(start) < LENGTH_BYTES:
        raise HeaderError(f"{len(start)} bytes are too few")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > LONGEST:
        raise HeaderError("it does not begin with the length of a header")
    return length


def parse(header: bytes) -> list[Row]:
    """Read a header, without the length in front of it.

    Raises:
        HeaderError: It is no JSON object of tensors.
    """
    try:
        table = json.loads(header)
        table.pop("__metadata__", None)
        return [
            (name, str(entry["dtype"]), tuple(map(int, entry["shape"])))
            for name, entry in table.items()
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HeaderError(f"{type(error).__name__}: {error}"[:200]) from None


def _read_file(path: Path) -> list[Row]:
    try:
        with path.open("rb") as file:
            return parse(file.read(header_bytes(file.read(LENGTH_BYTES))))
    except HeaderError as error:
        raise HeaderError(f"{path.name} has no header of safetensors: {error}") from None
