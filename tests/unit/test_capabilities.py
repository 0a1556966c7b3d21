"""What a server says of itself is turned into capabilities; a broken answer counts as present."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_vllm.adapters.capabilities import probe_capabilities
from pytest_vllm.domain.exchange import Exchange
from pytest_vllm.domain.reply import Reply, TransportFailure
from pytest_vllm.domain.server import CAPABILITIES

NO_PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
OPENAPI = {
    "components": {
        "schemas": {"CompletionRequest": {"properties": {"prompt": {}, "structured_outputs": {}}}}
    }
}


def exchange() -> Exchange:
    return Exchange(method="GET", url="http://host/path")


def reply(status: int, document: Any) -> Reply:
    return Reply(
        status=status,
        headers={},
        body=json.dumps(document).encode(),
        elapsed_ms=1.0,
        exchange=exchange(),
    )


def probe(
    answers: dict[str, Reply | TransportFailure], *, version: str = "0.32.0", no_chat: str = ""
) -> dict[str, str]:
    def ask(_method: str, path: str, json: Any = None) -> Reply | TransportFailure:  # noqa: ARG001
        return answers.get(path, reply(400, {"error": {"message": "bad"}}))

    return probe_capabilities(ask, model="m", version=version, no_chat=no_chat)


def test_every_capability_is_told() -> None:
    assert tuple(probe({})) == CAPABILITIES


def test_a_server_that_refuses_properly_has_everything_but_being_a_base_model() -> None:
    assert {name for name, reason in probe({}).items() if reason} == {"base"}


def test_a_base_model_has_neither_chat_nor_tools() -> None:
    absent = probe({}, no_chat="the model has no chat template")
    assert absent["chat"] == absent["tools"] == "the model has no chat template"
    assert absent["base"] == ""


def test_no_tool_parser_is_told_by_the_refusal() -> None:
    refusal = reply(400, {"error": {"message": NO_PARSER}})
    assert "--tool-call-parser" in probe({"/v1/chat/completions": refusal})["tools"]


@pytest.mark.parametrize("status", [200, 400, 500])
def test_any_other_answer_to_tools_leaves_them_to_the_checks(status: int) -> None:
    assert probe({"/v1/chat/completions": reply(status, {})})["tools"] == ""


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("responses", "/v1/responses"),
        ("messages", "/v1/messages"),
        ("tokenize", "/tokenize"),
        ("metrics", "/metrics"),
    ],
)
def test_a_route_that_the_framework_does_not_know_is_absent(name: str, path: str) -> None:
    absent = probe({path: reply(404, {"detail": "Not Found"})})
    assert path in absent[name]
    assert {other for other, reason in absent.items() if reason} == {name, "base"}


def test_an_error_object_under_404_is_a_route_that_is_there() -> None:
    known = reply(404, {"error": {"message": "no such model", "code": 404}})
    assert probe({"/v1/responses": known})["responses"] == ""


def test_no_reply_counts_as_present() -> None:
    failure = TransportFailure("timeout", "nothing came", exchange=exchange())
    answers: dict[str, Reply | TransportFailure] = dict.fromkeys(
        ("/v1/responses", "/openapi.json", "/v1/chat/completions", "/metrics"), failure
    )
    assert {name for name, reason in probe(answers).items() if reason} == {"base"}


def test_fields_are_told_by_the_servers_own_description() -> None:
    absent = probe({"/openapi.json": reply(200, OPENAPI)}, version="0.6.0")
    assert absent["structured-outputs"] == ""
    assert "use_beam_search" in absent["beam-search"]


@pytest.mark.parametrize(
    ("version", "present"),
    [("0.10.2", False), ("0.11.0", True), ("1.0", True), ("dev", True)],
)
def test_without_a_description_the_version_tells(version: str, present: bool) -> None:  # noqa: FBT001
    absent = probe({"/openapi.json": reply(404, {"detail": "Not Found"})}, version=version)
    assert (absent["structured-outputs"] == "") is present
