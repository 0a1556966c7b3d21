"""The prompts of a load, before they become requests."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.rows import TRACE_BLOCK
from pytest_vllm.domain.load.workload import Api

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vllm.adapters.load.vocabulary import Vocabulary
    from pytest_vllm.domain.load.rows import Row
    from pytest_vllm.domain.load.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One request: its prompt and the lengths.

    Attributes:
        prompt: JSON text of the field `prompt` or `messages`.
        prompt_tokens: Tokens of the prompt, 0 where nobody counted them.
        output_tokens: Tokens to be written.
    """

    prompt: str
    prompt_tokens: int
    output_tokens: int


@dataclass(slots=True, kw_only=True)
class Writer:
    """Writes prompts out of a vocabulary, the same ones for the same seeds.

    Lengths come from one seed and tokens from another, so that a load can be sent again with the
    same lengths and other words. Each request has its own source of chance: the first hundred
    requests are the same ones in a load of a hundred and in one of a thousand.

    Attributes:
        workload: What to write; without a file.
        vocabulary: What to write with.
        context: Context length of the server, `None` where unknown.
        lengths_seed: Where lengths come from.
        tokens_seed: Where tokens come from.
        framing: Tokens that the chat template adds to a conversation of so many turns.
    """

    workload: Workload
    vocabulary: Vocabulary
    context: int | None
    lengths_seed: str
    tokens_seed: str
    framing: dict[int, int] = field(default_factory=dict)
    _pieces: Sequence[str] = field(init=False)
    _blocks: dict[tuple[str, int], list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Choose what prompts are made of."""
        ids = self.vocabulary.ids
        by_ids = self.workload.api is Api.COMPLETIONS and ids
        self._pieces = tuple(map(str, ids)) if by_ids else self.vocabulary.words

    @property
    def by_ids(self) -> bool:
        """Whether prompts are token IDs."""
        return self.workload.api is Api.COMPLETIONS and bool(self.vocabulary.ids)

    def conversation(self, number: int) -> list[Draft]:
        """Write the turns of a conversation; a single request is one of one turn."""
        workload, drafts = self.workload, list[Draft]()
        if workload.prompt is None or workload.output is None:
            raise TargetError("the workload has no lengths", advice="say prompt_tokens")
        lengths = _chance(f"{self.lengths_seed}:lengths:{number}")
        tokens = _chance(f"{self.tokens_seed}:tokens:{number}")
        said: list[list[str]] = []
        for turn in range(workload.turn_count):
            wanted = workload.prompt.draw(lengths, context=self.context)
            output = workload.output.draw(lengths, context=self.context)
            if turn and workload.turns:
                answer = workload.turns.answer.draw(lengths, context=self.context)
                said.append(self._draw(tokens, answer))
            begin = [] if turn else self._prefix(number)
            framed = self.framing.get(turn + 1, 0) - self.framing.get(turn, 0)
            own = wanted - framed
            if own < 1:
                raise TargetError(
                    f"a prompt of {wanted} tokens is asked for, and the chat template alone takes "
                    f"{framed} of them",
                    advice="ask for longer prompts: prompt_tokens",
                )
            said.append([*begin, *self._draw(tokens, own)])
            drafts.append(self._draft(said, turn + 1, output))
        return drafts

    def recorded(self, number: int, row: Row, output: int) -> Draft:
        """Write a prompt of which only length and blocks were recorded."""
        wanted = row.input_tokens or 0
        framed = self.framing.get(1, 0)
        pieces: list[str] = []
        for block in row.hash_ids:
            pieces += self._block(block)
        pieces = pieces[: max(wanted - framed, 1)]
        missing = max(wanted - framed, 1) - len(pieces)
        pieces += self._draw(_chance(f"{self.tokens_seed}:tokens:{number}"), missing)
        return self._draft([pieces], 1, output)

    def probe(self, turns: int) -> tuple[list[dict[str, str]], int]:
        """Return a conversation by which the framing of the template is learned, and its words."""
        word = self._pieces[0]
        said = [[word, word] for _ in range(2 * turns - 1)]
        return _messages(said), sum(map(len, said))

    def _draft(self, said: Sequence[Sequence[str]], turns: int, output: int) -> Draft:
        count = sum(map(len, said)) + self.framing.get(turns, 0)
        if self.by_ids:
            prompt = "[" + ",".join([",".join(part) for part in said]) + "]"
            return Draft(prompt=prompt, prompt_tokens=count, output_tokens=output)
        if self.workload.api is Api.COMPLETIONS:
            prompt = json.dumps(" ".join(" ".join(part) for part in said))
            return Draft(prompt=prompt, prompt_tokens=0, output_tokens=output)
        counted = count if self.framing else 0
        prompt = json.dumps(_messages(said))
        return Draft(prompt=prompt, prompt_tokens=counted, output_tokens=output)

    def _draw(self, rng: random.Random, count: int) -> list[str]:
        pieces = rng.choices(self._pieces, k=count) if count > 0 else []
        if pieces and not self.by_ids:
            # The first word of a text has no blank in front: always the same one, whose tokens
            # are counted with the template's.
            pieces[0] = self._pieces[0]
        return pieces

    def _prefix(self, number: int) -> list[str]:
        prefix = self.workload.prefix
        if prefix is None:
            return []
        mine = number % prefix.prefixes
        if ("prefix", mine) not in self._blocks:
            lengths = _chance(f"{self.lengths_seed}:prefix:{mine}")
            count = prefix.tokens.draw(lengths, context=self.context)
            rng = _chance(f"{self.tokens_seed}:prefix:{mine}")
            self._blocks["prefix", mine] = self._draw(rng, count)
        return self._blocks["prefix", mine]

    def _block(self, number: int) -> list[str]:
        if ("block", number) not in self._blocks:
            rng = _chance(f"{self.tokens_seed}:block:{number}")
            self._blocks["block", number] = self._draw(rng, TRACE_BLOCK)
        return self._blocks["block", number]


def _chance(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a load, no secret


def _messages(said: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Give questions and answers in turn, a question first."""
    return [
        {"role": "assistant" if number % 2 else "user", "content": " ".join(part)}
        for number, part in enumerate(said)
    ]


def chosen_rows(rows: Sequence[Row], count: int, *, seed: str, in_order: bool) -> list[Row]:
    """Take so many rows of a file.

    Args:
        rows: All that are usable.
        count: How many.
        seed: Where chance comes from.
        in_order: Whether they are taken as they stand, as those of a trace.

    Raises:
        TargetError: There are not so many; sent twice, a prompt would be found in the cache.
    """
    if len(rows) < count:
        file = rows[0].where.rpartition(",")[0] if rows else "the file"
        raise TargetError(
            f"{count} requests are asked for (with those to warm up), and {file} has "
            f"{len(rows)} usable prompts",
            advice="ask for fewer: --requests, --warm-up",
        )
    return list(rows[:count]) if in_order else _chance(f"{seed}:rows").sample(list(rows), count)


def row_prompt(row: Row, api: Api) -> tuple[str, dict[str, Any] | None, int]:
    """Return a row's prompt for an endpoint.

    Returns:
        The JSON text; what `/tokenize` must be asked to count it, `None` where it is known; and
        the count, 0 where it is not known.

    Raises:
        TargetError: A prompt of token IDs cannot be sent to a chat.
    """
    if row.ids is not None:
        if api is Api.CHAT:
            raise TargetError(
                f"{row.where}: a prompt of token IDs cannot be sent to a chat",
                advice='write api = "completions"',
            )
        return json.dumps(row.ids, separators=(",", ":")), None, len(row.ids)
    if api is Api.CHAT:
        messages = row.messages or ({"role": "user", "content": row.text},)
        return json.dumps(messages), {"messages": list(messages)}, 0
    text = row.text
    if text is None:
        text = "\n".join(str(message.get("content", "")) for message in row.messages or ())
    return json.dumps(text), {"prompt": text}, 0


def each(act: Callable[[int], None], count: int, *, threads: int) -> None:
    """Do something for each number on a few threads; the first failure ends it all."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for files of prompts only

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(act, number) for number in range(count)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
