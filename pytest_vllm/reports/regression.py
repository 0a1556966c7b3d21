"""Words for what became of the figures: a line for each metric, and what to do where none tells."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from pytest_vllm.domain.metric_change import Effect, Form
from pytest_vllm.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.load.over_rounds import Ranged
    from pytest_vllm.domain.metric_change import Judgement, MetricChange
    from pytest_vllm.domain.rounds import Mean

HEAD = (
    "metric",
    "base (median)",
    "candidate (median)",
    "change",
    "bounds",
    "allowed",
    "could see",
    "result",
)
_SIDES = ("base", "candidate")
_ESTIMATES = {
    Form.PAIRS: "from the ratios of all pairs (Hodges-Lehmann)",
    Form.STORED: "between the geometric means of the rounds",
}
_FORMS = {
    Form.PAIRS: "strong form: whole runs in turns on one host",
    Form.STORED: "weak form: a stored baseline, made at another time",
}
_NOTES = {
    Form.PAIRS: (
        "bounds: 95 % each; could see: the change that these pairs find in 80 % of cases; result: "
        "worse is past what is allowed and significant, no change is surely inside it"
    ),
    Form.STORED: (
        "bounds: 95 % together; could see: the change that these rounds find in 80 % of cases; "
        "result: worse is surely past what is allowed, no change is surely inside it; what the "
        "host itself changed since then counts too: pytest-vllm ab compares without that"
    ),
}
_DECIMALS = {100: 0, 10: 1, 1: 2}


def judgement_text(
    judgement: Judgement,
    *,
    names: tuple[str, str] = ("base", "candidate"),
    width: int = 100,
    forced: bool = False,
) -> str:
    """Return a judgement as a table with its form, and what its words mean.

    Args:
        judgement: What was found.
        names: What the two sides are called.
        width: Columns of the terminal, for the words around the table.
        forced: Whether the two are not comparable and were compared all the same.
    """
    verdict = "not comparable" if judgement.obstacles else verdict_line(judgement)
    lines = [*_wrapped(f"FORCED {verdict}" if forced else verdict, width), _FORMS[judgement.form]]
    lines += [f"  {side}: {printable(name)}" for side, name in zip(_SIDES, names, strict=True)]
    if judgement.obstacles:
        for obstacle in judgement.obstacles:
            lines += _wrapped(f"- {obstacle}", width, indent="    ")
        return "\n".join(lines)
    rows = [change_cells(change, forced=forced) for change in judgement.changes]
    lines += ["", *_table([HEAD, *rows]), ""]
    for change in judgement.changes:
        if words := cannot_tell(change, judgement.form):
            lines += _wrapped(f"{change.metric}: {words}", width)
        if change.asked is not None:
            lines += _wrapped(f"{change.metric}: {_held(change)}", width)
    notes = (estimate_note(judgement.form), _NOTES[judgement.form])
    return "\n".join([*lines, *(line for note in notes for line in _wrapped(note, width))])


def verdict_line(judgement: Judgement) -> str:
    """Return the outcome on one line: `worse: ttft_p50_ms +7.1 %; 12 pairs`."""
    if judgement.obstacles:
        return f"not comparable: {printable(judgement.obstacles[0])}"
    if not judgement.changes:
        return "cannot tell: there is no figure to compare"
    unit = "pair" if judgement.form is Form.PAIRS else "round"
    count = f"{judgement.repeats} {unit}{'' if judgement.repeats == 1 else 's'}"
    effect = judgement.effect
    which = [change for change in judgement.changes if change.effect is effect]
    if effect is Effect.NO_CHANGE:
        return f"no change in {len(judgement.changes)} metrics; {count}"
    named = ", ".join(f"{change.metric} {share(change.ratio)}".strip() for change in which)
    return f"{effect}: {named}; {count}"


def change_cells(change: MetricChange, *, forced: bool = False) -> tuple[str, ...]:
    """Return the cells of a metric's row, under `HEAD`.

    Args:
        change: The metric.
        forced: Whether the sides are not comparable, so that the result is worth nothing.
    """
    bounds = f"{share(change.low) or 'open'} .. {share(change.high) or 'open'}"
    return (
        change.metric,
        figure(change.base),
        figure(change.candidate),
        share(change.ratio) or "-",
        bounds if change.ratio is not None else "-",
        _allowed(change),
        f"{100 * change.detectable:.1f} %" if change.detectable is not None else "-",
        f"forced: {change.effect.value}" if forced else change.effect.value,
    )


def estimate_note(form: Form) -> str:
    """Say how the change of a figure is estimated, for beside it are medians."""
    return (
        f"The change is estimated {_ESTIMATES[form]}, so it need not be the change between the two "
        "medians."
    )


def cannot_tell(change: MetricChange, form: Form) -> str:
    """Say why nothing can be told of a metric, and what would tell; empty when it is told."""
    if change.effect is not Effect.CANNOT_TELL:
        return ""
    if change.reason:
        return change.reason
    unit = "pairs" if form is Form.PAIRS else "rounds on each side"
    if change.repeats_wanted is None and form is Form.STORED:
        return "no number of rounds would tell on a host this noisy: pytest-vllm ab may"
    if change.repeats_wanted is None:
        return "it lies where the tolerance is: no number of repeats would tell"
    return f"about {change.repeats_wanted} {unit} would tell"


def share(ratio: float | None) -> str:
    """Return a ratio as a change, `+4.2 %`; empty for none."""
    if ratio is None:
        return ""
    percent = 100 * (ratio - 1)
    if abs(percent) >= _MOST_PERCENT:
        return f"{ratio:.3g}x"
    return f"{round(percent, 1) + 0.0:+.1f} %"  # no -0.0


def figure(value: float | None) -> str:
    """Return a figure with three digits or more."""
    if value is None:
        return "-"
    rounded = abs(float(f"{value:.3g}"))  # 99.96 is 100, and has the decimals of that
    for least, digits in _DECIMALS.items():
        if rounded >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3g}"


def mean_words(mean: Mean | Ranged) -> str:
    """Return a figure with its interval of 95 %: `1,084 (1,054 to 1,102)`."""
    if mean.low is None and mean.high is None:
        return figure(mean.value)
    low = "open" if mean.low is None else figure(mean.low)
    high = "open" if mean.high is None else figure(mean.high)
    return f"{figure(mean.value)} ({low} to {high})"


def share_words(told: Ranged) -> str:
    """Return a share with its interval of 95 %: `99.5% (98.1% to 100.0%)`."""
    if told.low is None or told.high is None:
        return f"{told.value:.1%}"
    return f"{told.value:.1%} ({told.low:.1%} to {told.high:.1%})"


_MOST_PERCENT = 900.0
"""From which on a factor reads better."""


def _allowed(change: MetricChange) -> str:
    held = f"{100 * (change.at_worst - 1):+.3g} %"
    return held if change.asked is None else f"{held} (not {100 * change.asked:.3g} %)"


def _held(change: MetricChange) -> str:
    return (
        f"{100 * change.asked:.3g} % were asked, {100 * change.tolerance:.3g} % held: hosts differ "
        "by that much from day to day; pytest-vllm ab can hold less"
        if change.asked is not None
        else ""
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = (0, len(widths) - 1)
    return [
        "  ".join(
            cell.ljust(size) if place in text else cell.rjust(size)
            for place, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _wrapped(text: str, width: int, *, indent: str = "  ") -> list[str]:
    return textwrap.wrap(printable(text), width, subsequent_indent=indent, break_long_words=False)
