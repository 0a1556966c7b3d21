"""The server itself: alive, known by its version, and able to serve."""

from __future__ import annotations

import re

import pytest

from pytest_vllm import SHOULD, Client, check, suite

pytestmark = suite("server", concurrent=True)


@check("server.health.answers", ref="H01")
def test_health(vllm: Client) -> None:
    """An idle server MUST answer `GET /health` with 200 within five seconds."""
    reply = vllm.get("/health")
    assert reply.status == 200
    assert reply.elapsed_ms < 5000


@check("server.health.means-servable", ref="H03")
def test_health_means_servable(vllm: Client) -> None:
    """A server that says it is healthy MUST complete a prompt at once."""
    assert vllm.get("/health").status == 200
    vllm.complete("Hello", max_tokens=1)


@check("server.liveness.one-token", ref="H05")
def test_liveness(vllm: Client) -> None:
    """One token MUST come within 30 seconds: `/health` stays 200 when an engine hangs."""
    assert vllm.complete("Hello", max_tokens=1).elapsed_ms < 30_000


@check("server.version.is-told", ref="H06")
def test_version(vllm: Client) -> None:
    """`GET /version` MUST name the version of vLLM, and always the same."""
    reply = vllm.get("/version")
    assert reply.status == 200
    version = reply.json["version"]
    assert isinstance(version, str)
    assert version
    assert version == (vllm.server.version or version)


@check("server.version.is-a-number", level=SHOULD, ref="H06")
def test_version_is_a_number(vllm: Client) -> None:
    """The version SHOULD begin with numbers; images built without git history say only `dev`."""
    assert re.match(r"\d+\.\d+", vllm.get("/version").json["version"])


@check("server.openapi.lists-endpoints", level=SHOULD, ref="H09")
def test_openapi(vllm: Client) -> None:
    """`GET /openapi.json` SHOULD describe the endpoints that clients use."""
    reply = vllm.get("/openapi.json")
    assert reply.status == 200
    assert {"/v1/completions", "/v1/models"} <= set(reply.json["paths"])


@check("server.docs.are-served", level=SHOULD, ref="H09")
def test_docs(vllm: Client) -> None:
    """`GET /docs` SHOULD show the API to people."""
    reply = vllm.get("/docs")
    assert reply.status == 200
    assert reply.content_type == "text/html"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/no-such-route", 404), ("GET", "/v1/completions", 405)],
    ids=["unknown-route", "wrong-method"],
)
@check("server.routing.errors-are-json", ref="H11")
def test_routing_errors(vllm: Client, method: str, path: str, status: int) -> None:
    """An unknown route MUST be 404 and a wrong method 405, each told in JSON."""
    reply = vllm.send(method, path)
    assert reply.status == status
    # `{"detail": ...}` of the web framework in 0.32, not the error object of the API.
    assert isinstance(reply.json, dict)
