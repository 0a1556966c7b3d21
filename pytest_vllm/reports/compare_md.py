"""A comparison as Markdown: for a comment or the step summary of a CI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.run_comparison import Sameness
from pytest_vllm.reports.compare_words import (
    CAN_BE_FORCED,
    CHECK_HEAD,
    FACT_HEAD,
    FORCED,
    NO_LOAD,
    check_rows,
    checks_line,
    fact_rows,
    headline,
    machine_line,
    outcome_line,
    performance_line,
    run_lines,
    side_line,
)
from pytest_vllm.reports.markdown_text import code, table
from pytest_vllm.reports.regression import HEAD, cannot_tell, change_cells, estimate_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_vllm.domain.run_comparison import RunComparison

_SIGNS = {0: "✅", 1: "❌"}
_MOST_CHECKS = 200


def compare_md(found: RunComparison) -> str:
    """Write a comparison as Markdown."""
    sign = "⚠️" if found.forced else _SIGNS.get(found.exit_code, "⚠️")
    parts = [
        f"# {sign} {headline(found)}",
        "\n".join(f"- {code(line, 1000)}" for line in run_lines(found)),
        code(outcome_line(found)),
        f"- base: {code(side_line(found.base))}\n- candidate: {code(side_line(found.candidate))}",
        "## Machine",
        code(machine_line(found)),
        coded_table(FACT_HEAD, fact_rows(found.machine)),
        *_section(
            "Differs besides",
            coded_table(FACT_HEAD, fact_rows(found.others, only=Sameness.DIFFERS)),
        ),
        *_checks(found),
        "## Performance",
        *_performance(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def coded_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of foreign texts; empty without rows."""
    return table(head, ([code(cell) for cell in row] for row in rows))


def _section(title: str, body: str) -> list[str]:
    return [f"## {title}", body] if body else []


def _checks(found: RunComparison) -> Iterator[str]:
    if found.checks is None:
        return
    yield "## Checks"
    yield code(checks_line(found))
    yield coded_table(CHECK_HEAD, check_rows(found, _MOST_CHECKS))
    if len(found.checks) > _MOST_CHECKS:
        yield f"and {len(found.checks) - _MOST_CHECKS} more"


def _performance(found: RunComparison) -> Iterator[str]:
    judgement = found.performance
    if judgement is None:
        yield NO_LOAD
        return
    if found.forced:
        yield f"**{FORCED}**"
        yield "\n".join(f"- {code(reason)}" for reason in found.forced)
    yield code(performance_line(judgement, forced=bool(found.forced)), 1000)
    yield "\n".join(f"- {code(reason)}" for reason in judgement.obstacles)
    if found.could_be_forced:
        yield code(CAN_BE_FORCED)
    yield coded_table(
        HEAD, [change_cells(change, forced=bool(found.forced)) for change in judgement.changes]
    )
    if judgement.changes:
        yield estimate_note(judgement.form)
    told = [
        (change.metric, words)
        for change in judgement.changes
        if (words := cannot_tell(change, judgement.form))
    ]
    yield "\n".join(f"- {code(metric)}: {code(words)}" for metric, words in told)
