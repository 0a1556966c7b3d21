"""Files of safetensors that have a true header and, in place of weights, a hole."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I32": 4, "U8": 1}


def write_safetensors(file: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write tensors, each with its type and shape; their data take no space on the disk.

    https://github.com/huggingface/safetensors#format
    """
    table = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + BYTES[dtype] * math.prod(shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(table).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(file, 8 + len(header) + end)
