"""The registry of defects, and that each of them changes something."""

from __future__ import annotations

import asyncio
import re
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.simulator.defects import DEFECTS, Where, break_handler, find_defects
from pytest_vllm.simulator.flaws import FLAWS
from tests.unit.canned_server import CannedServer, get, post, said

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.simulator.defects import Defect
    from pytest_vllm.simulator.wire import Handler

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "a ﬁ"}, {"type": "text", "text": "b"}]},
]
FIELDS: dict[str, Any] = {
    "allowed_token_ids": [1],
    "bad_words": ["x"],
    "echo": True,
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "logit_bias": {"1": 5},
    "max_tokens": 8,
    "min_p": 0.1,
    "min_tokens": 4,
    "n": 2,
    "presence_penalty": 1.0,
    "prompt_logprobs": 1,
    "request_id": "own",
    "stop_token_ids": [3],
    "top_k": 5,
    "top_p": 0.5,
    "truncate_prompt_tokens": 4,
}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
KINDS = ({"regex": "a"}, {"choice": ["a"]}, {"grammar": "g"}, {"json": {}})
LONG = "word " * 1500

REQUESTS = (
    get("/health"),
    get("/ping"),
    get("/version"),
    get("/load"),
    get("/openapi.json"),
    get("/v1/models"),
    get("/nowhere"),
    get(COMPLETIONS),
    get("/v1/responses/resp_unknown"),
    post(COMPLETIONS, prompt="a b c"),
    get("/health"),
    post(COMPLETIONS, prompt="a b c"),
    post(COMPLETIONS, prompt="a 🎉 ﬁ", **FIELDS),
    post(COMPLETIONS, prompt=["a", "b"], seed=1, temperature=3.0, stop=["xy", "z"]),
    post(COMPLETIONS, prompt=[1, 2, 3], temperature=0.01),
    post(COMPLETIONS, prompt="a", suffix="b"),
    post(COMPLETIONS, prompt="a", model="other"),
    post(COMPLETIONS, prompt=LONG, bad=1),
    post(COMPLETIONS, prompt="a", stream=True, echo=True),
    post(COMPLETIONS, prompt=LONG, stream=True, stop=["q"]),
    post(COMPLETIONS, prompt="a", stream=True, stop=["xy"], structured_outputs={"regex": "a"}),
    post(COMPLETIONS, prompt="a", stream=True, bad=1),
    *(post(COMPLETIONS, prompt="a", structured_outputs=kind) for kind in KINDS),
    post(COMPLETIONS, prompt="a", structured_outputs={"regex": "["}),
    post(CHAT, messages=TURNS, max_completion_tokens=3, tools=TOOLS),
    post(CHAT, messages=TURNS, continue_final_message=True, tools=TOOLS, tool_choice="none"),
    post(CHAT, messages=TURNS, tools=TOOLS, tool_choice="required"),
    post(CHAT, messages=TURNS, tools=TOOLS, tool_choice="required", bad=1, logit_bias={"9": 1}),
    post(CHAT, messages=TURNS, response_format={"type": "json_object"}),
    post(CHAT, messages=TURNS, stream=True),
    post("/tokenize", prompt="ﬁ"),
    post("/tokenize", messages=TURNS, model="other"),
    post("/tokenize", messages=TURNS, return_token_strs=True),
    post("/detokenize", tokens=[1]),
    post("/v1/responses", input="a", instructions="b"),
    post("/v1/responses", input="a", stream=True),
    post("/v1/messages", messages=TURNS, system="b", stop_sequences=["x"]),
    post("/v1/messages", messages=TURNS, stream=True),
    post("/v1/messages/count_tokens", messages=TURNS),
    post(COMPLETIONS, prompt="after the rest"),
    get("/metrics"),
    get("/metrics"),
    *(post(COMPLETIONS, prompt=f"a{number}") for number in range(30)),
)
TOGETHER = frozenset(
    {
        "abort-leaks",
        "aborts-slow",
        "answers-swapped",
        "constraints-mixed-up",
        "crowd-refused",
        "disconnect-ignored",
        "duplicate-id-kills",
        "generation-hangs",
        "health-slow",
        "load-histogram-lies",
        "load-refused",
        "load-resets",
        "load-short-answers",
        "load-slow-decode",
        "load-slows-down",
        "load-stalls",
        "load-truncated",
        "load-usage-missing",
        "metrics-gauge-stuck",
        "one-burst",
        "requests-serialized",
    }
)
"""Shown by requests that run together: in `test_defects_load.py`, and `load-...` by the runs of
`tests/defects`."""
DELAYS = frozenset({"decode-slows", "refusal-slow", "stream-stall"})
SILENT = frozenset({"memory-leak"})
"""What no reply shows; tried below."""
ON_THE_WIRE = [d for d in DEFECTS.values() if d.where is Where.WIRE and d.name not in TOGETHER]


