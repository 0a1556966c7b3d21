"""The engine: sequences that wait, run in a batch, and yield one token after the other."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_vllm.simulator.cache import PrefixCache
from pytest_vllm.simulator.corruption import Corruption
from pytest_vllm.simulator.detokenize import Detokenizer, TokenText
from pytest_vllm.simulator.knowledge import knowledge
from pytest_vllm.simulator.logprobs import TokenLogprobs, token_logprobs
from pytest_vllm.simulator.metrics import Metrics
from pytest_vllm.simulator.model import Context
from pytest_vllm.simulator.sampling import Sampler, SamplingParams
from pytest_vllm.simulator.tokens import TURN_END

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

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
        self._random = random.Random()  # noqa: S311 - sampling
        self._jitter = random.Random(settings.jitter_seed)  # noqa: S311 - a schedule
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._used_blocks = 0
        self._last_prompt: Sequence[int] = ()
        self._background: set[asyncio.Task[None]] = set()
        self.running = 0
        self.admitted = 0

    @property
    def gauges(self) -> dict[str, float]:
        """Running, waiting and KV cache usage of now."""
        return {
            "running": float(self.running),
            "waiting": float(len(self._waiting)),
            "kv": self._used_blocks / self.settings.blocks,
        }

    async def generate(self, job: Job) -> AsyncIterator[Step]:
        """Generate a sequence; closing the iterator aborts it and frees its place at once."""
        times = [time.monotonic()]
        await self._enter()
        blocks = -(-(len(job.prompt) + 1) // self.settings.block_size)
        self._used_blocks += blocks
        step: Step | None = None
        count = 0
        try:
            times.append(time.monotonic())
            async for step in self._run(job):
                times.append(time.monotonic())
                count += 1
                grown = -(-(len(job.prompt) + count) // self.settings.block_size)
                self._used_blocks += grown - blocks
                blocks = grown
                yield step
                if step.finish_reason is None:
                    await self._pace(self.settings.token_delay_ms)
        finally:
            finished = step is not None and step.finish_reason is not None
            if finished and step is not None:
                self._count(job, step, times)
            self._leave(job, blocks, count, finished=finished)

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

    async def _run(self, job: Job) -> AsyncIterator[Step]:
        params, flaws = job.params, self.settings.flaws
        prompt = self._prompt(job)
        cached = self._look_up(job)
        await self._pace(self.settings.first_token_delay_ms)
        if "engine-hangs" in flaws or (
            "engine-hangs-after-50" in flaws and self.admitted > 50  # noqa: PLR2004 - its name
        ):
            await asyncio.Event().wait()
        context = Context(self._remembered(prompt, cached))
        self._last_prompt = prompt
        sampler = Sampler(params, prompt, job.index, flaws, self._random)
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
        token, early = output[-1], len(output) < params.min_tokens
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

    def _prompt(self, job: Job) -> Sequence[int]:
        if "truncates-prompts" in self.settings.flaws:
            return job.prompt[-512:]
        return job.prompt

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

    async def _enter(self) -> None:
        """Wait for a place in the batch."""
        limit = 1 if "serial-engine" in self.settings.flaws else self.settings.max_num_seqs
        if self.running >= limit or self._waiting:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_place()
                else:
                    with suppress(ValueError):
                        self._waiting.remove(turn)
                raise
        else:
            self.running += 1
        self.admitted += 1

    def _give_place(self) -> None:
        """Hand a place on to the sequence that waits longest, or free it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def _leave(self, job: Job, blocks: int, count: int, *, finished: bool) -> None:
        flaws = self.settings.flaws
        if not finished:
            if "slots-leak" in flaws:
                return
            if "gauges-never-fall" in flaws:
                # The place is free, the gauge is not: one more sequence fits, one more is told.
                self._give_place()
                self.running += 1
                return
            if "cancelled-go-on" in flaws:
                task = asyncio.ensure_future(self._go_on(job, blocks, count))
                self._background.add(task)
                task.add_done_callback(self._background.discard)
                return
        self._used_blocks -= blocks
        self._give_place()

    async def _go_on(self, job: Job, blocks: int, count: int) -> None:
        """Spend the time and the place of tokens that nobody will read."""
        for _ in range(count, job.params.max_tokens):
            await self._pace(max(self.settings.token_delay_ms, 5.0))
        self._used_blocks -= blocks
        self._give_place()

    async def _pace(self, delay_ms: float) -> None:
        if self.settings.jitter_ms:
            delay_ms += self._jitter.random() * self.settings.jitter_ms
        await asyncio.sleep(delay_ms / 1000)

    def _count(self, job: Job, step: Step, times: list[float]) -> None:
        """Count a finished sequence; `times` are its arrival, its start and each token."""
        if "metrics-frozen" in self.settings.flaws:
            return
        metrics, tokens = self.metrics, len(times) - 2
        metrics.generation_tokens += tokens
        metrics.finished[step.finish_reason or "error"] += 1
        arrived, started, first, last = times[0], times[1], times[2], times[-1]
        observe = metrics.observe
        observe("request_prompt_tokens", len(job.prompt))
        observe("request_generation_tokens", tokens)
        observe("iteration_tokens_total", len(job.prompt))
        observe("request_max_num_generation_tokens", tokens)
        observe("request_params_n", job.params.n)
        observe("request_params_max_tokens", job.params.max_tokens)
        observe("time_to_first_token_seconds", first - arrived)
        for before, after in zip(times[2:], times[3:], strict=False):
            observe("inter_token_latency_seconds", after - before)
        if tokens > 1:
            observe("request_time_per_output_token_seconds", (last - first) / (tokens - 1))
        observe("e2e_request_latency_seconds", last - arrived)
        observe("request_queue_time_seconds", started - arrived)
        observe("request_inference_time_seconds", last - started)
        observe("request_prefill_time_seconds", first - started)
        observe("request_decode_time_seconds", last - first)


def _repeats(output: list[int], largest: int, smallest: int, least: int) -> bool:
    """Tell whether the output ends in a pattern that comes often enough in a row."""
    for size in range(max(1, smallest), largest + 1):
        span = size * least
        if len(output) >= span:
            tail = output[-span:]
            if all(tail[at] == tail[at % size] for at in range(span)):
                return True
    return False
