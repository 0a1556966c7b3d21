"""How many requests of a load were in flight together."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import NEVER

if TYPE_CHECKING:
    from pytest_vllm.domain.load.columns import Columns


def most_in_flight(columns: Columns) -> int:
    """Return the most requests that were in flight together; 0 where none was sent.

    A request is in flight from its send to the end of its reply. One that ends in the instant in
    which another is sent has made room for it.
    """
    steps = []
    for sent, ended in zip(columns.send_ns, columns.end_ns, strict=True):
        if sent != NEVER:
            steps += [(sent, 1), (columns.finish_ns if ended == NEVER else ended, -1)]
    return max(accumulate(step for _, step in sorted(steps)), default=0)
