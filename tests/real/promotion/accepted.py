"""An image that was accepted on a real registry, and how a test asks that registry."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import ImageNotFound

from pytest_vllm.domain.record import RunRecord, from_json, to_json
from pytest_vllm.domain.statement import STATEMENT_FILE, statement_json
from pytest_vllm.reports.registry import REPORTS
from tests.real.whole_runs import told

if TYPE_CHECKING:
    import docker

SHORT = Path(__file__).parents[2] / "data" / "performance" / "short.toml"
LIMIT_S = 900
_AGAIN = 75
"""The host was too busy for figures, or otherwise in the way: such a run is made once more."""
BLOCKS = 364
"""What 1 GiB of KV cache is for SmolLM2-135M in blocks of 128 tokens."""
KINDS = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An image that was accepted.

    Attributes:
        folder: The evidence folder.
        store: The registry's folder.
        address: Where the registry was, and has to be again.
        path: Repository on it.
        digest: Digest of the image.
    """

    folder: Path
    store: Path
    address: str
    path: str
    digest: str

    @property
    def repository(self) -> str:
        return f"{self.address}/{self.path}"

    @property
    def record(self) -> RunRecord:
        return from_json((self.folder / "run.json").read_text(), where="run.json")

    def write(self, record: RunRecord) -> None:
        """Replace the run, with a statement that fits it: what a forger would do."""
        self.drop_reports()
        (self.folder / "run.json").write_text(to_json(record))
        (self.folder / "attestation.json").write_text(statement_json(record))

    def drop_reports(self) -> None:
        """Take away what is made of `run.json` and would belie another."""
        for report in REPORTS.values():
            if report.file != STATEMENT_FILE:
                (self.folder / report.file).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "checks", ignore_errors=True)


def accept(
    client: docker.DockerClient, local: str, address: str, folder: Path, model: str, *words: str
) -> Accepted:
    """Push an image and run the acceptance on the pushed name; the registry's folder is kept."""
    name = f"{address}/vllm"
    client.images.get(local).tag(name, "rc")
    words = (
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
        *(f"--vllm-image={name}:rc", f"--vllm-model={model}"),
        *("--vllm-profile=promote", f"--vllm-performance={SHORT}"),
        "--vllm-env=VLLM_CPU_KVCACHE_SPACE=1",
        *words,
    )
    try:
        client.images.push(name, "rc")
        done, said = _run(folder, words)
        if done == _AGAIN:
            done, again = _run(folder, words)
            said += f"\nand again:\n{again}"
        assert done == 0, said
    finally:
        remove(client, f"{name}:rc")
    run = max(folder.glob(".vllm/*/run.json"))
    digest = head(address, "vllm", "rc")
    return Accepted(
        folder=run.parent, store=folder / "store", address=address, path="vllm", digest=digest
    )


def _run(folder: Path, words: tuple[str, ...]) -> tuple[int, str]:
    """Run the acceptance; return its exit code and what it said."""
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return done.returncode, told(done)


def remove(client: docker.DockerClient, name: str) -> None:
    with suppress(ImageNotFound):
        client.images.remove(name)


def ask(
    address: str, path: str, *, method: str = "GET", body: bytes | None = None, kind: str = ""
) -> Any:
    """Speak with an open registry, without any of our code."""
    request = urllib.request.Request(f"http://{address}/v2/{path}", data=body, method=method)
    request.add_header("accept", KINDS)
    if kind:
        request.add_header("content-type", kind)
    return urllib.request.urlopen(request, timeout=10)  # noqa: S310 - loopback


def head(address: str, path: str, tag: str) -> str:
    """Return what a tag names, empty for nothing."""
    try:
        with ask(address, f"{path}/manifests/{tag}", method="HEAD") as answer:
            return str(answer.headers["docker-content-digest"])
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return ""


def refused(result: tuple[int, str, str]) -> list[str]:
    """Return the reasons of a refusal, without the ways out, which each has."""
    code, out, err = result
    assert (code, out) == (1, "")
    first, *rest = err.splitlines()
    assert first.startswith("REFUSED: ")
    assert "was not touched" in first
    reasons = [line.removeprefix("- ") for line in rest if line.startswith("- ")]
    assert sum(line.startswith("  fix: ") for line in rest) == len(reasons)
    return reasons


def put_other(accepted: Accepted, tag: str) -> str:
    """Have a tag name another image; return its digest."""
    with ask(accepted.address, f"{accepted.path}/manifests/{accepted.digest}") as answer:
        data, kind = answer.read(), answer.headers["content-type"]
    data = data.rstrip() + b"\n\n"  # the same image by another digest
    with ask(
        accepted.address, f"{accepted.path}/manifests/{tag}", method="PUT", body=data, kind=kind
    ) as answer:
        return str(answer.headers["docker-content-digest"])
