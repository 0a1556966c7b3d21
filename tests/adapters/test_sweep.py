"""What dead runs have left goes; what the living, other hosts and people have stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.backends.lockfile import hold, let_go
from pytest_vllm.adapters.backends.owner import (
    OWNER_VARIABLE,
    Owner,
    owner_of,
    read_owner,
    this_owner,
)
from pytest_vllm.adapters.backends.port import lease_port, lock_folder
from pytest_vllm.adapters.backends.removal import Removal
from pytest_vllm.adapters.backends.scratch import Scratch
from pytest_vllm.adapters.backends.sweep import sweep_host, tell
from pytest_vllm.domain.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def dead_owner() -> Owner:
    """Return a process of this host that has ended."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        return replace(this_owner(), pid=process.pid, start=1)


@pytest.fixture
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of our own with a path that sockets fit below."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Callable[..., subprocess.Popen[bytes]]:
    """Start processes that say whose they are."""

    def start(owner: dict[str, object] | str | None, name: str) -> subprocess.Popen[bytes]:
        env = {"PYTEST_VLLM_LAUNCH": f"sweep-{name}-{os.getpid()}"}
        if owner is not None:
            env[OWNER_VARIABLE] = owner if isinstance(owner, str) else json.dumps(owner)
        process = subprocess.Popen(
            [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(600)"],
            env=env,
            stdout=subprocess.PIPE,
        )
        request.addfinalizer(process.communicate)
        request.addfinalizer(process.kill)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    return start


def test_only_processes_of_a_dead_owner_go(
    server: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, own_tmp: Path
) -> None:
    del own_tmp
    dead = dead_owner()
    left = server(dead.facts(), "dead")
    spared = [
        server(this_owner().facts(), "living"),
        server(replace(dead, host="elsewhere").facts(), "host"),
        server(replace(dead, boot="another").facts(), "boot"),  # it runs, so it is another host's
        server(replace(dead, space="pid:[1]").facts(), "container"),
        server(None, "kept"),
        server("not JSON", "broken"),
        server({**dead.facts(), "pid": "7"}, "odd"),
    ]
    sweep_host(gpu_folder=tmp_path / "gpus")
    # Another run on this host may have been faster, so what was removed here says nothing.
    assert left.wait(10) != 0
    assert [process.poll() for process in spared] == [None] * len(spared)


def test_folders_and_locks_of_dead_owners_go(
    server: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, own_tmp: Path
) -> None:
    gpus = tmp_path / "gpus"
    gpus.mkdir()
    (gpus / "renderD128").touch()
    held = hold(gpus / "renderD129")
    assert held is not None
    mine = lease_port("127.0.0.1")
    unheld = lock_folder() / str(mine.port + 1)
    unheld.touch()
    living, dead, kept = (Scratch.plan({}) for _ in range(3))
    living.make()
    dead.make()
    kept.make()
    dead.hand_over(replace(dead_owner(), boot="x"))
    kept.hand_over(owner_of(server(None, "kept").pid))
    (own_tmp / "pv-mine").mkdir()
    removed = sweep_host(gpu_folder=gpus).removed
    assert {f"folder {dead.folder}", f"lock file {gpus}/renderD128"} <= set(removed)
    assert f"lock file {unheld}" in removed
    assert sorted(path.name for path in gpus.iterdir()) == ["renderD129"]
    assert sorted(path.name for path in lock_folder().iterdir()) == [str(mine.port)]
    assert living.folder.is_dir()
    assert kept.folder.is_dir()
    assert (own_tmp / "pv-mine").is_dir()
    assert not dead.folder.exists()
    mine.release()
    let_go(gpus / "renderD129", held)


def test_an_owner_is_read_back_and_lives() -> None:
    owner = this_owner()
    assert read_owner(json.loads(json.dumps(owner.facts()))) == owner
    assert not owner.is_dead()
    assert replace(owner, start=owner.start + 1).is_dead()  # the number was given out again
    assert replace(owner, boot="x").is_dead(running=False)
    assert not replace(owner, boot="x").is_dead(running=True)
    assert not replace(owner, host="x").is_dead(running=False)
    assert read_owner({**owner.facts(), "start": -1}) is None
    assert read_owner([1]) is None


def test_what_was_swept_is_told() -> None:
    assert tell(Removal()) == ()
    things = tuple(f"process {pid}" for pid in range(7))
    note, warning = tell(Removal(removed=things, problem="network n is in use"))
    assert note.severity is Severity.NOTE
    assert "process 4 and 2 more; removed" in note.seen
    assert warning.severity is Severity.WARNING
    assert "network n is in use" in warning.seen


def test_temporary_files_have_a_short_path_and_keep_the_caches(own_tmp: Path) -> None:
    near = Scratch.plan({"TMPDIR": str(own_tmp)})
    assert near.folder.parent == own_tmp
    far = Scratch.plan({"TMPDIR": f"/tmp/{'x' * 80}"})  # noqa: S108
    assert str(far.folder.parent) == "/tmp"  # noqa: S108
    variables = near.variables()
    assert variables["TMPDIR"] == str(near.folder)
    assert variables["TORCHINDUCTOR_CACHE_DIR"].startswith(f"{own_tmp}/torchinductor_")
    asked = {"TMPDIR": str(own_tmp), "TORCHINDUCTOR_CACHE_DIR": "/cache"}
    assert "TORCHINDUCTOR_CACHE_DIR" not in Scratch.plan(asked).variables()
    near.make()
    assert near.folder.stat().st_mode & 0o777 == 0o700
    near.remove()
    near.remove()
    assert not near.folder.exists()
