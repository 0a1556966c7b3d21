"""By what a run made its reports, and whether that is here: only then they come out to the byte."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OURS, _PYTHON = "pytest-vllm", "python"


def other_makers(environment: Mapping[str, str], made_with: Iterable[str]) -> str:
    """Name what is of another version here than it was where a report was made.

    Args:
        environment: Versions of the run, as its record has them; old records have fewer.
        made_with: Distributions that the report was made with, besides ours and Python.

    Returns:
        Words for a reader; empty where all of them are the same.
    """
    found = []
    for name in (_OURS, _PYTHON, *made_with):
        ours, theirs = _here(name), environment.get(name, "")
        if _form(name, ours) != _form(name, theirs):
            shown = f"{name} {one_line(theirs, 40)}" if theirs else f"an unknown {name}"
            found.append(f"{shown} (here {ours or 'none'})")
    return ", ".join(found)


def _here(name: str) -> str:
    if name == _PYTHON:
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _form(name: str, of: str) -> str:
    """Return what of a version decides about the form of texts: of Python no patch does."""
    return ".".join(of.split(".")[:2]) if name == _PYTHON else of
