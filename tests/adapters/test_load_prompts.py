"""The requests of a load, counted by the server that gets them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.exposition import read_metrics
from pytest_vllm.adapters.http import Transport
from pytest_vllm.adapters.load.connection import LoadServer, connect
from pytest_vllm.adapters.load.prompts import build_plan, rebuild_plan
from pytest_vllm.adapters.load.workloads import load_workload
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.load.traffic import Pattern, Traffic
from tests.adapters.load_plans import FEW, body, plan_of
from tests.defects.acceptance import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_vllm.domain.load.plan import LoadPlan


@pytest.fixture(scope="module")
def server() -> Iterator[LoadServer]:
    """A healthy simulator."""
    with serving(None) as url:
        yield connect(url)


def sent(server: LoadServer, plan: LoadPlan) -> list[dict[str, Any]]:
    """Send a plan's requests; return the chunks of each."""
    with Transport(server.url, api_key=None, timeout_s=60) as transport:
        replies = [
            transport.send(
                "POST",
                request.path,
                content=request.body,
                headers={"content-type": "application/json"},
                max_bytes=2**22,
            )
            for request in plan.requests
        ]
    for reply in replies:
        assert reply.status == 200, reply.text
    lines = [[line[6:] for line, _ in reply.lines if line[:7] == "data: {"] for reply in replies]
    return [{"usage": json.loads(one[-1])["usage"], "chunks": one} for one in lines]


def cache_hits(server: LoadServer) -> float:
    with Transport(server.url, api_key=None, timeout_s=60) as transport:
        text = transport.send("GET", "/metrics").text
    return float(read_metrics(text).total("vllm:prefix_cache_hits_total") or 0)


# --- exact counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        {"prompt_tokens": {"uniform": {"least": 30, "most": 200}}},
        {"api": "chat"},
        {"api": "chat", "turns": {"count": 3}, "prompt_tokens": 40},
        {"turns": {"count": 3}},
        {"shared_prefix": {"tokens": 64, "prefixes": 2}},
        {"api": "chat", "shared_prefix": {"tokens": 64}},
    ],
    ids="-".join,
)
def test_prompts_and_answers_have_exactly_the_tokens_that_were_asked_for(
    server: LoadServer, table: dict[str, Any]
) -> None:
    plan = plan_of(server, **table)
    for request, reply in zip(plan.requests, sent(server, plan), strict=True):
        assert reply["usage"]["prompt_tokens"] == request.prompt_tokens
        assert reply["usage"]["completion_tokens"] == request.want_tokens == 4
    assert plan.description["prompts_counted_by"] == "/tokenize"
    assert "ignore_eos" in str(plan.description["lengths"])


def test_events_tell_their_token_ids(server: LoadServer) -> None:
    """So an event without text (an end that was ignored) still counts."""
    plan = plan_of(server)
    for reply in sent(server, plan):
        chunks = [json.loads(chunk) for chunk in reply["chunks"]]
        ids = [
            one for chunk in chunks for choice in chunk["choices"] for one in choice["token_ids"]
        ]
        assert len(ids) == 4


def test_no_prompt_helps_another_and_no_load_the_next(server: LoadServer) -> None:
    traffic = Traffic(requests=40, concurrency=2)
    plan, again = plan_of(server, traffic), plan_of(server, traffic)
    blocks = {tuple(body(request)["prompt"][:16]) for request in plan.requests}
    assert len(blocks) == 40
    prompts = [[body(request)["prompt"] for request in one.requests] for one in (plan, again)]
    assert prompts[0] == prompts[1]  # the same seed, and yet:
    before = cache_hits(server)
    sent(server, plan)
    sent(server, again)
    assert cache_hits(server) == before


def test_a_shared_prefix_is_found_in_the_cache(server: LoadServer) -> None:
    before = cache_hits(server)
    sent(server, plan_of(server, shared_prefix={"tokens": 64}))
    assert cache_hits(server) == before + 5 * 64


