"""Bad input: one clear line with the way out, the right exit code, no traceback."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Answer = tuple[int, str, bytes]


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, Answer]], str]]:
    """Give a function that starts a small server with fixed answers and returns its URL."""
    servers = []

    def start(answers: dict[str, Answer]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = answers.get(self.path, answers["*"])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the name the handler looks for

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _check(result: pytest.RunResult, code: int, *words: str) -> None:
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == code, text
    assert "Traceback (most" not in text
    assert "INTERNALERROR" not in text
    for word in words:
        assert word in text, text
    assert "fix:" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--vllm-image=a/b:1", "--vllm-model=./nothing"), ("no folder ./nothing",)),
        (("--vllm-image=a/b:1", "--vllm-model=./smallmodle"), ("did you mean smallmodel?",)),
        (
            ("--vllm-image=a/b:1", "--vllm-model=/openai/gpt-oss-20b"),
            ("did you mean the Hub ID openai/gpt-oss-20b?",),
        ),
        (("--vllm-profile=promte", "--vllm-url=http://h:1"), ("did you mean promote?",)),
        (("--vllm-profile=gone.toml", "--vllm-url=http://h:1"), ("cannot read gone.toml",)),
        (("--vllm-profile=bad.toml", "--vllm-url=http://h:1"), ("bad.toml is not TOML",)),
        (("--vllm-url=http://h:1", "--vllm-image=a/b:1"), ("--vllm-url", "--vllm-image")),
        (("--vllm-url=http://h:1", "--vllm-suite=chatt"), ("did you mean chat?",)),
        (("--vllm-url=http://h:1", "--vllm-baseline=gone"), ("--vllm-baseline", "gone")),
        (("--vllm-suite=chat",), ("no server is named",)),
        (
            ("--vllm-url=http://h:1", "--vllm-suite=performance", "--vllm-performance=none"),
            ("--vllm-performance=none (option) leaves it out", "--vllm-performance=smoke"),
        ),
        (
            ("--vllm-url=http://h:1", "--vllm-performance=smok"),
            ("did you mean smoke?", "smoke, soak, standard, none"),
        ),
        (
            ("--vllm-image=a/b", "--vllm-model=o/m", "--vllm-profile=promote"),
            ("profile promote refuses image a/b", "by its digest"),
        ),
        (
            ("--vllm-backend=process", "--vllm-model=o/m", "--vllm-python=/no/python"),
            ("/no/python",),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_users_mistake_is_exit_code_4(
    pytester: pytest.Pytester, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    pytester.makefile(".toml", bad="schema = [")
    pytester.mkdir("empty")
    pytester.mkdir("smallmodel").joinpath("config.json").write_text("{}")
    _check(pytester.runpytest_subprocess(*arguments), 4, *words)
    assert not list(pytester.path.glob(".vllm/*/run.json"))


def test_no_docker_is_the_hosts_fault(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    result = pytester.runpytest_subprocess(
        "--vllm-image=a/b:1", "--vllm-model=org/model", "--vllm-suite=server"
    )
    _check(result, 75, "INCONCLUSIVE", "/nowhere/docker.sock")
    result.assert_outcomes(errors=1, skipped=_skipped(result))


def test_an_unreachable_url_is_the_hosts_fault(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--vllm-url=http://127.0.0.1:9", "--vllm-suite=server")
    _check(result, 75, "INCONCLUSIVE", "127.0.0.1:9")
    result.assert_outcomes(errors=1, skipped=_skipped(result))


def test_a_failed_start_is_one_error_under_xdist_too(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess(
        "--vllm-url=http://127.0.0.1:9", "--vllm-suite=server", "-n", "2"
    )
    _check(result, 75, "INCONCLUSIVE", "127.0.0.1:9")
    result.assert_outcomes(errors=1, skipped=_skipped(result))


def test_html_in_place_of_a_server_is_named(
    pytester: pytest.Pytester, serve: Callable[[dict[str, Answer]], str]
) -> None:
    url = serve({"*": (200, "text/html", b"<html><b>Welcome to nginx!</b></html>")})
    result = pytester.runpytest_subprocess(f"--vllm-url={url}", "--vllm-suite=server")
    _check(result, 4, "text/html", "--vllm-url")


def test_a_server_that_is_not_vllm_is_named(
    pytester: pytest.Pytester, serve: Callable[[dict[str, Answer]], str]
) -> None:
    models = b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"x"}]}'
    url = serve(
        {
            "/v1/models": (200, "application/json", models),
            "/health": (200, "application/json", b"{}"),
            "*": (404, "application/json", b'{"error":"no"}'),
        }
    )
    result = pytester.runpytest_subprocess(f"--vllm-url={url}", "--vllm-suite=server")
    _check(result, 4, "/version", "vLLM")


def _skipped(result: pytest.RunResult) -> int:
    """Return how many were skipped, after a look that it is everything but the one error."""
    skipped = result.parseoutcomes().get("skipped", 0)
    assert skipped > 3
    return int(skipped)
