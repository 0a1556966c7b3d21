"""The server itself: alive, known by its version, and able to serve."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING

import pytest

from pytest_vllm import INFO, SHOULD, Client, check, not_applicable, suite

if TYPE_CHECKING:
    from pytest_vllm.domain.reply import Reply

pytestmark = suite("server", concurrent=True)

HEALTH_MS = 5_000
TRIES = 2
"""A busy host may hold one answer up; a server that is slow holds up the next one, too."""


@check("server.health.answers", alone=True, ref="H01", catches=("health-error",))
def test_health(vllm: Client) -> None:
    """An idle server MUST answer `GET /health` with 200 within five seconds."""
    for _ in range(TRIES):
        reply = vllm.get("/health")
        assert reply.status == 200
        if reply.elapsed_ms < HEALTH_MS:
            return
    pytest.fail(f"the last of {TRIES} took {reply.elapsed_ms:.0f} ms", pytrace=False)


@check("server.health.under-load", ref="H04", catches=("health-slow", "health-error"))
def test_health_under_load(vllm: Client) -> None:
    """While requests run, `GET /health` MUST answer 200 within five seconds."""
    for _ in range(TRIES):
        replies = _looks_under_load(vllm)
        assert {reply.status for reply in replies} == {200}
        slowest_ms = max(reply.elapsed_ms for reply in replies)
        if slowest_ms < HEALTH_MS:
            return
    pytest.fail(f"it took {slowest_ms:.0f} ms under the last of {TRIES} loads", pytrace=False)


@check("server.health.means-servable", ref="H03")
def test_health_means_servable(vllm: Client) -> None:
    """A server that says it is healthy MUST complete a prompt at once."""
    assert vllm.get("/health").status == 200
    vllm.complete("Hello", max_tokens=1)


@check("server.liveness.one-token", alone=True, ref="H05", catches=("generation-hangs",))
def test_liveness(vllm: Client) -> None:
    """One token MUST come within 30 seconds: `/health` stays 200 when an engine hangs."""
    for _ in range(TRIES):
        reply = vllm.complete("Hello", max_tokens=1)
        if reply.elapsed_ms < 30_000:
            return
    pytest.fail(f"the last of {TRIES} took {reply.elapsed_ms:.0f} ms", pytrace=False)


@check("server.version.is-told", ref="H06", catches=("version-unknown",))
def test_version(vllm: Client) -> None:
    """`GET /version` MUST name the version of vLLM, and always the same."""
    reply = vllm.get("/version")
    assert reply.status == 200
    version = reply.json["version"]
    assert isinstance(version, str)
    # Builds without git history say `dev`.
    assert re.match(r"\d+\.\d+|dev\b", version), version
    assert version == (vllm.server.version or version)


@check("server.version.is-a-number", level=SHOULD, ref="H06", catches=("version-unknown",))
def test_version_is_a_number(vllm: Client) -> None:
    """The version SHOULD begin with numbers; images built without git history say only `dev`."""
    assert re.match(r"\d+\.\d+", vllm.get("/version").json["version"])


@pytest.mark.parametrize("method", ["GET", "POST"])
@check("server.ping.answers", ref="H07", catches=("ping-missing",))
def test_ping(vllm: Client, method: str) -> None:
    """`/ping` MUST answer 200, as SageMaker and load balancers ask, where it is described."""
    reply = vllm.send(method, "/ping")
    description = vllm.get("/openapi.json")
    described = description.status != 200 or "/ping" in description.json.get("paths", {})
    if reply.status == 404 and not described:
        not_applicable("this server does not describe /ping")
    assert reply.status == 200


@check("server.load.is-a-number", ref="H08", catches=("load-text",))
def test_load(vllm: Client) -> None:
    """`server_load` of `GET /load` MUST be a number of requests."""
    reply = vllm.get("/load")
    if reply.status == 404:
        not_applicable("this server has no /load")
    assert reply.status == 200
    assert type(reply.json["server_load"]) is int
    assert reply.json["server_load"] >= 0
    vllm.observe("server.load", reply.json["server_load"])


@check("server.openapi.lists-endpoints", ref="H09", catches=("openapi-empty",))
def test_openapi(vllm: Client) -> None:
    """`GET /openapi.json`, where it is served, MUST describe the endpoints that clients use."""
    reply = vllm.get("/openapi.json")
    if reply.status == 404:
        not_applicable("the description is switched off, as --disable-fastapi-docs does")
    assert reply.status == 200
    assert {"/v1/completions", "/v1/models"} <= set(reply.json["paths"])


@check("server.openapi.is-served", level=SHOULD, ref="H09")
def test_openapi_served(vllm: Client) -> None:
    """`GET /openapi.json` SHOULD describe the API to programs."""
    assert vllm.get("/openapi.json").status == 200


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
@check(
    "server.routing.errors-are-json",
    ref="H11",
    catches=("unknown-route-200", "wrong-method-500"),
)
def test_routing_errors(vllm: Client, method: str, path: str, status: int) -> None:
    """An unknown route MUST be 404 and a wrong method 405, each told in JSON."""
    reply = vllm.send(method, path)
    assert reply.status == status
    # `{"detail": ...}` of the web framework in 0.32, not the error object of the API.
    assert isinstance(reply.json, dict)


@pytest.mark.parametrize(
    ("method", "path"), [("HEAD", "/health"), ("GET", "/health/")], ids=["head", "slash"]
)
@check("server.health.other-ways", level=INFO, ref="H10")
def test_health_other_ways(vllm: Client, method: str, path: str) -> None:
    """What probes get that ask for health in other ways is noted."""
    vllm.observe(f"server.health.{method} {path}", vllm.send(method, path).status)


@pytest.mark.parametrize(
    "given", ["", "Bearer no-such-key", "no-such-key"], ids=["none", "wrong", "no-scheme"]
)
@check("server.api-key.is-asked-for", ref="H12")
def test_api_key(vllm: Client, given: str) -> None:
    """A server with an API key MUST answer 401 under /v1 to whoever has none or another."""
    _require_key(vllm)
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions")):
        body = {"prompt": "Hello", "max_tokens": 1} if method == "POST" else None
        reply = vllm.send(method, path, body=body, headers={"authorization": given})
        assert reply.status == 401, path


@check("server.api-key.health-is-open", ref="H12")
def test_api_key_health(vllm: Client) -> None:
    """A server with an API key MUST tell its health to load balancers, which have none."""
    _require_key(vllm)
    assert vllm.send("GET", "/health", headers={"authorization": ""}).status == 200


@check("server.connection.survives-nonsense", ref="H11")
def test_nonsense(vllm: Client) -> None:
    """A request with a body where none belongs MUST NOT harm the server."""
    reply = vllm.send("GET", "/health", content=b"\x00\xff nonsense")
    assert reply.status in (200, 400)
    assert vllm.get("/health").status == 200


def _looks_under_load(vllm: Client) -> list[Reply]:
    """Ask for `/health` again and again while four requests run at a time, eight or more in all."""
    finished, enough = [], Event()
    replies: list[Reply] = []

    def keep_busy() -> None:
        while not enough.is_set():
            finished.append(vllm.complete("Count: 1, 2, 3,", max_tokens=24, ignore_eos=True))

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(keep_busy) for _ in range(4)]
        try:
            # The first looks may come before the first request, and after the eighth.
            while not replies or (
                len(finished) < 8 and not any(future.done() for future in running)
            ):
                replies.append(vllm.get("/health"))
                enough.wait(0.02)
        finally:
            enough.set()
        for future in running:
            future.result()
    return replies


def _require_key(vllm: Client) -> None:
    if not vllm.server.api_key_env:
        not_applicable("the server has no API key")
