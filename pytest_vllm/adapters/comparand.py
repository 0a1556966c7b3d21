"""Reads what `pytest-vllm compare` compares: the record of a run, or the JSON of loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.runs import RECORD, find_run
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.document import performance_of
from pytest_vllm.domain.record import from_json
from pytest_vllm.domain.run_comparison import Side, compare_runs
from pytest_vllm.domain.stored import record_facts
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence


_ADVICE = (
    "name a run.json that pytest-vllm wrote, its folder or ID, latest, a file of pytest-vllm load "
    "--json, or a folder of such files, which are then rounds"
)


def read_comparand(path: str, *, root: Path | None = None) -> Side:
    """Read a run or a load.

    Args:
        path: A file of `pytest-vllm load --json`, or a folder of such files, each of which is a
            round; anything else is the name of a run, see `runs.find_run`.
        root: Folder of all runs; `runs_root()` by default.

    Raises:
        TargetError: There is none that can be read.
    """
    files = _files(path, root)
    documents = [_parsed(_text(file), file) for file in files]
    try:
        found = _comparand(path, files, documents)
        compare_runs(found, found)  # what a record holds as plain data may be anything
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        why = one_line(str(error)) if type(error) is ValueError else "its loads cannot be read"
        raise TargetError(f"{path} cannot be compared: {why}", advice=_ADVICE) from None
    return found


def _comparand(path: str, files: Sequence[Path], documents: Sequence[dict[str, Any]]) -> Side:
    if len(files) == 1 and "run_id" in documents[0]:
        record = from_json(json.dumps(documents[0]), where=str(files[0]))
        return Side(
            name=f"{path} (run {record.run_id})",
            performance=record.performance,
            facts=record_facts(record),
            record=record,
        )
    for file, document in zip(files, documents, strict=True):
        if document.get("kind") != "load":
            raise TargetError(f"{file} is neither a run nor a load", advice=_ADVICE)
    return Side(name=path, performance=performance_of(documents))


def _files(path: str, root: Path | None) -> list[Path]:
    """Return the files that a name means."""
    if not path:
        raise TargetError("an empty name is no run", advice=_ADVICE)
    try:
        file = Path(path).expanduser()
        if file.is_file():
            return [file]
        if not file.is_dir():
            return [find_run(path, root=root)]
        if (file / RECORD).exists():
            return [file / RECORD]
        files = sorted(file.glob("*.json"))
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    if not files:
        raise TargetError(f"the folder {path} has neither a run nor a load in it", advice=_ADVICE)
    return files


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TargetError(f"there is no {file}", advice=_ADVICE) from None
    except UnicodeDecodeError:
        raise TargetError(f"{file} is not a text", advice=_ADVICE) from None
    except (OSError, ValueError) as error:
        raise _unreadable(str(file), error) from None


def _unreadable(path: str, error: BaseException) -> TargetError:
    why = getattr(error, "strerror", None) or str(error)
    return TargetError(f"cannot read {one_line(path)}: {why}", advice=_ADVICE)


def _parsed(text: str, file: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except RecursionError:
        raise TargetError(f"{file} is nested too deeply", advice=_ADVICE) from None
    except ValueError as error:
        raise TargetError(f"{file} is not JSON: {one_line(str(error))}", advice=_ADVICE) from None
    if not isinstance(document, dict):
        raise TargetError(f"{file} is neither a run nor a load", advice=_ADVICE)
    return document
