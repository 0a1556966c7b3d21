"""Hold the time of the suites against that of a plain client: `python -m tools.ratio URL`.

The suites run on a ready server and every request is noted. Then a plain client sends the same
requests again, all at the same time, and reads the replies without looking at them. The ratio of
the two wall times is what judging, ordering and checks that need the server alone cost.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
NOTES = "PYTEST_VLLM_RATIO_NOTES"
LIMIT_S = 600


def pytest_configure() -> None:
    """Note each request that is sent (this module is loaded as a plugin of the run)."""
    from pytest_vllm.adapters.http import Transport  # noqa: PLC0415 - only inside the run

    notes = Path(os.environ[NOTES]).open("a", encoding="utf-8")  # noqa: SIM115 - until the end
    build = Transport._request  # noqa: SLF001 - the one place where every request is made

    def noted(self: Transport, call: Any) -> httpx.Request:
        request: httpx.Request = build(self, call)
        entry = {
            "method": call.method,
            "path": call.url.removeprefix(self.base_url),
            "headers": dict(call.headers),
            "body": call.body.decode("latin-1"),
        }
        notes.write(json.dumps(entry) + "\n")
        notes.flush()
        return request

    Transport._request = noted  # type: ignore[method-assign]  # noqa: SLF001


def time_suites(url: str, folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """Run the suites; return the seconds of their checks, and every request."""
    notes = folder / "requests.jsonl"
    command = [sys.executable, "-m", "pytest", "-p", "tools.ratio", f"--vllm-url={url}"]
    command += ["-p", "no:cacheprovider", "-q", f"--vllm-artifacts={folder / 'runs'}"]
    command.append("--vllm-performance=none")  # it does not send its loads through the transport
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, NOTES: str(notes)}, check=False, timeout=LIMIT_S
    )
    if done.returncode:
        raise SystemExit(f"the suites ended with {done.returncode}")
    (record,) = (folder / "runs").glob("*/run.json")
    requests = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    return float(json.loads(record.read_text())["checks_s"]), requests


async def time_plain(url: str, requests: Sequence[dict[str, Any]]) -> float:
    """Send all requests at once and read every reply; return the seconds."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=LIMIT_S, trust_env=False) as client:

        async def send(entry: dict[str, Any]) -> None:
            body = entry["body"].encode("latin-1") or None
            method, path = entry["method"], entry["path"]
            try:
                await client.request(method, url + path, content=body, headers=entry["headers"])
            except httpx.HTTPError as error:
                print(f"plain client: {method} {path}: {error!r}")

        start = time.monotonic()
        await asyncio.gather(*(send(entry) for entry in requests))
        return time.monotonic() - start


def main(argv: Sequence[str]) -> int:
    """Print both times and their ratio."""
    (url,) = argv
    with tempfile.TemporaryDirectory() as folder:
        suites_s, requests = time_suites(url, Path(folder))
    # Requests that the checks hung up on are as long as the context: no client waits for those.
    kept = [entry for entry in requests if '"max_tokens": 1500' not in entry["body"]]
    plain_s = asyncio.run(time_plain(url, kept))
    print(f"{len(requests)} requests, {len(kept)} of them sent again")
    print(f"suites {suites_s:.1f} s, plain client {plain_s:.1f} s, ratio {suites_s / plain_s:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
