"""The middleware that slows real vLLM down keeps every byte and stretches every time alike."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.data.slowdown.slowdown import Slowdown, factor_of

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

STEPS_S = (0.2, 0.02, 0.02, 0.5)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer: exact, and takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def reply(method: str, header: str = "") -> list[tuple[float, bytes]]:
    """Return what a client sees, and when, of an app that sends after each of the steps."""
    seen: list[tuple[float, bytes]] = []
    loop = JumpingLoop()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for number, step in enumerate(STEPS_S):
            await asyncio.sleep(step)
            await send({"type": "http.response.body", "body": b"%d" % number})

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, Any]) -> None:
        seen.append((round(loop.time(), 6), message["body"]))

    headers = [(b"x-slowdown", header.encode())] if header else []
    scope = {"type": "http", "method": method, "headers": headers}
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(Slowdown(app)(scope, receive, send))
    return seen


def test_every_time_is_stretched_by_the_factor_and_nothing_is_lost() -> None:
    plain = [(0.2, b"0"), (0.22, b"1"), (0.24, b"2"), (0.74, b"3")]
    assert reply("POST") == plain
    assert reply("POST", "1.5") == [(round(at * 1.5, 6), body) for at, body in plain]
    assert reply("GET", "1.5") == plain, "a look at /metrics is not slowed down"


def test_header_before_file_before_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "factor"
    monkeypatch.setenv("SLOWDOWN_FILE", str(file))
    assert factor_of() == 1.0
    monkeypatch.setenv("SLOWDOWN_FACTOR", "1.02")
    assert factor_of() == 1.02
    file.write_text("1.05\n")
    assert factor_of() == 1.05
    assert factor_of("1.1") == 1.1


@pytest.mark.parametrize("text", ["0.5", "inf", "nan", "fast"])
def test_no_factor_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - Python's own words for "fast"
        factor_of(text)
