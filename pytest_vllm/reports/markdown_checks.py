"""The checks that did not pass, in Markdown: in full while there is room, then a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.evidence import check_folders
from pytest_vllm.reports.exchanges import BODY_SHOWN, exchange_texts
from pytest_vllm.reports.facts import bad_results
from pytest_vllm.reports.markdown_text import (
    code,
    fence,
    left_out,
    sentence,
    size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.exchange import Exchange
    from pytest_vllm.domain.record import RunRecord

_SHARE = 0.7
"""Of the room, for checks in full: the others are then named."""
_MESSAGE_SHOWN = 2_000
_NAMED = 160
_EXCHANGES_SHOWN = 3
_NOTE_BYTES = 120


def bad_checks(record: RunRecord, room: int) -> tuple[list[str], bool]:
    """Describe what did not pass, MUST before SHOULD, as much of it as there is room for.

    Args:
        record: The run.
        room: Bytes of UTF-8.

    Returns:
        The parts of the page, and whether some checks are not told in full.
    """
    bad = bad_results(record)
    if not bad:
        return [], False
    folders = {id(result): folder for folder, result in check_folders(record.results).items()}
    parts = ["## Checks that did not pass"]
    room -= size(parts[0]) + 2 * _NOTE_BYTES
    for_details = int(_SHARE * room)
    told = 0
    for result in bad:
        part = _check(result, folders.get(id(result), ""))
        for_details -= size(part)
        if for_details < 0:
            break
        room -= size(part)
        told += 1
        parts.append(part)
    if told < len(bad):
        parts += _named(bad[told:], room, also=told)
    return parts, told < len(bad)


def _named(results: Sequence[CheckResult], room: int, *, also: int) -> list[str]:
    """Name checks that there is no room to describe, a line each."""
    rows: list[str] = []
    for result in results:
        level = f"{result.check.level.value} {result.outcome.value}"
        row = f"- {code(result.name, _NAMED)} ({level}): {code(result.message, _NAMED)}"
        room -= size(row)
        if room < 0:
            break
        rows.append(row)
    missing = len(results) - len(rows)
    parts = [f"And {len(results)} {'more' if also else 'of them'}, by name:", "\n".join(rows)]
    return [*parts, *([left_out(missing, "checks")] if missing else [])]


def _check(result: CheckResult, folder: str) -> str:
    level = f"{result.check.level.value} {result.outcome.value}"
    parts = [f"### {code(result.name)} ({level})", sentence(result.check.requirement)]
    parts.append(fence(result.message or "no message", _MESSAGE_SHOWN))
    earlier = len(result.exchanges) - _EXCHANGES_SHOWN
    if earlier > 0:
        parts.append(f"{earlier} earlier requests are in `{folder}/exchange.json`.")
    parts += [_exchange(exchange) for exchange in result.exchanges[-_EXCHANGES_SHOWN:]]
    if folder:
        parts.append(f"Repeat it: {code(f'sh {folder}/replay.sh')}")
    return "\n\n".join(part for part in parts if part)


def _exchange(exchange: Exchange) -> str:
    return "\n\n".join(
        fence(text, 3 * BODY_SHOWN, kind="http") for text in exchange_texts(exchange)
    )
