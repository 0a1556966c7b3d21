"""The stand-in for the Hub against the Hub's own client library, which vLLM uses."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.data.hub.server import COMMIT, DOWN, GATED, LIMITED, MEMBER, STRANGER, Hub, Repository

if TYPE_CHECKING:
    from pathlib import Path

FETCH = """
import json, os, sys
import huggingface_hub
from huggingface_hub import hf_hub_download, model_info, snapshot_download
import huggingface_hub.utils._http as http
http.time.sleep = lambda seconds: None  # its pauses between two tries
repository, revision, token, what = json.loads(sys.argv[1])
try:
    if what == "info":
        said = model_info(repository, revision=revision, token=token).sha
    elif what == "all":
        said = sorted(os.listdir(snapshot_download(repository, revision=revision, token=token)))
    else:
        said = open(hf_hub_download(repository, what, revision=revision, token=token)).read()
except Exception as error:
    chain, links = error, []
    while chain is not None:
        links.append(f"{type(chain).__name__}: {chain}")
        chain = chain.__cause__ or chain.__context__
    said = {"error": links}
print(json.dumps(said))
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(bytes(300_000))
    return folder


def ask(
    python: str, hub: Hub, home: Path, repository: str, **more: str | bool
) -> str | list[str] | dict[str, list[str]]:
    """Ask by the client library; what is not named is the commonest."""
    asked = (repository, more.get("revision"), more.get("token", False), more.get("what", "info"))
    done = subprocess.run(
        [python, "-c", FETCH, json.dumps(asked)],
        env={**os.environ, "HF_ENDPOINT": hub.url(), "HF_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    said: str | list[str] | dict[str, list[str]] = json.loads(done.stdout)
    return said


def test_a_small_repository_is_served_whole(
    real_vllm_python: str, small: Path, tmp_path: Path
) -> None:
    with Hub({"org/small": Repository(folder=small)}) as hub:
        home = tmp_path / "home"
        assert ask(real_vllm_python, hub, home, "org/small") == COMMIT
        found = ask(real_vllm_python, hub, home, "org/small", what="all")
        assert found == ["config.json", "model.safetensors"]
    cached = home / "hub" / "models--org--small"
    assert (cached / "refs" / "main").read_text() == COMMIT
    assert (cached / "snapshots" / COMMIT / "model.safetensors").stat().st_size == 300_000
    assert not list(cached.rglob("*.incomplete"))


@pytest.mark.parametrize(
    ("repository", "asked", "said"),
    [
        ("org/absent", {}, "RepositoryNotFoundError: 401"),
        ("org/absent", {"token": STRANGER}, "RepositoryNotFoundError: 404"),
        ("org/small", {"revision": "nope"}, "RevisionNotFoundError: 404"),
        ("org/small", {"what": "absent.json"}, "EntryNotFoundError: 404"),
        ("org/small", {"token": "hf_expired"}, "Invalid credentials in Authorization header"),
        (GATED, {"what": "config.json"}, "GatedRepoError: 401"),
        (GATED, {"what": "config.json", "token": STRANGER}, "GatedRepoError: 403"),
        (GATED, {"what": "config.json", "token": MEMBER}, "EntryNotFoundError: 404"),
        (LIMITED, {}, "429 Too Many Requests"),
        (DOWN, {}, "503 Service Unavailable"),
    ],
)
def test_a_refusal_is_understood(
    real_vllm_python: str,
    small: Path,
    tmp_path: Path,
    repository: str,
    asked: dict[str, str],
    said: str,
) -> None:
    with Hub({"org/small": Repository(folder=small)}) as hub:
        answer = ask(real_vllm_python, hub, tmp_path, repository, **asked)
    assert isinstance(answer, dict)
    assert any(said in link for link in answer["error"]), answer


def test_the_page_of_a_gated_model_is_public(
    real_vllm_python: str, small: Path, tmp_path: Path
) -> None:
    with Hub({"org/small": Repository(folder=small)}) as hub:
        assert ask(real_vllm_python, hub, tmp_path, GATED) == COMMIT
