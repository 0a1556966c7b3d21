"""What a model on the disk is, by a digest that takes a second and not the time to read it all.

Weights are up to a terabyte, so they are not read. What the Hub stored by its SHA-256 is named by
it in the Hub's cache, and other large files by their size and by samples of what is in them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL = 64 * 2**20
"""Bytes of a file that is read whole; tokenizers have up to 35 MB."""
_READ = 256 * 2**20
"""Bytes that are read whole in all."""
_SAMPLE = 64 * 2**10
_MOST_FILES = 10_000
_WHOLE, _BLOB, _SAMPLED = "read whole", "by the Hub's SHA-256", "by size and samples"
_NAMED = "by name alone (linked folder)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a model in one digest.

    Attributes:
        sha256: Digest of the listing, in hexadecimal.
        of: What the listing holds, in words.
        repository: Its ID on the Hub, where the folder is a snapshot in the Hub's cache.
        commit: Commit of that snapshot.
    """

    sha256: str
    of: str
    repository: str = ""
    commit: str = ""


def list_model(path: Path) -> Listing:
    """List a model and return the digest of the list.

    One line for each file, in the order of its names: how it is known, its digest, its size and its
    path. Hidden files and folders do not count: what tools leave there is not the model. A link to
    a folder is a line of its own and not followed: it may lead anywhere, and in circles.

    Args:
        path: Its folder, or its one file.

    Raises:
        OSError: A file or a folder cannot be read, or there is no file.
    """
    listing, seen, left = hashlib.sha256(), Counter[str](), _READ
    for name, file in islice(_files(path), _MOST_FILES):
        size = 0 if file.is_dir() else file.stat().st_size
        how, digest = _identity(file, size, left)
        left -= size if how == _WHOLE else 0
        seen[how] += 1
        listing.update(f"{how}\t{digest}\t{size}\t{name}\n".encode("utf-8", "backslashreplace"))
    if not seen:
        raise FileNotFoundError(2, "there is no file of a model", str(path))
    hows = (_WHOLE, _BLOB, _SAMPLED, _NAMED)
    counted = ", ".join(f"{seen[how]} {how}" for how in hows if seen[how])
    total = seen.total()
    more = ", the rest not listed" if total == _MOST_FILES else ""
    repository, commit = _snapshot(path)
    noun = "file" if total == 1 else "files"
    return Listing(
        sha256=listing.hexdigest(),
        of=f"listing of {total} {noun}: {counted}{more}",
        repository=repository,
        commit=commit,
    )


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Give name and path of files and linked folders, in an order that no file system decides."""
    if path.is_file():
        yield path.name, path
        return
    for folder, folders, names in os.walk(path, onerror=_give_up):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked = {name for name in folders if (Path(folder) / name).is_symlink()}
        for name in sorted(linked.union(name for name in names if not name.startswith("."))):
            file = Path(folder) / name
            if name in linked or file.is_file():
                yield file.relative_to(path).as_posix(), file


def _give_up(error: OSError) -> None:
    """Have nothing passed over: a digest of less than it says would be worse than none."""
    raise error


def _identity(file: Path, size: int, left: int) -> tuple[str, str]:
    """Return how a file is known and the digest by which it is; a linked folder has none.

    Args:
        file: The file.
        size: Its bytes.
        left: Bytes that may still be read whole.
    """
    if file.is_dir():
        return _NAMED, ""
    if size <= min(_SMALL, left):
        with file.open("rb") as stream:
            return _WHOLE, hashlib.file_digest(stream, "sha256").hexdigest()
    real = file.resolve()
    if file.is_symlink() and real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return _BLOB, real.name
    samples = hashlib.sha256()
    with file.open("rb") as stream:
        for start in (0, size // 2, max(size - _SAMPLE, 0)):
            stream.seek(start)
            samples.update(stream.read(_SAMPLE))
    return _SAMPLED, samples.hexdigest()


def _snapshot(path: Path) -> tuple[str, str]:
    """Return ID and commit of a snapshot of huggingface_hub, nothing for any other folder.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    folder = path if path.is_dir() else path.parent
    kind, _, name = folder.parent.parent.name.partition("--")
    if folder.parent.name != "snapshots" or kind != "models" or not _COMMIT.fullmatch(folder.name):
        return "", ""
    return name.replace("--", "/", 1), folder.name
