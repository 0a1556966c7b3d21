"""`--gpu-memory-utilization`: what vLLM takes by default, and what it may be told to take."""

from __future__ import annotations

import math

NEWER, OLDER = 0.92, 0.9
_NEWER_FROM = (0, 21)
_MARGIN = 0.02


def default_utilization(version: tuple[int, ...]) -> float:
    """Return the default share of a GPU's memory.

    A log of 0.26 and the source of 0.32 have 0.92, older documents 0.9. The change is taken to have
    come with 0.21, from which on vLLM counts CUDA graphs into the share.

    Args:
        version: Version of vLLM, at least major and minor.
    """
    return NEWER if version[:2] >= _NEWER_FROM else OLDER


def safe_utilization(free: float, total: float) -> float:
    """Return the largest safe share: the free one, rounded down to two digits, less 0.02.

    Args:
        free: Free memory, in any unit.
        total: All memory, in the same unit, above 0.
    """
    return max(round(math.floor(100 * free / total) / 100 - _MARGIN, 2), 0.0)
