"""Defects of `/metrics`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.simulator.defects.defect import Break, Defect
from pytest_vllm.simulator.defects.hooks import GENERATING, followed, in_answers
from pytest_vllm.simulator.wire import Answer, Handler, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable

METRICS = "/metrics"
RUNNING = "vllm:num_requests_running"

_SAMPLE = re.compile(r"^(?P<name>[^\s{#]+)(?P<labels>\{.*\})?\s+(?P<value>\S+)$")
_BAD = 400
_MADE_UP_TOKENS = 5


def _in_text(change: Callable[[str], str]) -> Break:
    """Change the whole exposition."""

    def changed(answer: Answer) -> Answer:
        return replace(answer, body=change(answer.body.decode()).encode())

    return in_answers(changed, paths=(METRICS,))


def with_samples(
    answer: Answer, wanted: Callable[[str], bool], change: Callable[[float], float]
) -> Answer:
    """Change the values of the samples whose names are wanted."""

    def line(text: str) -> str:
        match = _SAMPLE.match(text)
        if match is None or not wanted(match["name"]):
            return text
        return f"{match['name']}{match['labels'] or ''} {change(float(match['value']))}"

    lines = answer.body.decode().split("\n")
    return replace(answer, body="\n".join(map(line, lines)).encode())


def _in_samples(wanted: Callable[[str], bool], change: Callable[[float], float]) -> Break:
    return in_answers(lambda answer: with_samples(answer, wanted, change), paths=(METRICS,))


def _swap_reasons(text: str) -> str:
    swapped = {"length": "stop", "stop": "length"}
    return re.sub(
        r'finished_reason="(length|stop)"',
        lambda found: f'finished_reason="{swapped[found[1]]}"',
        text,
    )


def _without_lines(text: str, part: str) -> str:
    return "\n".join(line for line in text.split("\n") if part not in line)


def _missing(handler: Handler) -> Handler:
    async def broken(request: Request) -> Reply:
        if request.path != METRICS:
            return await handler(request)
        headers = {"content-type": "application/json"}
        return Answer(status=404, headers=headers, body=b'{"detail":"Not Found"}')

    return broken


def _frozen(handler: Handler) -> Handler:
    first: list[Answer] = []

    async def broken(request: Request) -> Reply:
        if request.path == METRICS and first:
            return first[0]
        reply = await handler(request)
        if request.path == METRICS and isinstance(reply, Answer):
            first.append(reply)
        return reply

    return broken


def _refused_counted(handler: Handler) -> Handler:
    refused = 0

    async def broken(request: Request) -> Reply:
        nonlocal refused
        reply = await handler(request)
        if request.path in GENERATING and reply.status >= _BAD:
            refused += 1
        if request.path == METRICS and isinstance(reply, Answer):
            more = refused * _MADE_UP_TOKENS
            return with_samples(
                reply, lambda name: name == "vllm:prompt_tokens_total", lambda value: value + more
            )
        return reply

    return broken


def _never_falling(handler: Handler) -> Handler:
    running, most = 0, 0

    def leave(_complete: bool) -> None:  # noqa: FBT001 - the one thing that it is told
        nonlocal running
        running -= 1

    async def broken(request: Request) -> Reply:
        nonlocal running, most
        if request.path in GENERATING:
            running += 1
            most = max(most, running)
            return await followed(handler, request, ending=leave)
        reply = await handler(request)
        if request.path == METRICS and isinstance(reply, Answer):
            return with_samples(reply, lambda name: name == RUNNING, lambda _: float(most))
        return reply

    return broken


def _is_histogram(name: str) -> bool:
    return name.startswith("vllm:") and name.endswith(("_seconds_bucket", "_seconds_count"))


DEFECTS = (
    Defect(name="metrics-missing", summary="`/metrics` is not there.", breaks=_missing),
    Defect(
        name="metrics-unparsable",
        summary="A line of `/metrics` is no Prometheus exposition.",
        breaks=_in_text(lambda text: f'{text.rstrip()}\nvllm:broken{{engine="0" 1.0\n'),
    ),
    Defect(
        name="metrics-families-renamed",
        summary="The families of `/metrics` are called `vllm_` instead of `vllm:`.",
        breaks=_in_text(lambda text: text.replace("vllm:", "vllm_")),
    ),
    Defect(
        name="metrics-frozen",
        summary="`/metrics` never changes after its first reading.",
        breaks=_frozen,
    ),
    Defect(
        name="metrics-tokens-doubled",
        summary="Generated tokens count twice in `/metrics`.",
        breaks=_in_samples(
            lambda name: name == "vllm:generation_tokens_total", lambda value: 2 * value
        ),
    ),
    Defect(
        name="metrics-reason-swapped",
        summary="`/metrics` counts a cut request as stopped and a stopped one as cut.",
        breaks=_in_text(_swap_reasons),
    ),
    Defect(
        name="metrics-refused-counted",
        summary="Refused requests add tokens to `/metrics`.",
        breaks=_refused_counted,
    ),
    Defect(
        name="metrics-gauge-stuck",
        summary="The gauge of running requests never falls.",
        breaks=_never_falling,
    ),
    Defect(
        name="metrics-gauge-negative",
        summary="The gauge of waiting requests is one too low: negative when idle.",
        breaks=_in_samples(
            lambda name: name == "vllm:num_requests_waiting", lambda value: value - 1
        ),
    ),
    Defect(
        name="metrics-cache-hits-frozen",
        summary="The counter of prefix cache hits never rises.",
        breaks=_in_samples(lambda name: name == "vllm:prefix_cache_hits_total", lambda _value: 0.0),
    ),
    Defect(
        name="metrics-cache-info-missing",
        summary="`vllm:cache_config_info` is missing.",
        breaks=_in_text(lambda text: _without_lines(text, "vllm:cache_config_info")),
    ),
    Defect(
        name="metrics-histogram-frozen",
        summary="The histograms of latency never count.",
        breaks=_in_samples(_is_histogram, lambda _value: 0.0),
    ),
)
