"""One reason why nothing is promoted, in words."""

from __future__ import annotations

from dataclasses import dataclass

AGAIN = "run the acceptance again: pytest --vllm-image=REPOSITORY@DIGEST --vllm-profile=promote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One reason why nothing is promoted.

    Attributes:
        kind: `verdict`, `rules`, `digest`, `check`, `waiver`, `age`, `proof`, `image` or `tag`.
        message: What was required and what was seen.
        cure: What to do.
    """

    kind: str
    message: str
    cure: str

    def __str__(self) -> str:
        """Show the message and, on a line of its own, the way out."""
        return f"{self.message}\n  fix: {self.cure}"
