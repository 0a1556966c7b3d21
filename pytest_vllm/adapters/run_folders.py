"""The folder of all runs: where it is, and which folders in it are runs."""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD = "run.json"
_ROOT = ".vllm"
_VARIABLE = "PYTEST_VLLM_ARTIFACTS"
_ID = re.compile(r"([0-9]{8}-[0-9]{6})-[0-9a-f]{6}(?:-[0-9]+)?")
"""What `store.new_run_id` makes, and the number that it gets when it is taken."""
ADVICE = (
    "name the folder of a run, its run.json, its ID below the folder of all runs, or latest; "
    "pytest-vllm runs list shows them"
)


def runs_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of all runs: `PYTEST_VLLM_ARTIFACTS`, else `.vllm`.

    Raises:
        TargetError: It begins with a home folder that nobody has.
    """
    return named_root(environ.get(_VARIABLE) or _ROOT, what=_VARIABLE)


def named_root(text: str, *, what: str) -> Path:
    """Return the folder of all runs as somebody named it.

    Args:
        text: What they wrote.
        what: Option or variable that it came from.

    Raises:
        TargetError: It begins with a home folder that nobody has.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise TargetError(
            f"{what}: there is no such home folder: {one_line(text, 200)}",
            advice="write the path without ~",
        ) from None


def run_folders(root: Path, *, missing_ok: bool = False) -> list[Path]:
    """Return the folders of runs, also of those that left no record or do not let us look.

    Args:
        root: Folder of all runs.
        missing_ok: Whether it may be missing, and then has none.

    Raises:
        TargetError: There is no such folder, or it cannot be read.
    """
    try:
        if missing_ok and not root.exists():
            return []
        named = [entry for entry in root.iterdir() if not entry.name.startswith(".")]
        return [entry for entry in named if has_record(entry) or _is_bare_run(entry)]
    except FileNotFoundError:
        raise TargetError(
            f"there is no folder of runs {root}",
            advice="run the acceptance first, or name the folder: --artifacts=FOLDER",
        ) from None
    except (OSError, ValueError) as error:
        raise unreadable(f"read {root}", error) from None


def has_record(folder: Path) -> bool | None:
    """Tell whether a folder has a `run.json`, `None` where it does not let us look."""
    try:
        return stat.S_ISREG((folder / RECORD).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None


def _is_bare_run(folder: Path) -> bool:
    """Tell by its name whether a run left a folder without a record, or one that is not for us.

    `pytest-vllm ab` has folders of such names too.
    """
    try:
        named = bool(_ID.fullmatch(folder.name)) and folder.is_dir()
        return named and not (folder / "ab.json").exists()
    except OSError:
        return True


def time_of(folder: Path) -> dt.datetime:
    """Return when a run began: by the name of its folder, else by its file, else the earliest."""
    named = _ID.fullmatch(folder.name)
    try:
        if named:
            return dt.datetime.strptime(named[1], "%Y%m%d-%H%M%S").replace(tzinfo=dt.UTC)
        return dt.datetime.fromtimestamp((folder / RECORD).stat().st_mtime, tz=dt.UTC)
    except (OSError, ValueError):
        return dt.datetime.min.replace(tzinfo=dt.UTC)


def unreadable(what: str, error: BaseException) -> TargetError:
    """Say that something could not be done, and why."""
    why = getattr(error, "strerror", None) or str(error)
    return TargetError(f"cannot {what}: {why}", advice=ADVICE)
