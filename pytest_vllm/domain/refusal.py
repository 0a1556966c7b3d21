"""One reason why nothing is promoted, in words."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_vllm.domain.text import one_line

LONGEST = 2000
"""Characters of a line that is shown."""
AGAIN = "run the acceptance again: pytest --vllm-image=REPOSITORY@DIGEST --vllm-profile=promote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One reason why nothing is promoted.

    Attributes:
        message: What was required and what was seen.
        cure: What to do.
    """

    message: str
    cure: str

    def __str__(self) -> str:
        """Show the message and, on a line of its own, the way out; nothing foreign makes a line."""
        return f"{one_line(self.message, LONGEST)}\n  fix: {one_line(self.cure, LONGEST)}"
