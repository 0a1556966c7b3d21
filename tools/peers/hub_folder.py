"""Folders as the Hub has them, with headers of the true size and nothing behind them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tools.peers.checkpoint import size, tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tools.peers.checkpoint import Tensor

SHARD_BYTES = 20_000_000_000


def write_folder(config: Mapping[str, Any], folder: Path) -> None:
    """Write `config.json` and sparse safetensors files, in shards where there is more than one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    shards = _shards(tensors(config))
    if len(shards) == 1:
        _write(shards[0], folder / "model.safetensors")
        return
    total = len(shards)
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{total:05}.safetensors"
        _write(shard, folder / name)
        where |= {tensor[0]: name for tensor in shard}
    every = sum(size(tensor) for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": every}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def _shards(every: Sequence[Tensor]) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in every:
        if shards[-1] and filled + size(tensor) > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size(tensor)
    return shards


def _write(shard: Sequence[Tensor], file: Path) -> None:
    """Write a header and a hole (https://github.com/huggingface/safetensors#format)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, kind, shape in shard:
        start, end = end, end + size((name, kind, shape))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
