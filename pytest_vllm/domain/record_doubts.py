"""Whether a record can be what it says: a verdict that its own results do not bear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.record import RunRecord

_NAMED = 5
_LONG = 120


def doubts(record: RunRecord) -> tuple[str, ...]:
    """Say why no run can have ended in PROMOTE with these results; empty where it can.

    Only what no version of pytest-vllm promotes counts. A verdict for the worse may rest on what
    stands in its reasons alone: how a server ended, what interrupted a run.
    """
    if record.verdict.decision is not Decision.PROMOTE:
        return ()
    found = []
    if record.failure is not None:
        found.append("its server did not start")
    must = [result for result in record.results if result.check.level is Level.MUST]
    if failed := [result.name for result in must if result.outcome is Outcome.FAIL]:
        found.append(f"{_checks(failed)} failed: {_listed(failed)}")
    if broken := [result.name for result in must if result.outcome is Outcome.ERROR]:
        found.append(f"{_checks(broken)} could not be judged: {_listed(broken)}")
    shown = {r.check.id for r in record.results if r.outcome is not Outcome.NOT_RUN}
    required = record.rules.required if record.rules is not None else ()
    if missing := [name for name in required if name not in shown]:
        have = "has" if len(missing) == 1 else "have"
        found.append(f"{_checks(missing)} {have} no result: {_listed(missing)}")
    if not found and not any(result.outcome is Outcome.PASS for result in must):
        found.append("no MUST check passed, so nothing was shown")
    return tuple(
        f"the record says {record.verdict.decision}, and what it holds says otherwise: {why}. "
        "Somebody changed it, or it is damaged"
        for why in found
    )


def _checks(names: Sequence[str]) -> str:
    return f"{len(names)} MUST {'check' if len(names) == 1 else 'checks'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(one_line(name, _LONG) for name in names[:_NAMED]) + more
