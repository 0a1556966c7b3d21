"""Where prompts come from: written out of a vocabulary, or read from a file and counted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.drafts import Draft, Writer, chosen_rows, each, row_prompt
from pytest_vllm.adapters.load.prompt_file import digest, read_rows
from pytest_vllm.adapters.load.vocabulary import tokenize
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.traffic import Pattern, arrivals
from pytest_vllm.domain.load.workload import Api

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.adapters.http import Transport
    from pytest_vllm.adapters.load.connection import LoadServer
    from pytest_vllm.adapters.load.vocabulary import Vocabulary
    from pytest_vllm.domain.load.rows import Row
    from pytest_vllm.domain.load.traffic import Traffic
    from pytest_vllm.domain.load.workload import Workload

_ASKERS = 8
_SAMPLES = 8
_MOST_BYTES = 2 * 2**30


@dataclass(slots=True, kw_only=True)
class Making:
    """What a plan is made with."""

    server: LoadServer
    transport: Transport
    workload: Workload
    traffic: Traffic
    salt: str
    vocabulary: Vocabulary
    notes: list[str] = field(default_factory=list)

    @property
    def salted(self) -> bool:
        """Whether the server keeps prefix caches of different salts apart."""
        return self.server.knows(self.workload.api.path, "cache_salt")


def _writer(making: Making) -> Writer:
    """Return a writer that knows what the chat template adds."""
    seed = str(making.traffic.seed)
    writer = Writer(
        workload=making.workload,
        vocabulary=making.vocabulary,
        context=making.server.max_model_len,
        lengths_seed=seed,
        tokens_seed=seed if making.salted else f"{seed}:{making.salt}",
    )
    if making.workload.api is Api.COMPLETIONS:
        if not making.vocabulary.ids:
            making.notes.append("no /tokenize: lengths are in words, the usage tells the tokens")
        return writer
    for turns in range(1, making.workload.turn_count + 1):
        messages, words = writer.probe(turns)
        told = tokenize(making.server, making.transport, {"messages": messages})
        if told is None:
            making.notes.append("no /tokenize: lengths are in words, the usage tells the tokens")
            return writer
        writer.framing[turns] = int(told["count"]) - words
    return writer


def written(making: Making) -> tuple[list[list[Draft]], Sequence[int], str]:
    """Write conversations; returns them, and when the first turn of each is due.

    Raises:
        TargetError: They do not fit the server, or their times are another's.
    """
    traffic, turns = making.traffic, making.workload.turn_count
    if traffic.pattern is Pattern.TRACE:
        raise TargetError(
            f"workload {making.workload.name} is no trace: it has no times",
            advice="name a JSONL file with a timestamp in each row, or choose another pattern",
        )
    writer = _writer(making)
    warm, count = conversations(traffic.warm_up, turns), conversations(traffic.requests, turns)
    sessions, size = [], 0
    for number in range(warm + count):
        session = writer.conversation(number)
        if number >= warm:
            session = session[: traffic.requests - (number - warm) * turns]
        _fits_context(making, session, f"workload {making.workload.name}")
        size = _within_memory(size, session)
        sessions.append(session)
    due = arrivals(replace(traffic, requests=count, warm_up=warm))
    if turns > 1 and traffic.is_open:
        making.notes.append("the rate is that of conversations")
    if writer.framing:
        sessions = _verified(making, sessions)
    return sessions, due, ""


def conversations(requests: int, turns: int) -> int:
    """Return how many conversations so many requests are, the last one perhaps cut short."""
    return -(-requests // turns)


def _verified(making: Making, sessions: list[list[Draft]]) -> list[list[Draft]]:
    """Hold counts of chats against the server's; where they differ, count every one of them."""
    drafts = [draft for session in sessions for draft in session]
    step = max(1, len(drafts) // _SAMPLES)
    drafts.sort(key=lambda draft: draft.prompt_tokens)
    sample = [*drafts[::step], drafts[-1]]
    if all(_count_chat(making, draft) == draft.prompt_tokens for draft in sample):
        return sessions
    flat = [(place, at) for place, session in enumerate(sessions) for at in range(len(session))]
    most = 0

    def count(number: int) -> None:
        nonlocal most
        place, at = flat[number]
        draft = sessions[place][at]
        told = _count_chat(making, draft)
        most = max(most, abs(told - draft.prompt_tokens))
        sessions[place][at] = replace(draft, prompt_tokens=told)

    each(count, len(flat), threads=_ASKERS)
    making.notes.append(
        f"words join to other tokens here: prompts are up to {most} tokens off what was asked; "
        "their counts are the server's"
    )
    for session in sessions:
        _fits_context(making, session, f"workload {making.workload.name}")
    return sessions


def _count_chat(making: Making, draft: Draft) -> int:
    told = tokenize(making.server, making.transport, {"messages": json.loads(draft.prompt)})
    return int(told["count"]) if told else 0


def from_file(making: Making) -> tuple[list[list[Draft]], Sequence[int], str]:
    """Take prompts out of a file; returns them, when each is due, and the file's digest.

    Raises:
        TargetError: The file has too few prompts, or one of them does not suit the server.
    """
    workload, traffic = making.workload, making.traffic
    rows = list(read_rows(workload.file))
    in_order = traffic.pattern is Pattern.TRACE or rows[0].is_trace
    if traffic.pattern is Pattern.TRACE:
        for row in rows[: traffic.total]:
            if row.due_ns is None:
                raise TargetError(
                    f"{row.where} has no timestamp", advice="choose another pattern than trace"
                )
    if rows[0].is_trace and "ignore_eos" not in workload.table:
        making.workload = workload = replace(workload, ignore_eos=True)
    taken = chosen_rows(rows, traffic.total, seed=str(traffic.seed), in_order=in_order)
    drafts = _counted(making, taken)
    size = 0
    for row, draft in zip(taken, drafts, strict=True):
        _fits_context(making, [draft], row.where)
        size = _within_memory(size, [draft])
    recorded = [row.due_ns or 0 for row in taken]
    due = arrivals(traffic, recorded_ns=recorded)
    return [[draft] for draft in drafts], due, digest(workload.file)


def _counted(making: Making, rows: Sequence[Row]) -> list[Draft]:
    """Make drafts of rows; what is not told of their lengths, the tokenizer tells."""
    writer = _writer(making)
    drafts: dict[int, Draft] = {}
    seed = f"{making.traffic.seed}:output"

    def draft(number: int) -> None:
        row = rows[number]
        output = _output_tokens(making, row, f"{seed}:{number}")
        if row.is_trace:
            drafts[number] = writer.recorded(number, row, output)
            return
        prompt, question, count = row_prompt(row, making.workload.api)
        if question is not None and making.vocabulary.told_by == "/tokenize":
            told = tokenize(making.server, making.transport, question)
            count = int(told["count"]) if told else 0
        drafts[number] = Draft(prompt=prompt, prompt_tokens=count, output_tokens=output)

    each(draft, len(rows), threads=_ASKERS)
    return [drafts[number] for number in range(len(rows))]


def _output_tokens(making: Making, row: Row, seed: str) -> int:
    if row.output_tokens is not None:
        return row.output_tokens
    if making.workload.output is not None:
        import random  # noqa: PLC0415 - for files without lengths only

        rng = random.Random(seed)  # noqa: S311 - a load, no secret
        return making.workload.output.draw(rng, context=making.server.max_model_len)
    if row.answer:
        question = {"prompt": row.answer, "add_special_tokens": False}
        told = tokenize(making.server, making.transport, question)
        if told is not None:
            return max(1, int(told["count"]))
    raise TargetError(
        f"{row.where}: nothing says how many tokens the answer has",
        advice="add output_tokens to the row, or to a workload file that names this one",
    )


def _fits_context(making: Making, session: Sequence[Draft], what: str) -> None:
    limit = making.server.max_model_len
    for draft in session:
        needed = draft.prompt_tokens + draft.output_tokens
        if limit is not None and needed > limit:
            raise TargetError(
                f"{what}: a prompt of {draft.prompt_tokens} tokens and {draft.output_tokens} to be "
                f"written need a context of {needed}, and {making.server.model} is served with "
                f"max_model_len {limit}",
                advice="use shorter lengths, or serve with a longer --max-model-len",
            )


def _within_memory(size: int, session: Sequence[Draft]) -> int:
    size += sum(len(draft.prompt) for draft in session)
    if size > _MOST_BYTES:
        raise TargetError(
            f"the prompts of this load have more than {_MOST_BYTES >> 30} GiB",
            advice="send fewer requests, or shorter prompts",
        )
    return size
