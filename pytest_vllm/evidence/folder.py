"""Holds the files of an evidence folder against `run.json`.

Some have their digest in it, and some are made of it alone and can be made again. What is neither
is named, so that nobody takes it for vouched for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.plain_file import read_plain, sha256_plain
from pytest_vllm.adapters.store import raw
from pytest_vllm.domain.errors import VllmError
from pytest_vllm.domain.evidence import check_files
from pytest_vllm.domain.statement import ENVELOPE_FILE, RECORD_FILE, STATEMENT_FILE
from pytest_vllm.domain.text import one_line
from pytest_vllm.evidence.makers import other_makers
from pytest_vllm.evidence.point import Point
from pytest_vllm.plugin.materials import IN_FOLDER, RESTED_ON
from pytest_vllm.reports.registry import REPORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_vllm.adapters.runs import StoredRun
    from pytest_vllm.domain.record import Material

LARGEST = 100_000_000
"""Bytes of a text that is read whole."""
_LARGEST_LOG = 10_000_000_000
_OF_STATEMENT = (RECORD_FILE, STATEMENT_FILE, ENVELOPE_FILE)
_MOST_NAMED = 5
_MOST_FILES = 100_000
_MADE_WITH = {report.file: report.made_with for report in REPORTS.values()}


def folder_points(run: StoredRun) -> tuple[Point, ...]:
    """Look at all files of the folder but the record, its statement and its envelope."""
    materials = [each for each in run.record.materials if each.kind in IN_FOLDER]
    made: dict[str, Callable[[], str]] = _made_of_record(run)
    held = {each.name for each in materials}
    return (
        *(_material(run, each) for each in materials),
        *_made(run, {name: make for name, make in made.items() if name not in held}),
        *_others(run, known={*held, *made, *_OF_STATEMENT}),
    )


def _material(run: StoredRun, material: Material) -> Point:
    """Hold a file against the digest that the run took of it."""
    name = material.name
    if not name or Path(name).name != name:
        text = f"{one_line(name)} is no file of the evidence folder"
        return Point(ok=False, about=one_line(name, 60), text=text)
    try:
        digest = sha256_plain(run.folder / name, largest=_LARGEST_LOG)
    except VllmError as error:
        return Point(ok=False, about=one_line(name, 60), text=error.message)
    ok: bool | None = digest == material.sha256
    if digest is None:
        rests = material.kind in RESTED_ON
        ok = False if rests else None
        text = "is missing, and the run rests on it" if rests else "is missing: the run wrote it"
    elif ok:
        text = (
            "is the one that the run was made with"
            if material.kind in RESTED_ON
            else "is the one that the run wrote"
        )
    else:
        ran = one_line(material.sha256, 80)
        text = f"was edited or replaced: its sha256 is {digest}, the run's {ran}"
    return Point(ok=ok, about=one_line(name, 60), text=text)


def _made_of_record(run: StoredRun) -> dict[str, Callable[[], str]]:
    """Return what can be made of the record, by the name of its file."""
    reports = {
        report.file: (lambda report=report: report.render(run.record))
        for report in REPORTS.values()
        if report.file not in _OF_STATEMENT
    }
    checks = {
        name: (lambda text=text: text)  # made already: their names come of it
        for name, text in check_files(run.record).items()
    }
    return {**reports, **checks}


def _made(run: StoredRun, made: dict[str, Callable[[], str]]) -> Iterator[Point]:
    """Make again what lies there, and compare."""
    there = [name for name in made if os.path.lexists(run.folder / name)]
    others = {
        name: other_makers(run.record.environment, _MADE_WITH.get(name, ())) for name in there
    }
    for makers in dict.fromkeys(filter(None, others.values())):
        names = [name for name in there if others[name] == makers]
        text = (
            f"not held against {RECORD_FILE}, whose run had {makers}: {_named(names)} "
            "(pytest-vllm report makes reports anew)"
        )
        yield Point(ok=None, about=_files(names), text=text)
    found = {name: _difference(run, name, made[name]) for name in there if not others[name]}
    wrong = {name: text for name, text in found.items() if text}
    checks = [name for name in wrong if "/" in name]
    for name, text in wrong.items():
        if name not in checks:
            yield Point(ok=False, about=name, text=text)
    if checks:
        yield Point(ok=False, about="checks", text=f"{_named(checks)}: {wrong[checks[0]]}")
    if same := [name for name, text in found.items() if not text]:
        text = f"what {RECORD_FILE} gives: {_named(same)}"
        yield Point(ok=True, about=_files(same), text=text)


def _difference(run: StoredRun, name: str, make: Callable[[], str]) -> str:
    """Say in what a file is not what the record gives; empty when it is."""
    try:
        found = read_plain(run.folder / name, largest=LARGEST)
        same = found == raw(make())
    except VllmError as error:
        return error.message
    return "" if same else f"is not what {RECORD_FILE} gives"


def _others(run: StoredRun, *, known: set[str]) -> Iterator[Point]:
    """Name what nothing is known of."""
    found = []
    for parent, folders, files in os.walk(run.folder, onerror=None):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        paths = [Path(parent, name).relative_to(run.folder).as_posix() for name in files + links]
        found += [path for path in paths if path not in known]
        if len(found) > _MOST_FILES:
            break
    if found:
        text = f"not covered by {RECORD_FILE}, so anybody may have written it: {_named(found)}"
        yield Point(ok=None, about=_files(found), text=text)


def _named(names: list[str]) -> str:
    shown = ", ".join(one_line(name, 80) for name in names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _files(names: list[str]) -> str:
    return f"{len(names)} files" if len(names) != 1 else "1 file"
