"""The checks of a run as `report.html` shows them: by suite, in pieces a browser can skip."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.evidence import check_folders
from pytest_vllm.domain.exchange import shorten
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.unique_names import UniqueNames
from pytest_vllm.reports.exchanges import exchange_texts
from pytest_vllm.reports.facts import seconds, shown_results

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import RunRecord

EXCHANGES_ROOM = 2_000_000
"""Characters of requests and replies in one page; the rest stays in its own files."""
DETAILS_MOST = 300
"""Checks of which a page shows requests and replies: each of them costs a browser time."""
MESSAGE_SHOWN = 2_000
"""Characters of the message of a failed check, for the first `DETAILS_MOST`: the gravest ones."""
_SHORT = 300
_EXCHANGES_SHOWN = 3
_PIECE = 100
_FEW_BAD = 5
_BAD = (Outcome.FAIL, Outcome.ERROR)
_PLAIN = re.compile(r"[A-Za-z0-9._\[\]-]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """What a check that did not pass has besides, if it sent requests.

    Attributes:
        exchanges: Requests and replies, the last ones; none where the page has enough of them.
        note: What is not shown here, and where it is; empty when all is.
        replay: The command that sends the same again.
        open: Whether it is shown at once.
    """

    exchanges: tuple[tuple[str, str], ...]
    note: str
    replay: str
    open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One result.

    Attributes:
        anchor: Its address in the page, unique.
        kind: Class of its outcome: `pass`, `not-run`, ...
        outcome: Word for it.
        level: `MUST`, `SHOULD` or `INFO`.
        name: Name of the case.
        requirement: What was asked.
        message: What was seen, empty for a pass.
        took: How long it took, empty where it did not run.
        detail: Requests and replies of what did not pass, `None` without any.
    """

    anchor: str
    kind: str
    outcome: str
    level: str
    name: str
    requirement: str
    message: str
    took: str
    detail: Detail | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The results of one suite, those that did not pass first.

    Attributes:
        suite: Name of the suite.
        counts: Class, word and number of each outcome that occurs, the worst first.
        total: Number of results.
        open: Whether it is shown at once.
        pieces: The rows in groups, so that a browser lays out only those in sight.
    """

    suite: str
    counts: tuple[tuple[str, str, int], ...]
    total: int
    open: bool
    pieces: tuple[tuple[Row, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """A reason of the verdict, with the check that it names.

    Attributes:
        text: The reason.
        anchor: Address of the check in the page, empty for none.
        name: Name of that check.
        before: What stands before the name.
    """

    text: str
    anchor: str = ""
    name: str = ""
    before: str = ""


@dataclass(slots=True)
class Checks:
    """All checks of a page.

    Attributes:
        groups: By suite, in the order in which the suites ran.
        outcomes: Class, word and number of each outcome that occurs, the worst first.
        levels: The levels that occur.
        total: Number of results.
        anchors: Address in the page, by name of the case.
        left_out: How many checks have their requests and replies only in their own files.
    """

    groups: tuple[Group, ...] = ()
    outcomes: tuple[tuple[str, str, int], ...] = ()
    levels: tuple[str, ...] = ()
    total: int = 0
    anchors: dict[str, str] = field(default_factory=dict)
    left_out: int = 0


def checks_of(record: RunRecord) -> Checks:
    """Prepare the results of a run for the page."""
    results = shown_results(record)
    checks = Checks(total=len(results), outcomes=_counts(results))
    seen = {result.check.level for result in results}
    checks.levels = tuple(level.value for level in Level if level in seen)
    folders = {id(result): folder for folder, result in check_folders(record.results).items()}
    few = sum(result.outcome in _BAD for result in results) <= _FEW_BAD
    room, details = EXCHANGES_ROOM, 0
    anchors = UniqueNames()
    grouped: dict[str, list[Row]] = {}
    bad_suites = set()
    for place, result in enumerate(sorted(results, key=_gravity)):
        detail = None
        if result.outcome in _BAD:
            bad_suites.add(result.check.suite)
        if result.outcome in _BAD and result.exchanges:
            here = room if details < DETAILS_MOST else 0
            detail = _detail(result, folders[id(result)], room=here, unfold=few)
            room -= _size(detail.exchanges)
            details += bool(detail.exchanges)
            checks.left_out += not detail.exchanges
        told = place < DETAILS_MOST or (detail is not None and detail.exchanges)
        limit = MESSAGE_SHOWN if told and result.outcome in _BAD else _SHORT
        row = _row(result, anchors.take(_anchor(result.name, place)), detail, limit)
        checks.anchors.setdefault(result.name, row.anchor)
        grouped.setdefault(result.check.suite, []).append(row)
    by_suite: dict[str, list[CheckResult]] = {}
    for result in results:
        by_suite.setdefault(result.check.suite, []).append(result)
    checks.groups = tuple(
        Group(
            suite=one_line(suite, 60),
            counts=_counts(of_suite),
            total=len(of_suite),
            open=suite in bad_suites,
            pieces=tuple(_pieces(grouped[suite])),
        )
        for suite, of_suite in by_suite.items()
    )
    return checks


def reasons_of(record: RunRecord, checks: Checks, most: int) -> list[Reason]:
    """Return so many reasons of the verdict, each with the address of the check that it names."""
    return [_reason(text, checks.anchors) for text in record.verdict.reasons[:most]]


def kind_of(outcome: Outcome) -> str:
    """Return the class of an outcome in the page."""
    return outcome.value.replace(" ", "-")


def _reason(text: str, anchors: dict[str, str]) -> Reason:
    line = one_line(text, 1000)
    for before in ("", *(f"{level.value} " for level in Level)):
        name = line.removeprefix(before).partition(": ")[0]
        if line.startswith(before) and name in anchors:
            rest = line[len(before) + len(name) :]
            return Reason(text=rest, anchor=anchors[name], name=name, before=before)
    return Reason(text=line)


def _gravity(result: CheckResult) -> tuple[bool, bool, int]:
    """Sort failures to the front, MUST before SHOULD; all else stays as it was."""
    bad = result.outcome in _BAD
    return (not bad, bad and result.check.level is not Level.MUST, -result.outcome.rank * bad)


def _counts(results: Sequence[CheckResult]) -> tuple[tuple[str, str, int], ...]:
    counted = Counter(result.outcome for result in results)
    worst_first = sorted(counted, key=lambda outcome: -outcome.rank)
    return tuple((kind_of(outcome), outcome.value, counted[outcome]) for outcome in worst_first)


def _pieces(rows: list[Row]) -> Iterator[tuple[Row, ...]]:
    for start in range(0, len(rows), _PIECE):
        yield tuple(rows[start : start + _PIECE])


def _row(result: CheckResult, anchor: str, detail: Detail | None, limit: int) -> Row:
    message = "" if result.outcome is Outcome.PASS else result.message
    return Row(
        anchor=anchor,
        kind=kind_of(result.outcome),
        outcome=result.outcome.value,
        level=result.check.level.value,
        name=one_line(result.name),
        requirement=one_line(result.check.requirement, _SHORT),
        message=shorten(message.strip(), limit),
        took=seconds(result.duration_s) if result.outcome is not Outcome.NOT_RUN else "",
        detail=detail,
    )


def _detail(result: CheckResult, folder: str, *, room: int, unfold: bool) -> Detail:
    replay = f"sh {folder}/replay.sh"
    texts = _texts(result) if room > 0 else ()
    if not texts or _size(texts) > room:
        note = "sends it again; exchange.json beside it has the requests and replies."
        return Detail(exchanges=(), note=note, replay=replay, open=False)
    earlier = len(result.exchanges) - len(texts)
    are = "1 earlier request is" if earlier == 1 else f"{earlier} earlier requests are"
    note = f"{are} in {folder}/exchange.json." if earlier else ""
    return Detail(exchanges=texts, note=note, replay=replay, open=unfold)


def _texts(result: CheckResult) -> tuple[tuple[str, str], ...]:
    return tuple(exchange_texts(exchange) for exchange in result.exchanges[-_EXCHANGES_SHOWN:])


def _size(texts: tuple[tuple[str, str], ...]) -> int:
    return sum(len(text) for pair in texts for text in pair)


def _anchor(name: str, place: int) -> str:
    """Return `check-` and the name, or its place in the page where the name is no address."""
    return f"check-{name}" if _PLAIN.fullmatch(name) else f"check-{place}"
