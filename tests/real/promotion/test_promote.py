"""An accepted image gets its tag on a real registry, with the digest that was accepted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import pytest

from pytest_vllm.domain.verdict import Decision
from tests.real.promotion.accepted import (
    Accepted,
    accept,
    ask,
    head,
    put_other,
    refused,
    remove,
)
from tests.real.promotion.spoil import spoil_verdict
from tests.real.registries import debian_registry, free_address

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))


def test_an_accepted_image_gets_its_tag_with_the_same_digest(accepted: Accepted) -> None:
    """As a release manager does it: run, promote, pull."""
    assert accepted.record.verdict.decision is Decision.PROMOTE
    assert accepted.record.launch["image"]["runs"] == f"{accepted.repository}@{accepted.digest}"
    to = f"{accepted.repository}:stable"
    words = ["promote", "--run", str(accepted.folder), "--to", to]
    done = subprocess.run(
        [sys.executable, "-m", "pytest_vllm", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"promoted   {to} is {accepted.digest} now" in done.stdout
    assert head(accepted.address, accepted.path, "stable") == accepted.digest
    client = docker.from_env()
    try:
        pulled = client.images.pull(accepted.repository, "stable")
        assert pulled.id == accepted.record.launch["image"]["id"]
        assert f"{accepted.repository}@{accepted.digest}" in pulled.attrs["RepoDigests"]
    finally:
        remove(client, to)
        client.close()


def test_what_the_tag_was_before_is_told_and_a_second_time_changes_nothing(
    accepted: Accepted, promote: Callable[..., tuple[int, str, str]]
) -> None:
    other = put_other(accepted, "stable")
    to = f"{accepted.repository}:stable"
    code, out, _ = promote(accepted, to)
    assert code == 0
    assert f"before     {to} was {other}; crane tag {accepted.repository}@{other} stable" in out
    code, out, _ = promote(accepted, to)
    assert code == 0
    assert f"there      {to} is that image already; nothing was changed" in out


def test_into_another_repository_of_the_registry_the_layers_are_mounted(
    accepted: Accepted, promote: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = promote(accepted, f"{accepted.address}/release/vllm:1")
    assert (code, err) == (0, "")
    assert head(accepted.address, "release/vllm", "1") == accepted.digest
    with ask(accepted.address, f"release/vllm/manifests/{accepted.digest}") as answer:
        manifest = json.load(answer)
    for blob in [manifest["config"], *manifest["layers"]]:
        with ask(accepted.address, f"release/vllm/blobs/{blob['digest']}", method="HEAD") as answer:
            assert int(answer.headers["content-length"]) == blob["size"]
    uploads = accepted.store / "docker/registry/v2/repositories/release/vllm/_uploads"
    assert not list(uploads.glob("*"))


@pytest.mark.parametrize("path", ["vllm", "release/vllm"])
def test_an_index_of_platforms_is_promoted_whole(
    accepted: Accepted, promote: Callable[..., tuple[int, str, str]], path: str
) -> None:
    with ask(accepted.address, f"{accepted.path}/manifests/{accepted.digest}") as answer:
        size, kind = len(answer.read()), answer.headers["content-type"]
    platform = {"architecture": "amd64", "os": "linux"}
    child = {"mediaType": kind, "size": size, "digest": accepted.digest, "platform": platform}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [child],
    }
    with ask(
        accepted.address,
        f"{accepted.path}/manifests/rc",
        method="PUT",
        body=json.dumps(index).encode(),
        kind=index["mediaType"],  # type: ignore[arg-type]
    ) as answer:
        digest = answer.headers["docker-content-digest"]
    record = accepted.record
    image = {**record.launch["image"], "runs": f"{accepted.repository}@{digest}"}
    accepted.write(replace(record, launch={**record.launch, "image": image}))
    code, _, err = promote(accepted, f"{accepted.address}/{path}:1")
    assert (code, err) == (0, "")
    assert head(accepted.address, path, "1") == digest
    assert head(accepted.address, path, accepted.digest) == accepted.digest


def test_print_shows_commands_and_changes_nothing(
    accepted: Accepted, promote: Callable[..., tuple[int, str, str]]
) -> None:
    source, to = f"{accepted.repository}@{accepted.digest}", f"{accepted.repository}:stable"
    code, out, _ = promote(accepted, to, "--print")
    assert code == 0
    lines = [line for line in out.splitlines() if "docker://" in line or "# or" in line]
    openly = "--src-tls-verify=false --dest-tls-verify=false"
    assert lines == [
        f"skopeo copy --all --preserve-digests {openly} docker://{source} docker://{to}",
        f"# or: crane tag {source} stable",
        f"# or: docker buildx imagetools create --prefer-index=false --tag {to} {source}",
    ]
    assert head(accepted.address, accepted.path, "stable") == ""
    spoil_verdict(accepted)
    assert refused(promote(accepted, to, "--print"))


def test_a_registry_that_is_down_is_no_refusal(
    kept: Accepted, promote: Callable[..., tuple[int, str, str]]
) -> None:
    """75, so that a CI tries again; but what speaks against the run is said all the same."""
    code, _, err = promote(kept, f"{kept.repository}:stable")
    assert code == 75
    assert err.startswith(f"ERROR: cannot reach {kept.address}: ")
    spoil_verdict(kept)
    _, _, err = promote(kept, f"{kept.repository}:stable")
    assert "The registry could not be asked, so there may be more" in err


def test_another_registry_gets_nothing_but_a_command(
    accepted: Accepted, promote: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    with debian_registry(tmp_path / "second") as second:
        code, out, err = promote(accepted, f"{second}/vllm:1")
        assert (code, out) == (4, "")
        assert f"{second} does not have {accepted.digest}, which is on {accepted.address}" in err
        source = f"{accepted.repository}@{accepted.digest}"
        assert f"crane copy {source} {second}/vllm:1" in err
        # As such a command would leave it:
        for part in ("blobs", "repositories"):
            where = Path("docker/registry/v2") / part
            shutil.copytree(accepted.store / where, tmp_path / "second" / "store" / where)
        code, _, err = promote(accepted, f"{second}/vllm:1")
        assert (code, err) == (0, "")
        assert head(second, "vllm", "1") == accepted.digest


def test_a_wrong_command_is_4(kept: Accepted, promote: Callable[..., tuple[int, str, str]]) -> None:
    for words in (
        ("vllm",),
        (f"vllm@{kept.digest}",),
        ("vllm:1", "--max-age", "soon"),
        ("vllm:1", "--key", "nowhere.pem"),
        ("vllm:1", "--yes"),
    ):
        code, out, err = promote(kept, *words)
        assert (code, out) == (4, "")
        assert err.startswith("ERROR: ")
        assert "fix: " in err


if ALL:

    def test_real_vllm_is_promoted(
        real_image: str,
        real_model: str,
        tmp_path: Path,
        promote: Callable[..., tuple[int, str, str]],
    ) -> None:
        """The same with real vLLM, whose image takes minutes to push."""
        client = docker.from_env()
        (tmp_path / "registry").mkdir()
        try:
            with debian_registry(tmp_path / "registry", address=free_address()) as address:
                serve = (
                    "--vllm-serve-arg=--enforce-eager --max-model-len=2048 --max-num-seqs=16 "
                    "--dtype=bfloat16"
                )
                words = (serve, "--vllm-env=TORCHDYNAMO_DISABLE=1")
                folder = tmp_path / "registry"
                done = accept(client, real_image, address, folder, real_model, *words)
                code, _, err = promote(done, f"{done.repository}:stable")
                assert (code, err) == (0, "")
                assert head(address, done.path, "stable") == done.digest
        finally:
            client.close()
