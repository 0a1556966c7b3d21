"""What all generating endpoints share: models, prompts, bounds, ids, accounting."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.engine import Engine
from pytest_vllm.simulator.errors import ApiError, InvalidFieldsError, invalid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from pytest_vllm.simulator.engine import Job, Step
    from pytest_vllm.simulator.settings import SimulatorSettings
    from pytest_vllm.simulator.wire import Request

_CHARACTERS_PER_TOKEN = 81


@dataclass(frozen=True, slots=True)
class Serving:
    """The engine as the endpoints see it.

    Attributes:
        engine: The engine.
        settings: The launch.
        fingerprint: `system_fingerprint` of all replies.
    """

    engine: Engine
    settings: SimulatorSettings
    fingerprint: str

    @classmethod
    def start(cls, settings: SimulatorSettings) -> Serving:
        """Start an engine."""
        return cls(Engine(settings), settings, f"vllm-{settings.version}-51mu1a7e")

    @property
    def name(self) -> str:
        """Name that replies carry as `model`."""
        return self.settings.names[0]

    def document(self, request: Request) -> dict[str, Any]:
        """Return the JSON object of a request.

        Raises:
            ApiError: The body is none.
        """
        return read_document(request)

    def check_model(self, values: Mapping[str, Any]) -> None:
        """Require a model that is served; none is the first one.

        Raises:
            ApiError: It is not served.
        """
        asked = values.get("model")
        if asked and asked not in self.settings.names:
            aliases = ", ".join(self.settings.names)
            raise ApiError(
                f"The model `{asked}` does not exist. Valid aliases: {aliases}.",
                status=404,
                kind="NotFoundError",
                param="model",
            )

    def check_length(self, tokens: Sequence[int]) -> None:
        """Require a prompt that fits the context.

        Raises:
            ApiError: It does not.
        """
        limit = self.settings.max_model_len
        if len(tokens) > limit:
            # The tokenizer is stopped one token behind the limit.
            raise ApiError(
                f"This model's maximum context length is {limit} tokens. However, your prompt "
                f"contains at least {limit + 1} input tokens, which exceeds this limit even "
                "without any output tokens. Please reduce the length of the input prompt.",
                param="input_tokens",
                value=limit + 1,
            )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text that may be a prompt.

        Raises:
            ApiError: It is far too long, or no text at all.
        """
        limit = self.settings.max_model_len
        bound = limit * _CHARACTERS_PER_TOKEN
        if len(text) > bound:
            raise ApiError(
                f"This model's maximum context length is {limit} tokens. However, your prompt "
                f"contains {len(text)} characters (more than {bound} characters, which is the "
                f"upper bound for {limit} input tokens). Please reduce the length of the input "
                "prompt.",
                param="input_text",
                value=len(text),
            )
        try:
            return self.engine.tokenizer.encode(text)
        except UnicodeEncodeError:
            raise ApiError(
                "TextEncodeInput must be Union[TextInputSequence, Tuple[InputSequence, "
                "InputSequence]]"
            ) from None

    def bound(self, asked: int | None, prompt: int, *, name: str = "max_tokens") -> int:
        """Return how many tokens may be generated.

        Args:
            asked: What the request asks, `None` for as many as fit.
            prompt: Tokens of the prompt.
            name: Field of the request.

        Raises:
            ApiError: Not one, or more than the context has.
        """
        limit = self.settings.max_model_len
        left = limit - prompt
        if asked is not None and asked > limit:
            message = (
                f"{name}={asked} cannot be greater than max_model_len={limit}. "
                "Please request fewer output tokens."
            )
            raise ApiError(message, param=name, value=asked)
        allowed = left if asked is None else min(asked, left)
        if allowed < 1:
            message = f"max_tokens must be at least 1, got {allowed}."
            raise ApiError(message, param="max_tokens", value=allowed)
        return allowed

    def truncated(self, tokens: list[int], values: Mapping[str, Any]) -> list[int]:
        """Keep the last tokens of a prompt if the request asks so.

        Raises:
            ApiError: It asks for more than the context has.
        """
        name, limit = "truncate_prompt_tokens", self.settings.max_model_len
        asked = values.get(name)
        if "truncates-prompts" in self.settings.flaws:
            tokens = tokens[-512:]
        if asked is None:
            return tokens
        if asked > limit:
            message = (
                f"{name}={asked} cannot be greater than max_model_len = {limit}. "
                "Please request a smaller truncation size."
            )
            raise ApiError(message, param=name, value=asked)
        keep = limit if asked < 0 else asked
        return tokens[-keep:] if keep else []

    def request_id(self, request: Request, values: Mapping[str, Any], prefix: str) -> str:
        """Return the id of a reply: the one asked for, or a new one."""
        asked = values.get("request_id") or request.headers.get("x-request-id")
        return f"{prefix}-{asked or secrets.token_hex(8)}"

    def usage(self, prompt: int, completion: int, cached: int | None) -> dict[str, Any]:
        """Return the token accounting of a whole reply.

        Args:
            prompt: Prompt tokens.
            completion: Generated tokens.
            cached: Prompt tokens out of the prefix cache.
        """
        details = None
        if self.settings.enable_prompt_tokens_details:
            details = {
                "cached_tokens": cached or 0,
                "created_cache_tokens": None,
                "multimodal_tokens": None,
            }
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": details,
            "completion_tokens_details": None,
        }

    def stream_usage(self, prompt: int, completion: int, cached: int | None) -> dict[str, Any]:
        """Return the token accounting of a stream."""
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
        }
        if cached is not None and self.settings.enable_prompt_tokens_details:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        return usage


