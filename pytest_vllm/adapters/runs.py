"""Finds runs that are over: by path, by name in the folder of all runs, or the latest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.run_folders import (
    ADVICE,
    RECORD,
    has_record,
    run_folders,
    runs_root,
    time_of,
    unreadable,
)
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.record import from_json
from pytest_vllm.domain.run_brief import brief_of
from pytest_vllm.domain.run_choice import LATEST, RunChoice, promoted, read_latest
from pytest_vllm.domain.stored import compare_performance, record_facts
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    import datetime as dt

    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.run_brief import RunBrief
    from pytest_vllm.domain.run_choice import Latest


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as it lies on the disk.

    Attributes:
        file: Its `run.json`.
        data: The bytes of that file.
        record: What they say.
    """

    file: Path
    data: bytes
    record: RunRecord

    @property
    def folder(self) -> Path:
        """The evidence folder."""
        return self.file.parent

    @property
    def sha256(self) -> str:
        """Digest of `run.json`, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """A folder of a run as a list shows it.

    Attributes:
        folder: The evidence folder.
        brief: The run in short, `None` when it cannot be read.
        problem: Why it cannot be read, empty when it can.
    """

    folder: Path
    brief: RunBrief | None = None
    problem: str = ""

    @property
    def began(self) -> dt.datetime:
        """When it began: by its record, else by its name, else by its file."""
        return self.brief.started if self.brief is not None else time_of(self.folder)


def list_runs(root: Path, choice: RunChoice | None = None) -> list[ListedRun]:
    """Return the runs below a folder, the newest first.

    Args:
        root: Folder of all runs.
        choice: Which of them; a run that cannot be read is only left out where something is asked
            of it, since nobody knows what it was.

    Raises:
        TargetError: There is no such folder, or it cannot be read.
    """
    wanted = choice or RunChoice()
    found = [_listed(folder) for folder in run_folders(root)]
    shown = [run for run in found if (wanted.fits(run.brief) if run.brief else wanted.any)]
    return sorted(shown, key=lambda run: (run.began, run.folder.name), reverse=True)


def find_run(name: str, *, root: Path | None = None) -> Path:
    """Return the `run.json` that a name means.

    Args:
        name: A `run.json`, the folder of one, the ID of a run below `root` or the beginning of one
            that no other begins with, or `latest`, see `run_choice.read_latest`.
        root: Folder of all runs; `runs_root()` by default.

    Raises:
        TargetError: There is none, or several that it could mean.
    """
    folder = runs_root() if root is None else root
    path = _path_of(name)
    if path is not None:
        return path
    latest = read_latest(name)
    if latest is not None:
        return _latest(name, latest, folder)
    found = run_folders(folder, missing_ok=True)
    known = sorted(run.name for run in found if has_record(run) is not False)
    meant = [run for run in known if name and run == name]
    meant = meant or [run for run in known if name and run.startswith(name)]
    if len(meant) == 1:
        return folder / meant[0] / RECORD
    shown = one_line(name, 200) or "an empty name"
    if meant:
        raise TargetError(
            f"{shown} could mean {len(meant)} runs: {', '.join(meant[:5])}", advice=ADVICE
        )
    raise TargetError(f"there is no run {shown}, neither as a path nor in {folder}", advice=ADVICE)


def read_run(name: str, *, root: Path | None = None) -> StoredRun:
    """Read a run; see `find_run`.

    Raises:
        TargetError: There is none, it cannot be read, or it is no record.
    """
    file = find_run(name, root=root)
    data = _bytes(file)
    return StoredRun(file=file, data=data, record=from_json(_text(data, file), where=str(file)))


def read_baseline(name: str, *, root: Path) -> RunRecord:
    """Read the run that `--vllm-baseline` names.

    `latest` is here the latest that ended in PROMOTE, unless a verdict is named: what was rejected
    is nothing to be held against.

    Args:
        name: As in `find_run`.
        root: Folder of all runs.

    Raises:
        TargetError: There is none, it cannot be read, or it is no record.
    """
    try:
        latest = None if _path_of(name) is not None else read_latest(name)
        named = name if latest is None else str(_latest(name, promoted(latest), root))
        run = read_run(named, root=root)
        _refuse_odd_loads(run)
    except TargetError as error:
        advice = error.advice
        if LATEST in name:
            advice += "; a first run has no baseline: leave the option out"
        raise TargetError(f"--vllm-baseline: {error.message}", advice=advice) from None
    return run.record


def _refuse_odd_loads(run: StoredRun) -> None:
    """Raise where figures of a run cannot be compared with anything, not even with themselves."""
    loads = run.record.performance
    try:
        compare_performance(loads, loads, facts=(record_facts(run.record),) * 2)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise TargetError(
            f"the loads in {run.file} cannot be read", advice="name a run.json that was not edited"
        ) from None


def _path_of(name: str) -> Path | None:
    """Return the `run.json` that a path names, `None` when it is no path of one."""
    if not name:
        return None
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            path /= RECORD
        return path if path.is_file() else None
    except (OSError, ValueError, RuntimeError) as error:
        raise unreadable(f"look for {one_line(name, 80)}", error) from None


def _latest(name: str, latest: Latest, root: Path) -> Path:
    """Return the newest run of a choice; only as many are read as it takes."""
    left = latest.back
    folders = [run for run in run_folders(root, missing_ok=True) if has_record(run)]
    for folder in sorted(folders, key=lambda run: (time_of(run), run.name), reverse=True):
        if not latest.choice.any:
            brief = _listed(folder).brief
            if brief is None or not latest.choice.fits(brief):
                continue
        if not left:
            return folder / RECORD
        left -= 1
    said = latest.choice.words()
    older = f" with {latest.back} newer ones" if latest.back else ""
    raise TargetError(
        f"{one_line(name, 80)}: there is no run{f' of {said}' if said else ''}{older} in {root}",
        advice=ADVICE,
    )


def _listed(folder: Path) -> ListedRun:
    file = folder / RECORD
    try:
        if has_record(folder) is False:
            return ListedRun(folder=folder, problem=f"no {RECORD}: it runs, or it was killed")
        document = json.loads(_text(_bytes(file), file))
        if not isinstance(document, dict):
            return ListedRun(folder=folder, problem=f"{RECORD} is no record of a run")
        return ListedRun(folder=folder, brief=brief_of(document, where=RECORD))
    except RecursionError:
        return ListedRun(folder=folder, problem=f"{RECORD} is nested too deeply")
    except TargetError as error:
        return ListedRun(folder=folder, problem=error.message)
    except (OSError, ValueError) as error:
        return ListedRun(folder=folder, problem=f"{RECORD} cannot be read: {one_line(str(error))}")


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise unreadable(f"read {file}", error) from None


def _text(data: bytes, file: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise TargetError(f"{file} is not a text", advice=ADVICE) from None


__all__ = [
    "RECORD",
    "ListedRun",
    "StoredRun",
    "find_run",
    "list_runs",
    "read_baseline",
    "read_run",
    "runs_root",
]
