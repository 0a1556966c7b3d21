"""What must hold for every reply, held against replies that are right and wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain import conventions
from pytest_vllm.domain.exchange import Exchange
from pytest_vllm.domain.generation import (
    TIE_NATS,
    Generation,
    Token,
    difference,
    read_generation,
    read_streamed,
)
from pytest_vllm.domain.reply import Reply
from pytest_vllm.domain.request import build_body, chat_body, completion_body

DATE = "Sun, 22 Nov 2026 15:52:17 GMT"
NOW = 1795362737


def reply(
    body: bytes = b"{}", *, status: int = 200, content_type: str = "application/json"
) -> Reply:
    exchange = Exchange(method="POST", url="http://127.0.0.1:8000/v1/completions")
    return Reply(
        status=status,
        headers={"content-type": content_type, "date": DATE},
        body=body,
        elapsed_ms=1.0,
        exchange=exchange,
    )


def document(**changes: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    return {"model": "m", "created": NOW, "usage": usage, **changes}


def judge(**changes: Any) -> list[str]:
    return conventions.document_violations(
        document(**changes), models=["m", "first"], headers={"date": DATE}
    )


class TestReply:
    def test_a_reply_that_is_no_json_is_the_servers_fault_and_is_shown(self) -> None:
        with pytest.raises(AssertionError, match=r"POST /v1/completions: saw a body.*<html>"):
            _ = reply(b"<html>").json

    def test_a_bottomless_reply_is_no_json(self) -> None:
        with pytest.raises(AssertionError, match="not JSON"):
            _ = reply(b"[" * 40_000).json

    def test_a_reply_of_very_many_values_is_refused_before_it_is_read(self) -> None:
        with pytest.raises(AssertionError, match="at most 50000 values, saw 100000"):
            _ = reply(b"[" * 100_000).json

    def test_a_media_type_is_compared_without_parameters(self) -> None:
        good = reply(content_type="Application/JSON; charset=utf-8")
        assert conventions.media_type_violations(good, "application/json") == []

    def test_a_wrong_media_type_and_a_wrong_status_show_the_body(self) -> None:
        bad = reply(b"<html>no</html>", status=502, content_type="text/html")
        assert conventions.media_type_violations(bad, "application/json") == [
            "required content-type application/json, saw text/html: '<html>no</html>'"
        ]
        assert conventions.status_violations(bad, (400, 422)) == [
            "required status 400 or 422, saw 502: '<html>no</html>'"
        ]


class TestDocument:
    def test_a_sound_reply_has_no_violation(self) -> None:
        assert judge() == []

    def test_another_model_is_a_violation(self) -> None:
        assert judge(model="first") == []
        assert judge(model="other") == ["$.model: saw 'other', required 'm' as requested"]

    @pytest.mark.parametrize("seconds", [-301, 301])
    def test_created_far_from_the_date_is_a_violation(self, seconds: int) -> None:
        (line,) = judge(created=NOW + seconds)
        assert line.startswith("$.created: saw ")

    @pytest.mark.parametrize("seconds", [-300, 1, 300])
    def test_created_near_the_date_is_fine(self, seconds: int) -> None:
        assert judge(created=NOW + seconds) == []

    def test_without_a_date_created_cannot_be_judged(self) -> None:
        assert conventions.document_violations(document(created=1), models=["m"], headers={}) == []

    def test_a_date_that_is_none_is_a_violation(self) -> None:
        headers = {"date": "yesterday"}
        (line,) = conventions.document_violations(document(), models=["m"], headers=headers)
        assert "yesterday" in line

    @given(prompt=st.integers(0, 9), completion=st.integers(0, 9), total=st.integers(0, 20))
    def test_the_total_is_the_sum(self, prompt: int, completion: int, total: int) -> None:
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": total,
        }
        assert bool(conventions.usage_violations(usage)) is (total != prompt + completion)


class TestLeaks:
    @pytest.mark.parametrize(
        "message",
        [
            'Traceback (most recent call last):\n  File "x.py", line 1',
            "<object at 0x7f3a2c001d90> is wrong",
            "cannot read /usr/lib/python3/dist-packages/vllm/x",
            "cannot read /models/llama/config.json",
            "raised in vllm/entrypoints/serving.py:311",
        ],
    )
    def test_the_inside_of_a_server_is_a_violation(self, message: str) -> None:
        body = json.dumps({"error": {"message": message}}).encode()
        assert conventions.leak_violations(reply(body, status=400))

    @pytest.mark.parametrize(
        "message",
        [
            "The model `nope` does not exist.",
            "temperature must be in [0, 2], got 2.5. (parameter=temperature, value=2.5)",
            "see https://errors.pydantic.dev/2/v/missing and POST /v1/completions",
            "got 0x10 and and/or 3/4",
        ],
    )
    def test_what_servers_say_to_clients_is_fine(self, message: str) -> None:
        body = json.dumps({"error": {"message": message}}).encode()
        assert conventions.leak_violations(reply(body, status=400)) == []

    def test_the_name_of_the_model_may_be_a_path(self) -> None:
        body = b'{"error": {"message": "Valid aliases: /models/llama."}}'
        assert conventions.leak_violations(reply(body), known=("/models/llama", "")) == []
        assert conventions.leak_violations(reply(body), known=("/models/other",))

    def test_a_long_error_is_a_violation(self) -> None:
        (line,) = conventions.leak_violations(reply(b"x" * 20_001))
        assert "20000" in line


class TestEvents:
    def test_events_are_read_and_done_is_none(self) -> None:
        lines = ['data: {"a": 1}', "", ": ping", 'data:{"a":2}', "data: [DONE]", ""]
        assert conventions.parse_events(lines) == ([{"a": 1}, {"a": 2}], [])

    @pytest.mark.parametrize("data", ["{", "[1]", "NaN", "", "[" * 100_000])
    def test_data_that_is_no_object_is_a_violation(self, data: str) -> None:
        chunks, violations = conventions.parse_events([f"data: {data}"])
        assert chunks == []
        assert len(violations) == 1

    def test_an_error_inside_is_a_violation(self) -> None:
        _, violations = conventions.parse_events(['data: {"error": {"message": "died"}}'])
        assert "under status 200" in violations[0]


def spoken(*words: tuple[str, dict[str, float]], text: str = "") -> Generation:
    tokens = tuple(Token(text=word, logprob=top.get(word), top=top) for word, top in words)
    return Generation(text=text or "".join(word for word, _ in words), tokens=tokens)


class TestGeneration:
    def test_a_completion_and_its_stream_read_the_same(self) -> None:
        logprobs = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "top_logprobs": None}
        whole = {"index": 0, "text": "ab", "finish_reason": "stop", "logprobs": logprobs}
        parts = [
            {
                "index": 0,
                "text": word,
                "finish_reason": reason,
                "logprobs": {"tokens": [word], "token_logprobs": [number], "top_logprobs": None},
            }
            for word, number, reason in (("a", -1.0, None), ("b", -2.0, "stop"))
        ]
        read = read_generation({"choices": [whole]})
        assert read == read_streamed([{"choices": [part]} for part in parts] + [{"choices": []}])
        assert (read.text, read.finish_reason, len(read.tokens)) == ("ab", "stop", 2)

    @pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
    def test_reasoning_is_read_apart_from_a_null_content(self, field: str) -> None:
        message = {"role": "assistant", "content": None, field: "hm"}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "length"}]}
        assert read_generation(body) == Generation(reasoning="hm", text="", finish_reason="length")

    def test_a_choice_that_is_missing_is_the_servers_fault(self) -> None:
        with pytest.raises(AssertionError, match=r"index 1, saw the indexes \[0\]"):
            read_generation({"choices": [{"index": 0, "text": ""}]}, 1)

    def test_equal_generations_do_not_differ(self) -> None:
        assert difference(Generation(text="a"), Generation(text="a")) == ""

    def test_a_difference_that_begins_with_a_near_tie_is_none(self) -> None:
        left = spoken(("a", {"a": -1.0, "b": -1.0 - TIE_NATS}), ("x", {"x": -1.0}))
        right = spoken(("b", {"a": -1.1, "b": -1.0}), ("y", {"y": -1.0}))
        assert difference(left, right) == ""

    @pytest.mark.parametrize(
        "top",
        [{"a": -3.0, "b": -1.0}, {"b": -1.0}, {}],
        ids=["far apart", "never considered", "unknown"],
    )
    def test_any_other_difference_is_told(self, top: dict[str, float]) -> None:
        left = spoken(("a", {"a": -1.0, "b": -1.1}))
        assert difference(left, spoken(("b", top))) == "'a' became 'b'"

    def test_equal_tokens_excuse_no_other_text(self) -> None:
        left, right = spoken(("a", {"a": -1.0})), spoken(("a", {"a": -1.0}), text="aa")
        assert difference(left, right) == "'a' became 'aa'"

    def test_another_finish_reason_is_told(self) -> None:
        left, right = Generation(text="a", finish_reason="stop"), Generation(text="a")
        assert difference(left, right) == "finish_reason 'stop' became None"


class TestRequest:
    def test_every_request_is_bounded(self) -> None:
        assert completion_body("m", "p", {})["max_tokens"] == 16
        assert chat_body("m", "p", {})["max_tokens"] == 16
        assert "max_tokens" not in chat_body("m", "p", {"max_completion_tokens": 3})

    def test_only_a_completion_may_leave_its_bound_to_the_server(self) -> None:
        assert "max_tokens" not in completion_body("m", "p", {"max_tokens": None})
        with pytest.raises(ValueError, match="needs max_tokens"):
            chat_body("m", "p", {"max_tokens": None})

    def test_alternatives_are_asked_for_in_the_words_of_each_endpoint(self) -> None:
        asked = build_body("chat", "m", "p", top=3, params={})
        assert (asked["logprobs"], asked["top_logprobs"]) == (True, 3)
        assert build_body("completions", "m", "p", top=3, params={})["logprobs"] == 3
        assert "logprobs" not in build_body("chat", "m", "p", top=None, params={})
