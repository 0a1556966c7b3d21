"""Find workloads: those that ship with the package, TOML files, and files of prompts."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from pytest_vllm.adapters.load.prompt_file import read_rows
from pytest_vllm.adapters.toml_file import read_toml
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.workload import Workload, read_workload
from pytest_vllm.domain.text import closest

_FOLDER = files("pytest_vllm").joinpath("data", "load", "workloads")


@cache
def workload_names() -> tuple[str, ...]:
    """List the workloads that ship with the package, sorted."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_workload(name: str) -> Workload:
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
    table = read_toml(path, name=name, what="workload")
    workload = read_workload({"name": path.stem, **table}, source=name)
    if not workload.file:
        return workload
    beside = str(path.parent / workload.file)
    return replace(workload, file=beside, table={**workload.table, "file": beside})