def read_document(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request.

    Raises:
        ApiError: The body is no JSON, or no object, or not said to be JSON.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and "+json" in media):
        message = (
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        )
        raise ApiError(message, kind="Bad Request")
    if not request.body:
        raise InvalidFieldsError([invalid("missing", "body", "Field required", None)])
    try:
        document = json.loads(request.body)
    except json.JSONDecodeError as error:
        entry = invalid(
            "json_invalid", f"body.{error.pos}", "JSON decode error", {}, error=error.msg
        )
        raise InvalidFieldsError([entry]) from None
    except (UnicodeDecodeError, RecursionError):
        raise UnreadableBodyError from None
    if document is None:
        raise InvalidFieldsError([invalid("missing", "body", "Field required", None)])
    if not isinstance(document, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        raise InvalidFieldsError([invalid("model_attributes_type", "body", text, document)])
    return document


class UnreadableBodyError(Exception):
    """A body that the web framework itself cannot read."""


async def merge(engine: Engine, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Step]]:
    """Run jobs at once and yield the steps of all with their number, as they come."""
    if len(jobs) == 1:
        async with aclosing(engine.generate(jobs[0])) as steps:
            async for step in steps:
                yield 0, step
        return
    queue: asyncio.Queue[tuple[int, Step] | None] = asyncio.Queue()

    async def pump(number: int, job: Job) -> None:
        try:
            async with aclosing(engine.generate(job)) as steps:
                async for step in steps:
                    queue.put_nowait((number, step))
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.ensure_future(pump(number, job)) for number, job in enumerate(jobs)]
    try:
        for _ in tasks:
            while (item := await queue.get()) is not None:
                yield item
        for task in tasks:
            await task
    finally:
        for task in tasks:
            task.cancel()


async def collect(engine: Engine, jobs: Sequence[Job]) -> list[list[Step]]:
    """Run jobs at once to their ends."""
    found: list[list[Step]] = [[] for _ in jobs]
    async with aclosing(merge(engine, jobs)) as steps:
        async for number, step in steps:
            found[number].append(step)
    return found


async def gathered(
    steps: AsyncIterator[tuple[int, Step]], interval: int
) -> AsyncIterator[tuple[int, list[Step]]]:
    """Yield steps in groups: the first alone, then so many at a time, the rest at the end."""
    held: dict[int, list[Step]] = {}
    begun: set[int] = set()
    async for number, step in steps:
        group = held.setdefault(number, [])
        group.append(step)
        if number not in begun or len(group) >= interval or step.finish_reason is not None:
            begun.add(number)
            held[number] = []
            yield number, group
