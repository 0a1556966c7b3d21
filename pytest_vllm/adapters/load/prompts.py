"""Make the requests of a load: prompts of exact lengths, bodies, and when each is due.

A body asks for the least that tells exactly how many tokens each event carries. Measured with the
classes of vLLM 0.32 (CPU of one core, of about 10 us for making a chunk of 200 bytes):
`return_token_ids` costs 0.5 to 1.5 us a chunk, `continuous_usage_stats` 4 to 7 us and a third more
bytes. So the former is asked for, except for prompts over `ECHO_TOKENS`: it also repeats the prompt
in the first chunk, which takes 0.14 ms for 4,096 tokens and 1.1 ms for 32,768. Neither is needed
for the total, which the usage at the end tells; without either, an event whose tokens have no text
(ends that were ignored, parts of a character) could not be told from an empty one.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.http import Transport
from pytest_vllm.adapters.load.connection import ASK_S
from pytest_vllm.adapters.load.sources import Making, conversations, from_file, written
from pytest_vllm.adapters.load.vocabulary import learn_vocabulary
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.load.plan import Limits, LoadPlan, Request
from pytest_vllm.domain.load.traffic import check, describe, read_traffic
from pytest_vllm.domain.load.workload import Api, read_workload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.adapters.load.connection import LoadServer
    from pytest_vllm.adapters.load.drafts import Draft
    from pytest_vllm.domain.load.traffic import Traffic
    from pytest_vllm.domain.load.workload import Workload

ECHO_TOKENS = 8192
"""Longest prompt of which the server may repeat the token IDs in its first chunk."""
_SCHEMA = 1
_SECOND_NS = 1_000_000_000


def build_plan(
    server: LoadServer,
    workload: Workload,
    traffic: Traffic,
    *,
    limits: Limits | None = None,
    salt: str | None = None,
) -> LoadPlan:
    """Make a load.

    Args:
        server: Whom it is for.
        workload: What the requests hold.
        traffic: When they are sent.
        limits: What bounds the load.
        salt: Keeps what the server cached of an earlier load from helping this one. By default a
            new one; with the same salt, the same plan.

    Returns:
        The plan; its description is enough for `rebuild_plan` to make it again.

    Raises:
        TargetError: Workload and server do not go together: the context is too short, a field is
            not known, the file has too few prompts; or the traffic is not sound.
        HostError: The server does not answer.
    """
    check(traffic)
    salt = secrets.token_hex(8) if salt is None else salt
    with Transport(server.url, api_key=server.api_key, timeout_s=ASK_S) as transport:
        making = Making(
            server=server,
            transport=transport,
            workload=workload,
            traffic=traffic,
            salt=salt,
            vocabulary=learn_vocabulary(server, transport),
        )
        sessions, due, file = (from_file if workload.file else written)(making)
    constant = _constant(making)
    requests = _requests(making, sessions, due, constant)
    return LoadPlan(
        url=server.url,
        requests=requests,
        headers=server.headers,
        concurrency=traffic.concurrency,
        ramp_s=0.0 if traffic.is_open else traffic.ramp_s,
        limits=limits or Limits(),
        description=_describe(making, requests, constant, file),
    )


def rebuild_plan(
    server: LoadServer, description: Mapping[str, Any], *, limits: Limits | None = None
) -> LoadPlan:
    """Make a load again out of the description in its record.

    Raises:
        TargetError: The server's tokenizer, or the file of prompts, is another one; and what
            `build_plan` raises.
    """
    workload = read_workload(description["workload"], source="the record's workload")
    traffic = read_traffic(description["traffic"], source="the record's traffic")
    plan = build_plan(server, workload, traffic, limits=limits, salt=description["salt"])
    for key, what in (("vocabulary", "the server's tokenizer"), ("file", "the file of prompts")):
        if plan.description[key] != description[key]:
            raise TargetError(
                f"{what} is another one than in the record ({plan.description[key]}, recorded "
                f"{description[key]})",
                advice="the same requests cannot be made again",
            )
    return plan


def _constant(making: Making) -> dict[str, Any]:
    """Return the fields that all bodies share."""
    server, workload = making.server, making.workload
    path = workload.api.path
    described = bool(server.fields.get(path))
    found: dict[str, Any] = {
        "model": server.model,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if workload.ignore_eos:
        if described and not server.knows(path, "ignore_eos"):
            making.notes.append("the server has no ignore_eos: answers may end sooner than asked")
            making.workload = replace(workload, ignore_eos=False)
        else:
            found["ignore_eos"] = True
    if workload.json_schema is not None:
        if described and not server.knows(path, "response_format"):
            raise TargetError(
                f"workload {workload.name} has a json_schema, and {path} of {server.model} takes "
                "no response_format",
                advice="choose another workload, or a server with structured outputs",
            )
        answer = {"name": "answer", "schema": workload.json_schema}
        found["response_format"] = {"type": "json_schema", "json_schema": answer}
    if making.salted:
        found["cache_salt"] = making.salt
    if not described:
        making.notes.append("no /openapi.json: only standard fields and ignore_eos were asked for")
    return found


def _requests(
    making: Making,
    sessions: Sequence[Sequence[Draft]],
    due: Sequence[int],
    constant: Mapping[str, Any],
) -> tuple[Request, ...]:
    workload, path = making.workload, making.workload.api.path
    turns, warm = workload.turn_count, conversations(making.traffic.warm_up, workload.turn_count)
    pause_ns = round((workload.turns.pause_s if workload.turns else 0.0) * _SECOND_NS)
    name = "messages" if workload.api is Api.CHAT else "prompt"
    echo = making.server.knows(path, "return_token_ids")
    short = json.dumps({**constant, "return_token_ids": True} if echo else dict(constant))
    options = {"include_usage": True, "continuous_usage_stats": True}
    long = json.dumps({**constant, "stream_options": options} if echo else dict(constant))
    found: list[Request] = []
    for number, session in enumerate(sessions):
        for turn, draft in enumerate(session):
            fields = short if draft.prompt_tokens <= ECHO_TOKENS else long
            body = f'{fields[:-1]}, "max_tokens": {draft.output_tokens}, "{name}": {draft.prompt}}}'
            first = turn == 0
            found.append(
                Request(
                    body=body.encode(),
                    path=path,
                    due_ns=due[number] if due and first else None,
                    after=None if first else len(found) - 1,
                    pause_ns=0 if first else pause_ns,
                    prompt_tokens=draft.prompt_tokens,
                    want_tokens=draft.output_tokens if workload.ignore_eos else 0,
                    warm_up=number < warm,
                )
            )
    making.notes += [f"conversations of {turns} turns"] if turns > 1 else []
    return tuple(found)


def _describe(
    making: Making, requests: Sequence[Request], constant: Mapping[str, Any], file: str
) -> dict[str, Any]:
    measured = [request for request in requests if not request.warm_up]
    echo = making.server.knows(making.workload.api.path, "return_token_ids")
    length = (
        "ignore_eos: every answer has as many tokens as were asked for, whatever the model would "
        "say"
        if making.workload.ignore_eos
        else "answers end when the model ends them, or at max_tokens"
    )
    return {
        "schema": _SCHEMA,
        "model": making.server.model,
        "max_model_len": making.server.max_model_len,
        "server_version": making.server.version,
        "workload": dict(making.workload.table),
        "traffic": describe(making.traffic),
        "salt": making.salt,
        "cache_salt": making.salted,
        "vocabulary": making.vocabulary.digest,
        "file": file,
        "prompts_counted_by": making.vocabulary.told_by or "usage",
        "events_counted_by": "token_ids" if echo else "usage at the end",
        "lengths": length,
        "fields": sorted(constant),
        "prompt_tokens": sum(request.prompt_tokens for request in measured),
        "notes": list(dict.fromkeys(making.notes)),
    }
