"""The simulated server over a socket: HTTP, recorded shapes, cancellation, launch modes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from pytest_vllm.simulator.app import build_handler
from pytest_vllm.simulator.flaws import Flaws
from pytest_vllm.simulator.http import serve
from pytest_vllm.simulator.settings import SimulatorSettings
from pytest_vllm.simulator.wire import EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

EXCHANGES = Path(__file__).parents[1] / "data" / "exchanges"
VOLATILE = {"finish_reason", "stop_reason", "logprobs", "prompt_logprobs", "top_logprobs"}
"""Fields whose shape hangs on what the model says."""
LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}
SETTLES_S = 60.0
"""For what takes milliseconds on an idle host."""
SLOW_MS = 120
"""For each token: a LONG request takes three times as long as it may take to settle."""


def talk(scenario: Callable[[httpx.AsyncClient, Server], Awaitable[None]], **asked: Any) -> None:
    """Run a scenario against a server of its own."""

    async def main() -> None:
        settings = SimulatorSettings(**{"served_names": ("smollm2",), **asked})
        server = await serve(build_handler(settings), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        async with server, httpx.AsyncClient(base_url=url, timeout=30) as client:
            await scenario(client, Server(port))

    asyncio.run(main())


class Server:
    """Where a server listens, for raw traffic."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def raw(self, data: bytes) -> bytes:
        """Send bytes and return all that comes until the server closes or waits."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        received = b""
        try:
            while chunk := await asyncio.wait_for(reader.read(65536), 1):
                received += chunk
        except TimeoutError:
            pass
        writer.close()
        return received


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def recorded(*prefixes: str) -> list[str]:
    """Name the exchanges that can be sent again: those that were recorded whole."""
    names = []
    for path in sorted(EXCHANGES.glob("*.json")):
        text = json.dumps(json.loads(path.read_text("utf-8"))["request"])
        if path.stem.startswith(prefixes) and "items]" not in text:
            names.append(path.stem)
    return names


async def send(client: httpx.AsyncClient, name: str) -> tuple[dict[str, Any], httpx.Response]:
    exchange = json.loads((EXCHANGES / f"{name}.json").read_text("utf-8"))
    request = exchange["request"]
    body, headers = request.get("body"), dict(request["headers"])
    content = body.encode() if isinstance(body, str) else None
    if content is not None and content.startswith(b"b'"):
        content = eval(content)  # noqa: S307 - bytes that were recorded as Python spells them
    if isinstance(body, dict):
        content = json.dumps(body).encode()
        headers["content-type"] = "application/json"
    reply = await client.request(
        request["method"], request["path"], content=content, headers=headers
    )
    return exchange, reply


@pytest.mark.parametrize("name", recorded("c_", "cc_", "t_", "dt_", "svc_"))
def test_replies_have_the_recorded_shape(name: str) -> None:
    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        exchange, reply = await send(client, name)
        assert reply.status_code == exchange["status"], reply.text
        assert shape(reply.json()) == shape(exchange["body"])
        assert list(reply.json()) == list(exchange["body"])

    talk(scenario)


@pytest.mark.parametrize("name", recorded("e_", "cc_tools_auto"))
def test_refusals_are_as_recorded(name: str) -> None:
    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        exchange, reply = await send(client, name)
        assert reply.status_code == exchange["status"]
        assert reply.json() == exchange["body"]

    talk(scenario)


@pytest.mark.parametrize("name", recorded("s_"))
def test_streams_have_the_recorded_chunks(name: str) -> None:
    def chunks(lines: list[str]) -> set[str]:
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
        return {json.dumps(shape(json.loads(line))) for line in data}

    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        exchange, reply = await send(client, name)
        assert reply.status_code == exchange["status"], reply.text
        if reply.status_code == 200:
            assert reply.headers["content-type"] == exchange["headers"]["content-type"]
            lines = reply.text.split("\n")
            assert chunks(lines) == chunks(exchange["sse_lines"])
            assert [line for line in lines if line][-1] == "data: [DONE]"

    talk(scenario, token_delay_ms=0)


# --- HTTP ----------------------------------------------------------------------------------------


def test_a_connection_serves_many_requests_also_sent_ahead() -> None:
    async def scenario(_: httpx.AsyncClient, server: Server) -> None:
        one = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n"
        last = b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        received = await server.raw(one * 3 + last)
        assert received.count(b"HTTP/1.1 200 OK") == 4
        assert received.count(b'{"version":"0.32.0"}') == 4

    talk(scenario)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 70_000, 431),
        (b"POST /tokenize HTTP/1.1\r\ncontent-length: 9999999999\r\n\r\n", 413),
        (b"POST /tokenize HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST /tokenize HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"GET /health/ HTTP/1.1\r\nhost: x\r\n\r\n", 307),
    ],
)
def test_what_cannot_be_served_is_refused(data: bytes, status: int) -> None:
    async def scenario(_: httpx.AsyncClient, server: Server) -> None:
        assert (await server.raw(data)).startswith(b"HTTP/1.1 %d " % status)

    talk(scenario)


def test_head_has_no_body() -> None:
    async def scenario(_: httpx.AsyncClient, server: Server) -> None:
        received = await server.raw(b"HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 405 ")
        assert received.endswith(b"\r\n\r\n")

    talk(scenario)


def test_a_chunked_body_and_an_expected_continue_are_read() -> None:
    body = b'{"prompt":"Hi","max_tokens":1}'
    head = (
        b"POST /v1/completions HTTP/1.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    )

    async def scenario(_: httpx.AsyncClient, server: Server) -> None:
        chunks = b"7\r\n" + body[:7] + b"\r\n%x\r\n" % len(body[7:]) + body[7:] + b"\r\n0\r\n\r\n"
        received = await server.raw(head + b"transfer-encoding: chunked\r\n\r\n" + chunks)
        assert b"text_completion" in received
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body))
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(body)
        assert b"text_completion" in await reader.read()
        writer.close()

    talk(scenario)


def test_a_fault_of_a_handler_is_a_500_and_the_server_lives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def broken(_: object) -> Any:
        raise ZeroDivisionError

    async def main() -> None:
        server = await serve(broken, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, httpx.AsyncClient(base_url=url) as client:
            for _ in range(2):
                assert (await client.get("/")).status_code == 500

    asyncio.run(main())
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_stream_that_breaks_off_closes_its_connection(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def events() -> AsyncIterator[str]:
        yield "data: {}"
        raise ZeroDivisionError

    async def broken(_: object) -> EventStream:
        return EventStream(headers={}, events=events())

    async def main() -> None:
        server = await serve(broken, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            received = await Server(port).raw(b"GET / HTTP/1.1\r\n\r\n")
        assert received.endswith(b"data: {}\n\n\r\n")

    asyncio.run(main())
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_large_body_is_read_in_pieces() -> None:
    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b'{"prompt": "'
            for _ in range(400):
                yield b"word " * 2000
            yield b'"}'

        headers = {"content-type": "application/json"}
        reply = await client.post("/tokenize", content=pieces(), headers=headers)
        assert reply.status_code == 400
        assert "maximum context length" in reply.json()["error"]["message"]

    talk(scenario)


# --- cancellation --------------------------------------------------------------------------------


async def gauges(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    pattern = r"^vllm:(num_requests_\w+|kv_cache_usage_perc)\{[^}]*\} (\S+)$"
    found = re.findall(pattern, text, re.MULTILINE)
    return {name: float(value) for name, value in found}


async def settled(client: httpx.AsyncClient, wanted: Callable[[dict[str, float]], bool]) -> None:
    """Wait until the gauges are as wanted, before a LONG request ends by itself."""
    began = time.monotonic()
    while not wanted(await gauges(client)):
        assert time.monotonic() - began < SETTLES_S, await gauges(client)


def running(count: int) -> Callable[[dict[str, float]], bool]:
    return lambda seen: seen["num_requests_running"] == count


def idle(seen: dict[str, float]) -> bool:
    return not any(seen.values())


async def begin(server: Server, body: dict[str, Any]) -> asyncio.StreamWriter:
    data = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head + b"content-length: %d\r\n\r\n" % len(data) + data)
    return writer


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_running_and_waiting_at_once(stream: bool) -> None:  # noqa: FBT001
    async def scenario(client: httpx.AsyncClient, server: Server) -> None:
        writers = [await begin(server, {**LONG, "stream": stream}) for _ in range(6)]
        await settled(client, lambda seen: seen["num_requests_waiting"] == 2)
        assert (await gauges(client))["num_requests_running"] == 4
        assert (await gauges(client))["kv_cache_usage_perc"] > 0
        for writer in writers:
            writer.close()
        await settled(client, idle)
        assert (await client.post("/v1/completions", json={"prompt": "Hi"})).status_code == 200

    talk(scenario, max_num_seqs=4, token_delay_ms=SLOW_MS)


def test_all_choices_of_a_request_end_with_it() -> None:
    async def scenario(client: httpx.AsyncClient, server: Server) -> None:
        body = {**LONG, "prompt": ["One", "Two"], "n": 2, "stream": True}
        writer = await begin(server, body)
        await settled(client, running(4))
        writer.close()
        await settled(client, idle)

    talk(scenario, token_delay_ms=SLOW_MS)


@pytest.mark.parametrize(
    ("flaw", "left"), [("gauges-never-fall", 1), ("cancelled-go-on", 1), ("slots-leak", 1)]
)
def test_flaws_of_cancellation_leave_a_trace(flaw: str, left: int) -> None:
    async def scenario(client: httpx.AsyncClient, server: Server) -> None:
        writer = await begin(server, {**LONG, "stream": True})
        await settled(client, running(1))
        writer.close()
        await writer.wait_closed()
        for _ in range(20):
            assert (await gauges(client))["num_requests_running"] == left

    talk(scenario, flaws=Flaws(names=frozenset({flaw})), token_delay_ms=SLOW_MS)


# --- launch modes --------------------------------------------------------------------------------


def test_a_key_guards_the_api_and_not_the_health() -> None:
    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        assert (await client.get("/health")).status_code == 200
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            ({"authorization": "Bearer right"}, 200),
        ):
            assert (await client.get("/v1/models", headers=headers)).status_code == status

    talk(scenario, api_key="right")


def test_a_base_model_refuses_to_chat_and_names_the_template() -> None:
    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 400
        assert "template" in reply.json()["error"]["message"]
        assert (await client.post("/v1/completions", json={"prompt": "Hi"})).status_code == 200

    talk(scenario, chat_template=False)


def test_tool_calls_come_whole_and_streamed() -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}},
                "required": ["city"],
            },
        },
    }
    body = {
        "messages": [{"role": "user", "content": "Weather in Paris?"}],
        "tools": [tool],
        "tool_choice": "required",
        "max_tokens": 80,
        "temperature": 0,
    }

    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        whole = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]
        assert whole["finish_reason"] == "tool_calls"
        function = whole["message"]["tool_calls"][0]["function"]
        assert json.loads(function["arguments"])["city"] in {"Paris", "Rome"}
        text = (await client.post("/v1/chat/completions", json={**body, "stream": True})).text
        lines = [line[6:] for line in text.split("\n") if line.startswith("data: {")]
        deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
        calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
        assert [call["function"]["name"] for call in calls if "id" in call] == ["get_weather"]
        spelled = "".join(call["function"].get("arguments", "") for call in calls)
        assert json.loads(spelled) == json.loads(function["arguments"])

    talk(scenario, tool_call_parser="hermes")


def test_usage_tells_cached_tokens_when_launched_so() -> None:
    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        body = {"prompt": list(range(300, 350)), "max_tokens": 1}
        seen = [(await client.post("/v1/completions", json=body)).json()["usage"] for _ in range(2)]
        cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in seen]
        assert cached == [0, 48]

    talk(scenario, enable_prompt_tokens_details=True)


def test_numbers_that_json_cannot_say_are_500_whole_and_null_streamed() -> None:
    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        body = {"prompt": "Hi", "max_tokens": 2, "logprobs": 1}
        assert (await client.post("/v1/completions", json=body)).status_code == 500
        streamed = await client.post("/v1/completions", json={**body, "stream": True})
        assert '"token_logprobs":[null]' in streamed.text

    talk(scenario, flaws=Flaws(names=frozenset({"nan-logits"})))


def test_a_process_prints_vllms_lines_is_ready_soon_and_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "pytest_vllm.simulator", "--port", "0"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Application startup complete." in line:
                break
        ready_s = time.monotonic() - began
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(SETTLES_S) == 0
    text = "".join(lines)
    assert "vLLM API server version 0.32.0" in text
    assert "GPU KV cache size" in text
    assert ready_s < SETTLES_S


@pytest.mark.parametrize("seed", [0, None])
def test_a_sampling_seed_repeats_the_draws_whatever_runs_beside_them(seed: int | None) -> None:
    drawn: list[list[str]] = []

    async def scenario(client: httpx.AsyncClient, _: Server) -> None:
        async def draw(prompt: str) -> str:
            body = {"model": "smollm2", "prompt": prompt, "n": 4, "max_tokens": 12}
            reply = await client.post("/v1/completions", json=body)
            return json.dumps([choice["text"] for choice in reply.json()["choices"]])

        beside = [draw(f"Beside {len(drawn)} {number}") for number in range(4 * len(drawn))]
        texts = await asyncio.gather(*beside, draw("Once upon a time"), draw("Once upon a time"))
        drawn.append(sorted(texts[-2:]))

    for _ in range(2):
        talk(scenario, sampling_seed=seed)
    assert (drawn[0] == drawn[1]) is (seed is not None)
    assert drawn[0][0] != drawn[0][1]  # asked twice, drawn twice
