"""Read workloads: those that ship with the package, TOML files, and JSONL files of prompts."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.rows import read_row
from pytest_vllm.domain.load.workload import Workload, read_workload
from pytest_vllm.domain.text import closest, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.load.rows import Row

_FOLDER = files("pytest_vllm").joinpath("data", "load", "workloads")
_SEEN = 80


@cache
def workload_names() -> tuple[str, ...]:
    """List the workloads that ship with the package, sorted."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def find_workload(name: str) -> Workload:
    """Return a workload by its name, or out of a file.

    Args:
        name: A name of `workload_names`, a `.toml` file, or a `.jsonl` or `.json` file of prompts.

    Raises:
        TargetError: There is none, or it cannot be read.
    """
    if name in workload_names():
        text = _FOLDER.joinpath(f"{name}.toml").read_text(encoding="utf-8")
        return read_workload({"name": name, **tomllib.loads(text)}, source=f"workload {name}")
    path = Path(name)
    if path.suffix in (".jsonl", ".json"):
        api = "chat" if next(read_rows(name)).messages is not None else "completions"
        return read_workload({"name": path.stem, "file": name, "api": api}, source=name)
    if path.suffix != ".toml":
        known = workload_names()
        raise TargetError(
            f"there is no workload {name!r}{closest(name, known)}",
            advice=f"use {', '.join(known)}, or a file: .toml, or .jsonl with prompts",
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetError(f"cannot read workload {name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"workload {name} is no TOML: {one_line(str(error))}") from None
    workload = read_workload({"name": path.stem, **table}, source=name)
    if not workload.file:
        return workload
    beside = str(path.parent / workload.file)
    return replace(workload, file=beside, table={**workload.table, "file": beside})


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