def test_turns_wait_for_each_other_and_carry_what_was_said(server: LoadServer) -> None:
    traffic = Traffic(requests=5, concurrency=2, warm_up=2)
    plan = plan_of(server, traffic, turns={"count": 2, "pause_s": 0.5, "answer_tokens": 7})
    seen = [(one.after, one.pause_ns, one.warm_up) for one in plan.requests]
    later = 500_000_000
    assert seen[:2] == [(None, 0, True), (0, later, True)]
    assert seen[2:] == [
        (None, 0, False),
        (2, later, False),
        (None, 0, False),
        (4, later, False),
        (None, 0, False),  # the fifth request ends the last conversation
    ]
    first, second = (body(request)["prompt"] for request in plan.requests[:2])
    assert second[:100] == first
    assert len(second) == 100 + 7 + 100
    opened = Traffic(pattern=Pattern.CONSTANT, rate_per_s=10, requests=4)
    due = [one.due_ns for one in plan_of(server, opened, turns={"count": 2}).requests]
    assert due == [0, None, 100_000_000, None]


def test_lengths_do_not_hang_on_how_many_requests_there_are(server: LoadServer) -> None:
    table = {"prompt_tokens": {"uniform": {"least": 1, "most": 500}}}
    few = plan_of(server, Traffic(requests=3, concurrency=1), **table)
    many = plan_of(server, Traffic(requests=30, concurrency=9), **table)
    assert [one.prompt_tokens for one in few.requests] == [
        one.prompt_tokens for one in many.requests[:3]
    ]
    other = plan_of(server, Traffic(requests=3, concurrency=1, seed=1), **table)
    assert body(other.requests[0])["prompt"] != body(few.requests[0])["prompt"]


def test_a_schema_goes_with_the_request_and_ends_the_answer(server: LoadServer) -> None:
    plan = build_plan(server, load_workload("structured"), Traffic(requests=2, concurrency=1))
    asked = body(plan.requests[0])
    assert asked["response_format"]["json_schema"]["schema"]["required"] == [
        "name",
        "count",
        "tags",
    ]
    assert "ignore_eos" not in asked
    assert plan.requests[0].want_tokens == 0
    for reply in sent(server, plan):
        text = "".join(
            choice["text"] for one in reply["chunks"] for choice in json.loads(one)["choices"]
        )
        assert text.lstrip().startswith("{")


# --- the record -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [{}, {"api": "chat"}, {"turns": {"count": 2}}, {"shared_prefix": {"tokens": 9}}],
    ids=["plain", "chat", "turns", "prefix"],
)
def test_the_record_makes_the_same_bytes_again(server: LoadServer, table: dict[str, Any]) -> None:
    traffic = Traffic(pattern=Pattern.POISSON, rate_per_s=9, requests=4, warm_up=2, seed=5)
    plan = plan_of(server, traffic, **table)
    recorded = json.loads(json.dumps(plan.description))
    assert rebuild_plan(server, recorded).requests == plan.requests


def test_another_tokenizer_or_file_is_told(server: LoadServer, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "Hi", "output_tokens": 2}\n' * 2)
    traffic = Traffic(requests=2, concurrency=1)
    plan = build_plan(server, load_workload(str(file)), traffic)
    assert rebuild_plan(server, plan.description) == plan
    with pytest.raises(TargetError, match="tokenizer is another one"):
        rebuild_plan(server, {**plan.description, "vocabulary": "sha256:0"})
    file.write_text('{"prompt": "Ho", "output_tokens": 2}\n' * 2)
    with pytest.raises(TargetError, match="file of prompts is another one"):
        rebuild_plan(server, plan.description)


# --- files of prompts -----------------------------------------------------------------------------


def test_prompts_of_a_file_are_counted_and_answers_as_long_as_recorded(
    server: LoadServer, tmp_path: Path
) -> None:
    said = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]}
    (tmp_path / "p.jsonl").write_text(json.dumps(said) + "\n\n" + json.dumps(said) + "\n")
    plan = build_plan(
        server, load_workload(str(tmp_path / "p.jsonl")), Traffic(requests=2, concurrency=1)
    )
    assert {request.path for request in plan.requests} == {"/v1/chat/completions"}
    assert body(plan.requests[0])["max_tokens"] == 2  # tokens of "I."
    for request, reply in zip(plan.requests, sent(server, plan), strict=True):
        assert reply["usage"]["prompt_tokens"] == request.prompt_tokens
        assert request.want_tokens == 0  # the model may end where it likes


