"""What a gate of vLLM says to one rank."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_vllm.domain.fit import Fit, Gate

_SEVERITY = (Fit.FITS, Fit.MARGINAL, Fit.DOES_NOT_FIT)
_ORDER = tuple(Gate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a gate says.

    Attributes:
        verdict: Its answer.
        gate: The gate; `None` when there is nothing to say.
        margin: Bytes to spare, negative when they are missing.
        reason: Why, with the numbers.
    """

    verdict: Fit = Fit.FITS
    gate: Gate | None = None
    margin: int = 0
    reason: str = ""

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sort the worst first: by verdict, by the order of the gates, by what is missing."""
        gate = _ORDER.index(self.gate) if self.gate else len(_ORDER)
        return -_SEVERITY.index(self.verdict), gate, self.margin