async def transcript(handler: Handler, server: CannedServer) -> list[Any]:
    lines = [await said(await handler(request)) for request in REQUESTS]
    return [lines, [(asked.path, asked.headers, asked.document()) for asked in server.asked]]


def run(defects: Iterable[Defect]) -> list[Any]:
    server = CannedServer()
    return asyncio.run(transcript(break_handler(server, defects), server))


@pytest.fixture(scope="module")
def sound() -> list[Any]:
    return run(())


@pytest.mark.parametrize("defect", ON_THE_WIRE, ids=lambda defect: defect.name)
def test_a_defect_changes_what_is_asked_or_said(
    defect: Defect, sound: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the registry is without effect, and none of it breaks down."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    changed = run([defect]) != sound
    if defect.name == "stream-stall" or defect.name in SILENT:
        assert not changed  # the canned streams are shorter than what it stalls
    elif defect.name in DELAYS:
        assert sum(slept) > 0
        assert not changed
    else:
        assert changed


def test_a_leak_takes_memory_for_good() -> None:
    """The defect that no reply shows takes a mebibyte of each request that generates."""
    asked = sum(request.path in (COMPLETIONS, CHAT) for request in REQUESTS)
    tracemalloc.start()
    try:
        run(())
        _, sound = tracemalloc.get_traced_memory()
        run(find_defects(["memory-leak"]))
        _, leaking = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert leaking - sound >= (asked - 1) * 2**20


def test_a_sound_handler_is_left_alone(sound: list[Any]) -> None:
    """Without defects the same comes out each time: what differs comes from a defect."""
    assert run(()) == sound


def test_defects_are_many_and_well_named() -> None:
    """Names are lower-case words, summaries are sentences."""
    assert len(DEFECTS) >= 70
    assert sum(defect.where is Where.WIRE for defect in DEFECTS.values()) >= 55
    for defect in DEFECTS.values():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", defect.name)
        assert defect.summary.endswith(".")
        assert "\n" not in defect.summary


def test_names_are_used_once() -> None:
    """No group repeats a name of another one."""
    from pytest_vllm.simulator import defects  # noqa: PLC0415 - for what it does not export

    names = [defect.name for group in defects._GROUPS for defect in group.DEFECTS]
    assert len(names) == len(set(names)) == len(DEFECTS)


def test_a_defect_of_the_engine_names_a_flaw() -> None:
    """A defect sits on the wire or in the engine, never in both."""
    for defect in DEFECTS.values():
        assert bool(defect.flaw) is (defect.where is Where.ENGINE)
        assert not defect.flaw or defect.flaw in FLAWS


def test_an_unknown_name_is_an_error_that_says_the_closest() -> None:
    """A typing mistake is answered with what was meant."""
    with pytest.raises(TargetError, match="'chunk-droped'; did you mean chunk-dropped"):
        find_defects(["chunk-droped"])
    with pytest.raises(TargetError, match="--list-defects"):
        find_defects(["qqqqqqqqqqqqqqqqqqqqqqqq"])


def test_a_name_given_twice_counts_once() -> None:
    """Otherwise `chunk-dropped` twice would be another defect."""
    assert [d.name for d in find_defects(["done-missing", "n-ignored", "done-missing"])] == [
        "done-missing",
        "n-ignored",
    ]


def test_defects_are_combined() -> None:
    """Each of several defects does what it does alone."""
    server = CannedServer()
    broken = break_handler(server, find_defects(["n-ignored", "created-zero", "done-missing"]))
    lines = asyncio.run(_both(broken))
    assert "n" not in (server.asked[0].document() or {})
    assert '"created": 0' in lines[0][-1]
    assert "data: [DONE]" not in lines[1]


async def _both(handler: Handler) -> list[list[str]]:
    whole = await said(await handler(post(COMPLETIONS, prompt="a", n=2)))
    return [whole, await said(await handler(post(COMPLETIONS, prompt="a", stream=True)))]