def test_a_trace_comes_when_recorded_and_shares_the_blocks_that_it_shared(
    server: LoadServer, tmp_path: Path
) -> None:
    rows = [
        {"timestamp": 1000, "input_length": 600, "output_length": 3, "hash_ids": [7, 8]},
        {"timestamp": 1250, "input_length": 530, "output_length": 2, "hash_ids": [7, 9]},
        {"timestamp": 1500, "input_length": 40, "output_length": 1, "hash_ids": [10]},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    traffic = Traffic(pattern=Pattern.TRACE, requests=3)
    plan = build_plan(server, load_workload(str(tmp_path / "t.jsonl")), traffic)
    assert [one.due_ns for one in plan.requests] == [0, 250_000_000, 500_000_000]
    assert [(one.prompt_tokens, one.want_tokens) for one in plan.requests] == [
        (600, 3),
        (530, 2),
        (40, 1),
    ]
    first, second, _ = (body(request)["prompt"] for request in plan.requests)
    assert first[:512] == second[:512]
    assert first[512:530] != second[512:530]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "Hi", "output_tokens": 1}\n{"prompt"', "line 2 is no JSON"),
        ('{"prompt": "Hi", "output_tokens": 1}\n{"prompt": 5}', "line 2: prompt is neither"),
        ("", "has no prompts"),
        ('{"prompt": "Hi", "output_tokens": 1}', "has 1 usable prompts"),
        ('{"prompt": "Hi"}\n{"prompt": "Hi"}', "nothing says how many tokens"),
        ('{"prompt": [5], "output_tokens": 2048}\n' * 2, "max_model_len 2048"),
        ("\udcff", "no JSON in UTF-8"),
    ],
)
def test_a_bad_file_is_told_with_its_line(
    server: LoadServer, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TargetError, match=said):
        build_plan(server, load_workload(str(file)), Traffic(requests=2, concurrency=1))


def test_a_workload_file_names_prompts_beside_it(server: LoadServer, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "Hi"}\n')
    (tmp_path / "w.toml").write_text('file = "p.jsonl"\noutput_tokens = 3\nignore_eos = true\n')
    workload = load_workload(str(tmp_path / "w.toml"))
    (request,) = build_plan(server, workload, Traffic(requests=1, concurrency=1)).requests
    assert (body(request)["prompt"], request.want_tokens) == ("Hi", 3)
    (tmp_path / "w.toml").write_text("file = \n")
    with pytest.raises(TargetError, match="w.toml is not TOML: .*line 1"):
        load_workload(str(tmp_path / "w.toml"))


# --- what the server is ---------------------------------------------------------------------------


def test_a_context_that_is_too_short_is_told_with_both_numbers(server: LoadServer) -> None:
    with pytest.raises(TargetError, match="context of 2049, .* max_model_len 2048"):
        plan_of(server, prompt_tokens=2000, output_tokens=49)
    assert plan_of(server, prompt_tokens=2000, output_tokens=48).requests


def test_a_chat_template_that_takes_more_than_the_prompt_is_told(server: LoadServer) -> None:
    with pytest.raises(TargetError, match="the chat template alone takes"):
        plan_of(server, api="chat", prompt_tokens=2)


def test_a_model_or_a_place_that_is_not_there_is_told(server: LoadServer) -> None:
    with pytest.raises(TargetError, match="does not serve 'simulated/small'; did you mean"):
        connect(server.url, model="simulated/small")
    with pytest.raises(TargetError, match="not the URL"):
        connect("127.0.0.1:8000")
    with pytest.raises(TargetError, match="password"):
        connect("http://me:secret@127.0.0.1:1")
    with pytest.raises(HostError, match="no answer: refused"):
        connect("http://127.0.0.1:1")


def test_a_server_without_ignore_eos_is_told_of(server: LoadServer) -> None:
    known = frozenset(("return_token_ids",))
    old = LoadServer(
        url=server.url,
        model=server.model,
        max_model_len=server.max_model_len,
        fields={"/v1/completions": known},
    )
    plan = plan_of(old)
    assert plan.requests[0].want_tokens == 0
    assert "no ignore_eos" in str(plan.description["notes"])
    with pytest.raises(TargetError, match="takes no response_format"):
        build_plan(old, load_workload("structured"), FEW)
