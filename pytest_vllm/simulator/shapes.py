"""Log probabilities in the shapes of the endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.simulator.logprobs import Entry, TokenLogprobs


def completion_logprobs(
    entries: Sequence[TokenLogprobs | None],
    tokens: Sequence[int],
    as_ids: bool,  # noqa: FBT001 - a field of the request
    first: str,
    offset: int = 0,
) -> dict[str, Any]:
    """Return `logprobs` of a completion's choice.

    Args:
        entries: One for each token, `None` for the first of an echoed prompt.
        tokens: The tokens.
        as_ids: Whether tokens are told as `token_id:7`.
        first: Text of an echoed prompt's first token, which has no entry to take it from.
        offset: Where the first token begins in the text.
    """
    offsets: list[int] = []
    values: list[float | None] = []
    names: list[str] = []
    tops: list[dict[str, float] | None] = []
    for at, entry in enumerate(entries):
        if entry is None:
            name = f"token_id:{tokens[at]}" if as_ids else first
            values.append(None)
            tops.append(None)
        else:
            name = _name(entry[0], as_ids)
            values.append(_bounded(entry[0].logprob))
            tops.append(_named(entry, as_ids))
        offsets.append(offset)
        names.append(name)
        offset += len(name)
    return {
        "text_offset": offsets,
        "token_logprobs": values,
        "tokens": names,
        "top_logprobs": tops,
    }


def chat_logprobs(entries: Sequence[TokenLogprobs], count: int, as_ids: bool) -> dict[str, Any]:  # noqa: FBT001 - a field of the request
    """Return `logprobs` of a chat completion's choice with so many alternatives for each token."""
    return {
        "content": [
            {
                **_chat_entry(entry[0], as_ids),
                "top_logprobs": [_chat_entry(other, as_ids) for other in entry[:count]],
            }
            for entry in entries
        ]
    }


def prompt_logprobs(
    scores: Sequence[TokenLogprobs | None],
) -> list[dict[str, dict[str, Any]] | None]:
    """Return `prompt_logprobs`: for each token but the first, entries by token ID."""
    return [
        None
        if entry is None
        else {
            str(other.token): {
                "logprob": other.logprob,
                "rank": other.rank,
                "decoded_token": other.text,
            }
            for other in entry
        }
        for entry in scores
    ]


def _named(entry: TokenLogprobs, as_ids: bool) -> dict[str, float]:  # noqa: FBT001 - as above
    named: dict[str, float] = {}
    for other in entry:
        # Tokens that read alike share a name: the first, which is the token itself, keeps it.
        named.setdefault(_name(other, as_ids), _bounded(other.logprob))
    return named


def _name(entry: Entry, as_ids: bool) -> str:  # noqa: FBT001 - a field of the request
    return f"token_id:{entry.token}" if as_ids else entry.text


def _bounded(logprob: float) -> float:
    return max(logprob, -9999.0) if logprob == logprob else logprob  # noqa: PLR0124 - not NaN


def _chat_entry(entry: Entry, as_ids: bool) -> dict[str, Any]:  # noqa: FBT001 - as above
    name = _name(entry, as_ids)
    return {
        "token": name,
        "logprob": _bounded(entry.logprob),
        "bytes": list(name.encode("utf-8", "replace")),
    }
