"""A list of runs: a line for each, for the terminal and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import to_plain
from pytest_vllm.domain.rounds import mean_of
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.regression import mean_words

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from pytest_vllm.domain.run_brief import RunBrief

SCHEMA = 1
HEAD = ("run", "began (UTC)", "verdict", "image", "model", "GPUs", "checks", "tokens/s")
_THROUGHPUT = "output_tokens_per_s"
_WORDS = {Outcome.PASS: "passed", Outcome.FAIL: "failed", Outcome.ERROR: "error"}
_UNSAID = (Outcome.NOT_APPLICABLE,)
_DIGEST_SHOWN = 12
_IMAGE, _MODEL, _GPUS, _PROBLEM = 48, 36, 32, 120


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run in a list.

    Attributes:
        folder: Path of its evidence folder.
        name: Name of that folder.
        began: When it began, as well as that is known.
        brief: The run in short, `None` when it cannot be read.
        problem: Why it cannot be read.
    """

    folder: str
    name: str
    began: dt.datetime
    brief: RunBrief | None = None
    problem: str = ""


def run_lines(rows: Sequence[RunRow]) -> str:
    """Write a line for each run under a line of heads."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    readable = [HEAD, *(_cells(row) for row in rows if row.brief is not None)]
    widths = [max(map(len, column)) for column in zip(*readable, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()
        + "\n"
        for line in cells
    )


def runs_json(rows: Sequence[RunRow]) -> str:
    """Write runs as JSON; `schema` is raised when a key changes its meaning or goes."""
    document = {"schema": SCHEMA, "kind": "runs", "runs": [_plain(row) for row in rows]}
    return json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def image_words(run: RunBrief) -> str:
    """Return `name:tag@9f86d081884c`, the digest cut; empty without an image.

    An image that was built here has no digest, only an ID, which is no part of a name.
    """
    name = run.image.partition("@")[0]
    digest = run.digest.removeprefix("sha256:")[:_DIGEST_SHOWN]
    if run.is_id:
        return f"{name} (image ID {digest})" if name else f"image ID {digest}"
    return f"{name}@{digest}" if digest else name


def check_words(run: RunBrief) -> str:
    """Count the checks: `46 passed, 2 failed, 1 not run`."""
    counts = [
        f"{count} {_word(outcome, count)}"
        for outcome in Outcome
        if (count := run.outcomes.get(outcome.value, 0)) and outcome not in _UNSAID
    ]
    return ", ".join(counts) or "none"


def _word(outcome: Outcome, count: int) -> str:
    word = _WORDS.get(outcome, outcome.value)
    return f"{word}s" if outcome is Outcome.ERROR and count != 1 else word


def throughput_words(run: RunBrief) -> str:
    """Return the throughput at the compared level, with its interval over rounds."""
    values = run.compared.figures.get(_THROUGHPUT) if run.compared is not None else None
    return mean_words(mean_of(values)) if values else "-"


def _cells(row: RunRow) -> tuple[str, ...]:
    began = f"{row.began:%Y-%m-%d %H:%M}"
    name = one_line(row.name, 60)
    if row.brief is None:
        return name, began, "unreadable", one_line(row.problem, _PROBLEM)
    run = row.brief
    return (
        name,
        began,
        run.decision.value,
        _end(image_words(run), _IMAGE),
        _end(run.model, _MODEL),
        _end(run.gpus, _GPUS),
        check_words(run),
        throughput_words(run),
    )


def _end(text: str, limit: int) -> str:
    """Return a text on one line; of a long one the end, which tells names apart."""
    line = one_line(text, 500)
    return (line if len(line) <= limit else f"...{line[3 - limit :]}") or "-"


def _plain(row: RunRow) -> dict[str, Any]:
    place = {"folder": row.folder, "began": row.began.isoformat(timespec="seconds")}
    if row.brief is None:
        return {**place, "problem": row.problem}
    run = to_plain(replace(row.brief, levels=()))
    run["started"] = row.brief.started.isoformat(timespec="seconds")
    run["levels"] = [
        {
            "name": level.name,
            "compared": level.gated,
            "conditions": dict(level.conditions),
            "figures": {
                name: asdict(mean_of(values)) for name, values in level.figures.items() if values
            },
        }
        for level in row.brief.levels
    ]
    return {**place, **run}
