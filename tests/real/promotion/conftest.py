"""One real run of a real image under profile `promote` is the evidence of all tests here.

Each test gets a copy of the evidence and of the registry's folder, so that it may spoil both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import pytest

from pytest_vllm.cli import main
from pytest_vllm.domain.statement import ENVELOPE_FILE
from tests.real.promotion.accepted import (
    BLOCKS,
    Accepted,
    accept,
    remove,
)
from tests.real.registries import debian_registry
from tests.real.small_image import build_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def once(
    real_image_bash: str, real_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Accepted]:
    """Build an image, push it, run the acceptance on the pushed name."""
    folder = tmp_path_factory.mktemp("accepted")
    local = f"pytest-vllm-test:small-{uuid.uuid4().hex[:8]}"
    client = docker.from_env()
    try:
        build_small(client, real_image_bash, local, blocks=BLOCKS)
        make_keys(folder, "mine", "theirs")
        words = ("--vllm-soak-requests=40", f"--vllm-sign-key={folder / 'mine.pem'}")
        with debian_registry(folder) as address:
            accepted = accept(client, local, address, folder, real_model, *words)
        yield accepted
    finally:
        remove(client, local)
        client.close()


def make_keys(folder: Path, *names: str) -> None:
    """Make pairs of keys as documented: NAME.pem signs, NAME.pub verifies."""
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    for name in names:
        private = ("openssl", "genpkey", *curve, "-out", f"{name}.pem")
        public = ("openssl", "pkey", "-in", f"{name}.pem", "-pubout", "-out", f"{name}.pub")
        for words in (private, public):
            subprocess.run(words, cwd=folder, check=True)


def link_or_copy(source: str, target: str) -> None:
    """Share blobs, which the registry never writes again, and copy what says where they are."""
    if Path(source).name == "data":
        os.link(source, target)
    else:
        shutil.copy2(source, target)


@pytest.fixture
def kept(once: Accepted, tmp_path: Path) -> Accepted:
    """Copy evidence and registry, which is not up; the run is not signed."""
    folder, store = tmp_path / once.folder.name, tmp_path / "store"
    shutil.copytree(once.folder, folder)
    (folder / ENVELOPE_FILE).unlink()
    shutil.copytree(once.store, store, copy_function=link_or_copy)
    return replace(once, folder=folder, store=store)


@pytest.fixture
def accepted(kept: Accepted, tmp_path: Path) -> Iterator[Accepted]:
    """Serve the registry, open to everybody."""
    with debian_registry(tmp_path, address=kept.address, store=kept.store):
        yield kept


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Docker know no login."""
    (tmp_path / "docker").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def promote(
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run the verb: exit code, output, errors."""

    def run(accepted: Accepted, to: str, *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["promote", "--run", str(accepted.folder), "--to", to, *words])
        return code, *capsys.readouterr()

    return run
