"""Look at weight files without reading the weights: sizes against headers, pointers, links."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_vllm.domain.facts.model import Flaw, FlawedFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/v1"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "optimizer.pt")
_PIECE = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<total>\d+)(?P<suffix>\.\w+)")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # safetensors refuses longer ones
_MAGIC = {".gguf": (b"GGUF",), ".bin": (b"PK", b"\x80"), ".pt": (b"PK", b"\x80")}


@dataclass(slots=True, kw_only=True)
class Weights:
    """What the weight files of a model hold.

    Attributes:
        files: Files that are there and whole.
        total_bytes: Their size.
        tensor_bytes: Bytes of tensors by type, as far as headers tell.
        spare_bytes: Bytes of tensors of layers beyond the main model.
        index_bytes: What the index says that all tensors take, `None` without one.
        flaws: Files that are not as they should be.
    """

    files: int = 0
    total_bytes: int = 0
    tensor_bytes: dict[str, int] = field(default_factory=dict)
    spare_bytes: int = 0
    index_bytes: int | None = None
    flaws: list[FlawedFile] = field(default_factory=list)


def read_weights(folder: Path, *, main_layers: int | None = None) -> Weights:
    """Look at all weight files that vLLM would load from a folder.

    Args:
        folder: The model.
        main_layers: Layers of the main model, to tell those of a draft head apart.
    """
    weights = Weights()
    for name in _indexed(folder, weights) or _listed(folder):
        _look(folder / name, name, weights, main_layers)
    return weights


def weight_names(folder: Path) -> tuple[str, ...]:
    """Return the weight files that vLLM would load, whether they are there or not."""
    return tuple(_indexed(folder, Weights()) or _listed(folder))


def is_pointer(path: Path) -> bool:
    """Tell whether a file is what git leaves in place of a file that LFS did not fetch."""
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def _indexed(folder: Path, weights: Weights) -> list[str]:
    """Return the files that an index names; PyTorch's counts only without safetensors."""
    for name in INDEXES:
        index = folder / name
        if not index.is_file() or (name == INDEXES[1] and any(folder.glob("*.safetensors"))):
            continue
        try:
            table = json.loads(index.read_bytes())
            shards = sorted({str(shard) for shard in table["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            weights.flaws.append(FlawedFile(name=name, flaw=Flaw.BROKEN, detail=_said(error)))
            return []
        metadata = table.get("metadata")
        size = metadata.get("total_size") if isinstance(metadata, dict) else None
        if isinstance(size, int | float) and not isinstance(size, bool) and 0 < size < 2**62:
            weights.index_bytes = int(size)
        return shards
    return []


def _listed(folder: Path) -> list[str]:
    """Return the files of the first kind that there is, and those missing in a numbered row."""
    for pattern in _PATTERNS:
        names = sorted(path.name for path in folder.glob(pattern) if path.name not in _NO_WEIGHTS)
        if len(names) > 1:
            names = [name for name in names if not name.startswith("consolidated")] or names
        if names:
            return sorted({*names, *_row(names)})
    return []


def _row(names: Iterable[str]) -> set[str]:
    row: set[str] = set()
    for name in names:
        match = _PIECE.fullmatch(name)
        if match and 0 < int(match["total"]) < 10_000:  # noqa: PLR2004 - no model has more shards
            width = len(match["number"])
            row |= {
                f"{match['stem']}-{number:0{width}}-of-{match['total']}{match['suffix']}"
                for number in range(1, int(match["total"]) + 1)
            }
    return row


def _look(path: Path, name: str, weights: Weights, main_layers: int | None) -> None:
    try:
        if path.is_symlink() and not path.exists():
            flaw = FlawedFile(name=name, flaw=Flaw.DANGLING, detail=f"to {path.readlink()}")
        elif not path.exists():
            flaw = FlawedFile(name=name, flaw=Flaw.MISSING)
        else:
            size = path.stat().st_size
            found = _flaw_in(path, name, size, weights, main_layers)
            if found is None:
                weights.files += 1
                weights.total_bytes += size
                return
            flaw = found
    except OSError as error:
        flaw = FlawedFile(name=name, flaw=Flaw.UNREADABLE, detail=_said(error))
    weights.flaws.append(flaw)


def _flaw_in(
    path: Path, name: str, size: int, weights: Weights, main_layers: int | None
) -> FlawedFile | None:
    if is_pointer(path):
        return FlawedFile(name=name, flaw=Flaw.POINTER, detail=f"{size} bytes")
    if path.suffix != ".safetensors":
        with path.open("rb") as file:
            start = file.read(4)
        if not start.startswith(_MAGIC[path.suffix]):
            return FlawedFile(name=name, flaw=Flaw.BROKEN, detail=f"starts with {start!r}")
        return None
    return _read_header(path, name, size, weights, main_layers)


def _read_header(
    path: Path, name: str, size: int, weights: Weights, main_layers: int | None
) -> FlawedFile | None:
    """Hold the size of a file against what its header says.

    https://github.com/huggingface/safetensors#format: 8 bytes of length, a JSON header, the data.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
            short = length <= _LONGEST_HEADER
            flaw = Flaw.TRUNCATED if short else Flaw.BROKEN
            detail = f"{size} bytes, header alone takes {length}" if short else "no header"
            return FlawedFile(name=name, flaw=flaw, detail=detail)
        raw = file.read(length) if length <= _LONGEST_HEADER else b""
    try:
        tensors = json.loads(raw)
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        needed = _LENGTH_BYTES + length + int(end)
        if size == needed:
            _count_tensors(tensors, weights, main_layers)
            return None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        return FlawedFile(name=name, flaw=Flaw.BROKEN, detail=_said(error))
    flaw = Flaw.TRUNCATED if size < needed else Flaw.BROKEN
    return FlawedFile(name=name, flaw=flaw, detail=f"{size} of {needed} bytes")


def _count_tensors(
    tensors: dict[str, dict[str, list[int]]], weights: Weights, main_layers: int | None
) -> None:
    for name, tensor in tensors.items():
        start, end = tensor["data_offsets"][:2]
        kind = str(tensor.get("dtype", ""))
        layer = _LAYER.search(name) if main_layers is not None else None
        if main_layers is not None and layer and int(layer[1]) >= main_layers:
            weights.spare_bytes += end - start
        weights.tensor_bytes[kind] = weights.tensor_bytes.get(kind, 0) + end - start


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return f"{type(error).__name__}: {error}"[:200]
