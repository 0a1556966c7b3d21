"""The requests of a load to servers of other makes: what they do not offer, others make up for."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.load.connection import LoadServer, connect
from pytest_vllm.adapters.load.prompts import ECHO_TOKENS, rebuild_plan
from pytest_vllm.domain.errors import HostError
from pytest_vllm.domain.load.traffic import Traffic
from tests.adapters.load_plans import body, plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIELDS = ("ignore_eos", "return_token_ids", "cache_salt", "response_format")


class Words(BaseHTTPRequestHandler):
    """A server of another make: its tokens are words, and what it offers is up to a test."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        known = {name: {} for name in FIELDS}
        schemas = {"CompletionRequest": {"properties": known}}
        documents = {
            "/v1/models": {"data": [{"id": "words", "max_model_len": 100_000}]},
            "/openapi.json": {"components": {"schemas": schemas}},
        }
        offered = self.path in self.server.offers or self.path == "/v1/models"  # type: ignore[attr-defined]
        self._answer(documents.get(self.path) if offered else None)

    def do_POST(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        offers = self.server.offers  # type: ignore[attr-defined]
        if self.path not in offers and self.path != "/v1/completions":
            self._answer(None)
            return
        text = asked.get("prompt") or " ".join(
            f"[{one['role']}] {one['content']} [end]" for one in asked["messages"]
        )
        ids = [hash(word) % 9_999 for word in text.split()]
        if "clumsy" in offers and "messages" in asked:
            ids = ids[: len(ids) - text.count(" b")]
        answer: dict[str, Any] = {"tokens": ids, "count": len(ids)}
        if self.path == "/v1/completions":
            answer = {"choices": [{"prompt_token_ids": [0, *ids]}]}
        self._answer(answer)

    def _answer(self, document: Any) -> None:
        data = json.dumps(document or {"detail": "Not Found"}).encode()
        self.send_response(200 if document else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def words_server(*offers: str) -> Iterator[tuple[LoadServer, list[str]]]:
    """Serve; give the server and the paths that were asked."""
    with words_at(*offers) as (address, asked):
        yield connect(f"http://{address}"), asked


@contextmanager
def words_at(*offers: str, certificate: Path | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve, with a certificate by TLS; give host and port, and the paths that were asked."""
    service = ThreadingHTTPServer(("127.0.0.1", 0), Words)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        service.socket = context.wrap_socket(service.socket, server_side=True)
    asked: list[str] = []
    vars(service).update(offers=set(offers), asked=asked)
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{service.server_address[1]}", asked
    finally:
        service.shutdown()
        service.server_close()
        thread.join()


def test_a_certificate_of_its_own_is_trusted_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on loopback, to which no proxy of the environment leads."""
    file = tmp_path / "own.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-days", "2", "-keyout", str(file), "-out", str(tmp_path / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    file.write_bytes(file.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    with words_at("/openapi.json", certificate=file) as (address, _):
        with pytest.raises(HostError, match="by the variable SSL_CERT_FILE"):
            connect(f"https://{address}")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert connect(f"https://{address}/v1").url == f"https://{address}"


def test_ten_thousand_prompts_take_one_question() -> None:
    with words_server("/tokenize", "/openapi.json") as (server, asked):
        plan = plan_of(server, Traffic(requests=10_000, concurrency=8), prompt_tokens=512)
        assert asked.count("/tokenize") == 1
    assert len(plan.requests) == 10_000
    assert len(body(plan.requests[-1])["prompt"]) == 512


def test_long_prompts_are_not_echoed() -> None:
    """`return_token_ids` repeats the prompt in the first chunk; past some length it is left out."""
    with words_server("/tokenize", "/openapi.json") as (server, _):
        short = plan_of(server, prompt_tokens=ECHO_TOKENS).requests[0]
        long = plan_of(server, prompt_tokens=ECHO_TOKENS + 1).requests[0]
    assert body(short)["return_token_ids"] is True
    assert body(short)["stream_options"] == {"include_usage": True}
    assert "return_token_ids" not in body(long)
    assert body(long)["stream_options"]["continuous_usage_stats"] is True


def test_a_server_that_describes_nothing_gets_standard_fields_and_other_words_each_time() -> None:
    with words_server("/tokenize") as (server, _):
        plan, again = plan_of(server), plan_of(server)
    assert not {"return_token_ids", "cache_salt"} & set(body(plan.requests[0]))
    assert body(plan.requests[0])["ignore_eos"] is True
    assert "no /openapi.json" in str(plan.description["notes"])
    # Without a salt of the cache only other words keep it from helping.
    assert body(plan.requests[0])["prompt"] != body(again.requests[0])["prompt"]
    with words_server("/tokenize") as (server, _):
        assert rebuild_plan(server, plan.description).requests == plan.requests


def test_without_tokenize_a_completion_tells_the_tokens() -> None:
    with words_server("/openapi.json") as (server, asked):
        plan = plan_of(server)
    assert plan.description["prompts_counted_by"] == "return_token_ids"
    assert asked.count("/v1/completions") == 1
    assert len(body(plan.requests[0])["prompt"]) == 100


def test_a_server_that_tells_no_tokens_gets_words_and_the_usage_counts() -> None:
    with words_server() as (server, _):
        plan = plan_of(server)
        chat = plan_of(server, api="chat")
    assert len(body(plan.requests[0])["prompt"].split()) == 100
    assert {one.prompt_tokens for one in (*plan.requests, *chat.requests)} == {0}
    assert plan.description["prompts_counted_by"] == "usage"
    assert "no /tokenize" in str(plan.description["notes"])


def test_where_words_join_to_other_tokens_each_prompt_is_counted() -> None:
    with words_server("/tokenize", "clumsy") as (server, _):
        plan = plan_of(server, Traffic(requests=50, concurrency=2), api="chat")
    counts = [one.prompt_tokens for one in plan.requests]
    joined = [str(body(one)["messages"]).count(" b") for one in plan.requests]
    assert counts == [100 - count for count in joined]
    assert min(joined) < max(joined)
    assert f"up to {max(joined)} tokens off" in str(plan.description["notes"])
