"""How sure a share of right answers is, and how to find the answer in a reply."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

Z_95 = 1.959964
"""Standard normal quantile of a two-sided interval of 95 %."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FINAL = re.compile(r"answer\s*(?:is|:|=)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Right answers out of so many."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % for the share (E. B. Wilson, JASA 22, 1927)."""
        if not self.total:
            return 0.0, 1.0
        square = Z_95**2 / self.total
        middle = self.share + square / 2
        half = Z_95 * math.sqrt(
            self.share * (1 - self.share) / self.total + square / self.total / 4
        )
        low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
        return max(low, 0.0), min(high, 1.0)

    def __str__(self) -> str:
        """Show the share with its interval."""
        low, high = self.interval
        return (
            f"{self.right} of {self.total} right, {self.share:.1%} (95 %: {low:.1%} to {high:.1%})"
        )


def is_below(score: Score, floor: float) -> bool:
    """Tell whether a score lies below a floor by more than chance explains."""
    return score.interval[1] < floor


def is_worse(score: Score, than: Score) -> bool:
    """Tell whether a score is worse than another one: their intervals do not even touch."""
    return score.interval[1] < than.interval[0]


def final_number(text: str) -> float | None:
    """Return the number that a reply ends in: the one after its last `answer is`, else its last.

    Commas between digits are dropped; `None` when there is no number.
    """
    marks = list(_FINAL.finditer(text))
    after = _NUMBER.search(text, marks[-1].end()) if marks else None
    if after is None:
        found = _NUMBER.findall(text)
        return _value(found[-1]) if found else None
    return _value(after[0])


def task_share(document: Any, task: str) -> tuple[str, float, int]:
    """Read the main metric of a task from a results file of lm-evaluation-harness.

    Args:
        document: The parsed `results_*.json`.
        task: Name of the task.

    Returns:
        Name of the metric, its value from 0 to 1, and the number of samples.

    Raises:
        ValueError: The file has no metric that is a share.
    """
    results = document.get("results", {}).get(task, {}) if isinstance(document, dict) else {}
    for name in ("exact_match,flexible-extract", "exact_match,strict-match", "acc_norm", "acc"):
        for key, value in results.items():
            if key.startswith(name) and isinstance(value, float | int):
                count = document.get("n-samples", {}).get(task, {}).get("effective", 0)
                return key, float(value), int(count)
    raise ValueError(f"no exact_match and no acc of {task!r} among {sorted(results)}")


def _value(number: str) -> float:
    return float(number.replace(",", ""))
