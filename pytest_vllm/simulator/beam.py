"""Beam search: the most probable sequences, not sampled."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.simulator.model import Context
from pytest_vllm.simulator.tokens import END_OF_TEXT, TURN_END

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.simulator.engine import Engine
    from pytest_vllm.simulator.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class _Beam:
    score: float
    tokens: tuple[int, ...]
    ended: bool


async def beam_search(
    engine: Engine, prompt: Sequence[int], params: SamplingParams
) -> list[tuple[list[int], str]]:
    """Return the best `n` sequences with their finish reasons, the best first."""
    width = params.n
    beams = [_Beam(0.0, (), ended=False)]
    for _ in range(params.max_tokens):
        grown: list[_Beam] = []
        for beam in beams:
            if beam.ended:
                grown.append(beam)
                continue
            raw = engine.model.predict(Context([*prompt, *beam.tokens]))
            for token in raw.top(2 * width):
                ended = token in {END_OF_TEXT, TURN_END} and not params.ignore_eos
                score = beam.score + raw.logprob(token)
                grown.append(_Beam(score, (*beam.tokens, token), ended=ended))
        beams = heapq.nlargest(width, grown, key=lambda beam: beam.score)
        await asyncio.sleep(0)
        if all(beam.ended for beam in beams):
            break
    return [(list(beam.tokens), "stop" if beam.ended else "length") for beam in beams]
