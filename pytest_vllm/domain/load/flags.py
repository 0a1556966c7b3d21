"""What a reader of the figures of a load must know, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.load.columns import UNTOLD
from pytest_vllm.domain.load.steady import HEIGHT, LENGTHS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.failures import Sorted
    from pytest_vllm.domain.load.latency import Latencies
    from pytest_vllm.domain.load.plan import LoadPlan
    from pytest_vllm.domain.load.steady import Window

FEW = 0.001
"""Share of failed requests above which figures are of another load (`load.md` section 7)."""

_MS = 1e3


def flag(
    ends: Sorted, latencies: Latencies, window: Window, *, median_e2el_ms: float | None
) -> Iterator[str]:
    """Name what limits what the figures say.

    Args:
        ends: The requests by how they ended.
        latencies: What they took.
        window: The steady window.
        median_e2el_ms: Median time of a request, `None` where there is none.
    """
    if not ends.issued:
        yield "no measured request was sent: there are no figures"
        return
    if ends.failed > FEW * len(ends.issued):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ends.failures.items()))
        yield (
            f"{ends.failed} of {len(ends.issued)} requests failed ({kinds}): latencies are of the "
            "others, the adjusted percentiles take these as infinite"
        )
    yield from _of_window(window, median_e2el_ms)
    yield from _of_streams(ends)
    yield from _of_counts(ends, latencies)


def flag_prompts(plan: LoadPlan, columns: Columns, ends: Sorted) -> Iterator[str]:
    """Name what the server's counts of prompt tokens cannot be."""
    unsound = sum(
        columns.prompt_tokens[row] == UNTOLD != columns.completion_tokens[row] for row in ends.done
    )
    if unsound:
        yield (
            f"the usage of {unsound} of {len(ends.done)} replies has no prompt_tokens, or a number "
            "that none can have: total tokens/s takes the prompts as they were counted when made"
        )
    others = [
        row
        for row in ends.done
        if 0 < plan.requests[row].prompt_tokens != columns.prompt_tokens[row] != UNTOLD
    ]
    if others:
        row = others[0]
        yield (
            f"{len(others)} of {len(ends.done)} prompts have other tokens by the usage than they "
            f"were made with, such as {columns.prompt_tokens[row]} and not "
            f"{plan.requests[row].prompt_tokens}: total tokens/s is by the usage"
        )


def _of_streams(ends: Sorted) -> Iterator[str]:
    if not ends.miscounts:
        return
    row, told = next(iter(ends.miscounts.items()))
    failed = ends.failures.get("miscounted", 0)
    yield (
        f"miscounted: the events of {len(ends.miscounts)} of {len(ends.issued)} replies told other "
        f"tokens than their usage, such as {told} and {ends.tokens[row]} of request {row}: part of "
        f"the stream was lost or came twice, or the usage is wrong ({failed} of them count as "
        "failed: all whose length was asked for, without reasoning)"
    )


def _of_window(window: Window, median_e2el_ms: float | None) -> Iterator[str]:
    if not window.reached:
        yield (
            f"at most {window.most} measured requests were in flight, and {HEIGHT:.0%} of "
            f"{window.target:g} never: there is no steady window, rates are of the whole load"
        )
    elif median_e2el_ms is not None and window.seconds * _MS < LENGTHS * median_e2el_ms:
        yield (
            f"the steady window is {window.seconds:.2f} s, shorter than {LENGTHS} times the median "
            f"request of {median_e2el_ms / _MS:.2f} s: send more requests for rates to rely on"
        )


def _of_counts(ends: Sorted, latencies: Latencies) -> Iterator[str]:
    if latencies.bundled:
        yield (
            f"multi_token_chunks: {latencies.bundled} of {len(ends.done)} replies had another "
            "number of events than of tokens, and the server did not say how many each holds; ITL "
            "is left out, and the tokens of such a reply are laid evenly on its events"
        )
    untold = sum(ends.tokens[row] == UNTOLD for row in ends.done)
    if untold:
        yield (
            f"{untold} of {len(ends.done)} replies told no number of tokens (no usage): there are "
            "no tokens/s, TPOT and ITL of them, for tokens are never counted by chunks"
        )
    if latencies.whole:
        yield (
            f"{latencies.whole} of {len(ends.done)} replies came whole, in one event: their TTFT "
            "is the time of the whole reply, and they have no gaps"
        )
    if latencies.silent:
        yield f"{latencies.silent} of {len(ends.done)} replies had no token event and no latency"
    if latencies.backwards:
        yield (
            f"{latencies.backwards} gaps between events are below zero: the clock was set back "
            "during the load, do not use its latencies"
        )
