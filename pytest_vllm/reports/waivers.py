"""Words for the waivers of a run, as rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

HEAD = ("Check", "Until", "Reason", "Link", "What it did")


def waiver_rows(record: RunRecord) -> list[tuple[str, str, str, str, str]]:
    """Return check, last day, reason, link and effect of each waiver; all is foreign text."""
    return [
        (
            one_line(use.check),
            one_line(use.expires, 40),
            one_line(use.reason),
            one_line(use.link),
            _effect(use.waived, use.note),
        )
        for use in record.waivers
    ]


def _effect(waived: tuple[str, ...], note: str) -> str:
    if waived:
        return one_line(f"waived {', '.join(waived)}")
    return one_line(f"waived nothing: {note}" if note else "waived nothing")
