"""What requests hold, as data: lengths, shared beginnings, turns, prompts of a file, a schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.lengths import Lengths, read_lengths
from pytest_vllm.domain.plain import is_schema
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
_KEYS = (
    "schema",
    "name",
    "summary",
    "api",
    "prompt_tokens",
    "output_tokens",
    "ignore_eos",
    "shared_prefix",
    "turns",
    "file",
    "json_schema",
)


class Api(StrEnum):
    """Endpoint that is loaded."""

    COMPLETIONS = "completions"
    CHAT = "chat"

    @property
    def path(self) -> str:
        """Path of the endpoint."""
        return "/v1/chat/completions" if self is Api.CHAT else "/v1/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """Tokens with which several prompts begin.

    Attributes:
        tokens: How many; they are in front of `Workload.prompt`.
        prefixes: How many different ones there are; requests take them in turn.
    """

    tokens: Lengths
    prefixes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """A conversation: each turn sends all that was said before it.

    Attributes:
        count: Requests of a conversation.
        pause_s: Seconds between an answer and the next request.
        answer: Tokens of the scripted answers that later turns carry. The server's own answers
            cannot be known when the bodies are made.
    """

    count: int
    pause_s: float
    answer: Lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the requests of a load hold.

    Attributes:
        name: Its name.
        summary: What it stands for, in a sentence.
        api: Endpoint.
        prompt: Tokens of a prompt (of what a turn adds); `None` where a file says so.
        output: Tokens to be written; `None` where a file says so.
        ignore_eos: Whether the model must write them all, whatever it would say.
        prefix: Shared beginning, `None` for none.
        turns: Conversations, `None` for single requests.
        file: JSONL or JSON file of prompts or of a trace, as it was named; empty for none.
        json_schema: What answers must conform to (`response_format`), `None` for free text.
        table: The plain data it was read from, for the record.
    """

    name: str
    summary: str = ""
    api: Api = Api.COMPLETIONS
    prompt: Lengths | None = None
    output: Lengths | None = None
    ignore_eos: bool = True
    prefix: SharedPrefix | None = None
    turns: Turns | None = None
    file: str = ""
    json_schema: Mapping[str, Any] | None = None
    table: Mapping[str, Any] = field(default_factory=dict)

    @property
    def turn_count(self) -> int:
        """Requests of a conversation, 1 for single requests."""
        return self.turns.count if self.turns else 1


def read_workload(table: Mapping[str, Any], *, source: str = "workload") -> Workload:
    """Read a workload.

    Args:
        table: Plain data: what a TOML file holds, or `LoadPlan.description["workload"]`.
        source: The file, for messages.

    Raises:
        TargetError: A key is unknown, missing, of another type, or contradicts another.
    """
    for key in table:
        if key not in _KEYS:
            raise TargetError(
                f"{source}: there is no key {key!r}{closest(key, _KEYS)}",
                advice=f"use {', '.join(_KEYS)}",
            )
    if not is_schema(table.get("schema", SCHEMA), SCHEMA):
        raise TargetError(
            f"{source}: schema = {table['schema']!r} is not known",
            advice=f"write schema = {SCHEMA}",
        )
    file = _value(table, "file", str, "", source)
    schema = table.get("json_schema")
    if schema is not None and not isinstance(schema, dict):
        raise TargetError(f"{source}: json_schema is no table")
    workload = Workload(
        name=_value(table, "name", str, "workload", source),
        summary=_value(table, "summary", str, "", source),
        api=_api(table, source),
        prompt=_lengths(table, "prompt_tokens", source),
        output=_lengths(table, "output_tokens", source),
        ignore_eos=_value(table, "ignore_eos", bool, not file and schema is None, source),
        prefix=_prefix(table, source),
        turns=_turns(table, source),
        file=file,
        json_schema=schema,
        table=dict(table),
    )
    _check(workload, source)
    return workload


def _check(workload: Workload, source: str) -> None:
    if workload.file:
        beside = [name for name in ("prompt_tokens", "shared_prefix") if name in workload.table]
        beside += ["turns"] if workload.turns else []
        if beside:
            raise TargetError(
                f"{source}: {beside[0]} is said beside file, which holds the prompts",
                advice="leave one of them out",
            )
        return
    for name, lengths in (("prompt_tokens", workload.prompt), ("output_tokens", workload.output)):
        if lengths is None:
            raise TargetError(
                f"{source}: {name} is missing", advice=f"write {name} = 512, or name a file"
            )
    if workload.json_schema is not None and workload.ignore_eos:
        raise TargetError(
            f"{source}: ignore_eos = true contradicts json_schema: the grammar ends the answer",
            advice="leave ignore_eos out",
        )


def _value(table: Mapping[str, Any], key: str, kind: type, default: Any, source: str) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind):
        names = {str: "a text", bool: "true or false"}
        raise TargetError(f"{source}: {key} = {value!r} is not {names.get(kind, kind.__name__)}")
    return value


def _api(table: Mapping[str, Any], source: str) -> Api:
    value = table.get("api", Api.COMPLETIONS.value)
    known = [api.value for api in Api]
    if value not in known:
        raise TargetError(
            f"{source}: there is no api {value!r}{closest(str(value), known)}",
            advice=f"use {' or '.join(known)}",
        )
    return Api(value)


def _lengths(table: Mapping[str, Any], key: str, source: str) -> Lengths | None:
    return read_lengths(table[key], source=f"{source}: {key}") if key in table else None


def _prefix(table: Mapping[str, Any], source: str) -> SharedPrefix | None:
    found = _part(table, "shared_prefix", ("tokens",), ("prefixes",), source)
    if found is None:
        return None
    tokens = read_lengths(found["tokens"], source=f"{source}: shared_prefix.tokens")
    prefixes = _whole(found, "prefixes", 1, f"{source}: shared_prefix")
    return SharedPrefix(tokens=tokens, prefixes=prefixes)


def _turns(table: Mapping[str, Any], source: str) -> Turns | None:
    found = _part(table, "turns", ("count",), ("pause_s", "answer_tokens"), source)
    if found is None:
        return None
    where = f"{source}: turns"
    pause_s = found.get("pause_s", 0)
    if isinstance(pause_s, bool) or not isinstance(pause_s, int | float) or not pause_s >= 0:
        raise TargetError(f"{where}.pause_s = {pause_s!r} is no number of seconds")
    answer = found.get("answer_tokens", table.get("output_tokens"))
    return Turns(
        count=_whole(found, "count", 1, where),
        pause_s=float(pause_s),
        answer=read_lengths(answer, source=f"{where}.answer_tokens"),
    )


def _part(
    table: Mapping[str, Any],
    key: str,
    needed: tuple[str, ...],
    allowed: tuple[str, ...],
    source: str,
) -> Mapping[str, Any] | None:
    found = table.get(key)
    if found is None:
        return None
    if not isinstance(found, dict):
        raise TargetError(f"{source}: {key} is no table")
    known = (*needed, *allowed)
    for name in found:
        if name not in known:
            raise TargetError(f"{source}: {key} has no key {name!r}{closest(name, known)}")
    for name in needed:
        if name not in found:
            raise TargetError(f"{source}: {key}.{name} is missing")
    return found


def _whole(table: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TargetError(f"{where}.{key} = {value!r} is no whole number from 1")
    return int(value)
