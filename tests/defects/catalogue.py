"""The defects that the suites must notice (checks.md, section d), and by which checks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.defects.proxy import Answer, Defect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DONE = "[DONE]"
_GENERATING = ("/v1/completions", "/v1/chat/completions")


# --- complete replies ----------------------------------------------------------------------------


def in_replies(change: Callable[[dict[str, Any]], object]) -> Callable[[Answer], Answer]:
    """Change the JSON of every good reply of a generating endpoint."""

    def answer(reply: Answer) -> Answer:
        if reply.status == 200 and reply.path in _GENERATING:
            return reply.with_json(change)
        return reply

    return answer


def in_refusals(change: Callable[[Answer], Answer]) -> Callable[[Answer], Answer]:
    """Change every refusal of a generating endpoint."""

    def answer(reply: Answer) -> Answer:
        return change(reply) if reply.status >= 400 and reply.path in _GENERATING else reply

    return answer


def count_more_prompt(body: dict[str, Any]) -> None:
    body["usage"]["prompt_tokens"] += 1
    body["usage"]["total_tokens"] += 1


def count_less_completion(body: dict[str, Any]) -> None:
    usage = body["usage"]
    if usage["completion_tokens"] > 1:  # else the server would not even count as ready
        usage["completion_tokens"] -= 1
        usage["total_tokens"] -= 1


def count_more_total(body: dict[str, Any]) -> None:
    body["usage"]["total_tokens"] += 1


def swap_reasons(body: dict[str, Any]) -> None:
    swapped = {"length": "stop", "stop": "length"}
    for choice in body["choices"]:
        choice["finish_reason"] = swapped[choice["finish_reason"]]


def swap_choices(body: dict[str, Any]) -> None:
    last = len(body["choices"]) - 1
    for choice in body["choices"]:
        choice["index"] = last - choice["index"]
    body["choices"].reverse()


def cut_last_character(body: dict[str, Any]) -> None:
    for choice in body["choices"]:
        if "text" in choice:
            choice["text"] = choice["text"][:-1]
        else:
            choice["message"]["content"] = choice["message"]["content"][:-1]


def spoil_logprob(body: dict[str, Any]) -> None:
    for choice in body["choices"]:
        if choice.get("logprobs") and "token_logprobs" in choice["logprobs"]:
            choice["logprobs"]["token_logprobs"][-1] = float("nan")


def shift_logprobs(body: dict[str, Any]) -> None:
    for choice in body["choices"]:
        if choice.get("logprobs") and "top_logprobs" in choice["logprobs"]:
            top = choice["logprobs"]["top_logprobs"]
            top.append(top.pop(0))


def as_server_error(reply: Answer) -> Answer:
    return replace(reply, status=500)


def as_html(reply: Answer) -> Answer:
    headers = {**reply.headers, "content-type": "text/html"}
    return replace(reply, headers=headers, body=b"<html><h1>Bad Request</h1></html>")


def with_traceback(reply: Answer) -> Answer:
    inside = 'Traceback (most recent call last):\n  File "/usr/lib/x.py", line 3\nValueError: no'
    return reply.with_json(lambda body: body["error"].update(message=inside))


def as_plain_text(reply: Answer) -> Answer:
    if reply.path not in _GENERATING:
        return reply
    return replace(reply, headers={**reply.headers, "content-type": "text/plain"})


# --- streams -------------------------------------------------------------------------------------


def in_chunks(change: Callable[[dict[str, Any]], object]) -> Callable[[Iterable[str]], Any]:
    """Change the JSON of every chunk."""

    def events(stream: Iterable[str]) -> Iterator[str]:
        for event in stream:
            if event == DONE:
                yield event
                continue
            chunk = json.loads(event)
            change(chunk)
            yield json.dumps(chunk, ensure_ascii=False)

    return events


def without_done(stream: Iterable[str]) -> Iterator[str]:
    return (event for event in stream if event != DONE)


def without_fifth(stream: Iterable[str]) -> Iterator[str]:
    return (event for number, event in enumerate(stream) if number != 4)


def with_fifth_twice(stream: Iterable[str]) -> Iterator[str]:
    for number, event in enumerate(stream):
        yield event
        if number == 4:
            yield event


def with_other_id(stream: Iterable[str]) -> Iterator[str]:
    for number, event in enumerate(stream):
        if event == DONE or number != 4:
            yield event
        else:
            yield json.dumps({**json.loads(event), "id": "another"})


def without_usage(stream: Iterable[str]) -> Iterator[str]:
    return (event for event in stream if event == DONE or json.loads(event)["choices"])


def without_first(stream: Iterable[str]) -> Iterator[str]:
    return (event for number, event in enumerate(stream) if number)


def with_error(stream: Iterable[str]) -> Iterator[str]:
    for number, event in enumerate(stream):
        if number == 4:
            yield json.dumps({"error": {"message": "engine died", "code": 500}})
            yield DONE
            return
        yield event


def in_one_burst(stream: Iterable[str]) -> Iterator[str]:
    return iter(list(stream))


def tear_characters(chunk: dict[str, Any]) -> None:
    for choice in chunk["choices"]:
        part = choice.get("delta", choice)
        key = "text" if "text" in part else "content"
        text = part.get(key) or ""
        part[key] = "".join("\ufffd\ufffd" if ord(char) > 0x7FF else char for char in text) + ""


DEFECTS = (
    Defect(
        name="prompt-tokens-plus-one",
        trips=("completions.usage.prompt-tokens", "chat.usage.prompt-tokens"),
        answer=in_replies(count_more_prompt),
    ),
    Defect(
        name="completion-tokens-minus-one",
        trips=("completions.length.exact", "chat.ignore-eos.fills-up"),
        answer=in_replies(count_less_completion),
    ),
    Defect(
        name="total-tokens-plus-one",
        trips=("chat.usage.adds-up",),
        answer=in_replies(count_more_total),
    ),
    Defect(
        name="model-rewritten",
        trips=("completions.text.not-empty", "models.ids.are-usable"),
        answer=in_replies(lambda body: body.update(model="another")),
    ),
    Defect(
        name="created-zero",
        trips=("completions.text.not-empty",),
        answer=in_replies(lambda body: body.update(created=0)),
    ),
    Defect(
        name="created-an-hour-ago",
        trips=("completions.text.not-empty",),
        answer=in_replies(lambda body: body.update(created=body["created"] - 3600)),
    ),
    Defect(
        name="content-type-plain",
        trips=("completions.text.not-empty", "errors.max-tokens.negative"),
        answer=as_plain_text,
    ),
    Defect(
        name="finish-reason-swapped",
        trips=("completions.length.exact", "chat.finish-reason.fits-length"),
        answer=in_replies(swap_reasons),
    ),
    Defect(
        name="choices-swapped",
        trips=("completions.batch.in-order",),
        answer=in_replies(swap_choices),
    ),
    Defect(
        name="n-ignored",
        trips=("completions.n.choices",),
        request=lambda body: body.pop("n", None),
    ),
    Defect(
        name="echo-dropped",
        trips=("completions.echo.exact",),
        request=lambda body: body.pop("echo", None),
    ),
    Defect(
        name="stop-kept",
        trips=("completions.stop.cuts", "stream.text.stops-as-without"),
        request=lambda body: body.pop("stop", None),
    ),
    Defect(
        name="temperature-forced",
        trips=("completions.logprobs.greedy-is-best",),
        request=lambda body: body.update(temperature=1.5),
    ),
    Defect(
        name="ignore-eos-ignored",
        trips=("chat.ignore-eos.fills-up",),
        request=lambda body: body.pop("ignore_eos", None),
    ),
    Defect(
        name="logprob-nan",
        trips=("completions.logprobs.are-logs",),
        answer=in_replies(spoil_logprob),
    ),
    Defect(
        name="logprobs-shifted",
        trips=("completions.logprobs.hold-the-sampled",),
        answer=in_replies(shift_logprobs),
    ),
    Defect(
        name="last-character-cut",
        trips=("stream.text.as-without",),
        answer=in_replies(cut_last_character),
    ),
    Defect(
        name="refusal-500",
        trips=("errors.max-tokens.negative", "errors.model.unknown"),
        answer=in_refusals(as_server_error),
    ),
    Defect(
        name="refusal-html",
        trips=("errors.max-tokens.negative", "stream.errors.before-the-stream"),
        answer=in_refusals(as_html),
    ),
    Defect(
        name="refusal-with-traceback",
        trips=("errors.max-tokens.negative",),
        answer=in_refusals(with_traceback),
    ),
    Defect(name="done-missing", trips=("stream.framing.done",), events=without_done),
    Defect(name="chunk-dropped", trips=("stream.text.as-without",), events=without_fifth),
    Defect(name="chunk-duplicated", trips=("stream.text.as-without",), events=with_fifth_twice),
    Defect(name="id-changes", trips=("stream.chunks.identity",), events=with_other_id),
    Defect(name="usage-chunk-missing", trips=("stream.usage.last-chunk",), events=without_usage),
    Defect(name="role-chunk-missing", trips=("stream.role.first",), events=without_first),
    Defect(name="error-inside", trips=("stream.errors.none-inside",), events=with_error),
    Defect(name="one-burst", trips=("stream.delivery.incremental",), events=in_one_burst),
    Defect(
        name="characters-torn",
        trips=("stream.text.whole-characters",),
        events=in_chunks(tear_characters),
    ),
)
"""Each must make a run end in REJECT."""
