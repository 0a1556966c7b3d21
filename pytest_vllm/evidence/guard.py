"""What no off-line verb may replace, asked for or not: the evidence of runs that are over."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from pytest_vllm.adapters.plain_file import UnreadableFileError, read_plain
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.statement import ENVELOPE_FILE, RECORD_FILE
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.registry import REPORTS

if TYPE_CHECKING:
    from pathlib import Path

_FILES = (ENVELOPE_FILE, *(report.file for report in REPORTS.values()))
_BEGINNINGS = ("compose.", "server.", "benchmark.")
"""Of the names of what a run rests on and of what it wrote, see `plugin.materials`."""
_CHECKS = "checks"
_LARGEST = 100_000_000
"""Bytes of a file that is looked into; the record of 20,000 checks has a tenth of it."""


def refuse_evidence(file: Path, *, own: Path | None = None) -> None:
    """Refuse to replace a file that is evidence.

    That is a `run.json` by name, a record of a run or a signed statement by content wherever it
    lies, and what a run wrote beside its `run.json`.

    Args:
        file: What is to be written.
        own: A file of an evidence folder that may be replaced, because the very same is made again
            of the very `run.json` beside it.

    Raises:
        TargetError: It is evidence, or nothing that can be looked into.
        OSError: The file system does not let it be looked at.
    """
    if not os.path.lexists(file) or (own is not None and _same(file, own)):
        return
    what = _place(file) or _content(file)
    if what:
        raise TargetError(
            f"--output: {one_line(str(file), 200)} {what}, which stays as it is",
            advice="name another file; --overwrite replaces no evidence",
        )


def _same(file: Path, own: Path) -> bool:
    return file.name == own.name and file.parent.samefile(own.parent)


def _place(file: Path) -> str:
    """Say which part of the evidence a file is by where it lies, empty for none."""
    if file.name == RECORD_FILE:
        return "is the record of a run"
    of_run = file.name in _FILES or file.name.startswith(_BEGINNINGS)
    if of_run and (file.parent / RECORD_FILE).exists():
        return f"belongs to the run of the {RECORD_FILE} beside it"
    for folder in file.absolute().parents:
        if folder.name == _CHECKS and (folder.parent / RECORD_FILE).exists():
            return f"belongs to the run in {one_line(str(folder.parent), 200)}"
    return ""


def _content(file: Path) -> str:
    """Say which evidence a file holds, empty for none."""
    try:
        text = read_plain(file, largest=_LARGEST) or b""
    except UnreadableFileError as error:
        raise TargetError(
            f"--output: {error.message}, so nobody can say that it is no evidence",
            advice="name another file",
        ) from None
    try:
        document = json.loads(text) if text.lstrip()[:1] == b"{" else None
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    if {"schema", "run_id", "verdict"} <= document.keys():
        return "is the record of a run"
    if {"payload", "payloadType", "signatures"} <= document.keys():
        return "is a signed statement"
    return ""
