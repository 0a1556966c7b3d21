"""Write a load to files: all of it as CSV, and its figures as JSON; nothing is overwritten."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.columns import Ending

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.adapters.load.level import Level
    from pytest_vllm.domain.objective import Finding

_SCHEMA = 1
_COLUMNS = (
    "due_ns",
    "send_ns",
    "header_ns",
    "end_ns",
    "status",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reply_bytes",
    "events",
)


def free_file(option: str, name: str) -> Path:
    """Return the path of a file that is to be written.

    Raises:
        TargetError: There is one already, or no folder for it.
    """
    path = Path(name)
    if path.exists():
        raise TargetError(
            f"{option}: {name} is there already, and nothing is overwritten",
            advice="name another file, or remove it",
        )
    if not path.parent.is_dir():
        raise TargetError(f"{option}: there is no folder {path.parent}", advice="make it")
    return path


def free_folder(option: str, name: str) -> Path:
    """Return a new or empty folder.

    Raises:
        TargetError: There is something in it, or it cannot be made.
    """
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise TargetError(f"{option}: cannot make folder {name}: {error.strerror}") from None
    if taken:
        raise TargetError(
            f"{option}: folder {name} is not empty, and nothing is overwritten",
            advice="name another folder",
        )
    return path


def document(
    levels: Sequence[tuple[str, Level]], *, findings: Mapping[str, Sequence[Finding]]
) -> dict[str, Any]:
    """Return all figures as plain data.

    Args:
        levels: Name of each level, and what came of it.
        findings: What became of the objectives, by level.
    """
    return {
        "schema": _SCHEMA,
        "kind": "load",
        "levels": [
            {
                "level": name,
                "plan": dict(level.plan.description),
                "calibration": None if level.calibration is None else asdict(level.calibration),
                "client_was_the_limit": list(level.limited_by),
                "objectives": [asdict(one) for one in findings.get(name, ())],
                "measurement": asdict(level.measurement),
            }
            for name, level in levels
        ],
    }


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """Write a document to a file that is not there yet."""
    with path.open("x", encoding="utf-8") as file:
        json.dump(found, file, indent=1, ensure_ascii=False, default=_plain)
        file.write("\n")


def write_columns(folder: Path, name: str, level: Level) -> None:
    """Write each request and each token event of a level as a row of a CSV file.

    Times are nanoseconds after the begin of the load, empty where something did not happen.
    """
    columns, begin = level.columns, level.columns.begin_ns
    with (folder / f"{name}.requests.csv").open("x", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("request", "warm_up", "asked_tokens", "ending", *_COLUMNS, "failure"))
        for number, request in enumerate(level.plan.requests):
            values = []
            for column in _COLUMNS:
                value = getattr(columns, column)[number]
                if column.endswith("_ns"):
                    value = value - begin if value else ""
                values.append("" if value == -1 and not column.endswith("_ns") else value)
            ending = Ending(columns.ending[number]).name.lower()
            rows.writerow(
                (
                    number,
                    int(request.warm_up),
                    request.want_tokens,
                    ending,
                    *values,
                    columns.failures.get(number, ""),
                )
            )
    with (folder / f"{name}.events.csv").open("x", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("request", "event_ns", "tokens"))
        for number, first in enumerate(columns.first_row):
            for row in range(first, first + columns.events[number]):
                rows.writerow((number, columns.event_ns[row] - begin, columns.event_tokens[row]))


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else list(value)
