"""The engine: sequences that wait, run in a batch, and yield one token after the other."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_vllm.simulator.cache import PrefixCache
from pytest_vllm.simulator.corruption import Corruption
from pytest_vllm.simulator.detokenize import Detokenizer, TokenText
from pytest_vllm.simulator.draws import RandomDraws
from pytest_vllm.simulator.knowledge import knowledge
from pytest_vllm.simulator.logprobs import TokenLogprobs, token_logprobs
from pytest_vllm.simulator.metrics import Metrics
from pytest_vllm.simulator.model import Context
from pytest_vllm.simulator.places import Places
from pytest_vllm.simulator.sampling import Sampler, SamplingParams
from pytest_vllm.simulator.tokens import TURN_END

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from pytest_vllm.simulator.distribution import Distribution
    from pytest_vllm.simulator.settings import SimulatorSettings

_SCORED_BETWEEN_YIELDS = 16


class Constraint(Protocol):
    """Keeps a sequence within a grammar."""

    def allowed(self, raw: Distribution) -> Collection[int]:
        """Return tokens that may come next, never none."""

    def take(self, token: int) -> None:
        """Go on behind a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One sequence to generate.

    Attributes:
        prompt: Tokens of the prompt, at least one.
        params: What the request asks of the sampler.
        index: Number among the sequences of its request.
        salt: Keeps the prefix cache apart from those of other salts.
        constraint: Keeps the text within a grammar.
    """

    prompt: Sequence[int]
    params: SamplingParams
    index: int = 0
    salt: str | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One generated token.

    Attributes:
        token: The token.
        text: Text that can be told now: whole characters, no beginning of a stop text.
        logprobs: Its log probability and those of alternatives, if asked for.
        finish_reason: Why the sequence ends here, `None` when it goes on.
        stop_reason: The stop text or token that was met.
        cached: Tokens of the prompt that came from the prefix cache.
    """

    token: int
    text: str
    logprobs: TokenLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    cached: int


