"""Reads what `pytest-vllm compare` compares: the record of a run, or the JSON of a load."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.record import from_json
from pytest_vllm.domain.stored import record_facts
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.record import RunRecord

_RECORD = "run.json"
_ADVICE = "name a run.json that pytest-vllm wrote, its folder, or a file of pytest-vllm load --json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparand:
    """One side of a comparison.

    Attributes:
        name: What a reader calls it: its path, and the run that it is of.
        performance: Its loads, as in `RunRecord.performance`; empty for none.
        facts: What must be the same on both sides.
        record: The run, `None` for a load alone.
    """

    name: str
    performance: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    record: RunRecord | None = None


def read_comparand(path: str) -> Comparand:
    """Read a run or a load.

    Args:
        path: A `run.json`, the folder that holds it, or a file of `pytest-vllm load --json`.

    Raises:
        TargetError: There is none that can be read.
    """
    file, text = _read(path)
    document = _parsed(text, file)
    if "run_id" in document:
        record = from_json(text, where=str(file))
        return Comparand(
            name=f"{path} (run {record.run_id})",
            performance=record.performance,
            facts=record_facts(record),
            record=record,
        )
    return Comparand(name=path, performance=_performance(document, file))


def _read(path: str) -> tuple[Path, str]:
    if not path:
        raise TargetError("an empty name is no run", advice=_ADVICE)
    try:
        file = Path(path).expanduser()
        if file.is_dir():
            file /= _RECORD
        return file, file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TargetError(f"there is no {file}", advice=_ADVICE) from None
    except UnicodeDecodeError:
        raise TargetError(f"{file} is not a text", advice=_ADVICE) from None
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise TargetError(f"cannot read {one_line(path)}: {why}", advice=_ADVICE) from None


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


def _performance(document: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    """Return the loads of a document of `pytest-vllm load --json`."""
    performance = document.get("performance")
    if isinstance(performance, dict):
        return performance
    raise TargetError(f"{file} is neither a run nor a load", advice=_ADVICE)
