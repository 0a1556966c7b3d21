"""Read and write golden files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.golden import from_document, to_document

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vllm.domain.golden import Golden


def read_golden(path: Path) -> Golden:
    """Read a golden.

    Raises:
        TargetError: There is no such file, or it is no golden.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetError(
            f"cannot read {path}: {error.strerror}", advice="check the path"
        ) from None
    except ValueError as error:
        raise TargetError(f"{path} is not JSON: {error}", advice="name a golden file") from None
    return from_document(document, name=str(path))


def refuse_to_overwrite(path: Path, *, force: bool) -> None:
    """Raise where a golden would replace a file.

    Raises:
        TargetError: The file exists and `force` is not set.
    """
    if path.exists() and not force:
        raise TargetError(
            f"{path} exists; a golden is a decision and is not replaced by accident",
            advice="name another --output, or add --force",
        )


def write_golden(golden: Golden, path: Path, *, force: bool) -> None:
    """Write a golden.

    Raises:
        TargetError: The file exists and `force` is not set.
        HostError: It cannot be written.
    """
    refuse_to_overwrite(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(to_document(golden), ensure_ascii=False, separators=(",", ":"))
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise HostError(
            f"cannot write {path}: {error.strerror}", advice="name another --output"
        ) from None