class Engine:
    """Runs sequences.

    Args:
        settings: The launch.
    """

    def __init__(self, settings: SimulatorSettings) -> None:
        known = knowledge()
        self.settings = settings
        self.tokenizer = known.tokenizer
        self.model = known.model
        self.metrics = Metrics()
        self._cache = PrefixCache(settings.block_size, settings.blocks)
        self._corruption = Corruption(known.model, settings.flaws)
        self._draws = RandomDraws(settings.sampling_seed)
        self._jitter = random.Random(settings.jitter_seed)  # noqa: S311 - a schedule
        self._places = Places(1 if "serial-engine" in settings.flaws else settings.max_num_seqs)
        self._ghosts = 0
        self._used_blocks = 0
        self._last_prompt: Sequence[int] = ()
        self._background: set[asyncio.Task[None]] = set()
        self.admitted = 0

    @property
    def running(self) -> int:
        """Sequences that run now."""
        return self._places.taken

    @property
    def gauges(self) -> dict[str, float]:
        """Running, waiting and KV cache usage of now."""
        return {
            "running": float(self.running + self._ghosts),
            "waiting": float(self._places.waiting),
            "kv": self._used_blocks / self.settings.blocks,
        }

    async def generate(self, job: Job) -> AsyncGenerator[Step]:
        """Generate a sequence; closing the iterator aborts it and frees its place at once."""
        times = [time.monotonic()]
        await self._places.take()
        self.admitted += 1
        blocks = -(-(len(job.prompt) + 1) // self.settings.block_size)
        self._used_blocks += blocks
        step: Step | None = None
        count = 0
        try:
            times.append(time.monotonic())
            async with aclosing(self._run(job)) as steps:
                async for step in steps:
                    times.append(time.monotonic())
                    count += 1
                    grown = -(-(len(job.prompt) + count) // self.settings.block_size)
                    self._used_blocks += grown - blocks
                    blocks = grown
                    yield step
                    if step.finish_reason is None:
                        await self._pace(self.settings.token_delay_ms)
        finally:
            reason = None if step is None else step.finish_reason
            if reason is not None and "metrics-frozen" not in self.settings.flaws:
                self.metrics.finish(len(job.prompt), job.params, reason, times)
            self._leave(job, blocks, count, finished=reason is not None)

    async def score(self, prompt: Sequence[int], count: int) -> list[TokenLogprobs | None]:
        """Return log probabilities of a prompt's tokens; the first has none.

        Args:
            prompt: Tokens of the prompt.
            count: Alternatives beside each token.
        """
        context, shown = Context(prompt), TokenText(self.tokenizer)
        scores: list[TokenLogprobs | None] = [None]
        shown.take(prompt[0])
        for at in range(1, len(prompt)):
            token = prompt[at - ("prompt-logprobs-shifted" in self.settings.flaws)]
            raw = self._corruption.prefill(context, at, self.running)
            scores.append(token_logprobs(raw, token, count, shown))
            shown.take(prompt[at])
            if at % _SCORED_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)
        return scores

    # --- one sequence ----------------------------------------------------------------------------

    async def _run(self, job: Job) -> AsyncGenerator[Step]:
        params, flaws = job.params, self.settings.flaws
        prompt = job.prompt
        cached = self._look_up(job)
        await self._pace(self.settings.first_token_delay_ms)
        if "engine-hangs" in flaws or (
            "engine-hangs-after-50" in flaws and self.admitted > 50  # noqa: PLR2004 - its name
        ):
            await asyncio.Event().wait()
        context = Context(self._remembered(prompt, cached))
        self._last_prompt = prompt
        unseeded = self._draws.of(job.index, params, prompt)
        sampler = Sampler(params, prompt, job.index, flaws, unseeded)
        detokenizer = Detokenizer(
            self.tokenizer,
            params.stop,
            include_stop=params.include_stop_str_in_output,
            skip_specials=params.skip_special_tokens,
        )
        shown = TokenText(self.tokenizer)
        constraint = None if "grammar-ignored" in flaws else job.constraint
        first, number = self.admitted == 1, 0
        output: list[int] = []
        while True:
            raw = self._corruption.predict(
                context, decode=bool(output), running=self.running, first=first
            )
            token = sampler.choose(raw, constraint.allowed(raw) if constraint else None)
            if self._corruption.forces_zero:
                token = 0
            number += 1
            logprobs = None
            if params.logprobs is not None:
                told = self._corruption.told(raw, sampler)
                logprobs = token_logprobs(told, token, params.logprobs, shown)
            sampler.take(token)
            shown.take(token)
            context.append(self._corruption.stored(token, self.running))
            output.append(token)
            if constraint:
                constraint.take(token)
            reason, stop = self._end(params, output, detokenizer)
            yield Step(
                token=token,
                text=detokenizer.tell(finished=reason is not None),
                logprobs=logprobs,
                finish_reason=reason,
                stop_reason=stop,
                cached=cached,
            )
            if reason is not None:
                return

    def _end(
        self, params: SamplingParams, output: list[int], detokenizer: Detokenizer
    ) -> tuple[str | None, str | int | None]:
        """Take the last token into the text and tell whether the sequence ends."""
        token = output[-1]
        early = len(output) < params.min_tokens and "min-tokens-ignored" not in self.settings.flaws
        at_length = len(output) >= params.max_tokens
        is_end = token <= TURN_END and token != 1
        if is_end and not early and not params.ignore_eos:
            if "eos-ignored" not in self.settings.flaws:
                return "stop", None
        elif token in params.stop_token_ids and not early:
            if params.include_stop_str_in_output:
                detokenizer.add(token)
            return "stop", token
        stopped = detokenizer.add(token)
        if stopped is not None and not early:
            return "stop", stopped
        if params.repetition_detection and _repeats(output, *params.repetition_detection):
            return "repetition", "repetition_detected"
        return ("length", None) if at_length else (None, None)

    def _look_up(self, job: Job) -> int:
        """Look the prompt up in the prefix cache and count that."""
        metrics, frozen = self.metrics, "metrics-frozen" in self.settings.flaws
        if not frozen:
            metrics.prompt_tokens += len(job.prompt)
        # Log probabilities of the prompt need every position computed, so nothing is read.
        if not self.settings.enable_prefix_caching or job.params.prompt_logprobs is not None:
            return 0
        salt = None if "cache-ignores-salt" in self.settings.flaws else job.salt
        cached = self._cache.admit(job.prompt, salt)
        if not frozen:
            metrics.cache_queries += len(job.prompt)
            if "cache-hits-never-counted" not in self.settings.flaws:
                metrics.cache_hits += cached
        return cached

    def _remembered(self, prompt: Sequence[int], cached: int) -> Sequence[int]:
        """Return what the KV cache holds of the prompt."""
        if cached and "cache-returns-other-prompt" in self.settings.flaws:
            other = self.tokenizer.encode("The stars are lanterns in the night. ") * cached
            return [*other[:cached], *prompt[cached : len(prompt) - 1], other[cached]]
        return prompt

    # --- places ----------------------------------------------------------------------------------

    def _leave(self, job: Job, blocks: int, count: int, *, finished: bool) -> None:
        flaws = self.settings.flaws
        if not finished:
            if "slots-leak" in flaws:
                return
            if "gauges-never-fall" in flaws:
                self._ghosts += 1  # the place is free, the gauges do not know
                self._places.give()
                return
            if "cancelled-go-on" in flaws:
                task = asyncio.ensure_future(self._go_on(job, blocks, count))
                self._background.add(task)
                task.add_done_callback(self._background.discard)
                return
        self._used_blocks -= blocks
        self._places.give()

    async def _go_on(self, job: Job, blocks: int, count: int) -> None:
        """Spend the time and the place of tokens that nobody will read."""
        for _ in range(count, job.params.max_tokens):
            await self._pace(max(self.settings.token_delay_ms, 5.0))
        self._used_blocks -= blocks
        self._places.give()

    async def _pace(self, delay_ms: float) -> None:
        if self.settings.jitter_ms:
            delay_ms += self._jitter.random() * self.settings.jitter_ms
        await asyncio.sleep(delay_ms / 1000)


def _repeats(output: list[int], largest: int, smallest: int, least: int) -> bool:
    """Tell whether the output ends in a pattern that comes often enough in a row."""
    for size in range(max(1, smallest), largest + 1):
        span = size * least
        if len(output) >= span:
            tail = output[-span:]
            if all(tail[at] == tail[at % size] for at in range(span)):
                return True
    return False
