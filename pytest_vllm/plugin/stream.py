"""A streamed reply as a check reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.conventions import DONE
from pytest_vllm.domain.generation import Generation, read_streamed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.reply import StreamReply


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream that was read to its end.

    Attributes:
        reply: The reply with status and headers.
        chunks: The JSON objects of all events but `[DONE]`, in order.
    """

    reply: StreamReply
    chunks: Sequence[dict[str, Any]]

    @property
    def lines(self) -> tuple[tuple[str, float], ...]:
        """Each line as it came, and when: milliseconds after the request was sent."""
        return self.reply.lines

    @property
    def ends_with_done(self) -> bool:
        """Whether the last line that is not blank is `data: [DONE]`, and the only such line."""
        said = [line for line, _ in self.lines if line.strip()]
        done = [line for line in said if line.removeprefix("data:").strip() == DONE]
        return len(done) == 1 and said[-1] == done[0]

    def choices(self, index: int = 0) -> list[dict[str, Any]]:
        """Return every part of the choice with an index, in order."""
        return [
            choice
            for chunk in self.chunks
            for choice in chunk["choices"]
            if choice["index"] == index
        ]

    def generation(self, index: int = 0) -> Generation:
        """Put a choice together again."""
        return read_streamed(self.chunks, index)

    def text(self, index: int = 0) -> str:
        """Return the whole text of a choice, without reasoning."""
        return self.generation(index).text

    def finish_reasons(self, index: int = 0) -> list[str]:
        """Return the reasons that the parts of a choice gave; a sound stream gives one."""
        return [
            choice["finish_reason"]
            for choice in self.choices(index)
            if choice["finish_reason"] is not None
        ]

    def as_sdk(self) -> dict[str, Any]:
        """Return the chat completion that the openai SDK's stream helper makes of the stream.

        Raises:
            AssertionError: The helper cannot read it.
        """
        from pytest_vllm.adapters.sdk import accumulated  # noqa: PLC0415 - openai loads on use

        return accumulated(self.chunks)

    @property
    def usage(self) -> dict[str, Any] | None:
        """The usage that was told last, `None` when none was."""
        told = [chunk["usage"] for chunk in self.chunks if chunk.get("usage")]
        return told[-1] if told else None
