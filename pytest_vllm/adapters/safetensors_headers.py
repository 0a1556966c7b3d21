"""Names, types and shapes of tensors out of the headers of safetensors files, without their data.

https://github.com/huggingface/safetensors#format: 8 bytes of length, a JSON header, the data.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.weights import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LENGTH_BYTES = 8
LONGEST = 100_000_000
"""Bytes of a header; safetensors refuses longer ones."""


class HeaderError(ValueError):
    """Bytes that are no header of safetensors."""


def read_files(paths: Iterable[Path]) -> tuple[Tensor, ...]:
    """Read the headers of files, in their order.

    Raises:
        HeaderError: One of them is none; the message names it.
        OSError: One of them cannot be read.
    """
    return tuple(tensor for path in paths for tensor in _read_file(path))


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


def parse(header: bytes) -> tuple[Tensor, ...]:
    """Read a header, without the length in front of it.

    Raises:
        HeaderError: It is no JSON object of tensors.
    """
    try:
        table = json.loads(header)
        table.pop("__metadata__", None)
        return tuple(
            Tensor(name=name, dtype=str(entry["dtype"]), shape=tuple(map(int, entry["shape"])))
            for name, entry in table.items()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HeaderError(f"{type(error).__name__}: {error}"[:200]) from None


def _read_file(path: Path) -> tuple[Tensor, ...]:
    try:
        with path.open("rb") as file:
            return parse(file.read(header_bytes(file.read(LENGTH_BYTES))))
    except HeaderError as error:
        raise HeaderError(f"{path.name} has no header of safetensors: {error}") from None
